"""What people read about a run: the plan, the box of a failure, the summary, a record."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path

from shipline.errors import GateRefused, GateUndecided, RegistryError, ShiplineError, StepFailed
from shipline.ship.command import LAST_LINES
from shipline.ship.commands import reproduction
from shipline.ship.plan import UNGATED, UNGATED_HINT, Kind, Plan, PlannedStep
from shipline.ship.record import Run, State, StepRecord
from shipline.ship.section import Pipeline
from shipline.units import counted

_COMMIT = 12  # digits
_MARKS = {
    State.PASSED: "passed",
    State.TOLERATED: "failed, which is allowed",
    State.INTERRUPTED: "interrupted: the process died",
}
_ICONS = {State.PASSED: "✅", State.FAILED: "❌", State.SKIPPED: "⏭️", State.TOLERATED: "⚠️"}


def plan_text(plan: Plan) -> str:
    """The plan for a person: every step with its command, or why it is left out."""
    where = f" on {plan.branch}" if plan.branch else ""
    dirty = ", with changes that are not committed" if plan.dirty else ""
    lines = [f"image   {plan.image or '(none)'}", f"commit  {plan.commit[:_COMMIT]}{where}{dirty}"]
    lines += ["", "steps"]
    width = max(len(one.name) for one in plan.steps)
    for one in plan.steps:
        lines += _step_lines(one, width)
    if plan.ungated:
        lines += ["", f"warning: {UNGATED}", f"  {UNGATED_HINT}"]
    if plan.naming.tags:
        lines += ["", "tags"]
        wide = max(len(tag) for tag, _ in plan.naming.tags)
        lines += [f"  {tag:<{wide}}  {reason}" for tag, reason in plan.naming.tags]
    if plan.naming.refused:
        lines += ["", f"refused: {plan.naming.refused}"]
    lines += [f"note: {note}" for note in plan.naming.notes]
    return "\n".join(lines)


def _step_lines(one: PlannedStep, width: int) -> Iterator[str]:
    if one.skip:
        yield f"  {one.name:<{width}}  skipped: {one.skip}"
        return
    first, *rest = (one.command or "-").rstrip().split("\n")
    note = f"  ({one.note})" if one.note else ""
    after = f"  [after {', '.join(one.needs)}]" if one.needs and one.kind is Kind.COMMAND else ""
    yield f"  {one.name:<{width}}  {first}{note}{after}"
    for line in rest:
        yield f"  {'':<{width}}  {line}"


def failure_sections(
    error: ShiplineError, run: Run | None, pipeline: Pipeline
) -> Iterator[list[str]]:
    """The paragraphs of the one box that a failed run ends with."""
    failed = _failed(run)
    yield [f"{failed.name}: {error.message}" if failed else error.message]
    if isinstance(error, (GateRefused, GateUndecided)) and error.verdicts:
        yield [f"- {verdict}" for verdict in error.verdicts]
    codes = error.diagnostics if isinstance(error, RegistryError) else ()
    if more := [code for code in codes if code not in error.message]:
        yield more
    if notes := getattr(error, "__notes__", ()):
        yield list(notes)
    if isinstance(error, StepFailed):
        if error.log:
            yield ["last output:", *(f"  {line}" for line in error.log[-LAST_LINES:])]
        if error.span is not None:
            yield [str(error.span)]
    if others := [one for one in (run.steps if run else ()) if _is_other(one, failed)]:
        yield ["also failed:", *(f"- {one.reason}" for one in others)]
    if run is not None:
        yield _where(run, failed, pipeline)
    if error.hint:
        yield [f"hint: {error.hint}"]


def _failed(run: Run | None) -> StepRecord | None:
    steps = run.steps if run else ()
    return next((one for one in steps if one.state is State.FAILED), None)


def _is_other(one: StepRecord, failed: StepRecord | None) -> bool:
    return one.state is State.FAILED and one is not failed


def _where(run: Run, failed: StepRecord | None, pipeline: Pipeline) -> list[str]:
    lines = []
    if run.digest and run.image:
        lines += ["digest so far:", run.digest]
    command = pipeline.commands.get(failed.name) if failed else None
    if command is not None:
        lines.append(f"reproduce: {reproduction(command, Path(run.root))}")
    if failed is not None:
        lines.append(f"logs:      shipline runs logs {run.id} {shlex.quote(failed.name)}")
    lines.append(f"resume:    shipline ship --resume {run.id}")
    return lines


def summary(run: Run) -> str:
    """Markdown for the page of a CI run."""
    lines = [f"## {run.image or 'shipline'}", ""]
    if run.digest:
        lines += [f"Digest `{run.digest}`, commit `{run.commit[:_COMMIT]}`", ""]
    lines += [f"- `{name}`" for name in run.tags]
    lines += ["", "| step | result | time | |", "|---|---|---|---|"]
    for one in run.steps:
        mark = f"{_ICONS.get(one.state, '')} {one.state.value}".strip()
        lines.append(f"| {one.name} | {mark} | {_time(one)} | {_cell(one.reason)} |")
    if ungated(run):
        lines += ["", f"> ⚠️ {UNGATED}"]
    if verdicts := _verdicts(run):
        lines += ["", "### Gates", "", *(f"- {line}" for line in verdicts)]
    if run.state is not State.PASSED:
        lines += ["", f"Go on with `shipline ship --resume {run.id}`"]
    return "\n".join([*lines, ""])


def ungated(run: Run) -> bool:
    """Whether names were given though nothing was judged."""
    gates = run.step(Kind.GATES)
    return bool(run.tags) and gates is not None and gates.state is State.SKIPPED


def _verdicts(run: Run) -> list[str]:
    gates = run.step(Kind.GATES)
    return list(gates.results.get("verdicts", ())) if gates else []


def outputs(run: Run) -> Mapping[str, str]:
    """What later steps of a CI job may use."""
    names = run.tags
    return {
        "run": run.id,
        "image": run.image,
        "digest": run.digest,
        "tags": ",".join(dict.fromkeys(name.rpartition(":")[2] for name in names)),
        "names": ",".join(names),
        "version": run.version,
    }


def run_text(run: Run) -> str:
    """A record for a person."""
    began = datetime.fromtimestamp(run.started, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
    lines = [
        f"run     {run.id}: {run.state.value}",
        f"image   {run.image or '(none)'}" + (f"@{run.digest}" if run.digest else ""),
        f"commit  {run.commit}{' (dirty)' if run.dirty else ''} {run.branch}".rstrip(),
        f"began   {began}, resumed {counted(run.resumed, 'time')}"
        if run.resumed
        else f"began   {began}",
        "",
    ]
    width = max((len(one.name) for one in run.steps), default=0)
    for one in run.steps:
        state = _MARKS.get(one.state, one.state.value)
        lines.append(f"  {one.name:<{width}}  {state} {_time(one)}  {one.reason}".rstrip())
    lines += ["", *run.tags] if run.tags else []
    return "\n".join(lines)


def _time(one: StepRecord) -> str:
    return f"{one.elapsed_s:.1f}s" if one.finished else ""


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")
