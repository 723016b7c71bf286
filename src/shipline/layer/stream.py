"""A layer in one pass: tar, diff ID, compression, digest and storage at the same time."""

from __future__ import annotations

import queue
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing
from dataclasses import dataclass

from shipline.content import Ingest
from shipline.layer.codecs import BLOCK, Codec, cut
from shipline.oci import Descriptor, Digest, Hasher
from shipline.tasks import Limiter, TaskGroup

_AHEAD = 8  # blocks that the hash may lag behind


@dataclass(frozen=True, slots=True)
class Layer:
    """A compressed layer, and the digest of its tar (image specification, config.md, "DiffID")."""

    descriptor: Descriptor
    diff_id: Digest


def stream_layer(
    tar: Iterable[bytes],
    ingest: Ingest,
    codec: Codec,
    *,
    also: Callable[[bytes], object] | None = None,
) -> Layer:
    """Compress `tar` into `ingest` and commit it; reads `tar` once, on the calling thread.

    `also` gets the uncompressed bytes in order, on another thread, and has had all of them when
    this returns. What `tar`, `ingest` or `also` raise is raised, and nothing is committed.
    """
    diff = Hasher()
    sinks = (diff.update,) if also is None else (diff.update, also)
    with TaskGroup() as group, closing(_Aside(sinks)) as aside:
        hashed = group.start(aside.run)
        with closing(codec.compress(aside.through(cut(tar, BLOCK)))) as compressed:
            for data in compressed:
                ingest.write(data)
        aside.close()
        hashed.result()
        descriptor = Descriptor(codec.media_type, ingest.digest, ingest.size)
        ingest.commit(descriptor)
    return Layer(descriptor, diff.digest)


class _Aside:
    """Passes chunks on, and hands each to `sinks` on a thread of its own, a few behind."""

    def __init__(self, sinks: tuple[Callable[[bytes], object], ...]) -> None:
        self._sinks = sinks
        self._room = Limiter(_AHEAD)
        self._waiting: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()

    def through(self, chunks: Iterable[bytes]) -> Iterator[bytes]:
        for chunk in chunks:
            self._room.__enter__()
            self._waiting.put(chunk)
            yield chunk

    def run(self) -> None:
        while (chunk := self._waiting.get()) is not None:
            for sink in self._sinks:
                sink(chunk)
            self._room.__exit__(None, None, None)

    def close(self) -> None:
        """Let `run` end after the chunks that it was handed."""
        self._waiting.put(None)
