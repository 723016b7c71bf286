"""Tars on the disk, each in a file of its own, or for the most part in that of an older one."""

from __future__ import annotations

import os
from bisect import bisect
from collections.abc import Iterable, Sequence
from contextlib import suppress
from itertools import accumulate
from typing import NamedTuple


class Extent(NamedTuple):
    """A part of a tar: so many bytes from `start` on, in one of its files."""

    file: int
    start: int
    length: int


class StoredTar:
    """The bytes of a tar: its `extents` of open `files`, in order."""

    def __init__(self, files: Sequence[int], extents: Sequence[Extent]) -> None:
        self.files = files
        self.extents = extents
        self._starts = list(accumulate((one.length for one in extents), initial=0))

    @classmethod
    def whole(cls, file: int) -> StoredTar:
        """A tar that is an open file."""
        return cls((file,), (Extent(0, 0, os.fstat(file).st_size),))

    def place(self, start: int) -> tuple[int, int]:
        """Which file has the bytes from `start` on, and where. Those of a block are together."""
        number = min(bisect(self._starts, start), len(self.extents)) - 1
        file, first, _ = self.extents[number]
        return file, first + start - self._starts[number]

    def fill(self, view: memoryview, start: int) -> bool:
        """Write the bytes from `start` on to `view`; whether they are there."""
        file, offset = self.place(start)
        with suppress(OSError):
            return os.preadv(self.files[file], [view], offset) == len(view)
        return False

    def reader(self) -> TarReader:
        """All bytes, in order."""
        return TarReader(self.files, self.extents)


class TarReader:
    """A Reader of extents; what is not there is missing in what it reads. Raises OSError."""

    def __init__(self, files: Sequence[int], extents: Iterable[Extent]) -> None:
        self._files = files
        self._extents = iter(extents)
        self._position = self._end = self._file = 0

    def read(self, size: int = -1, /) -> bytes:
        while True:
            length = self._end - self._position
            data = os.pread(self._file, length if size < 0 else min(size, length), self._position)
            if data:
                self._position += len(data)
                return data
            if (extent := next(self._extents, None)) is None:
                return b""
            self._file = self._files[extent.file]
            self._position, self._end = extent.start, extent.start + extent.length
