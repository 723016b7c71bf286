"""The table of all pages, and what they share: errors and assets."""

from __future__ import annotations

from html import escape

from shipline.ui.app import PageRequest, PageResponse, PageRoute


def asset(name: str) -> PageResponse | None:
    """A static file of the pages, None if there is none of that name."""
    return None


def problem(status: int, title: str, message: str, hint: str) -> PageResponse:
    """The page of an error."""
    parts = "".join(f"<p>{escape(text)}</p>" for text in (message, hint) if text)
    body = f"<!doctype html><title>{escape(title)}</title><h1>{escape(title)}</h1>{parts}"
    return PageResponse(body.encode(), status)


def _front(request: PageRequest) -> PageResponse:
    return PageResponse(location="/runs")


PAGES = (PageRoute("/", show=_front),)
