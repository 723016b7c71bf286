"""Records of runs: whoever works on one has it alone, also against whoever forgets old ones."""

from __future__ import annotations

import fcntl
import os
import threading
from pathlib import Path
from threading import Timer

import pytest

from shipline.errors import UsageError
from shipline.history import RunHistory, RunState, new_run_id
from shipline.ship.record import RunRecord
from shipline.ship.runs import Runs

ROOT = "/project"


def make(runs: Runs, number: int, end: str = "abcdef", started: float = 1.0) -> str:
    """A run that ended; a higher number is a newer one."""
    run = f"20260101-0000{number:02}-{end}"
    with runs.hold(run) as recorder:
        recorder.begin(
            RunRecord(
                id=run,
                root=ROOT,
                file="shipline.yaml",
                image="image",
                commit="c" * 40,
                tree="t" * 40,
                branch="main",
                dirty=False,
                started=started,
                steps=(),
                state=RunState.FAILED,
            )
        )
    return run


def test_a_run_that_is_held_is_neither_pruned_nor_removed(tmp_path: Path) -> None:
    runs = Runs(tmp_path)
    old, new = make(runs, 1), make(runs, 2)
    with runs.hold(old):
        runs.prune(1, ROOT)
        with pytest.raises(UsageError, match="is running"):
            runs.remove(old)
        assert runs.ids() == [new, old]
    runs.prune(1, ROOT)
    assert runs.ids() == [new]
    assert [path.name for path in runs.root.iterdir()] == [new]


def test_the_run_that_was_taken_up_again_is_spared(tmp_path: Path) -> None:
    runs = Runs(tmp_path)
    made = [make(runs, number) for number in range(4)]
    runs.prune(2, ROOT, spare=made[0])
    assert runs.ids() == [made[3], made[0]]


def test_whoever_waits_for_a_run_that_is_removed_learns_it(tmp_path: Path) -> None:
    """The lock file that was opened is not the one that the directory has now."""
    runs = Runs(tmp_path)
    run = make(runs, 1)
    path = runs.directory(run) / "lock"
    real = os.open

    def opened(place: object, *arguments: int) -> int:
        found = real(place, *arguments)  # type: ignore[arg-type]
        if place == path:
            runs.directory(run).rename(tmp_path / "elsewhere")
        return found

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "open", opened)
        with pytest.raises(UsageError, match="was removed"), runs.hold(run):
            pass


def test_the_latest_of_one_second_is_the_one_that_started_last(tmp_path: Path) -> None:
    runs = Runs(tmp_path)
    made = [make(runs, 1, new_run_id(at)[-6:], at) for at in (1.2, 1.1, 1.3)]
    assert runs.latest(ROOT).id == made[2]
    assert [run.id for run in runs.all()] == [made[2], made[0], made[1]]


def test_a_run_is_taken_while_others_ask_whether_it_is_alive(tmp_path: Path) -> None:
    """As `shipline ui` and `history ls` do beside `ship --resume`."""
    runs = Runs(tmp_path)
    run = make(runs, 1)
    with (runs.directory(run) / "lock").open() as asked:
        fcntl.flock(asked, fcntl.LOCK_SH)
        Timer(0.1, fcntl.flock, (asked, fcntl.LOCK_UN)).start()
        with runs.hold(run):
            assert runs.alive(run)


def test_what_a_killed_removal_left_goes_with_the_next_one(tmp_path: Path) -> None:
    runs, history = Runs(tmp_path), RunHistory(tmp_path)
    for number, remove in enumerate((runs.remove, history.remove), start=1):
        for name in (f".20260101-000000-abcdef.{os.getpid()}", ".20260101-000000-abcdef.12ab34cd"):
            (runs.root / name / "logs").mkdir(parents=True)
            (runs.root / name / "logs" / "build.log").write_text("half of it is gone")
        remove(make(runs, number))
        assert not list(runs.root.iterdir())


def test_several_may_remove_one_run_at_once(tmp_path: Path) -> None:
    runs = Runs(tmp_path)
    for number in range(60):
        run, together = make(runs, number), threading.Barrier(4)
        failed: list[BaseException] = []

        def remove(run: str, together: threading.Barrier, failed: list[BaseException]) -> None:
            together.wait(60)
            try:
                runs.remove(run)
            except UsageError:
                pass  # another one removes it, or has removed it
            except Exception as error:
                failed.append(error)

        crowd = [threading.Thread(target=remove, args=(run, together, failed)) for _ in range(4)]
        for one in crowd:
            one.start()
        for one in crowd:
            one.join()
        assert not failed and not list(runs.root.iterdir())
