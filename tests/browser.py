"""A real browser without a screen: Debian's chromium, driven through its own driver."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager

from selenium import webdriver
from selenium.webdriver.chrome.service import Service

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
        opened.implicitly_wait(5)
        try:
            yield opened
        finally:
            opened.quit()
