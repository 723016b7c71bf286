"""What every page of shipline keeps, looked at in a real browser: axe finds nothing, nothing is cut
off or scrolled sideways in a narrow window, text has contrast in both colour schemes, every control
can be reached by Tab, and the browser has nothing to complain about.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from selenium.common import NoAlertPresentException
from selenium.webdriver import Chrome

from toolboxes import node_packages

AXE = "axe-core@4.11.0"
NARROW, MIDDLE, WIDE = 320, (740, 1000), 1280  # CSS pixels
_FINDINGS = """
const done = arguments[0];
axe.run(document, {resultTypes: ["violations"]}).then(
  (found) => done(found.violations.flatMap((rule) => rule.nodes.map(
    (node) => `${rule.id}: ${node.html.slice(0, 300)}: ${node.failureSummary}`))),
  (error) => done([String(error)]));
"""
_OVERFLOWING = """
const shown = (one) => one.checkVisibility() && !one.closest(".unseen, .skip, .cards thead, svg");
const wide = document.documentElement.scrollWidth - document.documentElement.clientWidth;
const cut = [...document.querySelectorAll("body *")].filter(shown).filter((one) =>
  one.getBoundingClientRect().right > innerWidth + 1 || one.getBoundingClientRect().left < -1
  || ([...one.childNodes].some((node) => node.nodeType === Node.TEXT_NODE
    && node.textContent.trim().length > 12) && one.getBoundingClientRect().width < 24)
  || (one.tagName === "TABLE" && one.offsetWidth > one.parentElement.clientWidth + 1)
  || (getComputedStyle(one).overflowX !== "visible" && one.scrollWidth > one.clientWidth + 1));
return (wide > 0 ? [`${wide} pixels wider than the window`] : []).concat(
  cut.map((one) => `cut off: ${one.outerHTML.slice(0, 200)}`));
"""
_PALE = """
const numbers = (color) => color.match(/[\\d.]+/g).map(Number);
const light = (color) => {
  const [r, g, b] = numbers(color).slice(0, 3).map((value) => value / 255).map(
    (value) => value <= 0.04045 ? value / 12.92 : ((value + 0.055) / 1.055) ** 2.4);
  return 0.2126 * r + 0.7152 * g + 0.0722 * b;
};
const ground = (one) => {
  if (!one) return "rgb(255, 255, 255)";
  const color = getComputedStyle(one).backgroundColor;
  return numbers(color)[3] === 0 ? ground(one.parentElement) : color;
};
const written = (node) => node.nodeType === Node.TEXT_NODE && node.textContent.trim();
return [...document.querySelectorAll("body *")]
  .filter((one) => one.checkVisibility() && [...one.childNodes].some(written))
  .filter((one) => !one.closest(".unseen, .skip"))
  .map((one) => {
    const [a, b] = [light(getComputedStyle(one).color), light(ground(one))];
    return [(Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05), one];
  })
  .filter(([ratio]) => ratio < 4.5)
  .map(([ratio, one]) => `contrast ${ratio.toFixed(2)}: ${one.outerHTML.slice(0, 200)}`);
"""
_UNREACHABLE = """
const usable = "a[href], button, input:not([type=hidden]), select, textarea, summary";
return [...document.querySelectorAll(usable)]
  .filter((one) => one.checkVisibility() && !one.disabled && one.tabIndex < 0)
  .map((one) => `no Tab reaches ${one.outerHTML.slice(0, 200)}`);
"""


def faults_of_pages(browser: Chrome, urls: Sequence[str], axe: str) -> list[str]:
    """What is wrong with the pages at `urls`, each with the page and where it was seen; empty if
    nothing is. `axe` is axe-core's script.
    """
    return [fault for url in urls for fault in _faults(browser, url, axe)]


def axe_script(store: Path) -> str:
    """axe-core from npm, kept in `store`."""
    place = node_packages(store, AXE)
    return (place / "node_modules/axe-core/axe.min.js").read_text()


@contextmanager
def window(browser: Chrome, width: int, scheme: str) -> Iterator[None]:
    """As wide and in such a colour scheme, until the block ends."""
    size = {"width": width, "height": 800, "deviceScaleFactor": 1, "mobile": False}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    colours = {"features": [{"name": "prefers-color-scheme", "value": scheme}]}
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", colours)
    try:
        yield
    finally:
        browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
        browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": []})


def complaints(browser: Chrome) -> list[str]:
    """What the browser said since it was asked last, about blocked or broken parts of pages."""
    entries = browser.execute("getLog", {"type": "browser"})["value"]
    return [str(entry["message"]) for entry in entries if "favicon" not in str(entry["message"])]


def _faults(browser: Chrome, url: str, axe: str) -> Iterator[str]:
    complaints(browser)
    with window(browser, WIDE, "light"):
        browser.get(url)
        browser.execute_script(axe)
        for one in browser.execute_async_script(_FINDINGS):
            yield f"{url}: {one}"
    for width in MIDDLE:
        with window(browser, width, "light"):
            found = browser.execute_script(_OVERFLOWING)
            yield from (f"{url} at {width} px: {one}" for one in found)
    for width, scheme in ((WIDE, "light"), (WIDE, "dark"), (NARROW, "light"), (NARROW, "dark")):
        with window(browser, width, scheme):
            found = browser.execute_script(_PALE)
            if scheme == "light":
                found += browser.execute_script(_OVERFLOWING)
                found += browser.execute_script(_UNREACHABLE)
            yield from (f"{url} at {width} px, {scheme}: {one}" for one in found)
    yield from (f"{url}: {one}" for one in complaints(browser) if " status of 4" not in one)
    with suppress(NoAlertPresentException):
        yield f"{url}: a script opened {browser.switch_to.alert.text!r}"
