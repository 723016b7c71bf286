"""The work for a page does not grow with what it does not show."""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

from shipline.events import Event, Finished, Logged, Started
from shipline.history import RunHistory, RunRecorder, RunState, RunSummary
from shipline.history.records import encode_summary
from shipline.ui.app import PageRequest, Workspace
from shipline.ui.run_list import RunFilter, RunIndex, run_page
from shipline.ui.runs import run, run_list

RUN = "20261130-000000-abcdef"


def request(home: Path, path: str, **query: str) -> PageRequest:
    return PageRequest(Workspace(home, home), path, {"run": RUN}, query, {}, "")


def keep_run(home: Path, steps: int) -> None:
    events: list[Event] = [Started(1, 1000.0, "build")]
    for number in range(2, steps + 2):
        facts = {
            "kind": "run",
            "platform": ("linux/amd64", "linux/arm64")[number % 2],
            "number": f"{number}/{steps}",
            "vertex": f"v{number}",
            "inputs": f"v{number - 2}",
        }
        at = 1000.0 + number / 10
        events.append(Started(number, at, f"RUN make part-{number}", 1, facts))
        events.append(Logged(number, at, b"a line of output\n"))
        events.append(Finished(number, at + 1))
    recorder = RunRecorder(home / "runs" / RUN, RunSummary(RUN, "build", "app", 1000.0))
    for event in [*events, Finished(1, 1000.0 + steps / 10)]:
        recorder(event)
    recorder.close()


def calls(work: Callable[[], object]) -> int:
    """How many calls of functions, Python's and C's, the work takes."""
    count = 0

    def counted(frame: object, event: str, argument: object) -> None:
        nonlocal count
        count += event in ("call", "c_call")

    sys.setprofile(counted)
    try:
        work()
    finally:
        sys.setprofile(None)
    return count


def test_the_page_of_a_run_takes_a_bounded_number_of_calls_for_each_step(tmp_path: Path) -> None:
    """1,000 steps took 59 ms of CPU with these."""
    found = {}
    for steps in (500, 1000):
        home = tmp_path / str(steps)
        keep_run(home, steps)
        show = partial(run, request(home, f"/runs/{RUN}"))
        show()  # templates are compiled once
        found[steps] = calls(show)
    print(f"calls: {found}")
    assert found[1000] < 2.1 * found[500]
    assert found[1000] < 400 * 1000


def test_thousands_of_runs_are_listed_without_reading_more_than_a_page(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "runs").mkdir()
    for number in range(2_000):
        id = f"20261130-{number:06}-abcdef"
        found = RunSummary(id, "build", "app", 1.0, RunState.PASSED, 2.0, branch=f"b{number % 3}")
        (tmp_path / "runs" / id).mkdir()
        (tmp_path / "runs" / id / "record.json").write_bytes(encode_summary(found))
    read: list[str] = []
    summary = RunHistory.summary

    def counted(self: RunHistory, run: str) -> RunSummary:
        read.append(run)
        return summary(self, run)

    monkeypatch.setattr(RunHistory, "summary", counted)
    answer = run_list(request(tmp_path, "/runs"))
    assert answer.status == 200 and len(read) == 101
    index = RunIndex(RunHistory(tmp_path))
    nothing = RunFilter(text="nothing has this")
    first = calls(lambda: run_page(RunIndex(RunHistory(tmp_path)), nothing))
    run_page(index, nothing)
    read.clear()
    again = calls(lambda: run_page(index, nothing))
    assert read == [] and again < first
