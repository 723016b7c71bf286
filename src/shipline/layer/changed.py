"""A layer of which little is new: its blocks are those of an older one, but for some.

Such a build is Python that plans the tar, and SHA-256 of all its bytes. A thread hashes the blocks
where they are, many at once, while others are planned.

Its tar can share the file of the older one: both are mounted, one above the other. The new file has
the entries that are new or changed, with the directories above them, and hides what has the same
names in the older one. What only the older one has cannot be hidden without hiding what layers
below have.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from itertools import accumulate
from pathlib import Path
from queue import Empty, SimpleQueue

from shipline.content import Ingest
from shipline.errors import ContentError
from shipline.files import WriteBehind
from shipline.layer.blocks import LONGEST, BlockIndex, CompressedBlock, KnownBlock, checksum
from shipline.layer.codecs import Codec
from shipline.layer.entry import PREFIX, Entry, Item, Source
from shipline.layer.stored_tar import Extent, StoredTar, TarReader
from shipline.layer.stream import WORTH_FORKING, Layer, write_at
from shipline.layer.tar_header import BLOCK, encode
from shipline.layer.tar_reader import read_tar
from shipline.layer.tar_writer import LargeFiles, TarBlock, plan_tar
from shipline.oci import Descriptor, Digest, Hasher
from shipline.tasks import TaskGroup, check, ordered_map

_AT_ONCE = 16 * LONGEST  # bytes that are hashed without Python
_LARGEST = 256 << 20  # bytes of a file that may be read for a small one next to it
_WORTH = 4  # of so many bytes one may be written, and one be unused in the older tar


def is_changed_little(items: Iterable[Item], index: BlockIndex) -> bool:
    """Whether `stream_changed` is quicker than reading files in several processes."""
    if index.tar is None or index.blob < 0:
        return False
    unread = largest = 0
    for entry, content in items:
        size = entry[5]
        if size > largest:
            largest = size
        if type(content) is Source and (content[2] is None or content[3] is None):
            unread += size
    return unread < WORTH_FORKING and largest <= _LARGEST


def stream_changed(
    items: Iterable[Item],
    ingest: Ingest,
    codec: Codec,
    index: BlockIndex,
    tar: Path,
    *,
    share: bool,
) -> tuple[Layer, Sequence[Extent]]:
    """What `stream_blocks` makes. To `share` is to write to the new file `tar` only what the first
    file of the older tar lacks, where that is worth it.

    Also returns where the tar is: in that file, which is 0, and in `tar`, which is 1. It is nowhere
    if the older one turned out to be damaged.
    """
    assert index.tar is not None
    with open(tar, "w+b", buffering=0) as file, TaskGroup() as group:
        new = _NewTar(index, file.fileno())
        with closing(_RangeHasher(new.files)) as hasher:
            hashed = group.start(hasher.run)
            for run in _runs(plan_tar(items)):
                check()
                for place, crc in new.add(run):
                    hasher.add(place, crc)
        shared = share and new.can_share()
        if shared:
            os.ftruncate(file.fileno(), new.position + 2 * BLOCK)
        whole = None if shared else group.start(new.write_whole, tar.with_suffix(".whole"))
        added: list[KnownBlock] = []

        def compressed() -> Iterator[CompressedBlock]:
            numbers = range(len(new.blocks))
            with closing(ordered_map(lambda number: new.compressed(number, codec), numbers)) as all:
                for block, digest in all:
                    size = len(block.data)
                    added.append(KnownBlock(digest, ingest.size, size, block.crc, block.length, 0))
                    yield block

        for data in codec.join_blocks(compressed()):
            ingest.write(data)
        diff_id = hashed.result() or new.read_again()
        if whole is not None:
            whole.result()
            os.replace(tar.with_suffix(".whole"), tar)
        descriptor = Descriptor(codec.media_type, ingest.digest, ingest.size)
        ingest.commit(descriptor)
    for key, one in zip(new.keys, added, strict=True):
        index.add(key, one)
    extents = new.extents if shared else [Extent(1, 0, sum(one.length for one in new.blocks))]
    return Layer(descriptor, diff_id), extents if hashed.result() else ()


class _NewTar:
    """The blocks of a tar: in the older one, or in a `file`, with the directories above them."""

    def __init__(self, index: BlockIndex, file: int) -> None:
        assert index.tar is not None
        self.blocks: list[TarBlock] = []
        self.keys: list[bytes] = []
        self.places: list[Extent] = []
        self.position = 0  # of the end of the file
        self.files = (*index.tar.files, file)
        self._crcs: list[int] = []
        self._known: list[KnownBlock | None] = []
        self._tar, self._index, self._file = index.tar, index, file
        self._directories: dict[str, Entry] = {}
        self._written: dict[str, Entry] = {}
        self._can_be_stacked = True
        self._large = LargeFiles()

    def add(self, run: list[TarBlock]) -> Iterator[tuple[Extent, int]]:
        """Add blocks of whole entries: where they are, and their checksums."""
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
        self.blocks += run
        self.keys += keys
        self.places += places
        self._crcs += crcs
        self._known += known
        return zip(places, crcs, strict=True)

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

    def compressed(self, number: int, codec: Codec) -> tuple[CompressedBlock, bytes]:
        """A block as the older blob has it, or compressed, and its digest in an index."""
        from blake3 import blake3

        known = self._known[number]
        crc, length = self._crcs[number], self.blocks[number].length
        is_same = known is not None and (known.crc, known.length) == (crc, length)
        if known is not None and is_same and (data := self._index.read_compressed(known)):
            return CompressedBlock(data, crc, length), known.digest
        block = codec.compress_block(self._plain(number))
        return block, blake3(block.data).digest()

    def _plain(self, number: int) -> memoryview:
        """The bytes of a block; read from the files again if they are damaged where they are."""
        block, place = self.blocks[number], self.places[number]
        view = memoryview(bytearray(block.length))
        if not StoredTar(self.files, [place]).fill(view, 0) or checksum(view) != self._crcs[number]:
            block.fill(view)
        return view

    def read_again(self) -> Digest:
        """The diff ID, where the older tar was damaged."""
        seen = Hasher()
        for number in range(len(self.blocks)):
            check()
            seen.update(self._plain(number))
        return seen.digest


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


class _RangeHasher:
    """Hashes parts of files in order, on a thread of its own: as many bytes at once as follow each
    other, since between two calls it waits for threads that run Python.
    """

    def __init__(self, files: Sequence[int]) -> None:
        self._files = files
        self._added: SimpleQueue[tuple[Extent, int] | None] = SimpleQueue()

    def add(self, place: Extent, crc: int) -> None:
        """The next part, and its checksum."""
        self._added.put((place, crc))

    def close(self) -> None:
        """There are no more."""
        self._added.put(None)

    def run(self) -> Digest | None:
        """The digest of all; None if a checksum is another one."""
        seen, buffer = Hasher(), memoryview(bytearray(_AT_ONCE))
        for place, crc in self._ranges():
            check()
            view = buffer[: place.length]
            if not StoredTar(self._files, [place]).fill(view, 0) or checksum(view) != crc:
                return None
            seen.update(view)
        return seen.digest

    def _ranges(self) -> Iterator[tuple[Extent, int]]:
        """The parts, together where one follows the other."""
        from isal.isal_zlib import crc32_combine

        added = self._added.get()
        while added is not None:
            (file, start, length), crc = added
            try:
                while (added := self._added.get_nowait()) is not None:
                    place, more = added
                    follows = (place.file, place.start) == (file, start + length)
                    if not follows or length + place.length > _AT_ONCE:
                        break
                    length, crc = length + place.length, crc32_combine(crc, more, place.length)
            except Empty:
                yield Extent(file, start, length), crc
                added = self._added.get()
            else:
                yield Extent(file, start, length), crc
