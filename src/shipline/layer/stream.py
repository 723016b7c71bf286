"""Writing a layer in one pass: diff ID, compression, digest and storage of a tar stream."""

from __future__ import annotations

import ctypes
import marshal
import os
import queue
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import closing, suppress
from functools import cache
from itertools import accumulate
from typing import Any

from msgspec import Struct

from shipline.content import Ingest
from shipline.files import WriteBehind
from shipline.layer.blocks import LONGEST, BlockIndex, CompressedBlock, KnownBlock, checksum
from shipline.layer.codecs import Codec
from shipline.layer.entry import Item
from shipline.layer.estargz import Ending
from shipline.layer.forks import SharedJobs
from shipline.layer.tar_writer import LargeFiles, TarBlock, identify_large, plan_tar
from shipline.oci import Descriptor, Digest, Hasher
from shipline.tasks import CPUS, Limiter, TaskGroup

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3
_MAX_LAG = 8  # blocks that the sinks may lag behind
_SLOT = 2 * LONGEST + (64 << 10)  # bytes of a block, and of what it may be compressed to
WORTH_FORKING = 32 << 20  # bytes to read


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
) -> Layer:
    """Compress the `blocks` of a tar into `ingest` and commit it; reads them once, on the calling
    thread. They are those of `write_tar` or `cut_tar`: others would give another blob.

    `also` receives the uncompressed bytes in order, and then those that the codec appends, on
    another thread, all of them before this returns. Exceptions of `blocks`, `ingest` and `also`
    propagate, and nothing is committed.
    """
    _keep_freed_memory()
    diff = Hasher()
    sinks = (diff.update,) if also is None else (diff.update, also)
    with TaskGroup() as group, closing(_BackgroundSinks(sinks)) as background:
        hashed = group.start(background.run)
        with closing(codec.compress(background.through(blocks))) as compressed:
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


def stream_blocks(
    items: Iterable[Item], ingest: Ingest, codec: Codec, index: BlockIndex, tar: int = -1
) -> Layer:
    """What `stream_layer` makes of the tar of `items`, with a codec that compresses blocks. Those
    that `index` has are taken from the older layer, without reading their files; all are added
    to it. The tar goes to the open file `tar`, if any.

    Where there is much to read, processes do it, one for each core. Raises ContentError as
    `write_tar` does, and for a full disk; then nothing is committed.
    """
    blocks = list(plan_tar(items))
    if index.has_older:
        identify_large(blocks)
    maker = _BlockMaker(blocks, codec, index, tar)
    written = WriteBehind(tar)
    jobs = SharedJobs(len(blocks), maker.make, size=_SLOT, lag=_MAX_LAG + 1)
    made = jobs.on_processes(maker.files()) if maker.is_much() else jobs.on_threads()
    diff, large, filled = Hasher(), LargeFiles(), iter(blocks)

    def seen(plain: memoryview) -> None:
        diff.update(plain)
        large.see(next(filled), plain)
        jobs.release()
        if tar >= 0:
            written.grown(diff.size)

    added: list[tuple[bytes, KnownBlock]] = []

    def compressed(background: _BackgroundSinks) -> Iterator[CompressedBlock]:
        for block, (view, message) in zip(blocks, made, strict=True):
            size, crc, digest, key, identities = marshal.loads(message)
            block.note(identities)
            added.append((key, KnownBlock(digest, ingest.size, size, crc, block.length, 0)))
            data = bytes(view[LONGEST : LONGEST + size])
            background.put(view[: block.length])
            yield CompressedBlock(data, crc, block.length)

    with TaskGroup() as group, closing(_BackgroundSinks((seen,))) as background, closing(made):
        hashed = group.start(background.run)
        for data in codec.join_blocks(compressed(background)):
            ingest.write(data)
        background.close()
        hashed.result()
        ingest.commit(Descriptor(codec.media_type, ingest.digest, ingest.size))
    for block, (key, place) in zip(blocks, added, strict=True):
        index.add(key or block.key(), place)
    return Layer(Descriptor(codec.media_type, ingest.digest, ingest.size), diff.digest)


class _BlockMaker:
    """Makes the blocks of a layer, in any order, on threads and in processes."""

    def __init__(
        self, blocks: Sequence[TarBlock], codec: Codec, index: BlockIndex, tar: int
    ) -> None:
        from blake3 import blake3

        checksum(codec.compress_block(b"").data)  # processes must import nothing
        self._blake3 = blake3
        self._blocks, self._codec, self._index, self._tar = blocks, codec, index, tar
        # of blocks that can be taken without reading files
        self._keys = [block.key() if index.tar else b"" for block in blocks]
        self._starts = list(accumulate((block.length for block in blocks), initial=0))

    def is_much(self) -> bool:
        """Whether processes have enough to do."""
        to_read = (
            block.length
            for block, key in zip(self._blocks, self._keys, strict=True)
            if self._index.find(key) is None
        )
        return CPUS > 1 and sum(to_read) >= WORTH_FORKING

    def files(self) -> set[int]:
        """The open files that it uses."""
        roots = {part.source.root.fd for block in self._blocks for part in block.parts()}
        older = () if self._index.tar is None else self._index.tar.files
        return roots | {self._tar, self._index.blob, *older} - {-1}

    def make(self, number: int, view: memoryview) -> bytes:
        """Write the block to `view`, and compressed from LONGEST on. Returns the size there, crc,
        digest, and the key of the block or the identifiers of the files that were read.
        """
        block, key = self._blocks[number], self._keys[number]
        plain = view[: block.length]
        known = self._index.find(key)
        if known is None or not self._index.fill(known, plain):
            block.fill(plain)
            key, known = b"", self._index.find(block.key())
            if known is not None and not known.is_of(plain):
                known = None
        if self._tar >= 0:
            write_at(self._tar, plain, self._starts[number])
        if known is None or not self._index.fill_compressed(known, view[LONGEST:]):
            made = self._codec.compress_block(plain)
            view[LONGEST : LONGEST + len(made.data)] = made.data
            known = KnownBlock(
                self._blake3(made.data).digest(), 0, len(made.data), made.crc, block.length, 0
            )
        identities = [] if key else block.identities()
        return marshal.dumps((known.size, known.crc, known.digest, key, identities))


def write_at(file: int, data: memoryview, start: int) -> None:
    while data:
        written = os.pwrite(file, data, start)
        data, start = data[written:], start + written


class _BackgroundSinks:
    """Passes chunks through, and feeds them to `sinks` on another thread with a bounded lag."""

    def __init__(self, sinks: tuple[Callable[[Any], object], ...]) -> None:
        self._sinks = sinks
        self._slots = Limiter(_MAX_LAG)
        self._queue: queue.SimpleQueue[bytes | memoryview | None] = queue.SimpleQueue()

    def through(self, chunks: Iterable[bytes]) -> Iterator[bytes]:
        for chunk in chunks:
            self.put(chunk)
            yield chunk

    def put(self, chunk: bytes | memoryview) -> None:
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
