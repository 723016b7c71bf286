"""The table of all pages."""

from __future__ import annotations

from shipline.ui.app import PageRequest, PageResponse, PageRoute


def _front(request: PageRequest) -> PageResponse:
    return PageResponse(location="/runs")


PAGES = (PageRoute("/", show=_front),)
