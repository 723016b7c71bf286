"""The pages in a real browser: by keyboard alone, with scripts and without, by axe, in narrow
windows and in both colour schemes.
"""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from selenium.webdriver import Chrome, Keys
from selenium.webdriver.common.by import By

from accessible_pages import axe_script, complaints, faults_of_pages
from browser import browser, navigation, until
from nodes import Node, node
from served import served as served_section
from shipline.supply import generate_key, write_key_pair

pytestmark = [pytest.mark.peers]


LONG = "/".join(["a" * 50] * 5) + ":" + "t" * 128
SECTION = """
role: primary
access:
  mode: accounts
  public-projects: [team]
policy:
  signatures:
    keys:
      release: release.pub
    rules:
      - images: [team/*]
    default: accept
  retention:
    - tags: [old*]
      latest: 0
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
        run(
            "shipline",
            "build",
            "-q",
            "--platform",
            platforms,
            "--sbom=true",
            "--push",
            "-t",
            image,
            work,
        )
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
    button = page.find_element(By.CSS_SELECTOR, ".cmd button.copy")
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
    focus(page, "To the first page")
    with navigation(page):
        press(page, Keys.ENTER)
    assert "team/app" in body(page)


@pytest.fixture(scope="session")
def axe(pytestconfig: pytest.Config) -> str:
    return axe_script(pytestconfig.cache.mkdir("axe-1"))


def test_open_pages_are_whole_for_everybody(page: Chrome, served: Node, axe: str) -> None:
    """Add the pages of other servers with `faults_of_pages` just so."""
    tag = "/r/team/app/-/tag?of=v1.2.3"
    paths = (
        *("/", "/?q=none", "/r/nothing/here", "/r/team/app", "/r/team/app/-/manifests"),
        *("/r/team/app:v1.2.3", "/r/docs/note:1", "/r/team/app/-/delete?what=v1.2.3"),
        *(tag, f"{tag}&to=v1", f"{tag}&to=.bad", packages_path(page, served)),
        *(f"/r/{LONG}", f"/r/{LONG.partition(':')[0]}"),
    )
    page.implicitly_wait(0)
    assert faults_of_pages(page, [served.url + path for path in paths], axe) == []


def packages_path(page: Chrome, served: Node) -> str:
    page.get(f"{served.url}/r/team/app:v1.2.3")
    link = page.find_element(By.PARTIAL_LINK_TEXT, "packages").get_attribute("href")
    return str(link).removeprefix(served.url)


@dataclass
class Guarded:
    """A node with accounts and rules, and the password of its administrator."""

    node: Node
    password: str


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Guarded]:
    """With an image that no key has signed."""
    root = tmp_path_factory.mktemp("guarded")
    write_key_pair(generate_key("release"), root / "release", b"x")
    (root / "hello").write_text("hello\n")
    (root / "Dockerfile").write_text("FROM scratch\nCOPY hello /\n")
    with served_section(root, SECTION) as started:
        found = re.search(r"password[^\n]*?[:=] *(\S+)", started.log.read_text())
        assert found is not None
        (root / "config.json").write_text("{}")
        environ = {**os.environ, "DOCKER_CONFIG": str(root)}
        login = ("shipline", "login", "-u", "admin", "--password-stdin", "--store", "plain")
        subprocess.run(
            [*login, started.address],
            input=found[1].encode(),
            env=environ,
            check=True,
            capture_output=True,
        )
        for tag in ("v1", "old1"):
            image = f"{started.address}/team/app:{tag}"
            build = ("shipline", "build", "-q", "--push", "-t", image, str(root))
            subprocess.run(build, env=environ, check=True, capture_output=True)
        yield Guarded(started, found[1])


def test_guarded_pages_are_whole_for_everybody(page: Chrome, guarded: Guarded, axe: str) -> None:
    """From the login to a robot that was made, used up and removed, all by forms."""
    page.implicitly_wait(0)
    url = guarded.node.url
    strangers = ("/", "/-/login", "/-/users", "/r/team/app", "/r/team/app:v1")
    assert faults_of_pages(page, [url + path for path in strangers], axe) == []
    refused = body(page)
    assert "refused" in refused and "0 of 1 required keys signed it" in refused
    assert "docker pull" not in refused and "shipline sign --key KEY" in refused
    log_in(page, guarded)
    page.get(f"{url}/-/robots")
    fill_in(page, name="ci", description="builds", repositories="team/**", submit="Make the robot")
    secret = page.find_element(By.CSS_SELECTOR, ".note .cmd code").text
    assert len(secret) > 20
    page.get(f"{url}/-/retention")
    fill_in(page, submit="Preview a run")
    until(page, lambda: reloaded(page, "1 tag would go"))
    own = ("/", "/-/account", "/-/users", "/-/users/admin", "/-/robots", "/-/robots/1")
    node_pages = ("/-/retention", "/-/regions", "/-/audit", "/-/audit?q=none", "/r/team/app:v1")
    assert faults_of_pages(page, [url + path for path in (*own, *node_pages)], axe) == []
    page.get(f"{url}/-/robots/1")
    fill_in(page, submit="Rotate the secret")
    assert page.find_element(By.CSS_SELECTOR, ".note .cmd code").text != secret
    page.get(f"{url}/-/robots/1")
    fill_in(page, submit="Remove robot$ci")
    assert "There is no robot yet" in body(page)
    page.get(f"{url}/-/retention")
    fill_in(page, submit="Remove 1 tag")
    until(page, lambda: reloaded(page, "1 tag removed"))
    page.get(f"{url}/r/team/app")
    assert "v1" in body(page) and "old1" not in body(page)


def log_in(page: Chrome, guarded: Guarded) -> None:
    page.get(f"{guarded.node.url}/-/login")
    fill_in(page, username="admin", password=guarded.password, submit="Log in")


def fill_in(page: Chrome, *, submit: str, **fields: str) -> None:
    for name, text in fields.items():
        page.find_element(By.ID, name).send_keys(text)
    with navigation(page):
        page.find_element(By.XPATH, f"//main//button[text()='{submit}']").click()


def reloaded(page: Chrome, text: str) -> bool:
    page.refresh()
    return text in body(page)


def test_pages_are_whole_without_scripts(page: Chrome, guarded: Guarded) -> None:
    """Logging in, a search, and a form that changes something."""
    page.delete_all_cookies()
    page.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": True})
    try:
        page.get(f"{guarded.node.url}/-/login")
        page.find_element(By.ID, "username").send_keys("admin")
        page.find_element(By.ID, "password").send_keys(guarded.password, Keys.ENTER)
        until(page, lambda: bool(page.find_elements(By.XPATH, "//button[text()='Log out']")))
        page.get(f"{guarded.node.url}/r/team/app/-/tag?of=v1&to=v2")
        page.find_element(By.XPATH, "//button[text()='Add v2']").click()
        page.get(f"{guarded.node.url}/r/team/app?q=v2")
        assert "v2" in body(page)
    finally:
        page.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": False})
