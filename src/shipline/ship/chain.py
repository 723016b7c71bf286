"""Running a plan: each step as soon as what it needs has passed, everything on record.

What a step does is a function that is handed in; here is only when it runs, and what its end means.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from shipline.errors import Cancelled, ShiplineError
from shipline.events import Step
from shipline.ship.plan import Kind, Plan, PlannedStep
from shipline.ship.record import DONE, Run, State, StepRecord
from shipline.ship.runs import Recorder
from shipline.tasks import CPUS, Limiter, Task, TaskGroup


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a step came to. `cached` tells that nothing had to be done."""

    results: Mapping[str, Any] = field(default_factory=dict)
    reports: Mapping[str, str] = field(default_factory=dict)
    reason: str = ""
    tolerated: bool = False
    attempts: int = 1
    cached: bool = False


Work = Callable[[PlannedStep, Step], Outcome]
"""Does a step. Raises ShiplineError where it fails."""


@dataclass(frozen=True, slots=True)
class Chain:
    """How a plan is run. `stands` says whether the result of a step that passed before is still
    there; `keep_going` lets steps go on that do not need the one that failed.
    """

    plan: Plan
    recorder: Recorder
    work: Work
    stands: Callable[[StepRecord], bool]
    keep_going: bool = False
    clock: Callable[[], float] = time.time
    at_once: Limiter = field(default_factory=lambda: Limiter(max(4, 2 * CPUS)))

    def run(self, span: Step) -> None:
        """Run all steps. Raises what the first failing one raised, when the others have ended."""
        tasks: dict[str, Task[_End]] = {}
        with TaskGroup() as group:
            for planned in self.plan.steps:
                above = [tasks[name] for name in planned.needs]
                tasks[planned.name] = group.start(self._step, planned, above, span)
        ends = [task.result() for task in tasks.values()]
        if failures := [end.failure for end in ends if end.failure is not None]:
            raise failures[0]

    def _step(self, planned: PlannedStep, above: Sequence[Task[_End]], span: Step) -> _End:
        ends = [task.result() for task in above]
        if any(end.stopped for end in ends):
            return _End(stopped=True)
        if planned.skip:
            self._record(planned, state=State.SKIPPED, reason=planned.skip, started=0.0)
            return _End(reused=all(end.reused for end in ends))
        if all(end.reused for end in ends) and self._reusable(planned):
            with span.step(title(planned), kind="run", stage=planned.name) as shown:
                shown.cached()
            return _End(reused=True)
        return self._run(planned, span)

    def _reusable(self, planned: PlannedStep) -> bool:
        record = self.recorder.run.step(planned.name)
        return (
            record is not None
            and record.state in DONE
            and record.key == planned.key
            and self.stands(record)
        )

    def _run(self, planned: PlannedStep, span: Step) -> _End:
        with self.at_once:
            started = self.clock()
            self._record(planned, state=State.RUNNING, started=started)
            try:
                with span.step(title(planned), kind="run", stage=planned.name) as shown:
                    outcome = self.work(planned, shown)
                    if outcome.cached:
                        shown.cached()
            except Cancelled as stop:
                self._record(planned, state=State.CANCELLED, started=started, reason=str(stop))
                raise
            except Exception as failure:
                self._record(planned, state=State.FAILED, started=started, reason=str(failure))
                if self.keep_going and isinstance(failure, ShiplineError):
                    return _End(stopped=True, failure=failure)
                raise
            self._passed(planned, started, outcome)
        return _End()

    def _passed(self, planned: PlannedStep, started: float, outcome: Outcome) -> None:
        self._record(
            planned,
            state=State.TOLERATED if outcome.tolerated else State.PASSED,
            started=started,
            reason=outcome.reason,
            attempts=outcome.attempts,
            reports=dict(outcome.reports),
            results=dict(outcome.results),
        )

    def _record(self, planned: PlannedStep, *, state: State, started: float, **more: Any) -> None:
        ended = 0.0 if state in (State.RUNNING, State.SKIPPED) else self.clock()
        record = StepRecord(
            planned.name, planned.kind.value, planned.key, state, started, ended, **more
        )
        self.recorder.change(lambda run: run.having(record))


@dataclass(frozen=True, slots=True)
class _End:
    """How a step ended for those that need it."""

    reused: bool = False
    stopped: bool = False
    failure: ShiplineError | None = None


def begin(plan: Plan, run: Run) -> Run:
    """The record of a run that begins or goes on: what the plan has, with what is there of it."""
    steps = tuple(
        _known(planned, run) or StepRecord(planned.name, planned.kind.value, planned.key)
        for planned in plan.steps
    )
    return replace(run, steps=steps, state=State.RUNNING, finished=0.0, error="", exit_code=0)


def _known(planned: PlannedStep, run: Run) -> StepRecord | None:
    record = run.step(planned.name)
    return record if record and record.state in DONE and record.key == planned.key else None


def title(planned: PlannedStep) -> str:
    """What a step is called while it runs: the first line of its command."""
    first, _, rest = planned.command.strip().partition("\n")
    if planned.kind is not Kind.COMMAND or not first:
        return planned.name if planned.kind is Kind.COMMAND else _TITLES[planned.kind]
    return f"{first} ..." if rest else first


_TITLES = {
    Kind.BUILD: "build the image",
    Kind.GATES: "judge the reports",
    Kind.RESERVE: "reserve the version in git",
    Kind.SIGN: "sign and attest",
    Kind.COPY: "copy to other registries",
    Kind.PUBLISH: "give names",
}
