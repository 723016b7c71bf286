"""The table of all pages."""

from __future__ import annotations

from shipline.ui.app import PageRequest, PageResponse, PageRoute
from shipline.ui.delivery_pages import DeliveryPages
from shipline.ui.runs import RUN_PAGES


def _front(request: PageRequest) -> PageResponse:
    return PageResponse(location="/runs")


PAGES = (PageRoute("/", show=_front), *RUN_PAGES, *DeliveryPages().routes)
