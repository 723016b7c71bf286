"""A run beside another one of the same thing: what was slower, what ran again, and why.

A step runs again if any part of its key differs. A part that is the result of another step leads to
the parts of that one, down to what somebody changed.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterator, Mapping
from posixpath import basename
from stat import S_IFMT, S_IMODE

from msgspec import Struct

from shipline.history.tables import FileRow, FileTables
from shipline.history.views import RunDetail, StepView
from shipline.values import replace

_FILES = 20  # names of files in an explanation
_SHOWN = frozenset({"commit", "tree"})
_WRITTEN = frozenset(
    {
        *("command", "mounts", "sources", "destination", "text", "unpack", "chown", "chmod"),
        *("link", "parents", "excludes", "path"),
    }
)
"""Parts of a key that stand in the instruction."""

_SLOWER, _SLOWER_S = 1.2, 0.5


class FileChange(Struct, frozen=True):
    """A file that differs: `how` is added, removed, changed, mode, owner or kind."""

    path: str
    how: str
    before: str = ""
    after: str = ""


class Reason(Struct, frozen=True):
    """A part of the key that differs: `kind` is new, fresh, instruction, variable, image, files,
    step, setting, failed, evicted or unknown; `name` is the variable, image, path or step.

    `files` names those that differ, `more` counts the others; `because` are the reasons of the
    step that `kind` step names by its `span`.
    """

    kind: str
    name: str = ""
    before: str = ""
    after: str = ""
    span: int = 0
    files: tuple[FileChange, ...] = ()
    more: int = 0
    because: tuple[Reason, ...] = ()

    def roots(self) -> Iterator[Reason]:
        """What somebody changed: the reasons at the end of the chain."""
        if not self.because:
            yield self
        for one in self.because:
            yield from one.roots()


class StepChange(Struct, frozen=True):
    """A step beside that of the other run, None if that had none."""

    step: StepView
    before: StepView | None
    reasons: tuple[Reason, ...] = ()

    @property
    def missed(self) -> bool:
        """Whether it ran, though the other run had its result."""
        return not self.step.cached and self.before is not None and not self.before.error

    @property
    def slower_s(self) -> float:
        """How much longer it took, in seconds; negative if it was faster."""
        return self.step.elapsed_s - (self.before.elapsed_s if self.before else 0.0)

    @property
    def slower(self) -> bool:
        """Whether it took noticeably longer than before; False if it was cached then."""
        if self.before is None or self.before.cached or not self.step.finished:
            return False
        return self.slower_s > _SLOWER_S and (self.step.elapsed_s > _SLOWER * self.before.elapsed_s)


class RunComparison:
    """A run beside `before`, an earlier one."""

    def __init__(self, run: RunDetail, before: RunDetail, tables: FileTables) -> None:
        self.run = run
        self.before = before
        self._tables = tables
        self._pairs = _pairs(run.steps, before.steps)
        self._vertexes = {one.vertex: one for one in run.steps if one.vertex}
        self._reasons: dict[int, tuple[Reason, ...]] = {}

    def steps(self) -> Iterator[StepChange]:
        """Every step with a key, or that has one beside it, in the order of the run."""
        for step in self.run.steps:
            yield StepChange(step, self._pairs.get(step.span), self.why(step))

    def why(self, step: StepView) -> tuple[Reason, ...]:
        """Why a step ran: the parts of its key that differ; nothing for one from the cache, and for
        work that has no key.
        """
        return () if step.cached else self._reasons_of(step)

    def _reasons_of(self, step: StepView) -> tuple[Reason, ...]:
        if not _parts(step):
            return ()
        if step.span not in self._reasons:
            self._reasons[step.span] = ()  # steps form no cycle, but records may be damaged
            self._reasons[step.span] = tuple(self._why(step))
        return self._reasons[step.span]

    def _why(self, step: StepView) -> Iterator[Reason]:
        before = self._pairs.get(step.span)
        if step.attributes.get("fresh"):
            yield Reason("fresh")
            return
        if before is None:
            yield Reason("new")
            return
        found = list(self._differences(step, before))
        # what is copied from a directory has its own key, to which the step below adds little
        own = [one for one in found if one.kind != "step"]
        below = [one for one in found if one.kind == "step" and not {*one.roots()} <= {*own}]
        yield from own if own and _copies(step) else [*own, *below]
        if found:
            return
        if before.error or not before.finished:
            yield Reason("failed", before=before.error)
        else:
            yield Reason("evicted")

    def _differences(self, step: StepView, before: StepView) -> Iterator[Reason]:
        old, new = _parts(before), _parts(step)
        if not old:
            yield Reason("unknown")
            return
        instruction = False
        images: list[tuple[str, str, str]] = []
        for name in dict.fromkeys((*new, *old)):
            one, other = new.get(name, ""), old.get(name, "")
            value, _, vertex = one.partition(" ")
            if value == other.partition(" ")[0]:
                continue
            kind, _, rest = name.partition(" ")
            if kind == "variable":
                yield Reason("variable", rest, _presence(other), _presence(one))
            elif kind == "image":
                images.append((rest, other.partition(" ")[0], value))
            elif kind in ("base", "from", "step") and one and other:
                yield self._of_step(name, vertex or one, step)
            elif name in _WRITTEN and step.name != before.name:
                instruction = True
            else:
                shown = name in _SHOWN
                yield Reason("setting", name, other if shown else "", one if shown else "")
        if images:
            yield _of_images(images)
        if instruction:
            yield Reason("instruction", "", before.name, step.name)
        yield from self._of_files(step, before)

    def _of_step(self, name: str, vertex: str, step: StepView) -> Reason:
        below = self._vertexes.get(vertex)
        if below is None or below.span == step.span:
            return Reason("step", name)
        because = self._reasons_of(below)
        if len(because) == 1 and because[0].kind == "step":
            return because[0]  # nobody asks for the steps between
        return Reason("step", below.name, span=below.span, because=because)

    def _of_files(self, step: StepView, before: StepView) -> Iterator[Reason]:
        new, old = _json(step, "files"), _json(before, "files")
        for path in dict.fromkeys((*new, *old)):
            one, other = new.get(path, ""), old.get(path, "")
            if one == other:
                continue
            changes = self._changes(one, other, path) if one and other else []
            yield Reason(
                "files",
                path,
                other,
                one,
                files=tuple(changes[:_FILES]),
                more=max(len(changes) - _FILES, 0),
            )

    def _changes(self, new: str, old: str, path: str) -> list[FileChange]:
        after, before = self._tables.read(new), self._tables.read(old)
        if after is None or before is None:
            return []
        single = [*after] == [*before] == [basename(path)]
        found = _differing(after, before)
        inside = "" if path in (".", "/", "") else f"{path.rstrip('/')}/"
        return [replace(one, path=path if single else f"{inside}{one.path}") for one in found]


def _differing(after: Mapping[str, FileRow], before: Mapping[str, FileRow]) -> list[FileChange]:
    """The files that differ, those first whose content does."""
    changed, added, removed, others = [], [], [], []
    for path, row in after.items():
        was = before.get(path)
        if was is None:
            added.append(FileChange(path, "added"))
        elif S_IFMT(row.mode) != S_IFMT(was.mode):
            changed.append(FileChange(path, "kind"))
        elif row.content != was.content:
            changed.append(FileChange(path, "changed"))
        elif row.mode != was.mode:
            modes = f"{S_IMODE(was.mode):04o}", f"{S_IMODE(row.mode):04o}"
            others.append(FileChange(path, "mode", *modes))
        elif (row.uid, row.gid) != (was.uid, was.gid):
            owners = f"{was.uid}:{was.gid}", f"{row.uid}:{row.gid}"
            others.append(FileChange(path, "owner", *owners))
    removed = [FileChange(path, "removed") for path in before if path not in after]
    return [*changed, *added, *removed, *others]


def _of_images(found: list[tuple[str, str, str]]) -> Reason:
    """One reason for the base image: the same name with another digest, or another name."""
    if len(found) == 1:
        return Reason("image", *found[0])
    new = next((name for name, _, value in found if value), "")
    old = next((name for name, value, _ in found if value), "")
    return Reason("image", new, old, new)


def _copies(step: StepView) -> bool:
    return bool(_json(step, "files"))


def _presence(part: str) -> str:
    return "set" if part else ""


def _parts(step: StepView) -> dict[str, str]:
    return _json(step, "parts")


def _json(step: StepView, name: str) -> dict[str, str]:
    text = step.attributes.get(name, "")
    try:
        found = json.loads(str(text)) if text else {}
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def _pairs(steps: tuple[StepView, ...], others: tuple[StepView, ...]) -> dict[int, StepView]:
    """For each step the one that stands for it in the other run: the one with the same text in the
    same stage, or else the one with the same number.
    """
    by_text: dict[tuple[str, ...], list[StepView]] = defaultdict(list)
    by_place: dict[tuple[str, ...], list[StepView]] = defaultdict(list)
    for one in others:
        by_text[(*_stage(one), one.kind, one.name)].append(one)
    found: dict[int, StepView] = {}
    rest = []
    for step in steps:
        if same := by_text[(*_stage(step), step.kind, step.name)]:
            found[step.span] = same.pop(0)
        else:
            rest.append(step)
    for left in by_text.values():
        for one in left:
            by_place[(*_stage(one), one.kind, one.number.partition("/")[0])].append(one)
    for step in rest:
        if same := by_place[(*_stage(step), step.kind, step.number.partition("/")[0])]:
            found[step.span] = same.pop(0)
    return found


def _stage(step: StepView) -> tuple[str, ...]:
    return step.platform, step.target, step.stage
