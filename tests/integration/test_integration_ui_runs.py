"""The pages of `shipline ui` about real runs, in a real browser."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from urllib.error import HTTPError
from urllib.request import HTTPCookieProcessor, build_opener

import pytest
from selenium.webdriver import Chrome, Keys
from selenium.webdriver.common.by import By

from accessible_pages import axe_script, complaints, faults_of_pages
from browser import browser, navigation, until
from nodes import node
from peers import can_run_arm64
from run_lab import enter, runs_of_a_project
from shipline.events import Finished, Logged, Started
from shipline.history import RunHistory, RunRecorder, RunSummary
from ships import Project
from ui_servers import pages_of

pytestmark = [
    pytest.mark.peers,
    pytest.mark.root,
    pytest.mark.skipif(not can_run_arm64(), reason="no emulation of arm64"),
]
HOSTILE = "<img src=x onerror=alert(1)>\x1b[31m\"'&</script>"


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Project]:
    place = tmp_path_factory.mktemp("runs")
    with node(place / "node") as running:
        yield runs_of_a_project(place, running)


@pytest.fixture(scope="module")
def url(project: Project) -> Iterator[str]:
    with pages_of(project.root, project.environ()) as printed:
        yield printed


@pytest.fixture(scope="module")
def opened() -> Iterator[Chrome]:
    with browser() as found:
        found.implicitly_wait(0)  # what does not exist is not waited for
        yield found


@pytest.fixture
def page(opened: Chrome, origin: str) -> Chrome:
    complaints(opened)
    return opened


@pytest.fixture(scope="module")
def origin(opened: Chrome, url: str) -> str:
    return enter(opened, url)


@pytest.fixture(scope="module")
def runs(project: Project) -> list[str]:
    """The failed build, the refused pipeline, the published one."""
    return RunHistory(project.home).ids()


def body(page: Chrome) -> str:
    return page.find_element(By.TAG_NAME, "main").text.replace("\N{NO-BREAK SPACE}", " ")


def verdict(page: Chrome) -> str:
    return page.find_element(By.ID, "verdict").text


def test_all_pages_are_accessible_whole_and_readable(
    page: Chrome, origin: str, runs: list[str], pytestconfig: pytest.Config
) -> None:
    assert pytestconfig.cache is not None
    axe = axe_script(pytestconfig.cache.mkdir("axe"))
    broken, refused, passed = runs
    step = failed_step(page, origin, broken)
    paths = ["/runs", "/runs?q=nothing+matches", "/runs/nothing", f"/runs/{broken}/logs/{step}"]
    paths += [f"/runs/{run}{below}" for run in (broken, refused, passed) for below in ("", "/logs")]
    assert faults_of_pages(page, [origin + path for path in paths], axe) == []


def failed_step(page: Chrome, origin: str, run: str) -> str:
    page.get(f"{origin}/runs/{run}")
    link = page.find_element(By.XPATH, "//tr[td/span[contains(@class, 'bad')]]/th//a")
    return str(link.get_attribute("href")).rpartition("/")[2]


def test_the_keyboard_leads_from_the_list_to_the_log_of_what_failed(
    page: Chrome, origin: str, runs: list[str]
) -> None:
    page.get(f"{origin}/runs")
    page.find_element(By.TAG_NAME, "body").send_keys("/")
    page.switch_to.active_element.send_keys("failed no-such")
    with navigation(page):
        page.switch_to.active_element.send_keys(Keys.ENTER)
    assert "No run matches" in body(page)
    page.get(f"{origin}/runs?state=failed&kind=build")
    with navigation(page):
        page.find_element(By.CSS_SELECTOR, "tbody th a").send_keys(Keys.ENTER)
    assert verdict(page) == "failed"
    with navigation(page):
        page.find_element(By.XPATH, "//tr[td/span[contains(@class, 'bad')]]/th//a").send_keys(
            Keys.ENTER
        )
    lines = page.find_elements(By.CSS_SELECTOR, ".log > span")
    assert "error: no compiler in $PATH" in [line.text.strip() for line in lines]
    page.get(f"{page.current_url}#line-2")
    assert page.find_element(By.CSS_SELECTOR, ".log > :target").text.startswith("alpha 1.4.0")
    assert complaints(page) == []


def test_a_failed_build_shows_the_line_in_its_place_and_what_it_printed(
    page: Chrome, origin: str, runs: list[str]
) -> None:
    page.get(f"{origin}/runs/{runs[0]}")
    why = page.find_element(By.CSS_SELECTOR, ".note.bad")
    title = "Dockerfile line 10 failed on linux/arm64: exit code 7 after"
    assert why.find_element(By.TAG_NAME, "h2").text.startswith(title)
    assert why.find_element(By.CSS_SELECTOR, ".source mark").text.strip() == "RUN sh /srv/app"
    assert "COPY app /srv/app" in why.text and "error: no compiler in $PATH" in why.text


def test_a_refused_pipeline_says_which_gate(page: Chrome, origin: str, runs: list[str]) -> None:
    page.get(f"{origin}/runs/{runs[1]}")
    assert verdict(page) == "failed"
    assert "coverage" in page.find_element(By.CSS_SELECTOR, ".note.bad").text


def test_a_pipeline_that_passed_shows_its_groups_and_facts(
    page: Chrome, origin: str, runs: list[str], project: Project
) -> None:
    page.get(f"{origin}/runs/{runs[2]}")
    assert verdict(page) == "passed"
    groups = [one.text for one in page.find_elements(By.CSS_SELECTOR, "tr.group > th")]
    for number, title in enumerate(
        ["Beside the build", "Shared by both platforms", "linux/amd64", "linux/arm64"]
    ):
        assert any(group.startswith(title) for group in groups), (number, groups)
    assert groups[-1].startswith("From digest to names")
    assert project.image in body(page)
    assert page.find_elements(By.CSS_SELECTOR, "svg.lane rect.upload")


def test_pages_are_whole_without_scripts(page: Chrome, origin: str, runs: list[str]) -> None:
    page.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": True})
    try:
        page.get(f"{origin}/runs")
        page.find_element(By.LINK_TEXT, "clone").click()
        assert page.find_element(By.CSS_SELECTOR, ".note.bad h2").text
        page.find_element(By.LINK_TEXT, "Logs").click()
        assert page.find_elements(By.CSS_SELECTOR, ".log > span")
    finally:
        page.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": False})


def test_a_run_in_another_process_is_followed_until_it_is_killed(
    page: Chrome, origin: str, project: Project, tmp_path: Path
) -> None:
    (tmp_path / "Dockerfile").write_text("FROM busybox\nRUN echo begun\nRUN echo waits; sleep 30\n")
    before = set(RunHistory(project.home).ids())
    command = [sys.executable, "-m", "shipline", "build", "--progress", "plain", str(tmp_path)]
    build = subprocess.Popen(
        command, env=project.environ(), stderr=subprocess.DEVNULL, start_new_session=True
    )
    try:
        deadline = time.monotonic() + 60
        while not (new := set(RunHistory(project.home).ids()) - before):
            assert time.monotonic() < deadline
            time.sleep(0.05)
        page.get(f"{origin}/runs/{new.pop()}")
        assert verdict(page) == "running"
        row = "//tr[th//a/code[contains(text(), 'RUN echo waits')]]"
        until(page, lambda: bool(page.find_elements(By.XPATH, row)))
        until(page, lambda: "so far" in page.find_element(By.XPATH, row).text)
        first = page.find_element(By.XPATH, row).text
        until(page, lambda: page.find_element(By.XPATH, row).text != first)
        page.execute_script("window.same = true")
    finally:
        os.killpg(build.pid, signal.SIGKILL)
        build.wait()
    until(page, lambda: verdict(page) == "interrupted")
    assert "ended without saying how" in body(page) and "so far" not in body(page)
    assert page.execute_script("return window.same"), "the page was not loaded again"
    announced = page.find_elements(By.CSS_SELECTOR, "[role=status], [role=alert], [aria-live]")
    assert announced[0].text == "interrupted"
    assert complaints(page) == []


def keep(home: Path, id: str, *events: Started | Logged | Finished, name: str = "app") -> Path:
    """A run of these events."""
    directory = home / "runs" / id
    recorder = RunRecorder(directory, RunSummary(id, "build", name, 1000.0))
    for event in events:
        recorder(event)
    recorder.close()
    assert recorder.failure is None
    return directory


ROOT = Started(1, 1000.0, "build")
STEP = Started(
    2, 1000.5, f"RUN {HOSTILE}", 1, {"kind": "run", "platform": HOSTILE, "number": "1/1"}
)
END = Finished(1, 1009.0, HOSTILE)


@pytest.fixture
def odd(tmp_path: Path, opened: Chrome) -> Iterator[tuple[Path, str]]:
    """A home with no runs yet, and its pages."""
    environ = {**os.environ, "SHIPLINE_HOME": str(tmp_path / "home")}
    with pages_of(tmp_path, environ) as printed:
        yield tmp_path / "home", enter(opened, printed)


def test_hostile_names_and_output_are_shown_as_text(opened: Chrome, odd: tuple[Path, str]) -> None:
    home, origin = odd
    opened.get(f"{origin}/runs")
    assert "shipline build ." in body(opened)
    run = "20261130-000000-000001"
    output = Logged(2, 1001.0, HOSTILE.encode() + b"\xff\x00\r\nsecond\n", 2)
    keep(home, run, ROOT, STEP, output, Finished(2, 1002.0, HOSTILE), END, name=HOSTILE)
    complaints(opened)
    for path in ("/runs", f"/runs/{run}", f"/runs/{run}/logs", f"/runs/{run}/logs/2"):
        opened.get(origin + path)
        assert "<img src=x onerror=alert(1)>" in body(opened)
        assert "\x1b" not in opened.page_source
        assert not opened.find_elements(By.CSS_SELECTOR, "main img")
    opened.get(f"{origin}/runs?q=%3Cimg%3E&state=%3Cimg%3E&kind=%22&branch=%1B")
    assert not opened.find_elements(By.CSS_SELECTOR, "main img")
    assert complaints(opened) == []


def test_what_is_damaged_or_deleted_is_one_sentence(opened: Chrome, odd: tuple[Path, str]) -> None:
    home, origin = odd
    good, *damaged = (f"20261130-00000{number}-000000" for number in range(6))
    keep(home, good, ROOT, STEP, END)
    whole = (home / "runs" / good / "events").read_bytes()
    contents = [
        whole[:40],
        b"\x28\xb5\x2f\xfd" + b"\0" * 40,
        b"\xff" * 64,
        b"\x10\0\0\0" + b"x" * 16,
    ]
    for run, data in zip(damaged, [*contents, b""], strict=True):
        (keep(home, run, ROOT) / "events").write_bytes(data)
    for run in damaged:
        opened.get(f"{origin}/runs/{run}")
        assert "bug" not in body(opened).lower()
    opened.get(f"{origin}/runs")
    assert len(opened.find_elements(By.CSS_SELECTOR, "tbody th a")) == 6
    with navigation(opened):
        opened.find_elements(By.CSS_SELECTOR, "tbody th a")[-1].click()
    RunHistory(home).remove(good)
    with navigation(opened):
        opened.find_element(By.LINK_TEXT, "Logs").click()
    assert "there is no run" in body(opened)


def test_a_long_log_is_a_page_at_a_time(opened: Chrome, odd: tuple[Path, str], url: str) -> None:
    home, origin = odd
    run, line = "20261130-000000-000002", b"0123456789" * 9 + b"\n"
    block = Logged(2, 1001.0, line * 10_000)
    keep(home, run, ROOT, STEP, *[block] * 115, Finished(2, 1002.0), END)  # 100 MB; 64 are kept
    opened.get(f"{origin}/runs/{run}/logs/2")
    assert len(opened.page_source) < 1_000_000
    with navigation(opened):
        opened.find_element(By.LINK_TEXT, "Last lines").click()
    lines = opened.find_elements(By.CSS_SELECTOR, ".log > span")
    assert len(lines) == 1000
    last = int(str(lines[-1].get_attribute("data-n")))
    assert 700_000 < last < 750_000
    opened.get(f"{origin}/runs/{run}")
    assert len(opened.page_source) < 100_000


def test_another_user_of_the_machine_sees_nothing(url: str) -> None:
    opener = build_opener(HTTPCookieProcessor())
    with pytest.raises(HTTPError) as refused:
        opener.open(url.partition("?")[0] + "runs")
    assert refused.value.code == 403
