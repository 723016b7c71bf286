"""Writing a layer in one pass: diff ID, compression, digest and storage of a tar stream."""

from __future__ import annotations

import marshal
import queue
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import closing
from itertools import chain
from typing import Generic, NamedTuple, TypeVar

from shipline.content import Ingest
from shipline.files import WriteBehind, write_at
from shipline.layer.blocks import LONGEST, BlockIndex, KnownBlock, checksum
from shipline.layer.codecs import Codec, CompressedBlock, Layer
from shipline.layer.entry import ContentDigests, Contents, Entry, Item, OpenDirectory, Source
from shipline.layer.estargz import Ending
from shipline.layer.forks import SharedJobs
from shipline.layer.tar_writer import FilePart, LargeFiles, TarBlock, identify_large, plan_tar
from shipline.malloc import keep_freed_memory
from shipline.oci import Descriptor, Hasher
from shipline.tasks import CPUS, Limiter, TaskGroup

_MAX_LAG = 8  # blocks that the sinks may lag behind
_SLOT = 2 * LONGEST + (64 << 10)  # bytes of a block, and of what it may be compressed to
WORTH_FORKING = 32 << 20  # bytes to read
KEPT_MEMORY = 256 << 20  # bytes: blocks are a tenth quicker


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
    keep_freed_memory(KEPT_MEMORY)
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


def _write(compressed: Generator[bytes, None, Ending | None], ingest: Ingest) -> Ending | None:
    while True:
        try:
            data = next(compressed)
        except StopIteration as stopped:
            ending: Ending | None = stopped.value
            return ending
        ingest.write(data)


def stream_blocks(
    items: Iterable[Item],
    ingest: Ingest,
    codec: Codec,
    index: BlockIndex,
    tar: int = -1,
    *,
    contents: Contents | None = None,
) -> Layer:
    """What `stream_layer` makes of the tar of `items`, with a codec that compresses blocks. Those
    that `index` has are taken from the older layer, without reading their files; all are added
    to it. The tar goes to the open file `tar`, if any. With their `contents`, items may be made
    while blocks are.

    Where there is much to read, processes do it, one for each core. Raises ContentError as
    `write_tar` does, and for a full disk; then nothing is committed.
    """
    keep_freed_memory(KEPT_MEMORY)
    if contents is None:
        items = list(items)
        contents = Contents.of(items)
    maker = _BlockMaker(contents.places, codec, index, tar)
    jobs, is_much = _worth_forking(maker.jobs(plan_tar(items)), index)
    shared = SharedJobs(jobs, maker, size=_SLOT, lag=_MAX_LAG + 1)
    made = shared.on_processes(maker.files()) if is_much else shared.on_threads()
    diff, large, written = Hasher(), LargeFiles(), WriteBehind(tar)

    def seen(filled: tuple[TarBlock, memoryview]) -> None:
        block, plain = filled
        diff.update(plain)
        large.see(block, plain)
        shared.release()
        if tar >= 0:
            written.grown(diff.size)

    added: list[tuple[TarBlock, bytes, KnownBlock]] = []

    def compressed(
        background: _BackgroundSinks[tuple[TarBlock, memoryview]],
    ) -> Iterator[CompressedBlock]:
        for (block, *_), view, message in made:
            size, crc, blob_crc, key, identities = marshal.loads(message)
            block.note(identities)
            place = KnownBlock(blob_crc, ingest.size, size, crc, block.length, 0)
            added.append((block, key, place))
            data = bytes(view[LONGEST : LONGEST + size])
            background.put((block, view[: block.length]))
            yield CompressedBlock(data, crc, block.length)

    with TaskGroup() as group, closing(_BackgroundSinks((seen,))) as background, closing(made):
        hashed = group.start(background.run)
        for data in codec.join_blocks(compressed(background)):
            ingest.write(data)
        background.close()
        hashed.result()
        ingest.commit(Descriptor(codec.media_type, ingest.digest, ingest.size))
    for block, key, place in added:
        index.add(key or block.key(), place)
    return Layer(Descriptor(codec.media_type, ingest.digest, ingest.size), diff.digest)


def _worth_forking(
    jobs: Iterator[_BlockJob], index: BlockIndex
) -> tuple[Iterator[_BlockJob], bool]:
    """All the `jobs`, and whether they read so much that processes should."""
    first, to_read = [], 0
    while CPUS > 1 and to_read < WORTH_FORKING and (job := next(jobs, None)):
        first.append(job)
        to_read += job.block.length if index.find(job.key) is None else 0
    return chain(first, jobs), CPUS > 1 and to_read >= WORTH_FORKING


class _BlockJob(NamedTuple):
    """A block that starts there in the tar; `key` is that of one of an older layer, if known."""

    block: TarBlock
    start: int
    key: bytes


class _BlockMaker:
    """Makes the blocks of a layer, in any order, on threads and in processes."""

    def __init__(
        self,
        places: Sequence[tuple[OpenDirectory, ContentDigests | None]],
        codec: Codec,
        index: BlockIndex,
        tar: int,
    ) -> None:
        checksum(codec.compress_block(b"").data)  # processes must import nothing
        TarBlock(0, [], []).key()
        self._codec, self._index, self._tar = codec, index, tar
        self._places = places
        self._numbers = {place: number for number, place in enumerate(places)}

    def jobs(self, blocks: Iterable[TarBlock]) -> Iterator[_BlockJob]:
        """What there is to do. Raises ContentError."""
        start = 0
        for block in blocks:
            if self._index.has_older:
                identify_large(block)
            # the key of one that can be taken without reading files
            yield _BlockJob(block, start, block.key() if self._index.tar else b"")
            start += block.length

    def files(self) -> set[int]:
        """The open files that it uses."""
        older = () if self._index.tar is None else self._index.tar.files
        return {root.fd for root, _ in self._places} | {self._tar, self._index.blob, *older} - {-1}

    def pack(self, job: _BlockJob) -> bytes:
        block, start, key = job
        pieces = [
            piece if isinstance(piece, bytes) else self._packed(*piece) for piece in block.pieces
        ]
        return marshal.dumps((block.length, start, key, pieces))

    def _packed(self, source: Source, entry: Entry, start: int, end: int) -> tuple[object, ...]:
        root, name, digests, _ = source
        return self._numbers[root, digests], name, source.identity(), entry[5], start, end

    def unpack(self, packed: memoryview) -> _BlockJob:
        length, start, key, packed_pieces = marshal.loads(packed)
        pieces = [
            piece if isinstance(piece, bytes) else self._part(*piece) for piece in packed_pieces
        ]
        return _BlockJob(TarBlock(length, pieces, []), start, key)

    def _part(
        self, number: int, name: str, known: bytes | None, size: int, start: int, end: int
    ) -> FilePart:
        root, digests = self._places[number]
        return FilePart(
            Source(root, name, digests, known), Entry("", "file", size=size), start, end
        )

    def make(self, job: _BlockJob, view: memoryview) -> bytes:
        """Write the block to `view`, and compressed from LONGEST on. Returns the size there, both
        checksums, and the key of the block and the identifiers of the files that were read.
        """
        block, start, key = job
        plain, identities = view[: block.length], []
        known = self._index.find(key)
        if known is None or not self._index.fill(known, plain):
            block.fill(plain)
            key, identities = block.key(), block.identities()
            known = self._index.find(key)
            if known is not None and not known.is_of(plain):
                known = None
        if self._tar >= 0:
            write_at(self._tar, plain, start)
        if known is None or not self._index.fill_compressed(known, view[LONGEST:]):
            made = self._codec.compress_block(plain)
            view[LONGEST : LONGEST + len(made.data)] = made.data
            size = len(made.data)
            known = KnownBlock(checksum(made.data), 0, size, made.crc, block.length, 0)
        return marshal.dumps((known.size, known.crc, known.blob_crc, key, identities))


_Chunk = TypeVar("_Chunk")


class _BackgroundSinks(Generic[_Chunk]):
    """Passes chunks through, and feeds them to `sinks` on another thread with a bounded lag."""

    def __init__(self, sinks: tuple[Callable[[_Chunk], object], ...]) -> None:
        self._sinks = sinks
        self._slots = Limiter(_MAX_LAG)
        self._queue: queue.SimpleQueue[_Chunk | None] = queue.SimpleQueue()

    def through(self, chunks: Iterable[_Chunk]) -> Iterator[_Chunk]:
        for chunk in chunks:
            self.put(chunk)
            yield chunk

    def put(self, chunk: _Chunk) -> None:
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
