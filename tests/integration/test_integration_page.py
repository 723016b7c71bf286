"""The page in a real browser: by keyboard alone, with scripts and without errors."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from selenium.webdriver import Chrome, Keys
from selenium.webdriver.common.by import By

from browser import browser, navigation, until
from nodes import Node, node

pytestmark = [pytest.mark.peers]


LONG = "/".join(["a" * 50] * 5) + ":" + "t" * 128
_PALE = """
const light = (color) => {
  const [r, g, b] = color.match(/[\\d.]+/g).slice(0, 3).map((text) => {
    const value = text / 255;
    return value <= 0.03928 ? value / 12.92 : ((value + 0.055) / 1.055) ** 2.4;
  });
  return 0.2126 * r + 0.7152 * g + 0.0722 * b;
};
const ground = (one) => {
  const color = getComputedStyle(one).backgroundColor;
  return color === "rgba(0, 0, 0, 0)" ? ground(one.parentElement) : color;
};
const has_text = (node) => node.nodeType === Node.TEXT_NODE && node.textContent.trim();
return [...document.querySelectorAll("body *")]
  .filter((one) => one.offsetParent && [...one.childNodes].some(has_text))
  .filter((one) => {
    const [a, b] = [light(getComputedStyle(one).color), light(ground(one))];
    return (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05) < 4.5;
  })
  .map((one) => one.outerHTML);
"""


@pytest.fixture(scope="module")
def page() -> Iterator[Chrome]:
    with browser() as opened:
        yield opened


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Node]:
    """A node with an image for two platforms, and a file with something attached to it."""
    work = tmp_path_factory.mktemp("page")
    (work / "note.txt").write_text("a note\n")
    (work / "hello").write_text("hello\n")
    (work / "Dockerfile").write_text(
        "FROM scratch\nENV MODE=fast\nCOPY hello /hello\nLABEL team=blue\nUSER 1000\n"
    )
    with node(work / "data") as running:
        image = f"{running.address}/team/app:v1.2.3"
        platforms = "linux/amd64,linux/arm64"
        run("shipline", "build", "-q", "--platform", platforms, "--push", "-t", image, work)
        name = f"{running.address}/docs/note:1"
        run("oras", "push", "--plain-http", name, "note.txt:text/plain", cwd=work)
        kind = ("--artifact-type", "application/x.review")
        run("oras", "attach", "--plain-http", *kind, name, "hello:text/plain", cwd=work)
        long = f"{running.address}/{LONG}"
        run("oras", "push", "--plain-http", long, "note.txt:text/plain", cwd=work)
        yield running


def run(*words: str | Path, cwd: Path | None = None) -> None:
    subprocess.run(words, check=True, capture_output=True, cwd=cwd)


def press(page: Chrome, *keys: str) -> None:
    for key in keys:
        page.switch_to.active_element.send_keys(key)


def focus(page: Chrome, text: str) -> None:
    """Go on with Tab until the element with this text has the focus."""
    for _ in range(60):
        press(page, Keys.TAB)
        if page.switch_to.active_element.text.strip() == text:
            return
    raise AssertionError(f"Tab never reaches {text!r}")


def body(page: Chrome) -> str:
    return page.find_element(By.TAG_NAME, "main").text


def complaints(page: Chrome) -> list[str]:
    """What the browser said about blocked or broken parts of the page."""
    entries = page.execute("getLog", {"type": "browser"})["value"]
    return [str(entry["message"]) for entry in entries]


def test_the_keyboard_leads_from_the_front_to_a_layer(page: Chrome, served: Node) -> None:
    page.get(served.url)
    press(page, Keys.TAB)
    assert page.switch_to.active_element.text == "Skip to content"
    focus(page, "team/app")
    with navigation(page):
        press(page, Keys.ENTER)
    assert "linux/amd64, linux/arm64" in body(page)
    focus(page, "v1.2.3")
    with navigation(page):
        press(page, Keys.ENTER)
    assert f"docker pull {served.address}/team/app:v1.2.3" in body(page)
    rows = page.find_elements(By.CSS_SELECTOR, "table a.digest")
    focus(page, rows[0].text)
    with navigation(page):
        press(page, Keys.ENTER)
    assert "COPY hello /hello" in body(page)
    assert "MODE=fast" in body(page) and "team" in body(page) and "linux/amd64" in body(page)
    assert complaints(page) == []


def test_a_slash_begins_a_search(page: Chrome, served: Node) -> None:
    page.get(served.url)
    page.find_element(By.TAG_NAME, "body").send_keys("/")
    press(page, "not")
    with navigation(page):
        press(page, Keys.ENTER)
    assert "docs/note" in body(page) and "team/app" not in body(page)
    assert page.find_element(By.ID, "q").get_attribute("value") == "not"


def test_commands_can_be_copied(page: Chrome, served: Node) -> None:
    page.execute_cdp_cmd(
        "Browser.grantPermissions",
        {"origin": served.url, "permissions": ["clipboardReadWrite", "clipboardSanitizedWrite"]},
    )
    page.get(f"{served.url}/r/team/app:v1.2.3")
    button = page.find_element(By.CSS_SELECTOR, "button.copy")
    button.send_keys(Keys.ENTER)
    copied = "navigator.clipboard.readText().then(arguments[0], arguments[0])"
    command = f"docker pull {served.address}/team/app:v1.2.3"
    until(page, lambda: page.execute_async_script(copied) == command)


def test_what_is_attached_is_listed(page: Chrome, served: Node) -> None:
    page.get(f"{served.url}/r/docs/note:1")
    assert "application/x.review" in body(page)
    assert "oras pull" in body(page) and "docker pull" not in body(page)


def test_a_page_that_is_not_there_says_so(page: Chrome, served: Node) -> None:
    page.get(f"{served.url}/r/nothing/here")
    assert page.find_element(By.TAG_NAME, "h1").text == "Not found"
    focus(page, "All repositories")
    with navigation(page):
        press(page, Keys.ENTER)
    assert "team/app" in body(page)


def test_every_control_has_a_name_and_every_picture_words(page: Chrome, served: Node) -> None:
    for path in ("/", "/r/team/app", "/r/team/app:v1.2.3"):
        page.get(served.url + path)
        tree = page.execute_cdp_cmd("Accessibility.getFullAXTree", {})["nodes"]
        roles = {"link", "button", "searchbox", "textbox"}
        unnamed = [
            one
            for one in tree
            if one.get("role", {}).get("value") in roles
            and not one.get("name", {}).get("value", "").strip()
        ]
        assert unnamed == []


@pytest.fixture
def window(page: Chrome) -> Iterator[Callable[[int, str], None]]:
    """Makes the window as wide, and the colours, as asked for; as they were after the test."""

    def change(width: int, scheme: str) -> None:
        size = {"width": width, "height": 800, "deviceScaleFactor": 1, "mobile": False}
        page.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
        colours = {"features": [{"name": "prefers-color-scheme", "value": scheme}]}
        page.execute_cdp_cmd("Emulation.setEmulatedMedia", colours)

    yield change
    page.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
    page.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": []})


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_narrow_window_shows_everything_with_contrast(
    page: Chrome, served: Node, window: Callable[[int, str], None], scheme: str
) -> None:
    """WCAG 2.2: 1.4.3 (contrast of 4.5), 1.4.10 (no scrolling in two directions)."""
    window(360, scheme)
    paths = ("/", "/r/team/app", "/r/team/app:v1.2.3", f"/r/{LONG}", "/r/nothing/here")
    for path in (*paths, f"/r/{LONG.partition(':')[0]}"):
        page.get(served.url + path)
        wide = "return document.documentElement.scrollWidth - innerWidth"
        assert page.execute_script(wide) <= 0, path
        assert page.execute_script(_PALE) == [], path
