"""Content by digest: what is in the local store, and where the rest comes from."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

from msgspec import Struct

from shipline.build.cache import LayerResult
from shipline.build.layer_files import LayerFiles
from shipline.content import Fetcher, LocalStore, Reader, chunks
from shipline.errors import DamagedContent, DigestMismatch, NotFound, ShiplineError
from shipline.events import Step
from shipline.layer import Layer, codec_of_layer, cut_tar, decompress, stream_layer, without_toc
from shipline.oci import Descriptor, Digest, Hasher, media
from shipline.tasks import Once


class BrokenCache(ShiplineError):
    """A cache lost or altered a layer that the build relied on; `source` is that cache."""

    code = "broken-cache"

    def __init__(self, source: str, reason: str) -> None:
        super().__init__(f"{source} is not used any more: {reason}")
        self.source = source


class _Origin(Struct, frozen=True):
    """Where content comes from; messages call it `name`."""

    fetcher: Fetcher
    name: str


class _Claim(Struct, frozen=True):
    """The diff ID that the cache `source` states for a layer."""

    diff_id: Digest
    source: str


class Blobs:
    """The local store, and the sources of content that is missing there: repositories, caches, and
    the files of layers that were made here, which give the same blob when compressed again.
    """

    def __init__(self, store: LocalStore, step: Step, files: LayerFiles | None = None) -> None:
        self.store = store
        self._files = files
        self._results: dict[Digest, LayerResult] = {}
        self._step = step
        self._lock = threading.Lock()
        self._origins: dict[Digest, _Origin] = {}
        self._claims: dict[Digest, _Claim] = {}
        self._verified: set[tuple[Descriptor, Digest]] = set()
        self._downloaded: set[Digest] = set()
        self._once: Once[None] = Once()

    def offer(self, target: Descriptor, source: Fetcher, name: str) -> None:
        """Remember that `source`, called `name` in messages, has the content; the first one that is
        offered is used.
        """
        with self._lock:
            self._origins.setdefault(target.digest, _Origin(source, name))

    def claim(self, layer: Layer, source: str) -> bool:
        """Remember the diff ID that `source`, a cache, states for a layer, which is verified before
        it is used. False if another cache states a different one.
        """
        with self._lock:
            claim = _Claim(layer.diff_id, source)
            first = self._claims.setdefault(layer.descriptor.digest, claim)
        return first.diff_id == layer.diff_id

    def note_verified(self, layer: Layer) -> None:
        """Remember that the bytes of the layer were read, and have its diff ID."""
        self._verified.add((layer.descriptor, layer.diff_id))

    def is_verified(self, layer: Layer) -> bool:
        """Whether the layer is here, and its bytes were verified."""
        verified = (layer.descriptor, layer.diff_id) in self._verified
        return verified and self.store.exists(layer.descriptor)

    def is_downloaded(self, digest: Digest) -> bool:
        """Whether this build has downloaded the content into the local store."""
        return digest in self._downloaded

    def origin(self, digest: Digest) -> Fetcher | None:
        """The source of the content; None if it was made here."""
        found = self._origin(digest)
        return None if found is None else found.fetcher

    def remember(self, result: LayerResult) -> None:
        """Remember how the layer of `result` was compressed."""
        if result.level is not None:
            with self._lock:
                self._results[result.layer.descriptor.digest] = result

    def ensure(self, target: Descriptor, step: Step | None = None) -> None:
        """Make or download the content unless it is in the local store, as part of `step`.

        Raises NotFound, RegistryError, DamagedContent, and BrokenCache for a layer of a cache.
        """
        if not self.store.exists(target):
            with self.cache_errors(target):
                self._once.get(target.digest, lambda: self._provide(target, step or self._step))

    def require(self, target: Descriptor) -> None:
        """As `ensure`; layers of a cache are also verified. Raises BrokenCache."""
        self.ensure(target)
        if target.digest in self._claims:
            with self.cache_errors(target):
                self._once.get((target.digest, "tar"), lambda: self._check_tar(target))

    @contextmanager
    def fetch(self, target: Descriptor) -> Iterator[Reader]:
        """The content, from the local store, or from its registry without keeping it. Layers of a
        cache are kept and checked, as by `require`.
        """
        origin = self._origin(target.digest)
        if target.digest in self._claims:
            self.require(target)
        elif origin is None:
            self.ensure(target)
        if origin is None or self.store.exists(target):
            with self.store.fetch(target) as reader:
                yield reader
        else:
            with _still_there(target, origin), origin.fetcher.fetch(target) as reader:
                yield reader

    def exists(self, target: Descriptor) -> bool:
        """Whether the content is in the local store, known to be in a registry, or can be made."""
        known = self._origin(target.digest) is not None
        return known or self.store.exists(target) or self._makeable(target) is not None

    def _makeable(self, target: Descriptor) -> LayerResult | None:
        """The result whose files give the content."""
        with self._lock:
            result = self._results.get(target.digest)
        if result is None or self._files is None or not self._files.has(result.layer.diff_id):
            return None
        return result

    def _provide(self, target: Descriptor, step: Step) -> None:
        result = self._makeable(target)
        if result is None:
            self._download(target, step)
        else:
            self._compress(result, step)

    def _compress(self, result: LayerResult, step: Step) -> None:
        """Make the blob of a layer again from its files, which are removed if they do not give it:
        they were damaged, or the compression library is another one now.
        """
        assert self._files is not None
        layer = result.layer
        form = codec_of_layer(layer.descriptor, result.level)
        assert form is not None
        tar = self._files.tar(layer.diff_id)
        name = f"compress {layer.descriptor.digest.short}"
        with (
            step.step(name, kind="internal", size=layer.descriptor.size),
            self.store.ingest() as ingest,
        ):
            made = stream_layer(cut_tar(without_toc(tar) if form.indexed else tar), ingest, form)
        if made.descriptor.digest != layer.descriptor.digest:
            self._files.remove(layer.diff_id)
            raise DamagedContent(
                f"the files of layer {layer.diff_id} do not reproduce its blob", hint="run again"
            )

    @contextmanager
    def cache_errors(self, target: Descriptor) -> Iterator[None]:
        """Raises BrokenCache for any error about a layer of a cache."""
        try:
            yield
        except ShiplineError as error:
            if target.digest not in self._claims or isinstance(error, BrokenCache):
                raise
            raise BrokenCache(self._claims[target.digest].source, error.message) from error

    def _origin(self, digest: Digest) -> _Origin | None:
        with self._lock:
            return self._origins.get(digest)

    def _download(self, target: Descriptor, step: Step) -> None:
        origin = self._origin(target.digest)
        if origin is None:
            raise NotFound(
                f"{target.digest} is neither in the cache nor in a known registry",
                code="content-gone",
            )
        name = f"pull {origin.name}@{target.digest.short}"
        with step.step(name, kind="pull", size=target.size) as transfer:
            moved = 0

            def advance(count: int) -> None:
                nonlocal moved
                moved += count
                transfer.progress(moved, target.size)

            with _still_there(target, origin):
                self.store.push(target, origin.fetcher, advance)
        self._downloaded.add(target.digest)

    def _check_tar(self, target: Descriptor) -> None:
        """Raise ContentError unless the layer is the compressed tar that a cache says it is."""
        claim = self._claims[target.digest]
        compression = media.compression(target.media_type)
        seen = Hasher(claim.diff_id.algorithm)
        with self.store.fetch(target) as blob:
            for data in chunks(decompress(blob, compression or "")):
                seen.update(data)
        if seen.digest != claim.diff_id:
            raise DigestMismatch(
                expected=str(claim.diff_id), got=str(seen.digest), where=claim.source
            )
        self.note_verified(Layer(target, claim.diff_id))


@contextmanager
def _still_there(target: Descriptor, origin: _Origin) -> Iterator[None]:
    """Raises NotFound with a hint where content has gone from its origin."""
    try:
        yield
    except NotFound as error:
        missing = NotFound(
            f"{target.digest} is needed, but is no longer in {origin.name}",
            code="content-gone",
            hint="push the base image there again, or build on one that its registry still has",
        )
        for note in (error.message, *getattr(error, "__notes__", ())):
            missing.add_note(note)
        raise missing from None
