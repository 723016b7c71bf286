"""What the page of a run says, as values: the verdict, what failed and where, figures, facts."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from urllib.parse import parse_qs, unquote

from msgspec import Struct

from shipline.history import RunComparison, RunDetail, RunState, RunSummary, StepView, explained
from shipline.observe import clean
from shipline.ui.lanes import (
    LaneRow,
    Waterfall,
    exit_code,
    is_instruction,
    shown_name,
    stopped,
    uploads_of,
    waterfall,
)
from shipline.ui.logs import LogPage, tail
from shipline.ui.run_list import VERDICTS, cleaned, lines_of, usual_s

TAIL = 20  # lines of the log of a step that failed
_CONTEXT = 3  # lines of the Dockerfile before and after those that failed
_LONGEST = 60  # lines of an instruction


class FailedStep(Struct, frozen=True):
    """What failed: a sentence, and the step if it was one. `source` are lines of the Dockerfile,
    from number `first` on, of which `marked` failed. `passed` has the other platforms on which the
    same step passed, and the seconds it took there; `also` are the titles of what else failed, by
    the span of its step.
    """

    title: str
    message: str
    span: int = 0
    took_s: float = 0.0
    first: int = 1
    source: tuple[str, ...] = ()
    marked: tuple[int, ...] = ()
    output: LogPage | None = None
    passed: tuple[tuple[str, float], ...] = ()
    also: tuple[tuple[int, str], ...] = ()


class RunFigures(Struct, frozen=True):
    """Figures of a run: seconds and bytes. `work_s` is the time of all steps together; `usual_s` is
    None if it is not known; `upload_busy_s` is the part of `upload_s` in which steps ran.
    """

    took_s: float
    usual_s: float | None
    work_s: float
    cached: int
    instructions: int
    uploaded: int
    upload_s: float
    upload_busy_s: float
    failed: int
    stopped: int


class BuildMaterial(Struct, frozen=True):
    """What a run downloaded, with its digest: an image by its name and platform, what is no image
    by its URI.
    """

    name: str
    digest: str


class RanAgain(Struct, frozen=True):
    """A step that did not come from the cache, though the run before had its result, and why; or
    that took longer than there.
    """

    span: int
    name: str
    platform: str
    took_s: float
    before_s: float | None
    reasons: tuple[str, ...]
    slower: bool


class RunView(Struct, frozen=True):
    """All that the page of a run shows, but the logs."""

    run: RunSummary
    verdict: tuple[str, str]
    lanes: Waterfall
    figures: RunFigures
    failure: FailedStep | None
    longest: LaneRow | None
    longest_platform: str
    facts: tuple[tuple[str, str], ...]
    materials: tuple[BuildMaterial, ...]
    warnings: tuple[tuple[str, str], ...]
    logs: tuple[tuple[StepView, int], ...]

    @property
    def title(self) -> str:
        return title_of(self.run)


def title_of(run: RunSummary) -> str:
    """How pages call a run: its word of six digits is enough for commands."""
    return f"Run {short_id(run.id)}: {run.kind} of {run.name or run.root or 'nothing named'}"


def short_id(run: str) -> str:
    return run.rpartition("-")[2]


def run_view(
    detail: RunDetail, now: float, earlier: Sequence[RunSummary] = (), *, everything: bool = False
) -> RunView:
    """The page of a run at `now` (Unix time); `earlier` are runs of the same thing."""
    run = cleaned(detail.summary)
    lanes = waterfall(detail, now, everything=everything)
    figures = _figures(detail, lanes, usual_s(list(earlier)))
    longest = _longest(lanes) if figures.failed + figures.stopped == 0 else None
    step = detail.step(longest.span) if longest else None
    return RunView(
        run=run,
        verdict=VERDICTS[run.state],
        lanes=lanes,
        figures=figures,
        failure=failure_of(detail) if run.state is RunState.FAILED else None,
        longest=longest,
        longest_platform=step.platform if step else "",
        facts=tuple(_facts(detail)),
        materials=tuple(_materials(detail)),
        warnings=tuple(_warnings(detail)),
        logs=tuple(
            (one, sum(len(piece.data) for piece in detail.output[one.span]))
            for one in detail.steps
            if one.span in detail.output
        ),
    )


def failure_of(detail: RunDetail) -> FailedStep | None:
    """What failed first; None if nothing did."""
    failed = [one for one in detail.steps if one.error and not stopped(one)]
    inner = {one.parent for one in failed}
    deepest = [one for one in failed if one.span not in inner]
    if not deepest:
        first, _, rest = lines_of(detail.summary.error).partition("\n")
        return FailedStep(first, rest) if first else None
    step, *others = sorted(deepest, key=lambda one: one.finished)
    start, source, marked = _source(detail, step)
    return FailedStep(
        _failed(step),
        "" if exit_code(step.error) else lines_of(step.error),
        step.span,
        step.elapsed_s,
        start,
        source,
        marked,
        tail(detail.log(step.span), TAIL),
        tuple(
            (one.platform, one.elapsed_s)
            for one in detail.steps
            if (one.name, one.target, one.stage) == (step.name, step.target, step.stage)
            and one.platform != step.platform
            and one.finished
            and not one.error
            and not one.cached
        ),
        tuple((one.span, _failed(one)) for one in others),
    )


def _failed(step: StepView) -> str:
    """What failed where, in a line."""
    place = (
        f"{clean(step.file) or 'Dockerfile'} line {step.line}" if step.line else shown_name(step)
    )
    on = f" on {clean(step.platform)}" if step.platform else ""
    code = exit_code(step.error)
    return f"{place} failed{on}" + (f": exit code {code}" if code else "")


def _source(detail: RunDetail, step: StepView) -> tuple[int, tuple[str, ...], tuple[int, ...]]:
    """The lines of the Dockerfile around a step, as it was then; none if that is not known."""
    lines = detail.dockerfile(step.target).splitlines()
    if not step.line or step.line > len(lines):
        return 1, (), ()
    end = min(max(step.end, step.line), len(lines), step.line + _LONGEST)
    first, last = max(step.line - _CONTEXT, 1), min(end + _CONTEXT, len(lines))
    return first, tuple(map(clean, lines[first - 1 : last])), tuple(range(step.line, end + 1))


def _figures(detail: RunDetail, lanes: Waterfall, usual: float | None) -> RunFigures:
    rows = [row for group in lanes.groups for row in group.rows]
    work = [one for one in detail.steps if one.kind != "upload" and one.finished]
    inner = {one.parent for one in detail.steps}
    leaves = [one for one in work if one.span not in inner]
    busy = merged((one.started, one.finished) for one in leaves if not one.cached)
    uploads = uploads_of(detail.steps)
    sent = merged((one.started, one.finished) for one in uploads if one.finished)
    instructions = [one for one in detail.steps if is_instruction(one)]
    return RunFigures(
        lanes.took_s,
        usual,
        sum(one.elapsed_s for one in leaves if not one.cached),
        sum(one.cached for one in instructions),
        len(instructions),
        sum(one.size for one in uploads if one.finished),
        sum(end - start for start, end in sent),
        overlap(sent, busy),
        sum(row.kind == "bad" for row in rows),
        sum(row.kind == "off" for row in rows),
    )


def merged(spans: Iterable[tuple[float, float]]) -> list[tuple[float, float]]:
    """Spans of time that do not touch, in order, that cover the same."""
    found: list[tuple[float, float]] = []
    for start, end in sorted(spans):
        if found and start <= found[-1][1]:
            found[-1] = found[-1][0], max(found[-1][1], end)
        elif end > start:
            found.append((start, end))
    return found


def overlap(one: list[tuple[float, float]], other: list[tuple[float, float]]) -> float:
    """How long both last; each is merged."""
    total, place = 0.0, 0
    for start, end in one:
        while place < len(other) and other[place][1] <= start:
            place += 1
        for begin, stop in other[place:]:
            if begin >= end:
                break
            total += min(stop, end) - max(begin, start)
    return total


def ran_again(comparison: RunComparison) -> Iterator[RanAgain]:
    """The steps of the Dockerfile that ran again or took longer, and why."""
    for change in comparison.steps():
        step, before = change.step, change.before
        if not is_instruction(step) or not (change.missed or change.slower):
            continue
        yield RanAgain(
            step.span,
            shown_name(step),
            clean(step.platform),
            step.elapsed_s,
            before.elapsed_s if before is not None and not before.cached else None,
            tuple(clean(line) for reason in change.reasons for line in explained(reason)),
            change.slower,
        )


def _longest(lanes: Waterfall) -> LaneRow | None:
    """The step that took a quarter of the time or more; None if there is none, or no other."""
    rows = [row for group in lanes.groups for row in group.rows if row.pieces]
    longest = max(rows, key=lambda row: row.took_s, default=None)
    if longest is None or len(rows) < 2 or longest.took_s < lanes.took_s / 4:
        return None
    return longest


def _facts(detail: RunDetail) -> Iterator[tuple[str, str]]:
    """Names and values without order; what is empty does not apply."""
    run, facts = cleaned(detail.summary), detail.facts
    known = {
        "Directory": run.root,
        "Dockerfile": str(facts.get("dockerfile", "")),
        "Target": str(facts.get("target", "")),
        "Platforms": ", ".join(run.platforms),
        "Commit": run.commit + (", with uncommitted changes" if run.dirty else ""),
        "Branch": run.branch,
        "Digest": run.digest,
        "Names": ", ".join(run.names),
        "Trace": run.trace,
    }
    yield from ((name, clean(value)) for name, value in known.items() if value)


def _materials(detail: RunDetail) -> Iterator[BuildMaterial]:
    for one in detail.materials:
        digest = next((f"{kind}:{value}" for kind, value in one["digest"].items()), "")
        yield BuildMaterial(clean(_material_name(one["uri"])), clean(digest))


def _material_name(uri: str) -> str:
    """An image as people write it, instead of its package URL (purl-spec, type docker)."""
    path, _, query = uri.partition("#")[0].partition("?")
    if not path.startswith("pkg:docker/"):
        return uri
    name, _, version = path.removeprefix("pkg:docker/").partition("@")
    version = unquote(version)
    tag = f":{version}" if version and ":" not in version else ""  # a digest has its own column
    platform = "".join(f" ({one})" for one in parse_qs(query).get("platform", ()))
    return f"{unquote(name)}{tag}{platform}"


def _warnings(detail: RunDetail) -> Iterator[tuple[str, str]]:
    """Messages with their hints, each once."""
    every = [*detail.warnings, *(one for step in detail.steps for one in step.warnings)]
    yield from dict.fromkeys((clean(one.message), clean(one.hint)) for one in every)
