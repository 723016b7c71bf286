"""A whole run: begun or taken up again, recorded, ended."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from shipline.errors import Cancelled, ShiplineError, UsageError
from shipline.events import Step
from shipline.ship.chain import Chain, begin
from shipline.ship.command import require_program
from shipline.ship.commands import file_digest
from shipline.ship.plan import UNGATED, UNGATED_HINT, Kind, Plan
from shipline.ship.prepare import Prepared
from shipline.ship.project import World
from shipline.ship.record import Run, State, StepRecord
from shipline.ship.runs import Recorder, Runs
from shipline.ship.works import Works
from shipline.supply import PrivateKey


def ship(
    prepared: Prepared,
    world: World,
    span: Step,
    *,
    resume: str | None = None,
    keep_going: bool = False,
    begun: Callable[[str], object] = lambda run: None,
) -> Run:
    """Do what the plan says; the record of the run that passed.

    `resume` is the run to go on with. `begun` is told the identifier of the run. Raises what the
    failing step raised; the record is on disk then too.
    """
    _require_scanners(prepared, world)
    runs = Runs(world.home, world.clock)
    if resume:
        _resumed(runs, resume, prepared)
    signers = _signers(prepared, world)
    if prepared.plan.ungated:
        span.warn(UNGATED, UNGATED_HINT)
    with runs.hold(resume or runs.new_id()) as recorder:
        before = _resumed(runs, resume, prepared) if resume else None  # as it is in our hands
        recorder.begin(begin(prepared.plan, before or _new(prepared, world, recorder)))
        begun(recorder.run.id)
        works = Works(prepared, world, recorder, signers)
        chain = Chain(
            prepared.plan,
            recorder,
            works,
            lambda record: _stands(record, prepared.project.root),
            keep_going,
            world.clock,
        )
        _run(chain, recorder, span, world.clock)
        run = recorder.run
    runs.prune(prepared.project.pipeline.keep_runs, run.root, spare=run.id)
    return run


def _run(chain: Chain, recorder: Recorder, span: Step, clock: Callable[[], float]) -> None:
    try:
        chain.run(span)
    except BaseException as failure:
        state = State.CANCELLED if isinstance(failure, Cancelled) else State.FAILED
        code = failure.exit_code if isinstance(failure, (ShiplineError, Cancelled)) else 1
        why = str(failure) or type(failure).__name__
        recorder.change(lambda run: ended(run, state, clock(), why, code))
        raise
    recorder.change(lambda run: ended(run, State.PASSED, clock()))


def ended(run: Run, state: State, at: float, error: str = "", code: int = 0) -> Run:
    """The record of a run that is over."""
    return replace(run, state=state, finished=at, error=error, exit_code=code)


def find_run(runs: Runs, text: str, root: Path) -> str:
    """The run to resume; `latest` is that of the project."""
    return runs.resolve(text, str(root))


def _resumed(runs: Runs, run: str, prepared: Prepared) -> Run:
    """The record to go on with. Raises UsageError where that cannot be."""
    before = runs.read(run)
    if before.root != str(prepared.project.root):
        raise UsageError(f"{run} is a run of {before.root}", hint="resume it there")
    if before.commit != prepared.source.commit:
        raise UsageError(
            f"{run} shipped the commit {before.commit[:12]}, but {prepared.source.short} is here",
            hint=f"git checkout {before.commit[:12]}, or leave --resume out",
        )
    return replace(before, resumed=before.resumed + 1)


def _new(prepared: Prepared, world: World, recorder: Recorder) -> Run:
    source = prepared.source
    return Run(
        id=recorder.directory.name,
        root=str(prepared.project.root),
        file=prepared.project.file,
        image=prepared.plan.image,
        commit=source.commit,
        tree=source.tree,
        branch=prepared.plan.branch,
        dirty=source.dirty,
        started=world.clock(),
        steps=(),
    )


def _signers(prepared: Prepared, world: World) -> tuple[PrivateKey, ...]:
    section = prepared.project.pipeline.sign
    if section is None or _skips(prepared.plan, Kind.SIGN):
        return ()
    key = section.key
    place = key if "://" in key else str(prepared.project.root / key)
    return tuple(world.signers(place))


def _require_scanners(prepared: Prepared, world: World) -> None:
    """Raises StepFailed before any work, for a scanner that would be missed after the build."""
    for name, step in prepared.project.pipeline.commands.items():
        if step.scanner is not None and not prepared.plan.step(name).skip:
            require_program(step.scanner, world.environ)


def _skips(plan: Plan, kind: Kind) -> bool:
    return bool(plan.step(kind).skip)


def _stands(record: StepRecord, root: Path) -> bool:
    """Whether the reports of a step are still what it wrote."""
    return all(file_digest(root / path) == digest for path, digest in record.reports.items())
