"""Runs that break: the record says where, and the next one continues from there."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from builds import processes, tags
from nodes import node
from ships import Project, coverage, new_project

SECONDS = f"600.{os.getpid()}"  # that no other sleep on this machine has
SLOW = """\
image: {image}
steps:
  first: echo once >> ../counted-first
  test:
    run: mkdir -p out && cp coverage.xml out/ && echo once >> ../counted-test
    reports: {coverage: out/coverage.xml}
  slow:
    needs: [build]
    run: |
      echo once >> ../counted-slow
      if [ -e ../wait ]; then echo waiting; sleep SECONDS; fi
  late: {needs: [slow], run: test ! -e ../break}
gates: {coverage: {min: 80}}
""".replace("SECONDS", SECONDS)
REPOSITORY = "team/app"
WAIT_S = 120.0


@pytest.fixture
def project(tmp_path: Path) -> Iterator[Project]:
    with node(tmp_path / "data") as running:
        yield new_project(tmp_path, running, SLOW, coverage__xml=coverage(9), __gitignore="out\n")


def counted(project: Project, step: str) -> int:
    path = project.root.parent / f"counted-{step}"
    return len(path.read_text().splitlines()) if path.exists() else 0


def until(condition: Callable[[], bool], what: str) -> None:
    end = time.monotonic() + WAIT_S
    while not condition():
        assert time.monotonic() < end, what
        time.sleep(0.05)


def interrupted(project: Project, number: int) -> int:
    """A run that gets a signal in the middle of `slow`; its status."""
    (project.root.parent / "wait").touch()
    with project.start("ship", "--progress", "plain") as process:
        until(lambda: counted(project, "slow") == 1, "slow did not start")
        os.kill(process.pid, number)
        process.communicate(timeout=WAIT_S)
    (project.root.parent / "wait").unlink()
    return process.returncode


def test_killed_run_continues_where_it_was(project: Project) -> None:
    assert interrupted(project, signal.SIGKILL) == -signal.SIGKILL
    record = project.record()
    states = {step["name"]: step["state"] for step in record["steps"]}
    assert record["state"] == "interrupted"
    assert states["slow"] == "interrupted"
    assert {states[name] for name in ("first", "test", "build")} == {"passed"}
    until(lambda: not processes(project.home, SECONDS), "the step outlived the run")
    assert tags(project.node, REPOSITORY) == []

    done = project.ship("--resume").ok()
    assert f"{project.image}:v0.1.0@" in done.out
    assert (counted(project, "first"), counted(project, "test")) == (1, 1)
    assert counted(project, "slow") == 2
    assert project.record()["id"] == record["id"]
    assert "load build definition" not in done.err


def test_interrupted_run_cleans_up_and_continues(project: Project) -> None:
    assert interrupted(project, signal.SIGTERM) == 130
    assert processes(project.home, SECONDS) == []
    assert project.states()["slow"] == "cancelled"
    project.ship("--resume").ok()
    assert (counted(project, "test"), counted(project, "slow")) == (1, 2)


def test_failed_run_continues_with_what_failed(project: Project) -> None:
    breaking = project.root.parent / "break"
    breaking.touch()
    said = project.ship().failed(5)
    run = project.record()["id"]
    assert f"--resume {run}" in said and "cd " in said
    breaking.unlink()
    project.ship("--resume", run[-6:]).ok()
    assert (counted(project, "slow"), counted(project, "test")) == (1, 1)
    assert tags(project.node, REPOSITORY) == ["v0.1.0"]


def test_report_that_was_changed_meanwhile_is_written_again(project: Project) -> None:
    (project.root.parent / "break").touch()
    project.ship().failed(5)
    (project.root.parent / "break").unlink()
    (project.root / "out/coverage.xml").write_text(coverage(10))
    project.ship("--resume").ok()
    assert (counted(project, "first"), counted(project, "test")) == (1, 2)


def test_a_report_that_proved_nothing_is_written_again(project: Project) -> None:
    """As that of a scanner whose database was out of reach: the next run asks again."""
    report = project.root.parent / "report.json"
    report.write_text('{"message": "no answer", "error": {"summary": "503"}}')
    scan = f"  scan:\n    run: mkdir -p out && cp {report} out/scan.json\n"
    reports = "    reports: {vulnerabilities: out/scan.json}\n"
    config = SLOW.replace("{image}", project.image).replace(
        "  slow:\n", f"{scan}{reports}  slow:\n"
    )
    project.write("shipline.yaml", config)
    project.commit("feat: a scan")
    said = project.ship().failed(11)
    assert "npm audit failed: 503" in said and "hint: run it again" in said
    report.write_text('{"auditReportVersion": 2, "vulnerabilities": {}, "metadata": {}}')
    project.ship("--resume").ok()
    assert (counted(project, "first"), counted(project, "slow")) == (1, 1)


def test_another_commit_is_another_run(project: Project) -> None:
    (project.root.parent / "break").touch()
    project.ship().failed(5)
    project.commit("fix: more", app="two\n")
    assert "git checkout" in project.ship("--resume").failed(2)


def test_run_of_an_earlier_version_runs_all_steps_again(project: Project) -> None:
    (project.root.parent / "break").touch()
    project.ship().failed(5)
    (project.root.parent / "break").unlink()
    path = project.home / "runs" / project.record()["id"] / "run.json"
    record = json.loads(path.read_text())
    del record["keys"]
    record["steps"] = [{**step, "key": "made otherwise"} for step in record["steps"]]
    path.write_text(json.dumps(record))
    assert "of an earlier version of shipline" in project.ship("--resume").ok().err
    assert counted(project, "test") == 2
    assert tags(project.node, REPOSITORY) == ["v0.1.0"]


def test_there_is_no_run_to_resume_whatever_else_is_missing(project: Project) -> None:
    project.git("remote", "remove", "origin")
    assert "there is no run of" in project.ship("--resume").failed(2)
    assert "there is no run 'abcdef'" in project.ship("--resume", "abcdef").failed(2)


def test_run_in_progress_cannot_be_resumed_or_removed(project: Project) -> None:
    (project.root.parent / "wait").touch()
    with project.start("ship", "--progress", "plain") as process:
        until(lambda: counted(project, "slow") == 1, "slow did not start")
        assert "another process" in project.ship("--resume").failed(2)
        assert "is running" in project.run("runs", "rm", "latest").failed(2)
        process.terminate()
        process.communicate(timeout=WAIT_S)


def test_run_killed_at_any_moment_ends_well(project: Project) -> None:
    for number in range(8):
        with project.start("ship", "--progress", "plain") as process:
            time.sleep(0.3 + 0.06 * number)
            process.kill()
            process.communicate()
    if project.ship("--resume").status:
        project.ship().ok()
    assert tags(project.node, REPOSITORY) == ["v0.1.0"]


def test_records_are_shown_and_deleted(project: Project) -> None:
    project.ship().ok()
    run = project.record()["id"]
    assert run in project.run("runs").ok().out
    assert "v0.1.0" in project.run("runs", "show").ok().out
    assert project.run("runs", "logs", "latest", "late").ok().out == ""
    assert project.run("runs", "rm", run).ok().out.strip() == run
    assert "there is no run" in project.run("runs", "show", run).failed(2)
