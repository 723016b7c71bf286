"""Writing caches outside of this machine: the layer of each step is sent while it is made, or when
the step ends where a cache names blobs by their digest from the beginning (gha, s3, azblob). The
documents follow at the end.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

from msgspec import Struct

from shipline.build.assembly import Recoder, fits
from shipline.build.blobs import Blobs, BrokenCache
from shipline.build.cache import LayerResult
from shipline.build.caching.document import CacheDocument, CachedResult, CacheKey
from shipline.build.publish import show_status, stream
from shipline.build.request import CacheTarget
from shipline.content import CacheStore, Follow, LocalIngest, RepositoryCache
from shipline.errors import Cancelled, ContentError, RegistryError, ShiplineError
from shipline.events import Step
from shipline.layer import Codec, Layer
from shipline.oci import Descriptor, Digest, from_bytes
from shipline.tasks import Once, TaskGroup, check

_AT_ONCE = 4  # layers of cache mounts

Stack = tuple[tuple[Layer, LayerResult | None], ...]
"""The layers of a root filesystem, bottom first, each with the result of the step that added it,
None for those of a base image."""


class CacheEntry(Struct, frozen=True):
    """The work of a vertex: its keys, and what came out of it, empty where that is not known.
    `published` says whether its layers are in the result of the build, `mount` that they are the
    directory of a cache mount.
    """

    keys: tuple[CacheKey, ...]
    layers: Stack
    published: bool
    mount: bool = False


class CacheExport:
    """Sends the layers of steps to caches as they are made, in `group`; `finish` writes the
    documents. A cache that fails gets nothing more, and is reported at the end.
    """

    def __init__(
        self,
        targets: Sequence[tuple[CacheTarget, CacheStore]],
        group: TaskGroup,
        blobs: Blobs,
        recoder: Recoder,
        step: Step,
        codec: Codec,
        pushed: Collection[str] = (),
    ) -> None:
        """New layers are made with `codec`; `pushed` are repositories that get the layers of the
        result anyway.
        """
        self._codec = codec
        self._pushed = pushed
        self._followed: set[tuple[CacheTarget, Digest]] = set()
        self._later: list[tuple[CacheTarget, CacheStore, Layer, LayerResult | None]] = []
        self._targets = targets
        self._group = group
        self._blobs = blobs
        self._recoder = recoder
        self._step = step
        self._once: Once[None] = Once()
        self._failures: dict[CacheTarget, ShiplineError] = {}

    def send(self, layers: Stack, *, published: bool) -> None:
        """Send layers to the caches that need them; to a repository that the result is pushed to
        only when that is done.
        """
        for target, store in self._wanting(published):
            for layer, result in layers:
                if (target, layer.descriptor.digest) in self._followed:
                    continue
                if published and self._is_pushed(store):
                    self._later.append((target, store, layer, result))
                else:
                    self._group.start(self._push, target, store, layer, result)

    def stream(self, *, published: bool) -> CacheStream | None:
        """A stream that sends a layer while it is made, to the caches that accept one."""
        found = [
            (target, store)
            for target, store in self._wanting(published)
            if isinstance(store, RepositoryCache)
            and fits(target.format, self._codec.name, self._codec.level)
            and not (published and self._is_pushed(store))
        ]
        return CacheStream(self, found) if found else None

    def _wanting(self, published: bool) -> Iterator[tuple[CacheTarget, CacheStore]]:
        return (one for one in self._targets if published or one[0].mode == "max")

    def _is_pushed(self, store: CacheStore) -> bool:
        return isinstance(store, RepositoryCache) and store.name in self._pushed

    def follow(self, target: CacheTarget, store: RepositoryCache, ingest: LocalIngest) -> None:
        """Send a layer while it is made; `completed` follows."""
        self._group.start(self._follow, target, store, ingest.follow())

    def completed(self, target: CacheTarget, layer: Descriptor) -> None:
        """Remember that a layer that was followed is complete."""
        self._followed.add((target, layer.digest))

    def _follow(self, target: CacheTarget, store: RepositoryCache, follow: Follow) -> None:
        with follow, self._failing(target):
            try:
                name = f"upload to {target.backend}"
                sent = target not in self._failures and stream(
                    follow, store.origin, self._step, name
                )
                layer = follow.wait()
                deliver = partial(self._deliver, target, store, layer)
                self._once.get((target, layer.digest), (lambda: None) if sent else deliver)
            except Cancelled:
                check()  # else the layer was abandoned: its writer raises the reason

    @property
    def wants_mounts(self) -> bool:
        """Whether a cache takes the directories of cache mounts."""
        return any(target.backend.mounts for target, _ in self._targets)

    def _push(
        self, target: CacheTarget, store: CacheStore, layer: Layer, result: LayerResult | None
    ) -> None:
        with self._failing(target):
            if target not in self._failures:
                recoded = self._recoder.recode(layer, result, target.format).descriptor
                deliver = partial(self._deliver, target, store, recoded)
                self._once.get((target, recoded.digest), deliver)

    @contextmanager
    def _failing(self, target: CacheTarget) -> Iterator[None]:
        """Notes errors with the cache."""
        try:
            yield
        except BrokenCache:
            raise
        except ShiplineError as error:
            self._failures.setdefault(target, error)
        except OSError as error:
            self._failures.setdefault(target, _failed(error))

    def _deliver(self, target: CacheTarget, store: CacheStore, layer: Descriptor) -> None:
        if store.exists(layer):
            return
        origin = self._blobs.origin(layer.digest)
        if origin is not None and isinstance(store, RepositoryCache) and store.mount(layer, origin):
            return
        name = f"upload {layer.digest.short} to {target.backend}"
        blob = str(layer.digest)
        with self._step.step(name, kind="upload", size=layer.size, blob=blob) as step:
            moved = 0

            def advance(count: int) -> None:
                nonlocal moved
                moved += count
                step.progress(moved, layer.size)

            store.push(layer, self._blobs, advance)

    def finish(self, entries: Sequence[CacheEntry]) -> None:
        """Write the documents, after everything was sent. Raises the error of a cache that is
        required; others are warnings.
        """
        with TaskGroup(_AT_ONCE) as group:
            for later in self._later:
                group.start(self._push, *later)
            for target, store in self._targets:
                for one in entries:
                    if one.mount and target.backend.mounts:
                        group.start(self._push, target, store, *one.layers[0])
        with TaskGroup() as group:
            for target, store in self._targets:
                group.start(self._finish, target, store, entries)
        for target, error in self._failures.items():
            if target.required:
                raise error
            self._step.warn(f"{target.backend} was not written: {error.message}", error.hint)

    def _finish(
        self, target: CacheTarget, store: CacheStore, entries: Sequence[CacheEntry]
    ) -> None:
        if target in self._failures:
            return
        with self._failing(target):
            document = self._document(target, entries)
            with self._step.step(f"write {target.backend}", kind="cache") as writing:
                if not any(document.results()):
                    show_status("skipping cache export for empty result", writing)
                    return
                try:
                    store.update(partial(self._merged, target, document))
                except RegistryError:  # such as one that misses blobs of the present document
                    store.update(lambda _: document.dump())

    def _document(self, target: CacheTarget, entries: Iterable[CacheEntry]) -> CacheDocument:
        document = CacheDocument()
        for entry in entries:
            result = None
            if entry.mount and not target.backend.mounts:
                continue
            if entry.layers and (entry.published or target.mode == "max"):
                result = cached_result(
                    (self._recoder.recode(layer, added, target.format), added)
                    for layer, added in entry.layers
                )
            for key in entry.keys:
                document.add(key, result)
        return document

    def _merged(self, target: CacheTarget, document: CacheDocument, present: bytes | None) -> bytes:
        try:
            merged = CacheDocument.parse(present) if present else CacheDocument()
        except ContentError as error:
            self._step.warn(f"{target.backend} is replaced: {error.message}")
            merged = CacheDocument()
        merged.merge(document)
        return merged.dump()


class CacheStream(Struct, frozen=True):
    """Sends the bytes of a layer to some caches (see `worker.Follower`)."""

    export: CacheExport
    targets: list[tuple[CacheTarget, RepositoryCache]]

    def follow(self, ingest: LocalIngest) -> None:
        for target, store in self.targets:
            self.export.follow(target, store, ingest)

    def completed(self, layer: Descriptor) -> None:
        for target, _ in self.targets:
            self.export.completed(target, layer)


def _failed(error: OSError) -> ContentError:
    return ContentError(
        f"{error.filename or 'its directory'}: {error.strerror}", code="cache-unwritable"
    )


def cached_result(layers: Iterable[tuple[Layer, LayerResult | None]]) -> CachedResult:
    """The result of the step that added the last of `layers`."""
    found = tuple(
        LayerResult(layer, "" if added is None else added.created) for layer, added in layers
    )
    return CachedResult(found, found[-1].created)


def inline_cache(entries: Iterable[CacheEntry], layers: Sequence[Layer]) -> str:
    """The text of an image's inline cache: the records of its own steps; `layers` are the image's.

    Empty without a result.
    """
    image = [one.diff_id for one in layers]
    document = CacheDocument()
    for entry in entries:
        present = entry.layers and all(layer.diff_id in image for layer, _ in entry.layers)
        for key in entry.keys:
            document.add(key, cached_result(entry.layers) if present else None)
    found = from_bytes(document.dump())
    if not found["layers"]:
        return ""
    for record in found["records"]:
        _number(record, found["layers"], [str(one) for one in image])
    text = json.dumps(found["records"], separators=(",", ":"))
    return base64.b64encode(text.encode()).decode()


def _number(record: dict[str, Any], rows: Sequence[dict[str, Any]], image: Sequence[str]) -> None:
    """Let the results of a record name the layers of an image: the top one of those at its bottom,
    others as chains.
    """
    for result in record.pop("layers", ()):
        chain = [result["layer"]]
        while (parent := rows[chain[-1]].get("parent", 0)) != -1:
            chain.append(parent)
        stack = [rows[number]["annotations"]["diffID"] for number in reversed(chain)]
        if stack == image[: len(stack)]:
            record.setdefault("layers", []).append({**result, "layer": len(stack) - 1})
        else:
            numbers = [image.index(one) for one in stack]
            created = {"createdAt": result["createdAt"]}
            record.setdefault("chains", []).append({"layers": numbers, **created})
