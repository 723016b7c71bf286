"""The work for a page does not grow with what it does not show, as ratios within one process."""

from __future__ import annotations

import time
from collections.abc import Callable
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


def cpu_s(work: Callable[[], object]) -> float:
    """The least of three."""
    found = []
    for _ in range(3):
        began = time.process_time()
        work()
        found.append(time.process_time() - began)
    return min(found)


def calibration() -> object:
    """Work that takes about 60 ms of CPU where the page of 1,000 steps does."""
    return sum(number * number % 7 for number in range(1_200_000))


def test_the_page_of_a_thousand_steps_takes_less_than_a_fixed_amount_of_work(
    tmp_path: Path,
) -> None:
    keep_run(tmp_path, 1000)
    run(request(tmp_path, f"/runs/{RUN}"))
    shown = cpu_s(lambda: run(request(tmp_path, f"/runs/{RUN}")))
    unit = cpu_s(calibration)
    print(f"1,000 steps: {shown * 1000:.0f} ms of CPU, the unit {unit * 1000:.0f} ms")
    assert shown < unit * 1.6  # 100 ms there


def test_ten_thousand_runs_are_listed_without_reading_more_than_a_page(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "runs").mkdir()
    for number in range(10_000):
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
    first = cpu_s(lambda: run_page(RunIndex(RunHistory(tmp_path)), nothing))
    run_page(index, nothing)
    read.clear()
    again = cpu_s(lambda: run_page(index, nothing))
    assert read == [] and again < first
