"""The documentation as a site: built without a network, whole, and usable in a browser."""

from __future__ import annotations

import os
import runpy
import subprocess
from collections.abc import Iterator
from functools import partial
from html.parser import HTMLParser
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from urllib.parse import unquote, urlsplit

import pytest
from selenium.webdriver.common.action_chains import ActionChains
from selenium.webdriver.common.by import By

from browser import browser, until
from toolboxes import toolbox

pytestmark = [pytest.mark.peers, pytest.mark.root]

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The site, built in a network namespace with nothing in it."""
    default = Path("~/.cache/shipline-tests").expanduser()
    store = Path(os.environ.get("SHIPLINE_TEST_CACHE", default)) / "site"
    store.mkdir(parents=True, exist_ok=True)
    program = toolbox(store, "zensical==0.0.73") / "zensical"
    place = tmp_path_factory.mktemp("documentation") / "site"
    command = ["unshare", "--net", "sh", str(ROOT / "scripts" / "site.sh"), str(place)]
    environ = {**os.environ, "ZENSICAL": str(program)}
    done = subprocess.run(command, env=environ, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return place


class Page(HTMLParser):
    """The links and the anchors of a page."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.links: set[str] = set()
        self.anchors = {""}
        self.feed(path.read_text())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = dict(attrs)
        self.anchors |= {value for name in ("id", "name") if (value := values.get(name))}
        self.links |= {value for name in ("href", "src") if (value := values.get(name))}


def test_no_link_leads_nowhere(site: Path) -> None:
    pages = {path: Page(path) for path in site.rglob("*.html") if path.name != "404.html"}
    assert len(pages) > 30
    broken = []
    for path, page in pages.items():
        for link in page.links:
            parts = urlsplit(link)
            if parts.scheme or parts.netloc:
                continue
            target = path.parent / unquote(parts.path) if parts.path else path
            target = (target / "index.html" if target.is_dir() else target).resolve()
            if not target.exists():
                broken.append(f"{path.relative_to(site)}: {link}")
            elif target in pages and unquote(parts.fragment) not in pages[target].anchors:
                broken.append(f"{path.relative_to(site)}: {link} has no such anchor")
    assert broken == []


@pytest.fixture
def served(site: Path) -> Iterator[str]:
    handler = partial(SimpleHTTPRequestHandler, directory=str(site))
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_address[1]}"
    server.shutdown()
    server.server_close()
    thread.join()


def test_a_reader_searches_and_reads_in_the_dark(served: str) -> None:
    with browser() as page:
        page.execute_cdp_cmd(
            "Emulation.setEmulatedMedia",
            {"features": [{"name": "prefers-color-scheme", "value": "dark"}]},
        )
        page.get(f"{served}/docs/tutorial.html")
        assert "from an empty machine" in page.find_element(By.TAG_NAME, "h1").text
        body = page.find_element(By.TAG_NAME, "body")
        until(page, lambda: body.get_attribute("data-md-color-scheme") == "slate")
        page.find_element(By.CSS_SELECTOR, ".md-search__button").click()
        found = "return document.activeElement.shadowRoot?.textContent ?? ''"
        until(page, lambda: page.execute_script(found) != "")
        ActionChains(page).send_keys("canary").perform()
        until(page, lambda: "shipline canary" in str(page.execute_script(found)))


def test_the_reference_of_commands_is_that_of_the_program() -> None:
    made = runpy.run_path(str(ROOT / "scripts" / "reference.py"))["reference"]()
    written = (ROOT / "docs" / "commands.md").read_text()
    assert made == written, "run `python scripts/reference.py > docs/commands.md`"
