"""Directories of RUN --mount=type=cache that travel with caches, as layers (`mounts=true`).

BuildKit keeps them on its machine; in a cache document they are records without inputs, which it
ignores. They are known by the names of their directories, and by the platform of the machine, as
what programs keep there may be of its architecture.
"""

from __future__ import annotations

import fcntl
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from shipline import sandbox
from shipline.build.blobs import Blobs
from shipline.build.cache import LayerResult
from shipline.build.graph import key_of
from shipline.build.snapshots import owned
from shipline.layer import Codec, Layer, decompress, read_tar, scan, stream_layer, unpack, write_tar
from shipline.oci import Platform, media
from shipline.tasks import flocked

if TYPE_CHECKING:
    from shipline.build.caching.document import CacheKey


def mount_key(name: str) -> CacheKey:
    """The key of the directory `name` in a cache document."""
    from shipline.build.caching.document import CacheKey  # few builds have such caches

    digest = key_of("cache mount/1", name=name, platform=str(Platform.local()))
    return CacheKey(f"sha256:{digest}")


class CacheMounts:
    """The directories that steps of a build use; safe to use from any thread. `find` returns the
    layer of a cache with the content of a directory, None for none.
    """

    def __init__(self, blobs: Blobs, scratch: Path) -> None:
        self._blobs = blobs
        self._scratch = scratch
        self._lock = threading.Lock()
        self._used: dict[str, Path] = {}
        self.find: Callable[[str], Layer | None] = lambda _: None

    def use(self, name: str, directory: Path) -> None:
        """A step uses the directory."""
        with self._lock:
            self._used.setdefault(name, directory)

    def fill(self, name: str, directory: Path) -> bool:
        """Unpack what a cache has for a directory that is new here; whether there was something.

        Raises BrokenCache, and SandboxError for an owner that this process cannot set.
        """
        layer = self.find(name)
        if layer is None:
            return False
        target = layer.descriptor
        self._blobs.require(target)
        compression = media.compression(target.media_type) or ""
        with self._blobs.cache_errors(target), self._blobs.store.fetch(target) as blob:
            unpack(owned(read_tar(decompress(blob, compression))), directory, whiteouts="keep")
        return True

    def layers(self, codec: Codec, created: str) -> Iterator[tuple[str, LayerResult]]:
        """Each directory that was used, by name, as a layer that is made now. Steps of other builds
        that use a directory alone are waited for.
        """
        for name, directory in sorted(self._used.items()):
            with _shared(directory):
                if not directory.is_dir():
                    continue  # it was emptied meanwhile
                with self._seen(directory) as place, self._blobs.store.ingest() as ingest:
                    layer = stream_layer(write_tar(scan(place).items()), ingest, codec)
            yield name, LayerResult(layer, created, codec.level)

    @contextmanager
    def _seen(self, directory: Path) -> Iterator[Path]:
        """The directory where it cannot lead to the host: a step of another build may put links and
        devices there while it is read.
        """
        place = self._scratch / f"mount-{os.urandom(6).hex()}"
        place.mkdir()
        with sandbox.mounted(
            sandbox.Bind(directory, place, read_only=True, devices=False, links=False)
        ):
            yield place


def _shared(directory: Path) -> AbstractContextManager[None]:
    return flocked(f"{directory}.lock", fcntl.LOCK_SH)
