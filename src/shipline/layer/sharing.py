"""Whether a new tar can share the file of an older one, so that only the rest is written.

The files of both are mounted one above the other. The new one has the entries that are new or
changed, with the directories above them, and hides what has the same names in the older one. What
only the older one has cannot be hidden without hiding what layers below have.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping

from shipline.errors import ContentError
from shipline.layer.entry import PREFIX, Entry
from shipline.layer.stored_tar import Extent, TarReader
from shipline.layer.tar_reader import read_tar
from shipline.layer.tar_writer import TarBlock

_WORTH = 4  # of so many bytes one may be written, and one be unused in the older tar


def can_be_stacked(block: TarBlock) -> bool:
    """Links to a file do not follow it into another mount, and whiteouts hide lower layers."""
    return not any(one[1] == "hardlink" or PREFIX in one[0] for one in block.entries)


def can_share(
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
