"""`shipline why`: why steps of a run did not come from the cache, and what took longer."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import click

from shipline.cli.completing import runs
from shipline.cli.history import shown_duration
from shipline.errors import UsageError
from shipline.home import state_directory
from shipline.units import counted

if TYPE_CHECKING:
    from shipline.history import RunComparison, StepChange, StepView


@click.command("why")
@click.argument("run", default="", metavar="[RUN]", shell_complete=runs)
@click.argument("step", default="", metavar="[STEP]")
@click.option(
    "--with", "other", metavar="RUN", shell_complete=runs, help="The run to compare with."
)
@click.option("--json", "as_json", is_flag=True, help="As JSON.")
def command(run: str, step: str, other: str | None, as_json: bool) -> None:
    """Say why steps ran instead of coming from the cache: the part of the key that changed.

    RUN is compared with the run before it of the same thing, by default the last run. STEP is its
    number, or a part of its text; by default all steps.
    """
    from shipline.history import FileTables, RunComparison, RunHistory
    from shipline.observe import clean

    home = state_directory()
    history = RunHistory(home)
    detail = history.read(history.resolve(run))
    before = history.resolve(other) if other else _before(history, detail.summary)
    found = RunComparison(detail, history.read(before), FileTables(home))
    every = changes = [one for one in found.steps() if _parts_of(one)]
    if step:
        chosen = _find(step, [one.step for one in changes])
        changes = [one for one in changes if one.step in chosen]
    if as_json:
        click.echo(json.dumps(_json(found, changes), indent=2))
        return
    ran = sum(not one.step.cached for one in every)
    click.echo(
        clean(
            f"{detail.summary.id} {detail.summary.name}: {counted(ran, 'step')} ran,"
            f" {len(every) - ran} came from the cache; compared with {before}"
        )
    )
    for line in _text(changes, asked=bool(step)):
        click.echo(line)


def _before(history: Any, summary: Any) -> str:
    found = history.previous(summary)
    if found is None:
        raise UsageError(
            f"{summary.id} is the first run of {summary.name or summary.kind} in {summary.root}",
            code="run-unknown",
            hint="compare it with another one: --with RUN",
        )
    return str(found.id)


def _parts_of(change: StepChange) -> bool:
    return "parts" in change.step.attributes or change.slower


def _find(text: str, steps: Sequence[StepView]) -> list[StepView]:
    """The steps that `text` means. Raises UsageError if there is none."""
    number = text.removeprefix("#")
    found = [one for one in steps if text in (one.number, one.name, one.stage)]
    if not found and number.isdecimal():
        found = [one for one in steps if one.number.partition("/")[0] == number]
    found = found or [one for one in steps if text.lower() in one.name.lower()]
    if not found:
        names = "; ".join(one.name for one in steps[:8])
        raise UsageError(
            f"the run has no step {text!r}", code="step-unknown", hint=f"its steps: {names}"
        )
    return found


def _text(changes: Sequence[StepChange], *, asked: bool) -> Iterator[str]:
    from shipline.history import explained
    from shipline.observe import clean

    for change in changes:
        step = change.step
        if step.cached and asked:
            yield f"\n{_name(step)}\n  came from the cache"
        if step.cached:
            continue
        yield f"\n{_name(step)}"
        for reason in change.reasons:
            yield from (f"  {clean(line)}" for line in explained(reason))
        if change.slower and change.before is not None:
            took = shown_duration(step.elapsed_s)
            yield f"  took {took}, before {shown_duration(change.before.elapsed_s)}"


def _name(step: StepView) -> str:
    from shipline.observe import clean

    where = " ".join(filter(None, (step.platform, step.target, step.stage, step.number)))
    return clean(f"[{where}] {step.name}" if where else step.name)


def _json(found: RunComparison, changes: Sequence[StepChange]) -> dict[str, Any]:
    import msgspec

    from shipline.history import said

    return {
        "run": found.run.summary.id,
        "before": found.before.summary.id,
        "steps": [
            {
                "span": one.step.span,
                "name": one.step.name,
                "cached": one.step.cached,
                "seconds": one.step.elapsed_s,
                "secondsBefore": one.before.elapsed_s if one.before else None,
                "reasons": msgspec.to_builtins(one.reasons),
                "roots": [said(root) for reason in one.reasons for root in reason.roots()],
            }
            for one in changes
        ],
    }
