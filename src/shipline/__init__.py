"""A git commit to a signed, multi-architecture container image in every region.

`shipline.api` holds the functions for Python programs.
"""

__version__ = "0.1.0"
