"""COPY, ADD and WORKDIR: files placed on top of a snapshot, as one layer.

Two cache keys find an earlier result. The first covers the instruction and the layers it uses; it
needs no files, but exists only where the source is a snapshot. The second covers what would be
written, wherever it comes from: it serves other bases and other platforms, too.
"""

from __future__ import annotations

import posixpath
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, suppress
from functools import partial
from pathlib import Path
from typing import BinaryIO

from msgspec import Struct

from shipline import sandbox
from shipline.build.block_indexes import WORTH_INDEXING
from shipline.build.cache import LayerResult
from shipline.build.graph import CopyOp, MakeDirectoryOp, Op, key_of
from shipline.build.key_digests import files_parts
from shipline.build.placing import CopyAttributes, Placement, octal_mode, parse_mode
from shipline.build.selecting import ContextDirectory, Root, Selected, link_at, select
from shipline.build.snapshots import Snapshot, Snapshots, owned
from shipline.build.worker import Source, StepOptions, Worker
from shipline.errors import ContentError, ShiplineError, UsageError
from shipline.events import Step
from shipline.layer import (
    Contents,
    Entry,
    Item,
    LayeredToc,
    OpenDirectory,
    Tree,
    decompress,
    read_tar,
    resolve,
    scan,
    sniff,
    unpack,
)
from shipline.sandbox import in_user_namespace, remove_tree
from shipline.values import replace

_DIRECTORY = 0o755
_HEAD = 512  # bytes, enough to recognise an archive
_WORTH_NOTING = 16 << 20  # bytes of files; the key of fewer is made before the layer
_WORTH_KEEPING = 16 << 20  # bytes of files; from there on later steps mount the tar of a layer


def instruction_key(op: CopyOp | MakeDirectoryOp, base: Snapshot, sources: Sequence[Source]) -> str:
    """The cache key that needs no files; empty for files of a context that has no pin."""
    if isinstance(op, MakeDirectoryOp):
        return key_of("directory layer/2", op=op.key(), base=base.diff_ids)
    parts = [one.pin if isinstance(one, ContextDirectory) else one.diff_ids for one in sources]
    if "" in parts:
        return ""
    return key_of("copy layer/4", op=op.key(), base=base.diff_ids, sources=parts)


def make_directory(
    op: MakeDirectoryOp, base: Snapshot, worker: Worker, options: StepOptions
) -> LayerResult:
    """WORKDIR: a layer with the directory and its parents, if they are missing."""
    owner = _owner(op.user, "USER ", base, worker.snapshots, options.step)
    now_ns = op.timestamp if op.timestamp >= 0 else worker.clock.copied_ns()
    placement = Placement(worker.snapshots.table(base), owner, now_ns)
    placement.make_directories(placement.resolve(op.path))
    placed = placement.key()
    timestamp = op.timestamp if placed else -1
    key = key_of("directories/2", entries=placed, timestamp=timestamp, **_form(base))
    return _found_or_made(
        key, lambda: _make(placement.items(), "", worker, options), worker, options
    )


def copy(
    op: CopyOp, base: Snapshot, sources: Sequence[Source], worker: Worker, options: StepOptions
) -> LayerResult:
    """COPY and ADD: a layer with the copied files; input 1 of the operation is the first of
    `sources`.
    """
    with ExitStack() as stack:
        planned = _plan(op, base, sources, worker, options, stack)
        result = planned.make_first() or planned.find_or_make()
        planned.note_files()
        return result


def list_files(op: Op, sources: Sequence[Source]) -> None:
    """List the files of contexts that `copy` will need, which keep them. Raises nothing: `copy`
    raises what is wrong with them.
    """
    if not isinstance(op, CopyOp):
        return
    with suppress(ShiplineError):
        for pattern, number in op.inputs_of_sources():
            if isinstance(source := sources[number - 1], ContextDirectory):
                select(source, (pattern,), op.excludes, parents=op.parents)


def _plan(
    op: CopyOp,
    base: Snapshot,
    sources: Sequence[Source],
    worker: Worker,
    options: StepOptions,
    stack: ExitStack,
) -> _PlannedCopy:
    """What `copy` will write; what it mounts and unpacks goes with `stack`. Raises UsageError."""
    snapshots = worker.snapshots
    below = LayeredToc([]) if op.link else snapshots.table(base)
    owner = _owner(op.chown, "--chown=", base, snapshots, options.step)
    placement = Placement(below, owner, worker.clock.copied_ns())
    roots = [_root(source, snapshots, options.origin, stack) for source in sources]
    targets = _targets(op, roots, placement, owner)
    inline = [
        placement.target_of(op.destination, name, contents=False, mode=_made_mode(op))
        for name, _ in op.files
    ]
    archives = any(target.archive for target in targets)
    if not archives:  # a cached layer may be from another base
        _require_room(targets, placement)
    paths = (*(one.path for one in targets), *inline)
    key_parts: dict[str, object] = {
        "texts": op.files,
        "chmod": op.chmod,
        "owner": owner,
        "files": inline,
        "placed": placement.key(),
        "parents": [placement.parents_key(path) for path in paths],
        "base": base.diff_ids if archives else (),
        "stamp": "\n".join(root.stamp for root in roots if isinstance(root, ContextDirectory)),
        **_form(base),
    }
    index_key = _index_key(op, sources)
    return _PlannedCopy(
        op, worker, options, stack, placement, owner, targets, inline, key_parts, index_key
    )


def _form(base: Snapshot) -> dict[str, bool]:
    """What a key has besides for layers that are written otherwise."""
    return {"windows": True} if base.windows else {}


def _targets(
    op: CopyOp, roots: Sequence[Root], placement: Placement, owner: tuple[int, int] | None
) -> list[CopyTarget]:
    """Every source that the patterns select, with the path it goes to; `owner` is of --chown."""
    mode = parse_mode(op.chmod)
    selected = [
        (one, roots[number - 1])
        for pattern, number in op.inputs_of_sources()
        for one in select(roots[number - 1], (pattern,), op.excludes, parents=op.parents)
    ]
    if op.parents:
        placement.target_of(op.destination, "", contents=True, mode=_made_mode(op))
    return [
        _target(op, placement, one, root, CopyAttributes(owner or _default_owner(root), mode))
        for one, root in selected
    ]


def _note_contents(trees: Sequence[Tree]) -> None:
    """Let an index of blocks know the files, where there will be one."""
    if sum(tree.extent[1] for tree in trees) >= WORTH_INDEXING:
        for tree in trees:
            tree.note_contents()


def _index_key(op: CopyOp, sources: Iterable[Source]) -> str:
    """The key of the layers that an instruction makes of different files."""
    places = [str(one.path) for one in sources if isinstance(one, ContextDirectory)]
    return key_of("blocks/1", op=op.key(), places=places)


def _root(source: Source, snapshots: Snapshots, origin: str, stack: ExitStack) -> Root:
    if isinstance(source, Snapshot):
        return Root(stack.enter_context(snapshots.mounted(source)), origin)
    source.open()
    return source


def _found_or_made(
    key: str, make: Callable[[], LayerResult], worker: Worker, options: StepOptions
) -> LayerResult:
    """The layer that was made before, or now."""
    result, was_there = worker.cache.once(key, make, fresh=options.fresh)
    if was_there:
        options.step.cached()
    return result


def _make(
    items: Iterable[Item],
    index_key: str,
    worker: Worker,
    options: StepOptions,
    contents: Contents | None = None,
    beside: Callable[[], object] = lambda: None,
) -> LayerResult:
    """The layer of `items`; `contents` and `beside` as `Worker.make_layer` takes them."""
    if contents is None:
        items = list(items)
        contents = Contents.of(items)
    mountable = options.mountable and contents.size >= _WORTH_KEEPING and not options.windows
    if mountable:
        options.on_start()
    mountable = mountable and worker.snapshots.mounts_tars
    index = index_key if contents.size >= WORTH_INDEXING and not options.windows else ""
    options = replace(options, mountable=mountable, index_key=index)
    return worker.make_layer(items, options, contents=contents, beside=beside)


class CopyTarget(Struct, frozen=True):
    """One source and the `path` it goes to; `archive` is its compression if it is unpacked."""

    source: Selected
    path: str
    archive: str
    attributes: CopyAttributes

    def key(self) -> dict[str, object]:
        """What is copied where, for a cache key; owners in an archive are in the stamp."""
        return {
            "path": self.path,
            "archive": self.archive,
            "directory": self.source.is_directory,
            "context": self.source.is_context,
            "tree": str(self.source.tree.digest(self.owner)),
        }

    @property
    def owner(self) -> tuple[int, int] | None:
        """The owner of all of its files in the key."""
        return self.attributes.owner or ((0, 0) if self.source.owners else None)

    def outline(self) -> dict[str, object]:
        """What of the key is known without reading files."""
        return {
            "path": self.path,
            "directory": self.source.is_directory,
            "context": self.source.is_context,
            "extent": self.source.tree.extent,
        }


class _PlannedCopy(Struct, frozen=True):
    """A COPY or ADD before its files are read: its `targets`, and the paths of files that the
    Dockerfile gives `inline`. `key_parts` is what its keys have in common, `owner` is of --chown.
    """

    op: CopyOp
    worker: Worker
    options: StepOptions
    stack: ExitStack
    placement: Placement
    owner: tuple[int, int] | None
    targets: list[CopyTarget]
    inline: list[str]
    key_parts: dict[str, object]
    index_key: str

    @property
    def trees(self) -> list[Tree]:
        return [target.source.tree for target in self.targets]

    def key(self) -> str:
        """The cache key, with the content of all files; reads those that are not known yet."""
        return key_of("files/3", **self.key_parts, sources=[one.key() for one in self.targets])

    def outline(self) -> str:
        """What of the key is known without reading files."""
        sources = [one.outline() for one in self.targets]
        return key_of("outline/1", **self.key_parts, sources=sources)

    def make_first(self) -> LayerResult | None:
        """The layer, made while its key is: where there is much to read, and no layer with this
        outline was made before. Else None.
        """
        if any(target.archive for target in self.targets):
            return None
        if sum(tree.extent[1] for tree in self.trees if tree.unread()) < _WORTH_NOTING:
            return None
        cache, fresh = self.worker.cache, self.options.fresh
        return cache.make_first(self.outline(), self._make_unread, fresh=fresh)

    def find_or_make(self) -> LayerResult:
        """The layer that was made before, or now."""
        return _found_or_made(self.key(), self._make, self.worker, self.options)

    def note_files(self) -> None:
        """Note in the step what it copied from contexts."""
        local = (one for one in self.targets if one.source.is_context)
        trees = ((one.source.written, one.source.tree, one.owner) for one in local)
        self.options.step.note(files=files_parts(trees, self.worker.tables))

    def _make_unread(self) -> tuple[str, LayerResult]:
        for tree in self.trees:
            tree.note_contents()
        made = self._make()
        return self.key(), made  # trees keep their digests

    def _make(self) -> LayerResult:
        _note_contents(self.trees)
        contents: Contents | None = None
        items: Iterable[Item]
        single = self.targets[0] if len(self.targets) == 1 and not self.inline else None
        if single is not None and _can_stream(single, self.placement):
            contents, items = single.source.tree.contents(), _streamed(single, self.placement)
        else:
            items = self._placed()
        made = _make(items, self.index_key, self.worker, self.options, contents, beside=self.key)
        self.worker.cache.add_outline(self.outline())
        return made

    def _placed(self) -> list[Item]:
        """The layer's items, after every source was placed in turn."""
        for target in self.targets:
            if target.archive:
                self._place_archive(target)
            else:
                _place(target, self.placement)
        attributes = CopyAttributes(self.owner or (0, 0), parse_mode(self.op.chmod))
        for path, (_, text) in zip(self.inline, self.op.files, strict=True):
            content = text.encode("utf-8", "surrogateescape")
            now_ns = self.worker.clock.copied_ns()
            entry = Entry(path, "file", 0o644, 0, 0, len(content), now_ns)
            self.placement.place_one(attributes.of(entry, path), content)
        return list(self.placement.items())

    def _place_archive(self, target: CopyTarget) -> None:
        tree, listed = _unpacked(target, self.worker.temporary("archive"), self.stack)
        _note_contents([tree])
        self.placement.place_archive(target.path, tree.items(), CopyAttributes(self.owner), listed)


def _require_room(targets: Iterable[CopyTarget], placement: Placement) -> None:
    """Raise UsageError where a directory would replace a file, or the reverse."""
    for target in targets:
        if target.source.is_directory:
            placement.require_room(target.path, target.source.tree)


def _target(
    op: CopyOp, placement: Placement, source: Selected, root: Root, attributes: CopyAttributes
) -> CopyTarget:
    remote = isinstance(root, ContextDirectory) and root.remote
    unpacked = op.unpack == "archives" or (op.unpack == "local archives" and not remote)
    archive = _archive(source) if unpacked and not source.is_directory else ""
    destination = op.destination
    if op.parents:
        path = placement.target_of(destination, "", contents=True)
        for entry in source.way:
            placement.place_parent(attributes.of(entry, posixpath.join(path, entry.path)))
        path = posixpath.join(path, source.pivot).rstrip("/")
        return CopyTarget(source, path, "", attributes)
    if archive:
        destination = posixpath.join(destination, "")
    contents = source.is_directory or bool(archive)
    mode = _DIRECTORY if archive else _made_mode(op)
    path = placement.target_of(destination, source.name, contents=contents, mode=mode)
    return CopyTarget(source, path, archive, attributes)


def _made_mode(op: CopyOp) -> int:
    """The mode of created directories: that of an octal --chmod, but not of a symbolic one."""
    octal = octal_mode(op.chmod)
    return _DIRECTORY if octal is None else octal


def _can_stream(target: CopyTarget, placement: Placement) -> bool:
    """Whether `_streamed` can give the layer's items."""
    source = target.source
    streamable = source.is_directory and placement.can_stream(target.path)
    return streamable and not source.tree.has_hard_links


def _streamed(target: CopyTarget, placement: Placement) -> Iterator[Item]:
    """The items of a layer of one target, made while they are used."""
    _touch(target, placement)
    return placement.stream_tree(target.path, target.source.items(), target.attributes)


def _touch(target: CopyTarget, placement: Placement) -> None:
    if target.source.mtime_ns is None:
        placement.renew(target.path)
    else:
        placement.touch(target.path, target.source.mtime_ns)


def _place(target: CopyTarget, placement: Placement) -> None:
    source, attributes = target.source, target.attributes
    if source.is_directory:
        placement.place_tree(target.path, source.items(), attributes)
        _touch(target, placement)
    else:
        for entry, content in source.items():
            placement.place_one(attributes.of(entry, target.path), content)


def _archive(source: Selected) -> str:
    """The compression of a tar archive, empty for another file and for one without entries."""
    if not (source.root / source.path).is_file():
        return ""
    with _opened(source) as file:
        compression = sniff(file.read(_HEAD))
        if compression is None:
            return ""
        file.seek(0)
        try:
            first = next(iter(read_tar(decompress(file, compression))), None)
        except ContentError:
            return ""
    return compression if first else ""


def _opened(source: Selected) -> BinaryIO:
    return open(OpenDirectory(source.root).open(source.path), "rb")


def _unpacked(target: CopyTarget, place: Path, stack: ExitStack) -> tuple[Tree, set[str]]:
    """The files of an archive, and those of its directories that have their own entries."""
    place.mkdir()
    stack.callback(remove_tree, place)
    listed: list[str] = []

    def listing(items: Iterable[Item]) -> Iterator[Item]:
        for entry, content in items:
            if entry.kind == "dir":
                listed.append(entry.path)
            yield entry, content

    with _opened(target.source) as file:
        items = owned(_contained(listing(read_tar(decompress(file, target.archive)))))
        unpack(items, place, whiteouts="keep", devices=not in_user_namespace())
    lookup = partial(link_at, place)
    return scan(place), {resolve(path, lookup, follow_last=False) for path in listed}


def _contained(items: Iterable[Item]) -> Iterator[Item]:
    """The items. Raises ContentError for a path through a link that leaves the archive's root."""
    leaving: set[str] = set()
    for entry, content in items:
        parent = posixpath.dirname(entry.path)
        while parent:
            if parent in leaving:
                raise ContentError(
                    f"the archive has {entry.path!r} below {parent!r}, a link that leads out of it",
                    code="archive-unsafe",
                    hint="such archives overwrite other files: do not trust its source",
                )
            parent = posixpath.dirname(parent)
        if entry.kind == "symlink":
            target = posixpath.normpath(posixpath.join(posixpath.dirname(entry.path), entry.link))
            if target.startswith(".."):
                leaving.add(entry.path)
        yield entry, content


def _owner(
    text: str, written: str, base: Snapshot, snapshots: Snapshots, step: Step
) -> tuple[int, int] | None:
    """The ids of `text` in the image, None for no text; `written` precedes it in messages."""
    if not text:
        return None

    def on_unknown(error: UsageError, instead: str) -> None:
        step.warn(f"{written}{text}: {error.message}; {instead} is used instead", error.hint)

    if not sandbox.needs_files(text):
        return sandbox.owner_of(text, "", "", on_unknown)
    if not base.layers:
        raise UsageError(
            f"{written}{text} cannot be looked up: the image has no files yet",
            code="user-unknown",
            hint="write numeric ids, or copy other files first",
        )
    with snapshots.mounted(base) as root:
        return sandbox.find_owner(root, text, on_unknown)


def _default_owner(root: Root) -> tuple[int, int] | None:
    """Files of a context become root's; files of a stage, image or archive keep their owner."""
    return (0, 0) if isinstance(root, ContextDirectory) and not root.owners else None
