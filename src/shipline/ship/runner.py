"""Runs a plan: starts or resumes a run, and runs each step once those that it needs have passed."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from shipline.deliver.commands import require_program
from shipline.errors import (
    Cancelled,
    GateUndecided,
    RegistryError,
    ShiplineError,
    UsageError,
    Waiting,
)
from shipline.events import Step as Span
from shipline.history import RunState
from shipline.ship.plan import (
    UNGATED,
    UNGATED_HINT,
    Builder,
    Environment,
    PipelineStep,
    Plan,
    PlannedStep,
    StepContext,
)
from shipline.ship.record import DONE, KEYS, RunRecord, StepRecord
from shipline.ship.runs import Recorder, Runs
from shipline.ship.steps.command import file_digest
from shipline.tasks import CPUS, Limiter, Task, TaskGroup, sleep
from shipline.values import replace

if TYPE_CHECKING:
    from shipline.supply import PrivateKey


_POLL_S = 0.05


def ship(
    plan: Plan,
    environment: Environment,
    build: Builder,
    span: Span,
    *,
    run_id: str = "",
    resume: str | None = None,
    keep_going: bool = False,
    on_start: Callable[[str], object] = lambda run: None,
) -> RunRecord:
    """Run the plan; returns the record of the run, which is pending if an environment waits.

    `resume` is the run to continue; `run_id` identifies a new one. `on_start` gets the identifier.
    Raises what a failing step raised; the record is written in that case too.
    """
    for planned in plan.steps:
        for program in () if planned.skip else planned.step.programs:
            require_program(program, environment.environ)
    runs = Runs(environment.home, environment.clock)
    signers = _signers(plan, environment)
    if skipped := [planned.name for planned in plan.steps if planned.skip]:
        span.note(skipped=" ".join(skipped))
    if plan.ungated:
        span.warn(UNGATED, UNGATED_HINT)
    with runs.hold(resume or run_id or runs.new_id()) as recorder:
        if resume:
            before = resumed(runs, resume, plan)  # now that no other process has it
            if before.keys != KEYS:
                span.warn(f"{resume} is of an earlier version of shipline: its steps are run again")
        else:
            before = _new(plan, environment, recorder)
        recorder.begin(begin(plan, before))
        on_start(recorder.run.id)
        run = _recorded(
            StepRunner(StepContext(plan, environment, build, recorder, signers), keep_going), span
        )
    runs.prune(plan.inputs.pipeline.keep_runs, run.root, spare=run.id)
    return run


def _recorded(runner: StepRunner, span: Span) -> RunRecord:
    """Run all steps, and record how the run ended."""
    recorder, clock = runner.context.recorder, runner.context.environment.clock
    state, why, code = RunState.PASSED, "", 0
    try:
        if waiting := runner.run(span):
            state, why, code = RunState.PENDING, str(waiting), waiting.exit_code
    except BaseException as failure:
        state = RunState.CANCELLED if isinstance(failure, Cancelled) else RunState.FAILED
        why = str(failure) or type(failure).__name__
        code = failure.exit_code if isinstance(failure, (ShiplineError, Cancelled)) else 1
        raise
    finally:
        recorder.change(
            lambda run: replace(run, state=state, finished=clock(), error=why, exit_code=code)
        )
    return recorder.run


def _new(plan: Plan, environment: Environment, recorder: Recorder) -> RunRecord:
    inputs = plan.inputs
    return RunRecord(
        id=recorder.directory.name,
        root=str(inputs.project.root),
        file=inputs.project.file,
        image=str(inputs.pipeline.image or ""),
        images={name: str(image) for name, image in inputs.pipeline.images.items() if name},
        commit=inputs.work_tree.commit,
        tree=inputs.work_tree.tree,
        branch=inputs.branch,
        dirty=inputs.work_tree.dirty,
        started=environment.clock(),
        steps=(),
    )


def resumed(runs: Runs, run: str, plan: Plan) -> RunRecord:
    """The record of the run to continue. Raises UsageError if it is of another project or
    commit.
    """
    before, work_tree = runs.read(run), plan.inputs.work_tree
    if before.root != str(plan.inputs.project.root):
        raise UsageError(
            f"{run} is a run of {before.root}", code="run-other-commit", hint="resume it there"
        )
    if before.commit != work_tree.commit:
        raise UsageError(
            f"{run} shipped the commit {before.commit[:12]}, but {work_tree.short} is checked out",
            code="run-other-commit",
            hint=f"git checkout {before.commit[:12]}, or omit --resume",
        )
    return replace(before, resumed=before.resumed + 1)


def begin(plan: Plan, run: RunRecord) -> RunRecord:
    """The record to start with: the steps of the plan, and those of the earlier record that need
    not be repeated.
    """
    steps = tuple(
        _done(planned, run) or StepRecord(planned.name, planned.step.kind, planned.key)
        for planned in plan.steps
    )
    running = replace(run, steps=steps, state=RunState.RUNNING, keys=KEYS)
    return replace(running, finished=0.0, error="", exit_code=0)


def _done(planned: PlannedStep, run: RunRecord) -> StepRecord | None:
    record = run.step(planned.name)
    if record is None or planned.step.repeated:
        return None
    # what gates could not read must be written again
    unproven = bool(record.reports) and run.exit_code == GateUndecided.exit_code
    return record if record.state in DONE and record.key == planned.key and not unproven else None


def _signers(plan: Plan, environment: Environment) -> tuple[PrivateKey, ...]:
    """The signing keys, loaded before anything runs, so that a wrong password fails early."""
    project = plan.inputs.project
    if project.pipeline.sign is None or plan.skips("sign"):
        return ()
    key = project.pipeline.sign.key
    return tuple(environment.signers(key if "://" in key else str(project.root / key)))


@dataclass(frozen=True, slots=True)
class StepRunner:
    """Schedules the steps of a plan. With `keep_going` a failure only stops the steps that need the
    failed one.
    """

    context: StepContext
    keep_going: bool = False
    at_once: Limiter = field(default_factory=lambda: Limiter(max(4, 2 * CPUS)))

    def run(self, span: Span) -> Waiting | None:
        """Run all steps; returns what the first waiting step waits for, None if no step waits.
        Raises what the first failing step raised, once the others have ended.
        """
        tasks: dict[str, Task[_End]] = {}
        with TaskGroup() as group:
            for planned in self.context.plan.steps:
                needed = [tasks[name] for name in planned.step.needs]
                quorum = [tasks[name] for name in planned.step.needs_some]
                tasks[planned.name] = group.start(self._step, planned, needed, quorum, span)
        ends = [task.result() for task in tasks.values()]
        if failures := [end.failure for end in ends if end.failure is not None]:
            raise failures[0]
        return next((end.waiting for end in ends if end.waiting is not None), None)

    def _step(
        self,
        planned: PlannedStep,
        needed: Sequence[Task[_End]],
        quorum: Sequence[Task[_End]],
        span: Span,
    ) -> _End:
        """Run a step once those that it needs have ended, unless it is skipped, or an earlier run
        did it. Raises what the step raised, unless `keep_going` is set.
        """
        ends = [task.result() for task in needed]
        if any(end.stopped for end in ends):
            return _End(stopped=True)
        reused = all(end.reused for end in ends)
        if planned.skip:
            self._record(planned, state=RunState.SKIPPED, reason=planned.skip, started=0.0)
            return _End(reused=reused)
        record = _done(planned, self.context.run)
        if reused and record is not None and self._reports_unchanged(record):
            with span.step(planned.step.title, kind="run", **planned.shown) as shown:
                shown.note(parts=json.dumps(planned.parts))
                shown.cached()
            return _End(reused=True)
        missed = self._missed(planned.step, quorum)
        end = self._run(planned, span, missed)
        # a step that is only repeated has restored what the steps after it depend on
        return replace(end, reused=reused and planned.step.repeated and not end.stopped)

    def _missed(self, step: PipelineStep, quorum: Sequence[Task[_End]]) -> RegistryError | None:
        """Wait until `at_least` steps of the quorum have passed, or too many have failed for that;
        returns the failure then.
        """
        while True:
            ended = {
                name: task.result()
                for name, task in zip(step.needs_some, quorum, strict=True)
                if task.settled
            }
            failed = [name for name, end in ended.items() if end.stopped]
            if len(ended) - len(failed) >= step.at_least:
                return None
            if len(quorum) - len(failed) < step.at_least:
                return self._too_few(step, failed)
            sleep(_POLL_S)

    def _too_few(self, step: PipelineStep, failed: Sequence[str]) -> RegistryError:
        error = RegistryError(
            f"it waits for {step.at_least} of {', '.join(step.needs_some)}, and too many failed",
            code="regions-too-few",
            host="",
            hint="once these registries can be written to, continue with --resume",
        )
        for name in failed:
            record = self.context.run.step(name)
            error.add_note(f"{name}: {record.reason if record else ''}")
        return error

    def _reports_unchanged(self, record: StepRecord) -> bool:
        root = self.context.project.root
        return all(file_digest(root / path) == digest for path, digest in record.reports.items())

    def _run(self, planned: PlannedStep, span: Span, missed: ShiplineError | None) -> _End:
        step, context = planned.step, self.context
        log = {} if step.own_log else {"log": str(context.recorder.log(step.name))}
        ready = time.monotonic()
        with nullcontext() if step.deferrable else self.at_once:
            started, waited = context.environment.clock(), time.monotonic() - ready
            self._record(planned, state=RunState.RUNNING, started=started)
            try:
                with span.step(
                    step.title, kind="run", waited=waited, **planned.shown, **log
                ) as shown:
                    shown.note(parts=json.dumps(planned.parts))
                    if missed is not None:
                        raise missed
                    try:
                        outcome = step.run(context, shown)
                    except Waiting as waiting:
                        self._pend(planned, started, waiting, span)
                        return _End(stopped=True, waiting=waiting)
                    if outcome.cached:
                        shown.cached()
            except (Exception, Cancelled) as failure:
                if step.deferrable and isinstance(failure, ShiplineError):
                    self._pend(planned, started, failure, span)
                    return _End(stopped=True)
                stopped = isinstance(failure, Cancelled)
                state = RunState.CANCELLED if stopped else RunState.FAILED
                self._record(planned, state=state, started=started, reason=str(failure))
                if self.keep_going and isinstance(failure, ShiplineError):
                    return _End(stopped=True, failure=failure)
                raise
            self._record(
                planned,
                state=RunState.TOLERATED if outcome.tolerated else RunState.PASSED,
                started=started,
                reason=outcome.reason,
                attempts=outcome.attempts,
                reports=dict(outcome.reports),
                result=outcome.result,
            )
        return _End()

    def _pend(
        self, planned: PlannedStep, started: float, failure: ShiplineError, span: Span
    ) -> None:
        reason = str(failure)
        self._record(planned, state=RunState.PENDING, started=started, reason=reason)
        span.warn(f"{planned.name} is pending: {reason}", failure.hint)

    def _record(
        self, planned: PlannedStep, *, state: RunState, started: float, **more: Any
    ) -> None:
        over = state not in (RunState.RUNNING, RunState.SKIPPED)
        record = StepRecord(
            planned.name,
            planned.step.kind,
            planned.key,
            state,
            started,
            self.context.environment.clock() if over else 0.0,
            **more,
        )
        self.context.recorder.change(lambda run: run.with_step(record))


@dataclass(frozen=True, slots=True)
class _End:
    """How a step ended, for those that need it: `reused` from an earlier run, or `stopped`, so that
    they do not run.
    """

    reused: bool = False
    stopped: bool = False
    failure: ShiplineError | None = None
    waiting: Waiting | None = None
