"""The web pages of a node: what a visitor may see and do, with the rights of the API."""

from shipline.server.pages.routes import page_routes
