"""A real browser without a screen: Debian's chromium, driven through its own driver."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from selenium import webdriver
from selenium.common import WebDriverException
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.support.wait import WebDriverWait

from peers import PeerFailed

_QUIET = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--window-size=1200,900",
)
_LONGEST_S = 60


@contextmanager
def browser() -> Iterator[webdriver.Chrome]:
    """A fresh browser with a profile of its own; ended with the block."""
    driver = shutil.which("chromedriver")
    if driver is None:
        raise PeerFailed("chromedriver is not installed (Debian package chromium-driver)")
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        options = webdriver.ChromeOptions()
        for argument in (*_QUIET, f"--user-data-dir={profile}"):
            options.add_argument(argument)
        options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
        opened = webdriver.Chrome(options=options, service=Service(driver))
        opened.implicitly_wait(_LONGEST_S)
        try:
            yield opened
        finally:
            opened.quit()


@contextmanager
def navigation(page: webdriver.Chrome) -> Iterator[None]:
    """What is done in the block leads to another document, which is there whole at its end.

    A click or a key returns before the browser has begun to leave: what is read just then is
    still the old document.
    """
    page.execute_script("window.left = false")
    yield
    arrived = "return window.left === undefined && document.readyState === 'complete'"
    until(page, lambda: bool(page.execute_script(arrived)))


def until(page: webdriver.Chrome, condition: Callable[[], bool]) -> None:
    """Wait for `condition`; scripts that a navigation ends are run again."""
    waiting = WebDriverWait(page, _LONGEST_S, ignored_exceptions=(WebDriverException,))
    waiting.until(lambda _: condition())
