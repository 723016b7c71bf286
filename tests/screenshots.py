"""Makes docs/screenshots from real runs: `make screenshots`. It is no part of `make test`, since
the pictures differ each time.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from selenium.webdriver import Chrome

from accessible_pages import window
from browser import browser
from nodes import node
from run_lab import enter, pages_of, runs_of_a_project
from shipline.history import RunHistory

PLACE = Path(__file__).parent.parent / "docs" / "screenshots"
LOOKS = {
    "wide": (1000, "light"),
    "narrow": (360, "light"),
    "dark": (1000, "dark"),
}
_HIGHEST = 1500  # pixels


def take(page: Chrome, name: str, url: str) -> None:
    """A page as each window sees it, from its top to its end."""
    for look, (width, scheme) in LOOKS.items():
        with window(page, width, scheme):
            page.get(url)
            height = page.execute_script("return document.documentElement.scrollHeight")
            whole = {"width": width, "height": min(height, _HIGHEST), "deviceScaleFactor": 1}
            page.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", {**whole, "mobile": False})
            assert page.save_screenshot(str(PLACE / f"{name}-{look}.png"))


@pytest.fixture
def shop() -> Iterator[Path]:
    """A directory with a name that may be seen."""
    place = Path("/tmp/shop")
    place.mkdir()
    yield place
    shutil.rmtree(place)


def test_pages_of_runs(shop: Path) -> None:
    PLACE.mkdir(exist_ok=True)
    with node(shop / "node") as running:
        project = runs_of_a_project(shop, running)
    broken, _, passed = RunHistory(project.home).ids()
    environ = project.environ()
    with pages_of(project.home, project.root, environ) as url, browser() as page:
        page.implicitly_wait(0)
        origin = enter(page, url)
        take(page, "runs", f"{origin}/runs")
        take(page, "run", f"{origin}/runs/{passed}")
        take(page, "run-failed", f"{origin}/runs/{broken}")
        take(page, "run-logs", f"{origin}/runs/{broken}/logs")


if __name__ == "__main__":
    raise SystemExit(pytest.main([__file__, "-q"]))
