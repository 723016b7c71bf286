"""Reading caches outside of this machine: their documents are searched once, before the first step
runs. A step whose result is found there needs neither its inputs nor the bytes of its layer, until
another step does.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial

from msgspec import Struct

from shipline.build.base_images import BaseImage
from shipline.build.blobs import Blobs
from shipline.build.cache import LayerResult
from shipline.build.caching.document import CacheDocument, CachedResult, CacheKey
from shipline.build.caching.keys import KeyMaker, result_key
from shipline.build.caching.mounts import mount_key
from shipline.build.graph import ImageOp, ScratchOp, Vertex, walk
from shipline.build.request import CacheBackend
from shipline.content import CacheReader, RepositoryCache
from shipline.errors import ShiplineError
from shipline.events import Step
from shipline.layer import Layer
from shipline.oci import Descriptor
from shipline.tasks import Once, TaskGroup, time_limit

_AT_ONCE = 8  # requests
PATIENCE_S = 10.0
"""How long a cache may take to answer; documents are read while the build is planned."""

_HINT = "the build continues without it"


class RemoteCache(Struct, frozen=True):
    """A cache that was read: its documents, and where their layers are."""

    name: str
    reader: CacheReader
    document: CacheDocument
    mounts: bool = False


def read_caches(
    sources: Iterable[tuple[CacheBackend, CacheReader]], step: Step
) -> list[RemoteCache]:
    """The caches that can be read, in their order; others are warnings."""
    with TaskGroup(_AT_ONCE) as group:
        tasks = [group.start(_read, backend, reader, step) for backend, reader in sources]
    return [found for task in tasks if (found := task.result()) is not None]


def _read(backend: CacheBackend, reader: CacheReader, step: Step) -> RemoteCache | None:
    document, name = CacheDocument(), str(backend)
    with step.step(f"read {name}", kind="cache") as reading:
        try:
            with time_limit(PATIENCE_S):
                documents = reader.documents()
            if not documents:
                reading.output(b"there is no cache yet\n")
            for raw in documents:
                document.merge(CacheDocument.parse(raw))
        except ShiplineError as error:
            step.warn(f"{name} cannot be read: {error.message}", error.hint or _HINT)
            return None
        except OSError as error:
            step.warn(f"{name} cannot be read: {error.strerror or error}", _HINT)
            return None
    return RemoteCache(name, reader, document, backend.mounts)


class CacheLookup:
    """Finds the results of vertices, so that all of them fit together: those that are `known` here,
    by the identity of a key, and those of caches.
    """

    def __init__(
        self,
        caches: Sequence[RemoteCache],
        maker: KeyMaker,
        images: Mapping[ImageOp, BaseImage],
        blobs: Blobs,
        step: Step,
        known: Callable[[str], Sequence[LayerResult]] = lambda identity: (),
    ) -> None:
        self._known_here = known
        self._caches = caches
        self._maker = maker
        self._images = images
        self._blobs = blobs
        self._step = step
        self._available: Once[bool] = Once()
        self._failed: set[str] = set()
        self._known: dict[Vertex, LayerResult] = {}
        self._searching = threading.Lock()

    def results(self, *roots: Vertex) -> Mapping[Vertex, LayerResult]:
        """The layers of vertices that `roots` need, and below each those of the vertices that it
        stands on.
        """
        fresh: set[Vertex] = set()
        for vertex in walk(*roots):
            if vertex.fresh or any(one in fresh for one in vertex.inputs):
                fresh.add(vertex)
        waiting, seen = [*roots], set[Vertex]()
        while waiting:
            vertex = waiting.pop(0)
            if vertex in seen or vertex in self._known or not vertex.inputs:
                continue
            seen.add(vertex)
            if vertex not in fresh:
                if self._find(vertex):
                    continue
                if self._find_linked(vertex):
                    waiting.append(vertex.inputs[0])
                    continue
            waiting += vertex.inputs
        return self._known

    def mount(self, name: str) -> Layer | None:
        """The newest layer with the content of a cache mount."""
        found = self._single(mount_key(name), (one for one in self._caches if one.mounts))
        return None if found is None else found.layer

    def result(self, key: str) -> LayerResult | None:
        """The newest layer that came out of the work with this key (`cache.Cache`)."""
        return self._single(result_key(key, self._maker.variant), self._caches)

    def _single(self, key: CacheKey, caches: Iterable[RemoteCache]) -> LayerResult | None:
        """The newest layer that stands alone under `key`."""
        with self._searching:
            found = [(result, one) for one in caches for result in one.document.find(key)]
        for result, cache in sorted(found, key=lambda one: one[0].age, reverse=True):
            if len(result.layers) == 1 and self._is_available(result.layers[0].layer, cache):
                return result.layers[0]
        return None

    def _find(self, vertex: Vertex) -> bool:
        """Whether a result was found for the vertex and for everything below it."""
        *steps, bottom = vertex.chain()
        if isinstance(bottom.op, ImageOp):
            base = self._images[bottom.op].layers
        elif isinstance(bottom.op, ScratchOp):
            base = ()
        else:
            return False
        steps.reverse()
        keys = self._maker.keys(vertex)
        if any(self._accept(steps, self._known_here(key.identity)) for key in keys):
            return True
        found = [
            (result, cache)
            for cache in self._caches
            for key in keys
            for result in cache.document.find(key)
        ]
        for result, cache in sorted(found, key=lambda one: one[0].age, reverse=True):
            if self._accept_remote(steps, base, result, cache):
                return True
        return False

    def _find_linked(self, vertex: Vertex) -> bool:
        """Whether the layer of a COPY --link was found, which is the same on any base."""
        for key in self._maker.linked(vertex):
            known = self._known_here(key.identity)
            if len(known) == 1 and self._accept([vertex], known):
                return True
            found = self._single(key, self._caches)
            if found is not None and self._accept([vertex], [found]):
                return True
        return False

    def _accept(self, steps: Sequence[Vertex], added: Sequence[LayerResult]) -> bool:
        """Whether there is one layer for each step, which agree with what is known of these steps;
        they are known then.
        """
        if not self._agrees(steps, added):
            return False
        for vertex, one in zip(steps, added, strict=True):
            self._known.setdefault(vertex, one)
        return True

    def _agrees(self, steps: Sequence[Vertex], added: Sequence[LayerResult]) -> bool:
        return len(steps) == len(added) and all(
            vertex not in self._known or self._known[vertex].layer.diff_id == one.layer.diff_id
            for vertex, one in zip(steps, added, strict=True)
        )

    def _accept_remote(
        self,
        steps: Sequence[Vertex],
        base: Sequence[Layer],
        result: CachedResult,
        cache: RemoteCache,
    ) -> bool:
        """Whether the layers stand on top of `base`, can be had, and are accepted."""
        added = result.layers[len(base) :]
        below = [one.layer.diff_id for one in result.layers[: len(base)]]
        if below != [one.diff_id for one in base] or not self._agrees(steps, added):
            return False
        with TaskGroup(_AT_ONCE) as group:
            checks = [group.start(self._is_available, one.layer, cache) for one in added]
        return all(check.result() for check in checks) and self._accept(steps, added)

    def _is_available(self, layer: Layer, cache: RemoteCache) -> bool:
        return self._available.get((layer, cache.name), partial(self._check, layer, cache))

    def _check(self, layer: Layer, cache: RemoteCache) -> bool:
        target = layer.descriptor
        if not self._blobs.store.exists(target) and not self._has(cache, target):
            return False
        reader = cache.reader
        source = reader.origin if isinstance(reader, RepositoryCache) else reader
        self._blobs.offer(target, source, cache.name)
        return self._blobs.claim(layer, cache.name)

    def _has(self, cache: RemoteCache, target: Descriptor) -> bool:
        """Whether the cache has the content; one that fails is not asked again."""
        if cache.name in self._failed:
            return False
        try:
            with time_limit(PATIENCE_S):
                return cache.reader.exists(target)
        except (ShiplineError, TimeoutError) as error:
            first = cache.name not in self._failed
            self._failed.add(cache.name)
            if first:
                said, hint = (
                    (error.message, error.hint)
                    if isinstance(error, ShiplineError)
                    else (str(error), "")
                )
                self._step.warn(f"{cache.name} cannot be used: {said}", hint or _HINT)
            return False
