"""The waterfall of a run: which lane each step has, and what is drawn in it.

Times are seconds from the start of the run. What is drawn are pieces of a lane, each a kind, its
start and its end: `work`, `bad` (failed), `off` (stopped), `still` (from the cache), `wait` (its
base was there, but not all that it uses, or no slot), and `upload` of the layer that the step made.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence

from msgspec import Struct

from shipline.events import CANCELLED
from shipline.history import RunDetail, RunState, StepView
from shipline.observe import clean
from shipline.pages import axis
from shipline.values import replace

MANY = 200  # steps; of more, only those are shown that count
_COUNTS = 0.01  # of the run's time
_PREPARING = frozenset({"internal", "resolve", "git", "http", "cache"})
_PUBLISHING = frozenset({"push", "tag", "export", "upload"})
_INSTRUCTIONS = frozenset({"run", "copy", "add", "workdir", "pull"})
_EXIT_CODE = re.compile(r"exit code: (\d+)\s*$")
_PINNED = re.compile(r"(@sha256:[0-9a-f]{12})[0-9a-f]{52}\b")

_BUILD = 3
_EARLIER, _BESIDE, _BEFORE, _AFTER = (0, "", ""), (1, "", ""), (2, "", ""), (4, "", "")
_WENT_WELL = (RunState.RUNNING, RunState.PASSED, RunState.TOLERATED, RunState.PENDING)
_LEGEND = (
    ("chain", "work on the longest chain (bold)"),
    ("work", "other work"),
    ("upload", "upload of its layer"),
    ("still", "from the cache"),
    ("wait", "waiting"),
    ("bad", "failed"),
    ("off", "stopped"),
)

Piece = tuple[str, float, float]
Place = tuple[int, str, str]
"""A group of steps: its order; in a build its target and platform, empty for what several share."""


class LayerUpload(Struct, frozen=True):
    """An upload of a layer with the digest `blob`, empty if that is not known, by the step `span`
    or as a part of it. `size` is in bytes; `finished` is 0 while it goes on.
    """

    span: int
    blob: str
    started: float
    finished: float
    size: int


class LaneRow(Struct, frozen=True):
    """A step. `outcome` is empty for one that ran to its end, else a word; `layer` is the size in
    bytes of the layer that it made, 0 if none; `platform` is set where the group does not say it.
    """

    span: int
    name: str
    instruction: bool
    took_s: float
    pieces: tuple[Piece, ...]
    outcome: str = ""
    kind: str = ""
    layer: int = 0
    chain: bool = False
    platform: str = ""


class LaneGroup(Struct, frozen=True):
    """Steps that belong together; `left_out` are so short that they are only counted."""

    id: str
    title: str
    rows: tuple[LaneRow, ...]
    cached: int = 0
    ended_s: float = 0.0
    left_out: int = 0


class Waterfall(Struct, frozen=True):
    """The lanes of a run; the axis ends after `end_s`, the run itself after `took_s`."""

    took_s: float
    end_s: float
    groups: tuple[LaneGroup, ...]

    @property
    def legend(self) -> tuple[tuple[str, str], ...]:
        """The kinds that are drawn, with the words for them."""
        rows = [row for group in self.groups for row in group.rows]
        drawn = {kind for row in rows for kind, _, _ in row.pieces}
        if any(row.chain for row in rows):
            drawn.add("chain")
        return tuple((kind, words) for kind, words in _LEGEND if kind in drawn)


def waterfall(run: RunDetail, now: float, *, everything: bool = False) -> Waterfall:
    """The lanes of a run that is over, or is going on at `now` (Unix time). Of more than 200 steps
    only those are shown that took over 1 % of the time, or did not pass, unless `everything` is.
    """
    start, end = run.summary.started, ended(run, now)
    layers = _by_maker(run.steps, uploads_of(run.steps))
    moved = {one.span for maker, found in layers.items() for one in found if one.span != maker}
    steps = [step for step in run.steps if step.kind != "upload" or step.span not in moved]
    took = max(end - start, 0.0)
    short = 0.0 if everything or len(steps) <= MANY else took * _COUNTS
    grouped = _grouped(run, steps)
    places = {step.span: step for step in run.steps}
    groups = []
    for place, inside in sorted(grouped.items()):
        rows = [
            replace(
                _row(step, places, layers.get(step.span, ()), start, end, run.summary.state),
                platform="" if place[0] == _BUILD else clean(step.platform),
            )
            for step in inside
        ]
        shown = tuple(row for row in rows if row.took_s >= short or row.kind in ("bad", "run"))
        groups.append(
            LaneGroup(
                clean("group-" + "-".join(map(str, place))),
                _title(run, place),
                shown,
                sum(step.cached for step in inside),
                max(step.finished or end for step in inside) - start,
                len(rows) - len(shown),
            )
        )
    return Waterfall(took, axis(took), tuple(groups))


def ended(run: RunDetail, now: float) -> float:
    """When the run ended: `now` while it goes on, the last sign of life if its process died."""
    if run.summary.finished:
        return run.summary.finished
    if run.summary.state is RunState.RUNNING:
        return now
    signs = [max(step.started, step.finished) for step in run.steps]
    signs += [lines[-1].at for lines in run.output.values() if lines]
    return max(signs, default=run.summary.started)


def is_instruction(step: StepView) -> bool:
    """Whether a step is one of the Dockerfile."""
    return bool(step.number) and step.kind in _INSTRUCTIONS


def shown_name(step: StepView) -> str:
    """The name with digests as pages write them: with 12 digits."""
    return _PINNED.sub(r"\1", step.name).replace("@sha256:", "@")


def exit_code(error: str) -> str:
    """The exit status that the error of a command ends with; empty if it is another error."""
    found = _EXIT_CODE.search(error)
    return found[1] if found else ""


def stopped(step: StepView) -> bool:
    """Whether a step ended because something else did."""
    return step.error == CANCELLED


def uploads_of(steps: Iterable[StepView]) -> list[LayerUpload]:
    """All uploads of layers, those that are steps and those that are parts of one."""
    found = []
    for step in steps:
        if step.kind == "upload":
            blob, size = str(step.attributes.get("blob", "")), step.attributes.get("size", 0)
            found.append(LayerUpload(step.span, blob, step.started, step.finished, int(size)))
        found += [
            LayerUpload(step.span, one.blob, one.started, one.finished, one.total or one.current)
            for one in step.transfers
            if one.kind == "upload"
        ]
    return found


def _by_maker(
    steps: Sequence[StepView], uploads: Iterable[LayerUpload]
) -> Mapping[int, Sequence[LayerUpload]]:
    """The uploads by the step that made the layer, the first one of several; by the step that they
    are part of if that is not known.
    """
    makers: dict[object, int] = {}
    found: dict[int, list[LayerUpload]] = defaultdict(list)
    for step in steps:
        if step.kind != "upload" and (blob := step.attributes.get("blob")):
            makers.setdefault(blob, step.span)
    for one in uploads:
        found[makers.get(one.blob, one.span)].append(one)
    return found


def _grouped(run: RunDetail, steps: Sequence[StepView]) -> Mapping[Place, Sequence[StepView]]:
    """Steps by the group that they belong to."""
    ship = run.summary.kind == "ship"
    spans = {step.span for step in steps}
    pipeline = [step for step in steps if ship and step.parent not in spans]
    build = next((step for step in pipeline if step.stage == "build"), None)
    users = _platforms_using(steps)
    inner: dict[int, Place] = {}
    found: dict[Place, list[StepView]] = defaultdict(list)
    for step in steps:
        if step.started < run.summary.started:
            place = _EARLIER
        elif build is not None and step.parent == build.span:
            place = _place(step, users)
        elif step.parent in inner:
            place = inner[step.parent]
        elif ship:
            built = build is not None and build.finished and step.started >= build.finished
            place = _AFTER if built else _BESIDE
        else:
            place = _place(step, users)
        inner[step.span] = place
        if step is not build:
            found[place].append(step)
    return found


def _place(step: StepView, users: Mapping[int, set[str]]) -> Place:
    if step.kind in _PUBLISHING:
        return _AFTER
    if step.kind in _PREPARING or not step.platform:
        return _BEFORE
    shared = len(users.get(step.span, ())) > 1
    return _BUILD, step.target, "" if shared else step.platform


def _platforms_using(steps: Sequence[StepView]) -> Mapping[int, set[str]]:
    """The platforms of the steps that use the result of each step. A step starts after what it
    uses.
    """
    users: dict[int, set[str]] = defaultdict(set)
    for step in sorted(steps, key=lambda one: one.started, reverse=True):
        own = users[step.span] or {step.platform}
        for one in step.inputs:
            users[one] |= own
    return users


def _title(run: RunDetail, place: Place) -> str:
    order, target, platform = place
    number = len({step.platform for step in run.steps if step.platform})
    if order == _BUILD:
        shared = "shared by " + ("both" if number == 2 else str(number)) + " platforms"
        title = clean(" ".join(filter(None, (target, platform or shared))))
        return title if target or platform else title.capitalize()
    if place == _AFTER:
        return "From digest to names" if run.summary.kind == "ship" else "Push and export"
    return {_EARLIER: "Before it was resumed", _BESIDE: "Beside the build"}.get(
        place, "Preparation"
    )


def _row(
    step: StepView,
    places: Mapping[int, StepView],
    uploads: Sequence[LayerUpload],
    start: float,
    end: float,
    state: RunState,
) -> LaneRow:
    outcome, kind = _outcome(step, state)
    begin, finish = step.started - start, (step.finished or end) - start
    pieces: list[Piece] = []
    if step.started >= start:
        drawn = {"bad": "bad", "off": "off", "reused": "still"}.get(kind, "work")
        base = places.get(step.inputs[0]) if step.inputs else None
        if (
            base is not None
            and base.finished
            and step.started - base.finished > (end - start) / 100
        ):
            pieces.append(("wait", max(base.finished - start, 0.0), begin))
        pieces.append((drawn, begin, finish))
        for one in uploads if step.kind != "upload" else ():
            pieces.append(("upload", one.started - start, (one.finished or end) - start))
    size = step.attributes.get("size", 0)
    return LaneRow(
        step.span,
        shown_name(step),
        is_instruction(step),
        (step.finished or end) - step.started,
        tuple(pieces),
        outcome,
        kind,
        int(size) if is_instruction(step) and not step.cached else 0,
        step.on_chain and state in _WENT_WELL,
    )


def _outcome(step: StepView, state: RunState) -> tuple[str, str]:
    """A word for how a step ended, and the kind of its chip; both empty if it simply ended."""
    if step.cached:
        return "cached", "reused"
    if stopped(step) or (not step.finished and state is not RunState.RUNNING):
        return "stopped", "off"
    if not step.finished:
        return "running", "run"
    if step.error:
        code = exit_code(step.error)
        return f"exit {code}" if code else "failed", "bad"
    return "", ""
