"""The caches outside of this machine that one build reads and writes."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from shipline.build import caching
from shipline.build.assembly import Recoder
from shipline.build.base_images import BaseImage
from shipline.build.blobs import Blobs, BrokenCache
from shipline.build.cache import Cache, LayerResult
from shipline.build.caching.mounts import CacheMounts, mount_key
from shipline.build.graph import ImageOp, Vertex, walk
from shipline.build.request import CacheSettings
from shipline.build.selecting import ContextDirectory
from shipline.build.snapshots import Snapshot
from shipline.build.stages import StageState
from shipline.content import INLINE_CACHE, OpenCache
from shipline.events import Step
from shipline.layer import Codec, Layer
from shipline.tasks import Task, TaskGroup
from shipline.values import replace

if TYPE_CHECKING:
    from shipline.build.caching.export import CacheEntry, CacheExport, CacheStream, Stack
    from shipline.build.caching.keys import KeyMaker
    from shipline.build.caching.lookup import RemoteCache

Known = Mapping[Vertex, LayerResult]


class Solved(Protocol):
    """What a Solver knows at the end of a build."""

    def is_solved(self, vertex: Vertex) -> bool: ...

    def layers(self, root: Vertex) -> Iterable[tuple[Layer, LayerResult | None]]: ...


class RemoteCaches:
    """What --cache-from and --cache-to ask for; `mounts` are the cache mounts of steps.

    Opening makes no request.

    Raises UsageError for attributes that a type of cache does not have.
    """

    def __init__(
        self, options: CacheSettings, open_cache: OpenCache, blobs: Blobs, scratch: Path, step: Step
    ) -> None:
        self._step = step
        self._sources = [
            (one, open_cache(one.type, one.attributes))
            for one in (() if options.disabled else options.sources)
        ]
        self._targets = [
            (one, open_cache(one.backend.type, one.backend.attributes))
            for one in options.targets
            if one.backend.type != "inline"
        ]
        self._inline = any(one.backend.type == "inline" for one in options.targets)
        self._blobs = blobs
        self._maker: KeyMaker | None = None
        self._export: CacheExport | None = None
        self._published: set[Vertex] = set()
        self._cache: Cache | None = None
        self._group: TaskGroup | None = None
        self.mounts = CacheMounts(blobs, scratch)

    @property
    def wanted(self) -> bool:
        """Whether the build has caches outside of this machine."""
        return bool(self._sources or self._targets or self._inline)

    @property
    def required(self) -> bool:
        """Whether the build fails where a cache cannot be written."""
        return any(target.required for target, _ in self._targets)

    def start_reading(self, group: TaskGroup) -> Task[list[RemoteCache]]:
        """Read the documents of all caches, while the build is planned."""
        if self._sources:
            return group.start(caching.read_caches, self._sources, self._step)
        nothing: Task[list[RemoteCache]] = Task()
        nothing.settle(([],))
        return nothing

    def find(
        self,
        caches: Sequence[RemoteCache],
        roots: Sequence[Vertex],
        images: Mapping[ImageOp, BaseImage],
        contexts: Mapping[Vertex, ContextDirectory],
        *,
        variant: str,
        at_once: bool,
    ) -> Known:
        """The results that need not be made. With `at_once`, their layers are here when this
        returns, as for a build that cannot start again.
        """
        self._maker = caching.KeyMaker(images, contexts, variant)
        if not caches:
            assert self._group is not None
            self._group.start(self._make_keys, roots)
            return {}
        assert self._cache is not None
        lookup = caching.CacheLookup(
            caches, self._maker, images, self._blobs, self._step, self._cache.known
        )
        self.mounts.find = lookup.mount
        self._cache.remote = lookup.result
        found = lookup.results(*roots)
        return self._fetched(found) if at_once else found

    def _make_keys(self, roots: Iterable[Vertex]) -> None:
        """Read the files of contexts while steps read them, not when the build ends."""
        assert self._maker is not None
        for root in roots:
            self._maker.keys(root)

    def _fetched(self, found: Known) -> Known:
        try:
            with TaskGroup(4) as group:
                for one in found.values():
                    group.start(self._blobs.require, one.layer.descriptor)
        except BrokenCache as error:
            self._step.warn(error.message, error.hint)
            return {}
        return found

    def start(
        self,
        group: TaskGroup,
        roots: Iterable[Vertex],
        recoder: Recoder,
        cache: Cache,
        codec: Codec,
        pushed: Collection[str],
    ) -> None:
        """Send layers in `group` from now on; `cache` has the results of the build by key, `codec`
        makes new layers, `pushed` are the names of the repositories that get them anyway.
        """
        self._cache = cache
        self._group = group
        self._published.update(vertex for root in roots for vertex in root.chain())
        self._export = caching.CacheExport(
            self._targets, group, self._blobs, recoder, self._step, codec, pushed
        )

    def followers(self, published: bool) -> Iterator[CacheStream]:
        """Who gets the bytes of a layer while it is made."""
        if self._export is not None and (stream := self._export.stream(published=published)):
            yield stream

    def on_result(self, vertex: Vertex, base: Snapshot, added: LayerResult) -> None:
        """Send the layer that a vertex added, and those of a base image right below it."""
        if self._export is not None and self._targets:
            below: Stack = ()
            if isinstance(vertex.inputs[0].op, ImageOp):
                below = tuple((layer, None) for layer in base.layers)
            layers = (*below, (added.layer, added))
            self._export.send(layers, published=vertex in self._published)

    def finish(
        self, roots: Sequence[Vertex], solved: Solved, codec: Codec, now: Callable[[], str]
    ) -> None:
        """Remember what this machine has, write the documents, and the directories of cache mounts
        as layers of `codec`. Raises the error of a cache that is required.
        """
        if self._export is None or self._maker is None:
            return
        unchanged = self._maker.read.are_unchanged()
        if unchanged:
            self._remember(roots, solved)
        if not self._targets:
            return
        if not unchanged:
            self._step.warn(
                "caches were not written: files in the context changed during the build",
                "build again",
            )
            return
        entries = [*self._entries(roots, solved), *self._own_entries(roots, solved)]
        if self._export.wants_mounts:
            for name, one in self.mounts.layers(codec, now()):
                entries.append(
                    caching.CacheEntry((mount_key(name),), ((one.layer, one),), True, mount=True)
                )
        self._export.finish(entries)

    def _remember(self, roots: Sequence[Vertex], solved: Solved) -> None:
        """Results of this machine win over those that caches have for the same work later."""
        assert self._maker is not None and self._cache is not None
        self._cache.keep_verified(self._blobs.is_verified)
        for vertex in walk(*roots):
            if vertex.inputs and solved.is_solved(vertex):
                own = [result for _, result in solved.layers(vertex) if result is not None]
                identities = [key.identity for key in self._maker.keys(vertex)]
                if own and identities:
                    self._cache.know(identities, own)
                linked = [key.identity for key in self._maker.linked(vertex)]
                if own and linked:
                    self._cache.know(linked, own[-1:])

    def with_inline(self, stage: StageState, layers: Sequence[Layer], solved: Solved) -> StageState:
        """The stage; its image has its own cache if that is wanted, never that of its base."""
        extra = {key: one for key, one in stage.image.extra.items() if key != INLINE_CACHE}
        if self._inline:
            text = caching.inline_cache(self._entries([stage.vertex], solved), layers)
            extra |= {INLINE_CACHE: text} if text else {}
        return replace(stage, image=replace(stage.image, extra=extra))

    def _own_entries(self, roots: Sequence[Vertex], solved: Solved) -> Iterator[CacheEntry]:
        """The layers of steps by the keys of this machine."""
        assert self._maker is not None and self._cache is not None
        published = {layer.diff_id for root in roots for layer, _ in solved.layers(root)}
        steps = {
            layer.descriptor.digest: result
            for vertex in walk(*roots)
            if vertex.inputs and solved.is_solved(vertex)
            for layer, result in solved.layers(vertex)
            if result is not None
        }
        for key, one in self._cache.used.items():
            if one.layer.descriptor.digest in steps:
                own = caching.result_key(key, self._maker.variant)
                is_published = one.layer.diff_id in published
                yield caching.CacheEntry((own,), ((one.layer, one),), is_published)

    def _entries(self, roots: Sequence[Vertex], solved: Solved) -> list[CacheEntry]:
        assert self._maker is not None
        entries = []
        for vertex in walk(*roots):
            if not vertex.inputs or not (keys := self._maker.keys(vertex)):
                continue
            layers = tuple(solved.layers(vertex)) if solved.is_solved(vertex) else ()
            published = vertex in self._published
            entries.append(caching.CacheEntry(keys, layers, published))
            if linked := self._maker.linked(vertex):
                entries.append(caching.CacheEntry(linked, layers[-1:], published))
        return entries
