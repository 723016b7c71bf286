"""The pages of shipline: templates, stylesheet and script that the registry node and
`shipline ui` share. They know nothing of nodes, builds or runs.
"""

from shipline.pages.content import axis
from shipline.pages.rendering import SECURITY_HEADERS, Frame, Link, asset, render, render_part
