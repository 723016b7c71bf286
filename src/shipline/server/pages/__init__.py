"""The page of a node: what is in it, for people, rendered here and usable without scripts."""

from shipline.server.pages.routes import page_routes

__all__ = ["page_routes"]
