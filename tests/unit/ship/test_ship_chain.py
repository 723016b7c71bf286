"""Running a plan: order, failure, what is repeated and what is not; records on disk."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from shipline.errors import ContentError, NotFound, ShiplineError, StepFailed, UsageError
from shipline.events import Step, silent
from shipline.ship.chain import Chain, Outcome, begin
from shipline.ship.plan import Kind, Plan, PlannedStep
from shipline.ship.record import Run, State, StepRecord
from shipline.ship.runs import Recorder, Runs

Do = Callable[[PlannedStep, Step], Outcome]


def planned(name: str, *needs: str, skip: str = "") -> PlannedStep:
    return PlannedStep(name, Kind.COMMAND, needs, f"run {name}", f"key of {name}", skip)


DIAMOND = (planned("a"), planned("b", "a"), planned("c", "a"), planned("d", "b", "c"))


def plan(*steps: PlannedStep) -> Plan:
    return Plan("i", "c", "t", "main", False, steps)


def new_run(name: str = "20260101-000000-abcdef", *, started: float = 1.0) -> Run:
    return Run(name, "/r", "shipline.yaml", "i", "c", "t", "main", False, started, ())


def run(
    home: Path, steps: Plan, do: Do, *, before: Run | None = None, keep_going: bool = False
) -> Run:
    """The record, whether or not the chain came to its end."""
    runs = Runs(home)
    with runs.hold("20260101-000000-abcdef") as recorder, silent() as span:
        recorder.begin(begin(steps, before or new_run()))
        chain = Chain(steps, recorder, do, lambda record: record.reason != "gone", keep_going)
        try:
            chain.run(span)
        except ShiplineError as failure:
            why = str(failure)
            recorder.change(lambda run: replace(run, error=why))
        return recorder.run


def states(run: Run) -> dict[str, State]:
    return {one.name: one.state for one in run.steps}


class Log:
    """Does nothing but to remember, and to fail where it is told."""

    def __init__(self, *failing: str) -> None:
        self.done: list[str] = []
        self.failing = failing

    def __call__(self, step: PlannedStep, span: Step) -> Outcome:
        self.done.append(step.name)
        if step.name in self.failing:
            raise StepFailed(f"{step.name} failed", status=1)
        return Outcome(reason=f"did {step.name}")


def test_each_step_runs_once_and_after_its_needs(tmp_path: Path) -> None:
    log = Log()
    done = run(tmp_path, plan(*DIAMOND), log)
    assert set(states(done).values()) == {State.PASSED}
    assert (log.done[0], log.done[-1], sorted(log.done)) == ("a", "d", ["a", "b", "c", "d"])


def test_independent_steps_run_side_by_side(tmp_path: Path) -> None:
    meeting = threading.Barrier(2, timeout=10)

    def meet(step: PlannedStep, span: Step) -> Outcome:
        if step.name in ("b", "c"):
            meeting.wait()
        return Outcome()

    assert states(run(tmp_path, plan(*DIAMOND), meet))["d"] is State.PASSED


def test_nothing_runs_after_a_failure_that_it_needs(tmp_path: Path) -> None:
    log = Log("b")
    done = run(tmp_path, plan(*DIAMOND), log)
    assert done.error == "b failed"
    assert states(done)["b"] is State.FAILED
    assert states(done)["d"] is State.WAITING


def test_keep_going_does_what_the_failure_does_not_touch(tmp_path: Path) -> None:
    steps = (planned("a"), planned("b"), planned("c", "b"), planned("d", "c"), planned("e", "a"))
    done = run(tmp_path, plan(*steps), Log("a"), keep_going=True)
    assert done.error == "a failed"
    assert states(done) == {
        "a": State.FAILED,
        "b": State.PASSED,
        "c": State.PASSED,
        "d": State.PASSED,
        "e": State.WAITING,
    }


def test_skipped_steps_do_not_hold_up_the_others(tmp_path: Path) -> None:
    log = Log()
    done = run(tmp_path, plan(planned("a", skip="why"), planned("b", "a")), log)
    assert log.done == ["b"]
    assert done.steps[0].reason == "why"


def test_resuming_repeats_only_what_is_not_done(tmp_path: Path) -> None:
    first = run(tmp_path, plan(*DIAMOND), Log("c"), keep_going=True)
    log = Log()
    assert set(states(run(tmp_path, plan(*DIAMOND), log, before=first)).values()) == {State.PASSED}
    assert log.done == ["c", "d"]


@pytest.mark.parametrize("change", ["key", "gone", "failed"])
def test_what_does_not_stand_any_more_is_done_again_with_all_below(
    change: str, tmp_path: Path
) -> None:
    first = run(tmp_path, plan(*DIAMOND), Log())
    record = first.step("b")
    assert record is not None
    changed = {
        "key": replace(record, key="another"),
        "gone": replace(record, reason="gone"),
        "failed": replace(record, state=State.FAILED),
    }[change]
    log = Log()
    run(tmp_path, plan(*DIAMOND), log, before=first.having(changed))
    assert log.done == ["b", "d"]


def test_a_bug_is_no_failure_that_is_gone_over(tmp_path: Path) -> None:
    def broken(step: PlannedStep, span: Step) -> Outcome:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        run(tmp_path, plan(*DIAMOND), broken, keep_going=True)


def test_a_record_is_read_as_it_was_written(tmp_path: Path) -> None:
    done = run(tmp_path, plan(*DIAMOND), Log("b"))
    assert Run.from_json(json.loads(json.dumps(done.to_json()))) == done


@pytest.mark.parametrize("text", ["", "{}", "[]", '{"version": 2}', '{"version": 1, "steps": 3}'])
def test_damaged_records_are_told(text: str, tmp_path: Path) -> None:
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
        begun = replace(new_run(name), steps=(StepRecord("a", "command", "k", State.RUNNING),))
        recorder.begin(begun)
        assert runs.read(name).state is State.RUNNING
        with pytest.raises(UsageError), runs.hold(name):
            pass
        with pytest.raises(UsageError):
            runs.remove(name)
    assert runs.read(name).state is State.INTERRUPTED
    assert runs.read(name).steps[0].state is State.INTERRUPTED


def test_only_the_newest_runs_of_a_project_are_kept(tmp_path: Path) -> None:
    runs = Runs(tmp_path)
    names = [f"20260101-00000{n}-abcdef" for n in range(6)]
    for name in names:
        with runs.hold(name) as recorder:
            root = "/other" if name == names[0] else "/r"
            recorder.begin(replace(new_run(name), root=root, state=State.PASSED))
    runs.prune(2, "/r")
    assert runs.ids() == [names[5], names[4], names[0]]
    assert runs.latest("/r").id == names[5]
    assert (runs.resolve("latest", "/r"), runs.resolve("latest", "/other")) == (names[5], names[0])
    with pytest.raises(UsageError, match="no run of /p is kept"):
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
