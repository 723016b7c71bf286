"""Writing a layer in one pass: diff ID, compression, digest and storage of a tar stream."""

from __future__ import annotations

import ctypes
import queue
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import closing, suppress
from functools import cache

from msgspec import Struct

from shipline.content import Ingest
from shipline.layer.blocks import BlockIndex
from shipline.layer.codecs import Codec
from shipline.layer.estargz import Ending
from shipline.oci import Descriptor, Digest, Hasher
from shipline.tasks import Limiter, TaskGroup

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3
_MAX_LAG = 8  # blocks that the sinks may lag behind


class Layer(Struct, frozen=True):
    """A compressed layer, and the digest of its tar (image specification, config.md, "DiffID")."""

    descriptor: Descriptor
    diff_id: Digest


def stream_layer(
    blocks: Iterable[bytes],
    ingest: Ingest,
    codec: Codec,
    *,
    also: Callable[[bytes], object] | None = None,
    index: BlockIndex | None = None,
) -> Layer:
    """Compress the `blocks` of a tar into `ingest` and commit it; reads them once, on the calling
    thread. They are those of `write_tar` or `cut_tar`: others would give another blob.

    `index` takes compressed blocks from an older layer. `also` receives the uncompressed bytes in
    order, and then those that the codec appends, on another thread, all of them before this
    returns. Exceptions of `blocks`, `ingest` and `also` propagate, and nothing is committed.
    """
    _keep_freed_memory()
    diff = Hasher()
    sinks = (diff.update,) if also is None else (diff.update, also)
    with TaskGroup() as group, closing(_BackgroundSinks(sinks)) as background:
        hashed = group.start(background.run)
        with closing(codec.compress(background.through(blocks), index=index)) as compressed:
            ending = _write(compressed, ingest) or Ending()
        background.put(ending.appended)
        background.close()
        hashed.result()
        descriptor = Descriptor(
            codec.media_type, ingest.digest, ingest.size, annotations=ending.annotations
        )
        ingest.commit(descriptor)
    return Layer(descriptor, diff.digest)


@cache
def _keep_freed_memory() -> None:
    """Let glibc keep what is freed, 256 MB at most: blocks are a tenth quicker when the kernel need
    not clear their pages again (mallopt(3)). Other C libraries have no such option.
    """
    with suppress(AttributeError, OSError):
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(_M_MMAP_THRESHOLD, 32 << 20)
        mallopt(_M_TRIM_THRESHOLD, 256 << 20)


def _write(compressed: Generator[bytes, None, Ending | None], ingest: Ingest) -> Ending | None:
    while True:
        try:
            data = next(compressed)
        except StopIteration as stopped:
            ending: Ending | None = stopped.value
            return ending
        ingest.write(data)


class _BackgroundSinks:
    """Passes chunks through, and feeds them to `sinks` on another thread with a bounded lag."""

    def __init__(self, sinks: tuple[Callable[[bytes], object], ...]) -> None:
        self._sinks = sinks
        self._slots = Limiter(_MAX_LAG)
        self._queue: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()

    def through(self, chunks: Iterable[bytes]) -> Iterator[bytes]:
        for chunk in chunks:
            self.put(chunk)
            yield chunk

    def put(self, chunk: bytes) -> None:
        self._slots.__enter__()
        self._queue.put(chunk)

    def run(self) -> None:
        while (chunk := self._queue.get()) is not None:
            for sink in self._sinks:
                sink(chunk)
            self._slots.__exit__(None, None, None)

    def close(self) -> None:
        """End `run` after the queued chunks."""
        self._queue.put(None)
