"""Which runs are listed, and what their trend says."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from shipline.history import RunHistory, RunState, RunSummary
from shipline.history.records import encode_summary
from shipline.ui import run_list
from shipline.ui.run_list import RunFilter, RunIndex, earlier, run_page, trend, usual_s


def summary(number: int, **fields: object) -> RunSummary:
    start = 1_790_000_000.0 + 100 * number
    known: dict[str, object] = {
        "id": f"20261130-{number:06}-abcdef",
        "kind": "build",
        "name": "app",
        "started": start,
        "finished": start + 10,
        "state": RunState.PASSED,
        "root": "/src/app",
    }
    return RunSummary(**{**known, **fields})  # type: ignore[arg-type]


def keep(home: Path, *runs: RunSummary) -> RunIndex:
    for run in runs:
        directory = home / "runs" / run.id
        directory.mkdir(parents=True)
        (directory / "record.json").write_bytes(encode_summary(run))
    return RunIndex(RunHistory(home))


def ids(runs: tuple[RunSummary, ...]) -> list[int]:
    return [int(run.id[9:15]) for run in runs]


@pytest.mark.parametrize(
    ("query", "found"),
    [
        ({}, [5, 4, 3, 2, 1]),
        ({"q": "9AC41D"}, [2]),
        ({"q": "app rounding"}, []),
        ({"q": "linux/arm64"}, [3]),
        ({"q": "eu/app:2"}, [2]),
        ({"state": "failed"}, [4]),
        ({"state": "nonsense"}, []),
        ({"kind": "ship"}, [2]),
        ({"branch": "main"}, [2, 1]),
        ({"branch": "main", "kind": "build"}, [1]),
        ({"before": "20261130-000003-abcdef"}, [2, 1]),
        ({"other": "x"}, [5, 4, 3, 2, 1]),
    ],
)
def test_a_list_has_the_runs_that_match_the_newest_first(
    tmp_path: Path, query: dict[str, str], found: list[int]
) -> None:
    index = keep(
        tmp_path,
        summary(1, branch="main"),
        summary(2, branch="main", kind="ship", commit="9ac41d7e", names=("r/eu/app:2",)),
        summary(3, platforms=("linux/arm64",)),
        summary(4, state=RunState.FAILED, branch="main2"),
        summary(5),
    )
    assert ids(run_page(index, RunFilter.of(query)).runs) == found


def test_more_than_a_page_goes_on_after_its_last_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run_list, "PAGE", 2)
    index = keep(tmp_path, *(summary(number) for number in range(5)))
    seen, more = [], ""
    while True:
        page = run_page(index, RunFilter(before=more))
        seen += ids(page.runs)
        more = page.more
        if not more:
            break
    assert seen == [4, 3, 2, 1, 0]


def test_a_record_that_changed_is_read_again_and_one_that_is_gone_is_not_listed(
    tmp_path: Path,
) -> None:
    index = keep(tmp_path, summary(1), summary(2))
    assert ids(run_page(index, RunFilter()).runs) == [2, 1]
    record = tmp_path / "runs" / summary(1).id / "record.json"
    record.write_bytes(encode_summary(summary(1, name="other")))
    os.utime(record, (1, 1))
    (tmp_path / "runs" / summary(2).id / "record.json").unlink()
    assert [run.name for run in run_page(index, RunFilter()).runs] == ["other"]


@pytest.mark.parametrize("damage", ["", "{", json.dumps({"id": 7}), "\0" * 90])
def test_a_damaged_record_hides_no_other_run(tmp_path: Path, damage: str) -> None:
    index = keep(tmp_path, summary(1), summary(2))
    (tmp_path / "runs" / summary(2).id / "record.json").write_text(damage)
    assert ids(run_page(index, RunFilter()).runs) == [1]


def test_the_events_of_listed_runs_are_not_read(tmp_path: Path) -> None:
    index = keep(tmp_path, *(summary(number) for number in range(10)))
    for run in (tmp_path / "runs").iterdir():
        (run / "events").mkdir()  # reading it would fail
    assert len(run_page(index, RunFilter(text="app")).runs) == 10


def test_the_trend_is_that_of_the_same_thing(tmp_path: Path) -> None:
    slow = summary(6, finished=summary(6).started + 30)
    index = keep(
        tmp_path,
        summary(1),
        summary(2, name="other"),
        summary(3, root="/elsewhere"),
        summary(4, state=RunState.FAILED),
        summary(5, state=RunState.RUNNING, finished=0.0),
        slow,
    )
    found = run_page(index, RunFilter()).trend
    assert found is not None
    assert found.runs == ((10, False), (10, True), (30, False))
    assert (found.usual_s, found.failed) == (20, 1)
    assert ids(tuple(earlier(index, slow, 2))) == [5, 4]


def test_fewer_than_two_runs_are_no_trend() -> None:
    assert trend("app", [summary(1)]) is None
    assert trend("app", []) is None
    assert usual_s([summary(1, state=RunState.FAILED)]) is None
