"""Running a plan: order, failure, what is repeated and what is not; records on disk."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from shipline.errors import ContentError, NotFound, ShiplineError, StepFailed, UsageError, Waiting
from shipline.events import Stream, silent
from shipline.history import RunState
from shipline.oci import Digest
from shipline.ship.plan import (
    Environment,
    PipelineStep,
    Plan,
    PlannedStep,
    StepContext,
    StepOutcome,
)
from shipline.ship.record import KEYS, RunRecord, StepRecord
from shipline.ship.runner import StepRunner, begin
from shipline.ship.runs import Recorder, Runs, StepLogs
from shipline.ship.steps import decode
from shipline.values import replace

Do = Callable[[str], StepOutcome]
NAME = "20260101-000000-abcdef"


def planned(name: str, *needs: str, skip: str = "") -> PlannedStep:
    step = PipelineStep(
        name=name,
        kind="command",
        title=f"run {name}",
        command=f"run {name}",
        compared=None,
        run=lambda context, span: StepOutcome(),
        needs=needs,
    )
    return PlannedStep(step, f"key of {name}", skip)


DIAMOND = (planned("a"), planned("b", "a"), planned("c", "a"), planned("d", "b", "c"))


def new_run(name: str = NAME, *, started: float = 1.0) -> RunRecord:
    return RunRecord(name, "/r", "shipline.yaml", "i", "c", "t", "main", False, started, ())


def run(
    home: Path,
    steps: tuple[PlannedStep, ...],
    do: Do,
    *,
    before: RunRecord | None = None,
    keep_going: bool = False,
) -> RunRecord:
    """The record, whether or not the chain came to its end; `do` does each step."""

    def doing(one: PlannedStep) -> PlannedStep:
        work = replace(one.step, run=lambda context, span: do(one.name))
        return replace(one, step=work)

    inputs: Any = SimpleNamespace(project=SimpleNamespace(root=home))
    plan = Plan(inputs, tuple(map(doing, steps)))
    nothing: Any = None
    environment = Environment(home, {}, nothing, nothing, nothing)
    with Runs(home).hold(NAME) as recorder, silent() as span:
        recorder.begin(begin(plan, before or new_run()))
        try:
            context = StepContext(plan, environment, nothing, recorder)
            if waiting := StepRunner(context, keep_going).run(span):
                recorder.change(lambda run: replace(run, error=str(waiting)))
        except ShiplineError as failure:
            why = str(failure)
            recorder.change(lambda run: replace(run, error=why))
        return recorder.run


def states(run: RunRecord) -> dict[str, RunState]:
    return {one.name: one.state for one in run.steps}


class Log:
    """Does nothing but remember, and fail at the steps that are named."""

    def __init__(self, *failing: str) -> None:
        self.done: list[str] = []
        self.failing = failing

    def __call__(self, step: str) -> StepOutcome:
        self.done.append(step)
        if step in self.failing:
            raise StepFailed(f"{step} failed", status=1)
        return StepOutcome(reason=f"did {step}")


def test_each_step_runs_once_and_after_its_needs(tmp_path: Path) -> None:
    log = Log()
    done = run(tmp_path, DIAMOND, log)
    assert set(states(done).values()) == {RunState.PASSED}
    assert (log.done[0], log.done[-1], sorted(log.done)) == ("a", "d", ["a", "b", "c", "d"])


def test_independent_steps_run_side_by_side(tmp_path: Path) -> None:
    meeting = threading.Barrier(2, timeout=60)

    def meet(step: str) -> StepOutcome:
        if step in ("b", "c"):
            meeting.wait()
        return StepOutcome()

    assert states(run(tmp_path, DIAMOND, meet))["d"] is RunState.PASSED


def test_nothing_runs_after_a_failure_that_it_needs(tmp_path: Path) -> None:
    log = Log("b")
    done = run(tmp_path, DIAMOND, log)
    assert done.error == "b failed"
    assert states(done)["b"] is RunState.FAILED
    assert states(done)["d"] is RunState.WAITING


def test_keep_going_does_what_the_failure_does_not_touch(tmp_path: Path) -> None:
    steps = (planned("a"), planned("b"), planned("c", "b"), planned("d", "c"), planned("e", "a"))
    done = run(tmp_path, steps, Log("a"), keep_going=True)
    assert done.error == "a failed"
    assert states(done) == {
        "a": RunState.FAILED,
        "b": RunState.PASSED,
        "c": RunState.PASSED,
        "d": RunState.PASSED,
        "e": RunState.WAITING,
    }


def test_skipped_steps_do_not_hold_up_the_others(tmp_path: Path) -> None:
    log = Log()
    done = run(tmp_path, (planned("a", skip="why"), planned("b", "a")), log)
    assert log.done == ["b"]
    assert done.steps[0].reason == "why"


def test_resuming_repeats_only_what_is_not_done(tmp_path: Path) -> None:
    first = run(tmp_path, DIAMOND, Log("c"), keep_going=True)
    log = Log()
    assert set(states(run(tmp_path, DIAMOND, log, before=first)).values()) == {RunState.PASSED}
    assert log.done == ["c", "d"]


def test_what_others_can_undo_is_done_again_and_what_is_below_stays(tmp_path: Path) -> None:
    again = replace(DIAMOND[1], step=replace(DIAMOND[1].step, repeated=True))
    steps = (DIAMOND[0], again, *DIAMOND[2:])
    log = Log()
    run(tmp_path, steps, log, before=run(tmp_path, steps, Log()))
    assert log.done == ["b"]


def test_a_step_that_waits_ends_its_branch_and_is_done_by_the_next_run(tmp_path: Path) -> None:
    def waiting(step: str) -> StepOutcome:
        if step == "b":
            raise Waiting("for people")
        return StepOutcome()

    first = run(tmp_path, DIAMOND, waiting)
    assert first.error == "for people"
    assert states(first) == {
        "a": RunState.PASSED,
        "b": RunState.PENDING,
        "c": RunState.PASSED,
        "d": RunState.WAITING,
    }
    log = Log()
    again = run(tmp_path, DIAMOND, log, before=first)
    assert set(states(again).values()) == {RunState.PASSED} and not again.error
    assert log.done == ["b", "d"]


@pytest.mark.parametrize("change", ["key", "report", "failed"])
def test_what_does_not_stand_any_more_is_done_again_with_all_below(
    change: str, tmp_path: Path
) -> None:
    first = run(tmp_path, DIAMOND, Log())
    record = first.step("b")
    assert record is not None
    changed = {
        "key": replace(record, key="another"),
        "report": replace(record, reports={"gone": str(Digest.of(b""))}),
        "failed": replace(record, state=RunState.FAILED),
    }[change]
    log = Log()
    run(tmp_path, DIAMOND, log, before=first.with_step(changed))
    assert log.done == ["b", "d"]


def test_keep_going_does_not_hide_a_bug(tmp_path: Path) -> None:
    def broken(step: str) -> StepOutcome:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        run(tmp_path, DIAMOND, broken, keep_going=True)


def test_a_record_is_read_as_it_was_written(tmp_path: Path) -> None:
    done = run(tmp_path, DIAMOND, Log("b"))
    assert RunRecord.from_json(json.loads(json.dumps(done.to_json())), decode) == done


@pytest.mark.parametrize("text", ["", "{}", "[]", '{"version": 2}', '{"version": 1, "steps": 3}'])
def test_a_damaged_record_is_reported(text: str, tmp_path: Path) -> None:
    directory = tmp_path / "runs" / "20260101-000000-abcdef"
    directory.mkdir(parents=True)
    (directory / "run.json").write_text(text)
    with pytest.raises((ContentError, NotFound)):
        Runs(tmp_path).read(directory.name)
    assert list(Runs(tmp_path).all()) == []
    Runs(tmp_path).remove(directory.name)
    assert Runs(tmp_path).ids() == []


def test_a_run_without_its_process_was_interrupted(tmp_path: Path) -> None:
    runs = Runs(tmp_path)
    name = runs.new_id()
    with runs.hold(name) as recorder:
        running = replace(new_run(name), steps=(StepRecord("a", "command", "k", RunState.RUNNING),))
        recorder.begin(running)
        assert runs.read(name).state is RunState.RUNNING
        with pytest.raises(UsageError), runs.hold(name):
            pass
        with pytest.raises(UsageError):
            runs.remove(name)
    assert runs.read(name).state is RunState.INTERRUPTED
    assert runs.read(name).steps[0].state is RunState.INTERRUPTED


def test_only_the_newest_runs_of_a_project_are_kept(tmp_path: Path) -> None:
    runs = Runs(tmp_path)
    names = [f"20260101-00000{n}-abcdef" for n in range(6)]
    for name in names:
        with runs.hold(name) as recorder:
            root = "/other" if name == names[0] else "/r"
            recorder.begin(replace(new_run(name), root=root, state=RunState.PASSED))
    runs.prune(2, "/r")
    assert runs.ids() == [names[5], names[4], names[0]]
    assert runs.latest("/r").id == names[5]
    assert (runs.resolve("latest", "/r"), runs.resolve("latest", "/other")) == (names[5], names[0])
    with pytest.raises(UsageError, match="no run of /p"):
        runs.resolve("latest", "/p")
    assert runs.resolve("20260101-000000", "/p") == names[0]
    with pytest.raises(UsageError):
        runs.resolve("20260101", "/p")
    with pytest.raises(UsageError):
        runs.resolve("2027", "/p")


@pytest.mark.parametrize("name", ["../x", "", "20260101-000000-abcdef/..", "x"])
def test_only_identifiers_become_paths(name: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError):
        Runs(tmp_path).directory(name)


def test_names_of_steps_stay_in_their_directory(tmp_path: Path) -> None:
    assert Recorder(tmp_path).log("../../x").parent == tmp_path / "logs"


def test_a_step_that_was_recorded_with_other_keys_is_run_again(tmp_path: Path) -> None:
    first = run(tmp_path, DIAMOND, Log())
    steps = tuple(replace(one, key="of an earlier version") for one in first.steps)
    log = Log()
    again = run(tmp_path, DIAMOND, log, before=replace(first, steps=steps, keys=1))
    assert sorted(log.done) == ["a", "b", "c", "d"]
    assert again.keys == KEYS


def test_the_log_of_a_step_has_its_events_and_those_below(tmp_path: Path) -> None:
    path = tmp_path / "log"
    with Stream(StepLogs()) as stream, stream.step("ship") as ship:
        with (
            ship.step("build the image", kind="run", log=str(path)) as build,
            build.step("copy app", kind="copy") as inner,
        ):
            inner.warn("a warning")
        with ship.step("elsewhere", kind="run") as other:
            other.warn("not here")
    text = path.read_text()
    assert "build the image" in text and "copy app" in text and "a warning" in text
    assert "elsewhere" not in text and "not here" not in text
