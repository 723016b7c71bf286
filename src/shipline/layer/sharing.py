"""Which part of a new tar is in that of an older layer, so that only the rest is written.

The files of both tars are mounted one above the other. The new one has the entries that are new or
changed, with the directories above them, and hides what has the same names in the older one. What
only the older one has cannot be hidden without hiding what layers below have.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import accumulate

from msgspec import Struct

from shipline.errors import ContentError
from shipline.layer.blocks import BlockIndex, KnownBlock
from shipline.layer.entry import PREFIX, Entry
from shipline.layer.stored_tar import Extent, TarReader
from shipline.layer.tar_header import BLOCK, encode
from shipline.layer.tar_reader import read_tar
from shipline.layer.tar_writer import TarBlock

_WORTH = 4  # of so many bytes one may be written, and one be unused in the older tar
_Kept = Mapping[int, tuple[KnownBlock, Extent]]


class TarPlan(Struct, frozen=True):
    """Where each block of a new tar is: in file 0, which is the first one of the older tar, or in
    file 1, which is written and begins with `head`. `known` are those in the older one.
    """

    extents: Sequence[Extent]
    head: bytes = b""
    known: Mapping[int, KnownBlock] = {}

    @property
    def size(self) -> int:
        """How long the file is that is written."""
        own = [one.start + one.length for one in self.extents if one.file]
        return max(own, default=len(self.head)) + (2 * BLOCK if self.known else 0)


def whole(blocks: Iterable[TarBlock]) -> TarPlan:
    """All blocks are written."""
    lengths = [block.length for block in blocks]
    starts = accumulate(lengths, initial=0)
    return TarPlan([Extent(1, *place) for place in zip(starts, lengths, strict=False)])


def shared(blocks: Sequence[TarBlock], keys: Sequence[bytes], index: BlockIndex) -> TarPlan | None:
    """Those blocks are written that the older tar lacks; None where they are many, or the stacked
    files would not be those of the new tar.
    """
    if index.tar is None or not all(map(_can_be_stacked, blocks)):
        return None
    kept = _kept(blocks, keys, index)
    new = [block for number, block in enumerate(blocks) if number not in kept]
    unused = list(_unused(sorted(extent for _, extent in kept.values()), index.tar.files[0]))
    if not kept or any(
        _WORTH * sum(one.length for one in some) > sum(block.length for block in blocks)
        for some in (new, unused)
    ):
        return None
    entries = {entry.path: entry for block in new for entry in block.entries}
    if not _hides(entries, TarReader(index.tar.files, unused)):
        return None
    head = b"".join(map(encode, _directories_above(entries, blocks)))
    position, extents = len(head), []
    for number, block in enumerate(blocks):
        if number in kept:
            extents.append(kept[number][1])
        else:
            extents.append(Extent(1, position, block.length))
            position += block.length
    return TarPlan(extents, head, {number: known for number, (known, _) in kept.items()})


def _can_be_stacked(block: TarBlock) -> bool:
    """Links to a file do not follow it into another mount, and whiteouts hide lower layers."""
    return not any(one[1] == "hardlink" or PREFIX in one[0] for one in block.entries)


def _kept(blocks: Sequence[TarBlock], keys: Sequence[bytes], index: BlockIndex) -> _Kept:
    """The blocks that are in the first file of the older tar, where whole entries are."""
    assert index.tar is not None
    kept: dict[int, tuple[KnownBlock, Extent]] = {}
    for numbers in _runs(blocks):
        known = index.find_run([keys[number] for number in numbers])
        extents = [Extent(*index.tar.place(one.start), one.length) for one in known]
        if all(
            one.file == 0 and one.start - extents[0].start == block.start - known[0].start
            for one, block in zip(extents, known, strict=True)
        ):
            kept |= zip(numbers, zip(known, extents, strict=True), strict=False)
    return kept


def _runs(blocks: Iterable[TarBlock]) -> Iterator[list[int]]:
    """The numbers of the blocks, together where an entry goes on from one to the next."""
    run: list[int] = []
    last: Entry | None = None
    for number, block in enumerate(blocks):
        if run and (last is None or not block.entries or block.entries[0] is not last):
            yield run
            run = []
        run.append(number)
        last = block.entries[-1] if block.entries else None
    yield run


def _unused(kept: Iterable[Extent], file: int) -> Iterator[Extent]:
    """What is not among the `kept` extents of a file, which are sorted."""
    position = 0
    for _, start, length in (*kept, Extent(0, os.fstat(file).st_size, 0)):
        if start > position:
            yield Extent(0, position, start - position)
        position = start + length


def _hides(entries: Mapping[str, Entry], unused: TarReader) -> bool:
    """Whether the entries have the names of all that is unused, and are of the same kinds."""
    try:
        found = [entry for entry, _ in read_tar(unused)]
    except (ContentError, OSError):  # damaged
        return False
    return all(one.path in entries and entries[one.path].kind == one.kind for one in found)


def _directories_above(entries: Mapping[str, Entry], blocks: Iterable[TarBlock]) -> Iterator[Entry]:
    """The directories that lead to the entries and are not among them, parents first."""
    above: set[str] = set()
    for path in entries:
        while (path := path.rpartition("/")[0]) and path not in above:
            above.add(path)
    for block in blocks:
        for one in block.entries:
            if one[0] in above and one[0] not in entries:
                yield one
