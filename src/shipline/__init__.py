"""A git commit to a signed, multi-architecture container image in every region."""

__version__ = "0.1.0"
