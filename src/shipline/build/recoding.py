"""Layers compressed anew for an edition that wants them otherwise; each only once."""

from __future__ import annotations

from shipline.build.blobs import Blobs
from shipline.build.cache import Cache, Made
from shipline.build.editions import Edition
from shipline.build.graph import key_of
from shipline.content import chunks
from shipline.errors import DigestMismatch
from shipline.events import Step
from shipline.layer import Codec, Layer, decompress, stream_layer
from shipline.oci import media
from shipline.tasks import Once


class Recoder:
    """Finds or makes the form of a layer that an edition wants. Safe to use from any thread."""

    def __init__(self, blobs: Blobs, cache: Cache, step: Step) -> None:
        self._blobs = blobs
        self._cache = cache
        self._step = step
        self._once: Once[Layer] = Once()

    def form(self, layer: Layer, made: Made | None, edition: Edition) -> Layer:
        """The same files as `edition` has them; `made` is None for a layer of a base image.

        Raises ContentError, RegistryError where the layer cannot be read.
        """
        codec = edition.codec_for(layer, made)
        if codec is None:
            return layer
        key = key_of(
            "recoded/1",
            diff_id=str(layer.diff_id),
            compression=codec.name,
            level=codec.level,
            docker=codec.docker,
        )
        return self._once.get(key, lambda: self._recoded(key, layer, codec))

    def _recoded(self, key: str, layer: Layer, codec: Codec) -> Layer:
        if found := self._cache.get(key):
            return found.layer
        name = f"compress {layer.descriptor.digest.short} as {codec.name}"
        with self._step.step(name, kind="internal", size=layer.descriptor.size):
            recoded = self._compress(layer, codec)
        self._cache.put(Made(recoded, "", codec.level), key)
        return recoded

    def _compress(self, layer: Layer, codec: Codec) -> Layer:
        before = media.compression(layer.descriptor.media_type)
        assert before is not None
        with self._blobs.fetch(layer.descriptor) as blob, self._blobs.store.ingest() as ingest:
            recoded = stream_layer(chunks(decompress(blob, before)), ingest, codec)
        if recoded.diff_id != layer.diff_id:
            raise DigestMismatch(
                expected=str(layer.diff_id),
                got=str(recoded.diff_id),
                where="the layer of a base image",
                hint="its configuration and its layers do not belong together; build it again",
            )
        return recoded
