"""The node's web pages: its content for people, rendered on the server and usable without
scripts.
"""

from shipline.server.pages.routes import page_routes

__all__ = ["page_routes"]
