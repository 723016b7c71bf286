"""Makes docs/screenshots from real runs: `make screenshots`. It is not part of `make test`, since
the pictures differ each time.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
from selenium.webdriver import Chrome
from selenium.webdriver.common.by import By

from accessible_pages import window
from browser import browser, navigation
from nodes import node
from promotions import delivered, deploy, publish
from run_lab import enter, runs_of_a_project
from served import served
from shipline.history import RunHistory
from shipline.supply import generate_key, write_key_pair
from ui_servers import pages_of, ui_server

PLACE = Path(__file__).parent.parent / "docs" / "screenshots"
LOOKS = {"wide": (1000, "light"), "narrow": (360, "light"), "dark": (1000, "dark")}
_HIGHEST = 1500  # pixels
ALICE = "alice@example.org"
RULES = {
    "dev": "",
    "staging": "after: dev\napprovals: {required: 1, by: ['*@example.org']}",
    "production": "after: staging\nsoak: 1h",
}
TRUST = "trust: {keys: {release: ../ship.pub}, rules: [{images: ['**'], action: require}]}"
SECTION = """
role: primary
access:
  mode: accounts
  public-projects: [shop]
policy:
  signatures:
    keys:
      release: release.pub
    rules:
      - images: [shop/checkout]
    default: accept
"""


def take(page: Chrome, name: str, url: str) -> None:
    """A page as each window sees it, from its top to its end."""
    for look, (width, scheme) in LOOKS.items():
        with window(page, width, scheme):
            page.get(url)
            height = page.execute_script("return document.documentElement.scrollHeight")
            whole = {"width": width, "height": min(height, _HIGHEST), "deviceScaleFactor": 1}
            page.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", {**whole, "mobile": False})
            page.execute_cdp_cmd("Emulation.setScrollbarsHidden", {"hidden": True})
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
    with pages_of(project.root, environ) as url, browser() as page:
        page.implicitly_wait(0)
        origin = enter(page, url)
        take(page, "runs", f"{origin}/runs")
        take(page, "run", f"{origin}/runs/{passed}")
        take(page, "run-failed", f"{origin}/runs/{broken}")
        take(page, "run-logs", f"{origin}/runs/{broken}/logs")


def test_pages_of_deliveries(shop: Path) -> None:
    with node(shop / "node") as running:
        where = delivered(publish(shop, running), shop / "gitops", RULES, TRUST)
        deploy(where)
        where.run("approve", "--env", "staging", "-m", "smoke test passed", by=ALICE).ok()
        where.run("promote", "--env", "staging").ok()
        deploy(where, "v0.2.0")
        who = {"GIT_COMMITTER_EMAIL": ALICE, "GIT_COMMITTER_NAME": "Alice"}
        with ui_server(where.project, **who) as visitor, browser() as page:
            page.implicitly_wait(0)
            origin = enter(page, visitor.url)
            take(page, "board", f"{origin}/board")
            take(page, "approve", f"{origin}/board/staging/approve")
            take(page, "regions", f"{origin}/regions")
            take(page, "releases", f"{origin}/releases")
            page.find_element(By.CSS_SELECTOR, "table a[href^='/releases/']").click()
            take(page, "release", page.current_url)
            take(page, "compare", f"{origin}/compare?from=v0.1.0&to=v0.2.0&files=1")


def test_pages_of_a_node(shop: Path) -> None:
    write_key_pair(generate_key("release"), shop / "release", b"x")
    (shop / "app").write_text("hello\n")
    (shop / "Dockerfile").write_text(
        "FROM scratch\nENV MODE=fast\nCOPY app /app\nLABEL team=shop\nUSER 1000\n"
    )
    with served(shop, SECTION, DOCKER_CONFIG=str(shop)) as running, browser() as page:
        found = re.search(r"password[^\n]*?[:=] *(\S+)", running.log.read_text())
        assert found is not None
        words = ["login", "-u", "admin", "--password-stdin", "--store", "plain", running.address]
        shipline(shop, words, found[1])
        for name in ("shop/checkout:v1.2.0", "shop/checkout:v1.3.0", "shop/search:v0.9.0"):
            build = ["build", "-q", "--platform", "linux/amd64,linux/arm64", "--sbom=true"]
            image = f"{running.address}/{name}"
            (shop / "app").write_text(name)
            shipline(shop, [*build, "--push", "-t", image, "."])
            if name != "shop/checkout:v1.3.0":
                shipline(shop, ["sign", "--key", "release.key", image])
        page.implicitly_wait(0)
        take(page, "node-login", f"{running.url}/-/login")
        log_in(page, running.url, found[1])
        page.get(f"{running.url}/-/robots")
        for field, text in (("name", "ci"), ("description", "builds"), ("repositories", "shop/**")):
            page.find_element(By.ID, field).send_keys(text)
        with navigation(page):
            page.find_element(By.XPATH, "//main//button[text()='Make the robot']").click()
        pages = {
            "repositories": "/",
            "repository": "/r/shop/checkout",
            "image": "/r/shop/checkout:v1.2.0",
            "refused": "/r/shop/checkout:v1.3.0",
            "users": "/-/users",
            "robots": "/-/robots",
            "audit": "/-/audit",
        }
        for name, path in pages.items():
            take(page, f"node-{name}", f"{running.url}{path}")


def log_in(page: Chrome, url: str, password: str) -> None:
    page.get(f"{url}/-/login")
    page.find_element(By.ID, "username").send_keys("admin")
    page.find_element(By.ID, "password").send_keys(password)
    with navigation(page):
        page.find_element(By.XPATH, "//main//button[text()='Log in']").click()


def shipline(place: Path, words: Sequence[str], text: str = "") -> None:
    environ = {**os.environ, "DOCKER_CONFIG": str(place), "SHIPLINE_KEY_PASSWORD": "x"}
    subprocess.run(["shipline", *words], cwd=place, env=environ, check=True, input=text.encode())


if __name__ == "__main__":
    raise SystemExit(pytest.main([__file__, "-q"]))
