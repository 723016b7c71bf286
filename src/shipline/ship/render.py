"""A run as text: its plan, the box of a failure, the summary, the record."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from itertools import groupby
from operator import attrgetter
from pathlib import Path

from shipline.deliver.commands import LAST_LINES
from shipline.errors import (
    GateError,
    RegistryError,
    ShiplineError,
    StepFailed,
)
from shipline.history import RunState
from shipline.observe import advice, also_failed, clean, excerpt, table
from shipline.ship.plan import UNGATED, UNGATED_HINT, Plan
from shipline.ship.record import RunRecord, StepRecord
from shipline.ship.section import Pipeline
from shipline.ship.steps.build import digest_of, pushed_images, shown_images
from shipline.ship.steps.command import COMMAND, reproduction
from shipline.ship.steps.deploy import deployments_of
from shipline.ship.steps.gates import gate_verdicts
from shipline.ship.steps.publish import names_of, version_of
from shipline.ship.steps.sign import Copies, SigningKeys
from shipline.units import counted, shown_time

_COMMIT = 12  # digits
_LONGEST = 3  # steps in the report
_MARKS = {
    RunState.PASSED: "passed",
    RunState.TOLERATED: "failed, which is allowed",
    RunState.INTERRUPTED: "interrupted: the process died",
    RunState.PENDING: "pending: it is done when the run is resumed",
}
_ICONS = {
    RunState.PASSED: "✅",
    RunState.FAILED: "❌",
    RunState.SKIPPED: "⏭️",
    RunState.TOLERATED: "⚠️",
    RunState.PENDING: "⏳",
}


def plan_text(plan: Plan) -> str:
    """The plan for a person: every step with its command, or why it is skipped."""
    inputs, naming = plan.inputs, plan.inputs.naming
    where = f" on {inputs.branch}" if inputs.branch else ""
    dirty = ", with uncommitted changes" if inputs.work_tree.dirty else ""
    images = inputs.pipeline.images
    lines = [
        f"{'' if index else 'image':<7} {image}{f'  ({name})' if name else ''}"
        for index, (name, image) in enumerate(images.items())
    ] or ["image   (none)"]
    lines += [f"commit  {inputs.work_tree.short}{where}{dirty}"]
    if naming.problems or naming.refused:
        refused = [f"refused: {naming.refused}"] if naming.refused else []
        lines += ["", *refused, *(f"cannot run: {problem}" for problem in naming.problems)]
    lines += ["", "steps", *_step_lines(plan)]
    if plan.ungated:
        lines += ["", f"warning: {UNGATED}", f"  {UNGATED_HINT}"]
    if naming.tags:
        lines += ["", "tags"]
        wide = max(len(tag.name) for tag in naming.tags)
        lines += [f"  {tag.name:<{wide}}  {tag.reason}" for tag in naming.tags]
    lines += [f"note: {note}" for note in naming.notes]
    return "\n".join(lines)


def _step_lines(plan: Plan) -> Iterator[str]:
    """Consecutive steps that are skipped for the same reason share a line."""
    width = max(len(step.name) for step in plan.steps)
    for skip, several in groupby(plan.steps, key=attrgetter("skip")):
        if skip:
            reason = "the run is refused, see above" if skip == plan.inputs.naming.refused else skip
            names = ", ".join(planned.name for planned in several)
            yield f"  {names:<{width}}  skipped: {reason}"
            continue
        for step in (planned.step for planned in several):
            first, *rest = (step.command or "-").rstrip().split("\n")
            note = f"  ({step.note})" if step.note else ""
            declared = step.needs and step.kind == COMMAND.name
            after = f"  [after {', '.join(step.needs)}]" if declared else ""
            yield f"  {step.name:<{width}}  {first}{note}{after}"
            for line in rest:
                yield f"  {'':<{width}}  {line}"


def failure_sections(
    error: ShiplineError, run: RunRecord | None, pipeline: Pipeline, again: str = ""
) -> Iterator[list[str]]:
    """The sections of the box at the end of a failed run, with the command that does it `again`."""
    failures = [step for step in (run.steps if run else ()) if step.state is RunState.FAILED]
    failed = failures[0] if failures else None
    yield [f"{failed.name}: {error.message}" if failed else error.message]
    if isinstance(error, GateError) and error.verdicts:
        reasons = [one for one in error.verdicts if one.split(": ", 2)[-1] not in error.message]
        yield [f"- {reason}" for reason in reasons]
    codes = error.diagnostics if isinstance(error, RegistryError) else ()
    if more := [code for code in codes if code not in error.message]:
        yield more
    if notes := getattr(error, "__notes__", ()):
        yield list(notes)
    if isinstance(error, StepFailed) and error.log:
        yield ["last output:", *(f"  {line}" for line in error.log[-LAST_LINES:])]
    if error.span is not None:
        yield excerpt(error.span)
    yield also_failed(error.others)
    if others := failures[1:]:
        yield ["also failed:", *(f"- {other.reason}" for other in others)]
    if run is not None:
        yield _where(run, failed, pipeline)
    yield advice(error, again)


def _where(run: RunRecord, failed: StepRecord | None, pipeline: Pipeline) -> list[str]:
    lines = ["built so far:", *shown_images(run)] if pushed_images(run) else []
    command = pipeline.commands.get(failed.name) if failed else None
    if command is not None:
        lines.append(f"reproduce: {reproduction(command, Path(run.root))}")
    if failed is not None:
        lines.append(f"logs:      shipline runs logs {run.id} {shlex.quote(failed.name)}")
    lines.append(f"resume:    shipline ship --resume {run.id}")
    return lines


def report(run: RunRecord, plan: Plan) -> list[str]:
    """The end of a run: its images, why this version, the gates, who signed, where it is, what took
    long, what to do next.
    """
    decision = plan.inputs.naming.decision
    rows = [("image", image) for image in shown_images(run) if pushed_images(run)]
    if decision is not None and (version := version_of(run)):
        rows.append(("version", f"{version}: {decision.version_reason}"))
    rows += [("gates", line) for line in gate_verdicts(run).verdicts]
    results = [step.result for step in run.steps]
    keys = [key for one in results if isinstance(one, SigningKeys) for key in one.keys]
    rows += [("signed by", key) for key in dict.fromkeys(keys)]
    rows += [
        ("copied to", f"{one}")
        for found in results
        if isinstance(found, Copies)
        for one in found.copies
    ]
    slow = sorted((step for step in run.steps if step.finished), key=lambda one: -one.elapsed_s)
    longest = ", ".join(f"{step.name} {_time(step)}" for step in slow[:_LONGEST])
    rows.append(("time", f"{run.finished - run.started:.1f}s: {longest}"))
    if command := next_command(run, plan):
        rows.append(("next", command))
    return table([(name, clean(text)) for name, text in rows])


def next_command(run: RunRecord, plan: Plan) -> str:
    """How to go on: the rest of the run, or the first environment that it did not deploy to."""
    if pending(run):
        return f"shipline ship --resume {run.id}"
    done = {one.environment for one in deployments_of(run)}
    left = [name for name in plan.inputs.project.environments if name not in done]
    if not left or not names_of(run):
        return ""
    return f"shipline {'promote' if done else 'deploy'} -e {left[0]}"


def summary(run: RunRecord) -> str:
    """A summary in Markdown for CI."""
    lines = [f"## {run.shown_image or 'shipline'}", ""]
    if digest_of(run):
        lines += [f"Digest `{digest_of(run)}`, commit `{run.commit[:_COMMIT]}`", ""]
        lines += [f"- `{image}`" for image in shown_images(run) if run.images]
    lines += [f"- `{name}`" for name in names_of(run)]
    if lines[-1]:
        lines.append("")
    lines += ["| step | result | time | |", "|---|---|---|---|"]
    for step in run.steps:
        never = step.state is RunState.WAITING and run.state is not RunState.RUNNING
        word = "not run" if never else step.state.value
        mark = f"{_ICONS.get(step.state, '')} {word}".strip()
        lines.append(f"| {step.name} | {mark} | {_time(step)} | {_cell(step.reason)} |")
    if ungated(run):
        lines += ["", f"> ⚠️ {UNGATED}"]
    if verdicts := gate_verdicts(run).verdicts:
        lines += ["", "### Gates", "", *(f"- {line}" for line in verdicts)]
    if deployed := deployments_of(run):
        lines += ["", "### Environments", "", *(f"- {line}" for line in map(str, deployed))]
    if run.state is not RunState.PASSED or pending(run):
        lines += ["", f"Continue with `shipline ship --resume {run.id}`"]
    return "\n".join([*lines, ""])


def pending(run: RunRecord) -> list[StepRecord]:
    """The steps that a resumed run will do."""
    return [step for step in run.steps if step.state is RunState.PENDING]


def ungated(run: RunRecord) -> bool:
    """Whether the image was tagged without any gate."""
    gates = run.step("gates")
    return bool(names_of(run)) and gates is not None and gates.state is RunState.SKIPPED


def outputs(run: RunRecord) -> Mapping[str, str]:
    """The outputs for later steps of a CI job; lists for several images, in one order."""
    names = names_of(run)
    digests = [str(image.digest) for image in pushed_images(run).values()]
    return {
        "run": run.id,
        "image": ",".join(run.repositories.values()),
        "digest": ",".join(digests),
        "tags": ",".join(dict.fromkeys(name.rpartition(":")[2] for name in names)),
        "names": ",".join(names),
        "version": version_of(run),
    }


def run_text(run: RunRecord) -> str:
    """A record for a person."""
    started = shown_time(datetime.fromtimestamp(run.started, UTC))
    resumed = f", resumed {counted(run.resumed, 'time')}" if run.resumed else ""
    lines = [
        f"run     {run.id}: {run.state.value}",
        *(
            f"{'' if index else 'image':<7} {image}"
            for index, image in enumerate(shown_images(run) or [run.shown_image or "(none)"])
        ),
        f"commit  {run.commit}{' (dirty)' if run.dirty else ''} {run.branch}".rstrip(),
        f"started {started}{resumed}",
        "",
    ]
    width = max((len(step.name) for step in run.steps), default=0)
    for step in run.steps:
        state = _MARKS.get(step.state, step.state.value)
        lines.append(f"  {step.name:<{width}}  {state} {_time(step)}  {step.reason}".rstrip())
    lines += ["", *names_of(run)] if names_of(run) else []
    lines += map(str, deployments_of(run))
    return "\n".join(lines)


def _time(step: StepRecord) -> str:
    return f"{step.elapsed_s:.1f}s" if step.finished else ""


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")
