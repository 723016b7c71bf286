"""COPY, ADD and WORKDIR: files placed on top of a snapshot, as one layer.

Two keys find an earlier result. The first is what the instruction says and what it stands on; it
costs nothing to compute, but only serves where the sources are a snapshot. The second is what
would be written, wherever it came from: it serves other bases and other platforms too.
"""

from __future__ import annotations

import os
import posixpath
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from shipline.build.cache import LayerResult, alone
from shipline.build.graph import CopyOp, MakeDirectoryOp, key_of
from shipline.build.placing import CopyAttributes, Placement, octal_mode, parse_mode
from shipline.build.selecting import Root, Selected, select
from shipline.build.snapshots import Snapshot, owned
from shipline.build.workshop import ContextDirectory, Follower, Result, Worker, worth_mounting
from shipline.errors import ContentError, UsageError
from shipline.events import Step
from shipline.layer import (
    Entry,
    Item,
    LayeredToc,
    Tree,
    decompress,
    read_tar,
    scan,
    sniff,
    unpack,
)
from shipline.sandbox import find_owner, in_user_namespace, remove_tree

_DIRECTORY = 0o755
_HEAD = 512  # bytes that tell an archive


@dataclass(frozen=True, slots=True)
class StepOptions:
    """What becomes of a step's layer; `origin` is how messages call what it copies from."""

    follower: Follower | None
    mountable: bool
    fresh: bool
    step: Step
    origin: str = "the stage or image"


def quick_key(op: CopyOp | MakeDirectoryOp, base: Snapshot, source: Result | None) -> str:
    """The key that needs no bytes; empty for files of a context."""
    if isinstance(op, MakeDirectoryOp):
        return key_of("directory layer/1", op=op.key(), base=base.diff_ids)
    if isinstance(source, ContextDirectory):
        return ""
    layers = source and source.diff_ids
    return key_of("copy layer/1", op=op.key(), base=base.diff_ids, source=layers)


def make_directory(
    op: MakeDirectoryOp, base: Snapshot, shop: Worker, use: StepOptions
) -> LayerResult:
    """WORKDIR: the directory and its parents, as far as they are missing."""
    key = quick_key(op, base, None)
    if made := _cached(key, shop, use):
        return made
    if not base.layers and not op.user.partition(":")[0].isdecimal() and op.user:
        raise UsageError(
            f"WORKDIR cannot look up user {op.user!r}: there is no file to look in yet",
            hint="write the numeric id, or WORKDIR behind the first COPY",
        )
    owner = _owner(op.user, "USER ", base, shop, use.step)
    placement = Placement(shop.snapshots.table(base), owner, shop.clock.now_ns())
    placement.make_directories(placement.resolve(op.path))
    content = key_of("directories/1", entries=placement.key())
    return _once(content, (key,), shop, use, lambda: list(placement.items()))


def copy(
    op: CopyOp, base: Snapshot, source: Result | None, shop: Worker, use: StepOptions
) -> LayerResult:
    """COPY and ADD."""
    quick: tuple[str, ...] = ()
    if key := quick_key(op, base, source):
        quick = (key,)
        if made := _cached(key, shop, use):
            return made
    with ExitStack() as stack:
        below = LayeredToc([]) if op.link else shop.snapshots.table(base)
        owner = _owner(op.chown, "--chown=", base, shop, use.step)
        placement = Placement(below, owner, shop.clock.now_ns())
        selected: list[Selected] = []
        if source is not None:
            root = _root(source, shop, stack, use)
            selected = select(root, op.sources, op.excludes, parents=op.parents)
        look = CopyAttributes(owner or _default_owner(source), parse_mode(op.chmod))
        if op.parents:
            placement.target_of(op.destination, "", contents=True, mode=_made_mode(op))
        goals = [_goal(op, placement, one, look) for one in selected]
        files = [
            placement.target_of(op.destination, name, contents=False, mode=_made_mode(op))
            for name, _ in op.files
        ]
        archives = any(goal.archive for goal in goals)
        if not archives:  # what is found below may have been made for a base that has room
            _require_room(goals, placement)
        content = key_of(
            "files/1",
            texts=op.files,
            chmod=op.chmod,
            owner=owner,
            sources=[goal.key(look.owner) for goal in goals],
            files=files,
            placed=placement.key(),
            ways=[placement.way_key(path) for path in (*(one.target for one in goals), *files)],
            base=base.diff_ids if archives else (),
            stamp=source.stamp if isinstance(source, ContextDirectory) else "",
        )

        def items() -> list[Item]:
            for goal in goals:
                _place(goal, placement, look, owner, shop, stack)
            for target, (_, text) in zip(files, op.files, strict=True):
                _place_text(target, text, placement, look, shop)
            return list(placement.items())

        return _once(content, quick, shop, use, items)


@dataclass(frozen=True, slots=True)
class CopyTarget:
    """One source and where it goes; `archive` is how it is compressed if it is to be unpacked."""

    source: Selected
    target: str
    archive: str

    def key(self, owner: tuple[int, int] | None) -> dict[str, object]:
        """What is copied and where, for a cache key; `owner` None keeps the owners of files."""
        return {
            "target": self.target,
            "archive": self.archive,
            "directory": self.source.is_directory,
            "context": self.source.is_context,
            "tree": str(self.source.tree.digest(owner)),
        }


def _require_room(goals: Iterable[CopyTarget], placement: Placement) -> None:
    """Raise UsageError where a directory and a file would meet, before a cached layer is taken."""
    for goal in goals:
        if goal.source.is_directory:
            placement.require_room(goal.target, goal.source.tree)


def _goal(op: CopyOp, placement: Placement, source: Selected, look: CopyAttributes) -> CopyTarget:
    archive = _archive(source) if op.unpack == "archives" and not source.is_directory else ""
    destination = op.destination
    if op.parents:
        target = placement.target_of(destination, "", contents=True)
        for entry in source.way:
            placement.place_parent(look.of(entry, posixpath.join(target, entry.path)))
        return CopyTarget(source, posixpath.join(target, source.pivot).rstrip("/"), "")
    if archive:
        destination = posixpath.join(destination, "")
    contents = source.is_directory or bool(archive)
    mode = _DIRECTORY if archive else _made_mode(op)
    target = placement.target_of(destination, source.name, contents=contents, mode=mode)
    return CopyTarget(source, target, archive)


def _made_mode(op: CopyOp) -> int:
    """The mode of directories that are made: an octal --chmod is theirs too, another is not."""
    octal = octal_mode(op.chmod)
    return _DIRECTORY if octal is None else octal


def _place(
    goal: CopyTarget,
    placement: Placement,
    look: CopyAttributes,
    owner: tuple[int, int] | None,
    shop: Worker,
    stack: ExitStack,
) -> None:
    if goal.archive:
        tree = _unpacked(goal, shop, stack)
        placement.place_archive(goal.target, tree.items(), CopyAttributes(owner))
    elif goal.source.is_directory:
        placement.place_tree(goal.target, goal.source.items(), look)
        if goal.source.mtime_ns is not None:
            placement.touch(goal.target, goal.source.mtime_ns)
    else:
        for entry, content in goal.source.items():
            placement.place_one(look.of(entry, goal.target), content)


def _place_text(
    target: str, text: str, placement: Placement, look: CopyAttributes, shop: Worker
) -> None:
    content = text.encode("utf-8", "surrogateescape")
    entry = Entry(target, "file", 0o644, 0, 0, len(content), shop.clock.now_ns())
    placement.place_one(look.of(entry, target), content)


def _archive(source: Selected) -> str:
    """How the archive is compressed, empty where the file is no tar archive."""
    place = source.root / source.path
    if not place.is_file():
        return ""
    with place.open("rb") as file:
        compression = sniff(file.read(_HEAD))
        if compression is None:
            return ""
        file.seek(0)
        try:
            next(iter(read_tar(decompress(file, compression))), None)
        except ContentError:
            return ""
    return compression


def _unpacked(goal: CopyTarget, shop: Worker, stack: ExitStack) -> Tree:
    place = shop.scratch / f"archive-{os.urandom(6).hex()}"
    place.mkdir()
    stack.callback(remove_tree, place)
    with (goal.source.root / goal.source.path).open("rb") as file:
        items = owned(_contained(read_tar(decompress(file, goal.archive))))
        unpack(items, place, whiteouts="keep", devices=not in_user_namespace())
    return scan(place)


def _contained(items: Iterable[Item]) -> Iterator[Item]:
    """The items. Raises ContentError for a way through a link that leaves the archive's root."""
    leaving: set[str] = set()
    for entry, content in items:
        parent = posixpath.dirname(entry.path)
        while parent:
            if parent in leaving:
                raise ContentError(
                    f"the archive reaches {entry.path!r} through the link {parent!r}, which"
                    " leads out of it",
                    hint="it was made to overwrite other files; do not trust where it came from",
                )
            parent = posixpath.dirname(parent)
        if entry.kind == "symlink":
            target = posixpath.normpath(posixpath.join(posixpath.dirname(entry.path), entry.link))
            if target.startswith(".."):
                leaving.add(entry.path)
        yield entry, content


def _cached(key: str, shop: Worker, use: StepOptions) -> LayerResult | None:
    made = None if use.fresh else shop.cache.get(key)
    if made is not None:
        use.step.cached()
    return made


def _once(
    content: str,
    quick: tuple[str, ...],
    shop: Worker,
    use: StepOptions,
    items: Callable[[], list[Item]],
) -> LayerResult:
    """The layer for `content`: from the cache, from a step that is making it now, or made."""

    def make() -> tuple[LayerResult, bool]:
        if made := _cached(content, shop, use):
            shop.cache.put(made, *quick)
            return made, True
        if use.fresh:
            return make_new(), False
        with alone(shop.state, content):
            if made := _cached(content, shop, use):  # another process made it meanwhile
                shop.cache.put(made, *quick)
                return made, True
            return make_new(), False

    def make_new() -> LayerResult:
        found = items()
        mountable = use.mountable and worth_mounting(entry for entry, _ in found)
        made = shop.make_layer(found, follower=use.follower, mountable=mountable)
        shop.cache.put(made, content, *quick)
        return made

    made, was_there = shop.making.get((content, use.fresh), make)
    if was_there:
        use.step.cached()
    return made


def _root(source: Result, shop: Worker, stack: ExitStack, use: StepOptions) -> Root:
    if isinstance(source, ContextDirectory):
        return Root(
            source.path,
            f"the {source.name}",
            source.prune,
            source.cache,
            True,
            source.trees,
            source.rules,
        )
    return Root(stack.enter_context(shop.snapshots.mounted(source)), use.origin)


def _owner(
    text: str, written: str, base: Snapshot, shop: Worker, step: Step
) -> tuple[int, int] | None:
    """The ids that `text` means in the image, None for no text; `written` is what stood before."""
    if not text:
        return None
    user, _, group = text.partition(":")
    if user.isdecimal() and (group.isdecimal() or not group):
        return int(user), int(group or user)
    with shop.snapshots.mounted(base) as root:
        try:
            return find_owner(root, text)
        except UsageError as error:  # BuildKit takes root for a name that it cannot find
            step.warn(f"{written}{text}: {error.message}; root is taken instead", error.hint)
            return find_owner(root, user) if group and _is_known(root, user) else (0, 0)


def _is_known(root: Path, user: str) -> bool:
    try:
        find_owner(root, user)
    except UsageError:
        return False
    return True


def _default_owner(source: Result | None) -> tuple[int, int] | None:
    """Files of a context belong to root; files of a stage or image keep their owner."""
    return None if isinstance(source, Snapshot) else (0, 0)
