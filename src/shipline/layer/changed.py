"""A layer of which little is new: its blocks are those of an older one, but for some.

Such a build is Python that plans the tar, and SHA-256 of all bytes of it and of its blob. A thread
hashes the blocks where they are, and another takes over what they are compressed to, many at once,
while others are planned.

Its tar can share the file of the older one: both are mounted, one above the other. The new file has
the entries that are new or changed, with the directories above them, and hides what has the same
names in the older one. What only the older one has cannot be hidden without hiding what layers
below have.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from itertools import accumulate
from pathlib import Path
from queue import SimpleQueue

from shipline.content import Ingest
from shipline.errors import ContentError
from shipline.files import WriteBehind, write_at
from shipline.layer.blocks import LONGEST, BlockIndex, KnownBlock, checksum, join_checksums
from shipline.layer.codecs import Codec, CompressedBlock, Layer
from shipline.layer.entry import PREFIX, Contents, Entry, Item
from shipline.layer.stored_tar import Extent, StoredTar, TarReader
from shipline.layer.stream import KEPT_MEMORY, WORTH_FORKING
from shipline.layer.tar_header import BLOCK, encode
from shipline.layer.tar_reader import read_tar
from shipline.layer.tar_writer import LargeFiles, TarBlock, plan_tar
from shipline.malloc import keep_freed_memory
from shipline.oci import Descriptor, Digest, Hasher
from shipline.tasks import TaskGroup, check, ordered_map

_AT_ONCE = 16 * LONGEST  # bytes that are hashed without Python
_LARGEST = 256 << 20  # bytes of a file that may be read for a small one next to it
_WORTH = 4  # of so many bytes one may be written, and one be unused in the older tar


def is_changed_little(contents: Contents, index: BlockIndex) -> bool:
    """Whether `stream_changed` is quicker than reading files in several processes."""
    if index.tar is None or index.blob < 0:
        return False
    return contents.unread < WORTH_FORKING and contents.largest <= _LARGEST


def stream_changed(
    items: Iterable[Item],
    ingest: Ingest,
    codec: Codec,
    index: BlockIndex,
    tar: Path,
    *,
    share: bool,
    beside: Callable[[], object] = lambda: None,
) -> tuple[Layer, Sequence[Extent]]:
    """What `stream_blocks` makes. To `share` is to write to the new file `tar` only what the first
    file of the older tar lacks, where that is worth it. `beside` is called when all files have been
    read, while other threads still hash.

    Also returns where the tar is: in that file, which is 0, and in `tar`, which is 1. It is nowhere
    if the older one turned out to be damaged.
    """
    assert index.tar is not None
    keep_freed_memory(KEPT_MEMORY)
    with open(tar, "w+b", buffering=0) as file, TaskGroup() as group:
        new = _NewTar(index, file.fileno())
        blob = _NewBlob(new, index, ingest, codec)
        with closing(_Batches()) as to_hash:
            to_write = _Batches()
            hashed = group.start(new.hash, to_hash, to_write)
            written = group.start(blob.write, to_write)
            for numbers in new.add_all(items):
                to_hash.put(numbers)
        shared = share and new.can_share()
        if shared:
            os.ftruncate(file.fileno(), new.position + 2 * BLOCK)
        whole = None if shared else group.start(new.write_whole, tar.with_suffix(".whole"))
        beside()
        written.result()
        diff_id = hashed.result() or new.read_again()
        if whole is not None:
            whole.result()
            os.replace(tar.with_suffix(".whole"), tar)
        descriptor = Descriptor(codec.media_type, ingest.digest, ingest.size)
        ingest.commit(descriptor)
    for key, one in zip(new.keys, blob.blocks, strict=True):
        index.add(key, one)
    extents = new.extents if shared else [Extent(1, 0, sum(one.length for one in new.blocks))]
    return Layer(descriptor, diff_id), extents if hashed.result() else ()


class _Batches:
    """Numbers of blocks for another thread, many at once: between two calls that do without Python
    it waits for threads that run it.
    """

    def __init__(self) -> None:
        self._queue: SimpleQueue[range | None] = SimpleQueue()

    def put(self, numbers: range) -> None:
        self._queue.put(numbers)

    def close(self) -> None:
        """There are no more."""
        self._queue.put(None)

    def parts(self, place: Callable[[int], Extent]) -> Iterator[range]:
        """The numbers, together where the places of their blocks follow each other."""
        while (numbers := self._queue.get()) is not None:
            start, size, end = numbers.start, 0, (0, 0)
            for number in numbers:
                file, position, length = place(number)
                if number > start and (end != (file, position) or size + length > _AT_ONCE):
                    check()
                    yield range(start, number)
                    start, size = number, 0
                size, end = size + length, (file, position + length)
            check()
            yield range(start, numbers.stop)


class _NewTar:
    """The blocks of a tar: in the older one, or in a `file`, with the directories above them."""

    def __init__(self, index: BlockIndex, file: int) -> None:
        assert index.tar is not None
        self.blocks: list[TarBlock] = []
        self.keys: list[bytes] = []
        self.places: list[Extent] = []
        self.crcs: list[int] = []
        self.known: list[KnownBlock | None] = []
        self.position = 0  # of the end of the file
        self.files = (*index.tar.files, file)
        self._tar, self._index, self._file = index.tar, index, file
        self._directories: dict[str, Entry] = {}
        self._written: dict[str, Entry] = {}
        self._can_be_stacked = True
        self._large = LargeFiles()

    def add_all(self, items: Iterable[Item]) -> Iterator[range]:
        """Add the blocks of all items; the numbers of some after some were added."""
        start = size = 0
        for run in _runs(plan_tar(items)):
            check()
            self._add(run)
            size += sum(block.length for block in run)
            if size >= _AT_ONCE:
                yield range(start, len(self.blocks))
                start, size = len(self.blocks), 0
        if size:
            yield range(start, len(self.blocks))

    def _add(self, run: list[TarBlock]) -> None:
        """Add blocks of whole entries."""
        keys = [block.key() for block in run]
        known: list[KnownBlock | None] = [*self._index.find_run(keys)]
        places = [Extent(*self._tar.place(one.start), one.length) for one in known if one]
        crcs = [one.crc for one in known if one]
        for block in run:
            self._can_be_stacked = self._can_be_stacked and _can_be_stacked(block)
            self._directories |= {one[0]: one for one in block.entries if one[1] == "dir"}
        if not places or places != _from(places[0], run):
            places, crcs = self._write(run)
            keys = [block.key() for block in run]
            known = [self._index.find(key) for key in keys]
        self.keys += keys
        self.places += places
        self.crcs += crcs
        self.known += known
        self.blocks += run

    def _write(self, run: list[TarBlock]) -> tuple[list[Extent], list[int]]:
        """Write blocks to the file, after the directories above their entries."""
        entries = {one.path: one for block in run for one in block.entries}
        self._written |= entries
        for path in entries:
            above = list(accumulate(path.split("/")[:-1], lambda a, b: f"{a}/{b}"))
            for one in above:
                if one not in self._written and one in self._directories:
                    self._written[one] = self._directories[one]
                    self._append(memoryview(encode(self._directories[one])))
        places, crcs = [], []
        for block in run:
            view = memoryview(bytearray(block.length))
            block.fill(view)
            self._large.see(block, view)
            places.append(Extent(len(self.files) - 1, self.position, block.length))
            crcs.append(checksum(view))
            self._append(view)
        return places, crcs

    def _append(self, data: memoryview) -> None:
        write_at(self._file, data, self.position)
        self.position += len(data)

    def can_share(self) -> bool:
        """Whether the file, mounted above the first one of the older tar, shows the files."""
        size = sum(block.length for block in self.blocks)
        kept = [one for one in self.places if one.file == 0]
        return self._can_be_stacked and _can_share(
            self._written, kept, size, self.position, self.files[0]
        )

    @property
    def extents(self) -> list[Extent]:
        """The places, where the file is number 1."""
        return [one._replace(file=min(one.file, 1)) for one in self.places]

    def write_whole(self, path: Path) -> None:
        """Write the whole tar to a new file, unless the older one is damaged."""
        with open(path, "wb", buffering=0) as file:
            written = WriteBehind(file.fileno())
            for number, start, length in self.places:
                check()
                while length and (
                    sent := os.sendfile(file.fileno(), self.files[number], start, length)
                ):
                    start, length = start + sent, length - sent
                written.grown(file.tell())

    def checksum(self, numbers: range) -> tuple[int, int]:
        """Checksum and length of these blocks together."""
        return join_checksums((self.crcs[one], self.blocks[one].length) for one in numbers)

    def hash(self, batches: _Batches, then: _Batches) -> Digest | None:
        """The digest of all blocks; None if one is damaged where it is. What is hashed goes to
        `then`, so that of two threads the one with more to do is not held up.
        """
        seen, buffer, is_intact = Hasher(), memoryview(bytearray(_AT_ONCE)), True
        with closing(then):
            for numbers in batches.parts(self.places.__getitem__):
                crc, length = self.checksum(numbers)
                place, view = self.places[numbers.start], buffer[:length]
                stored = StoredTar(self.files, [place._replace(length=length)])
                is_intact = is_intact and stored.fill(view, 0) and checksum(view) == crc
                if is_intact:
                    seen.update(view)
                then.put(numbers)
        return seen.digest if is_intact else None

    def plain(self, number: int) -> memoryview:
        """The bytes of a block; read from the files again if they are damaged where they are."""
        block, place = self.blocks[number], self.places[number]
        view = memoryview(bytearray(block.length))
        if not StoredTar(self.files, [place]).fill(view, 0) or checksum(view) != self.crcs[number]:
            block.fill(view)
        return view

    def read_again(self) -> Digest:
        """The diff ID, where the older tar was damaged."""
        seen = Hasher()
        for number in range(len(self.blocks)):
            check()
            seen.update(self.plain(number))
        return seen.digest


class _NewBlob:
    """The `blocks` of a tar as the older blob has them, or compressed."""

    def __init__(self, tar: _NewTar, index: BlockIndex, ingest: Ingest, codec: Codec) -> None:
        self.blocks: list[KnownBlock] = []
        self._tar, self._index, self._ingest, self._codec = tar, index, ingest, codec

    def write(self, batches: _Batches) -> None:
        """Write all blocks."""
        for data in self._codec.join_blocks(self._joined(batches)):
            self._ingest.write(data)

    def _joined(self, batches: _Batches) -> Iterator[CompressedBlock]:
        """The blocks, as one where they follow each other in the older blob."""
        for numbers in batches.parts(self._place):
            if data := self._read(numbers):
                offset = self._ingest.size
                for known in self._known(numbers):
                    self.blocks.append(known._replace(offset=offset, start=0))
                    offset += known.size
                yield CompressedBlock(data, *self._tar.checksum(numbers))
                continue
            with closing(ordered_map(self._made, numbers)) as made:
                for data, crc, length in made:
                    block = KnownBlock(checksum(data), self._ingest.size, len(data), crc, length, 0)
                    self.blocks.append(block)
                    yield CompressedBlock(data, crc, length)

    def _place(self, number: int) -> Extent:
        """Where the older blob has a block; in file -1 if it has not."""
        known = self._tar.known[number]
        checked = self._tar.checksum(range(number, number + 1))
        if known is None or (known.crc, known.length) != checked:
            return Extent(-1, 0, 0)
        return Extent(0, known.offset, known.size)

    def _known(self, numbers: range) -> Iterator[KnownBlock]:
        return (one for one in self._tar.known[numbers.start : numbers.stop] if one is not None)

    def _read(self, numbers: range) -> bytes:
        """What the older blob has of blocks that follow each other; empty if it has not."""
        place = self._place(numbers.start)
        if place.file < 0:
            return b""
        crc, size = join_checksums((one.blob_crc, one.size) for one in self._known(numbers))
        return self._index.read_blob(place.start, size, crc)

    def _made(self, number: int) -> CompressedBlock:
        numbers = range(number, number + 1)
        if data := self._read(numbers):
            return CompressedBlock(data, *self._tar.checksum(numbers))
        return self._codec.compress_block(self._tar.plain(number))


def _can_be_stacked(block: TarBlock) -> bool:
    """Links to a file do not follow it into another mount, and whiteouts hide lower layers."""
    return not any(one[1] == "hardlink" or PREFIX in one[0] for one in block.entries)


def _can_share(
    written: Mapping[str, Entry], kept: Iterable[Extent], size: int, new: int, older: int
) -> bool:
    """Whether a tar of `size` bytes can be `kept` in the open file `older`, but for so many `new`
    bytes with the `written` entries. It can be stacked.
    """
    unused = list(_unused(sorted(kept), os.fstat(older).st_size))
    if _WORTH * max(new, sum(one.length for one in unused)) > size:
        return False
    try:
        hidden = [entry for entry, _ in read_tar(TarReader((older,), unused))]
    except (ContentError, OSError):  # damaged
        return False
    return all(
        (own := written.get(entry.path)) is not None and own.kind == entry.kind for entry in hidden
    )


def _unused(kept: Iterable[Extent], size: int) -> Iterator[Extent]:
    """What is not among the `kept` extents of a file, which are sorted."""
    position = 0
    for _, start, length in (*kept, Extent(0, size, 0)):
        if start > position:
            yield Extent(0, position, start - position)
        position = start + length


def _from(first: Extent, blocks: Iterable[TarBlock]) -> list[Extent]:
    """The places of blocks that follow each other in the first file of the older tar."""
    lengths = [block.length for block in blocks]
    starts = accumulate(lengths, initial=first.start)
    return [Extent(0, *place) for place in zip(starts, lengths, strict=False)]


def _runs(blocks: Iterable[TarBlock]) -> Iterator[list[TarBlock]]:
    """The blocks, together where an entry goes on from one to the next."""
    run: list[TarBlock] = []
    for block in blocks:
        goes_on = (
            run
            and block.entries
            and run[-1].entries[-1:]
            and (block.entries[0] is run[-1].entries[-1])
        )
        if run and not goes_on:
            yield run
            run = []
        run.append(block)
    yield run
