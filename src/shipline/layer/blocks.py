"""Blocks: the pieces of a tar that are compressed by themselves, and taken from an older layer.

A block ends where an entry begins, and where depends on the entries close to it alone: equal files
give equal blocks wherever they are, so that a changed file changes one or two of them.
"""

from __future__ import annotations

import os
import struct
import zlib
from collections.abc import Iterable, Iterator
from contextlib import suppress
from typing import NamedTuple

from shipline.errors import ContentError
from shipline.layer.stored_tar import StoredTar
from shipline.layer.tar_header import BLOCK, Records, count, decimal, parse_records

LONGEST = 1 << 20  # bytes of a block; changing this or the next two changes digests
_SHORTEST = 256 << 10  # bytes, from which on a block ends before an entry that is chosen
_SPREAD = 512 << 10  # bytes between chosen entries, on average
_EXTENSIONS = b"xgLK"  # type flags of headers that belong to the next one


def ends_block(header: bytes, length: int, previous: int, filled: int) -> bool:
    """Whether a block of `filled` bytes ends before an entry: one that does not fit into it, or
    that is chosen by its header, the likelier the longer the `previous` entry is. What is not an
    entry has no header.

    `length` is that of the entry, headers and padding included. Of one that is longer than a block
    every LONGEST bytes are a block.
    """
    if filled + length > LONGEST:
        return filled > 0
    if filled < _SHORTEST or not header:
        return False
    return zlib.crc32(header) * _SPREAD < previous << 32


def cut_tar(chunks: Iterable[bytes]) -> Iterator[bytes]:
    """The blocks of a tar, by its bytes alone; `write_tar` gives the same ones. Cuts anything."""
    source = iter(chunks)
    held = bytearray()  # from the start of the block on
    position = previous = 0  # of the next entry, and the length of the one before
    while _fill(held, source, position + BLOCK):
        head, length = _entry(held, source, position)
        if ends_block(bytes(held[position : position + head]), length, previous, position):
            yield _take(held, position)
            position = 0
        previous = length
        position += length
        while position > LONGEST and _fill(held, source, LONGEST):
            yield _take(held, LONGEST)
            position -= LONGEST
    while held:
        yield _take(held, LONGEST)


def _fill(held: bytearray, source: Iterator[bytes], size: int) -> bool:
    """Whether the source had enough for `held` to have `size` bytes."""
    while len(held) < size:
        data = next(source, None)
        if data is None:
            return False
        held += data
    return True


def _take(held: bytearray, size: int) -> bytes:
    data = bytes(held[:size])
    del held[:size]
    return data


def _entry(held: bytearray, source: Iterator[bytes], position: int) -> tuple[int, int]:
    """The lengths of an entry's headers and of the whole entry. What is not a header is an entry,
    too, so that this never goes back.
    """
    head, content = 0, None
    while True:
        if not _fill(held, source, position + head + BLOCK):
            return head, head or BLOCK
        start = position + head
        block = bytes(held[start : start + BLOCK])
        size = _size(block)
        if size is None:
            return head, head or BLOCK
        head += BLOCK
        if block[156] not in _EXTENSIONS:
            break
        body = size + -size % BLOCK
        if head + body > LONGEST or not _fill(held, source, position + head + body):
            return head, head
        if block[156] == ord("x"):
            content = _recorded(bytes(held[start + BLOCK : start + BLOCK + size]))
        head += body
    size = size if content is None else content
    return head, head + size + -size % BLOCK


def _size(block: bytes) -> int | None:
    """The size in a header, None for what is not a header."""
    if block[257:262] != b"ustar":
        return None
    try:
        return count(block[124:136])
    except ContentError:
        return None


def _recorded(body: bytes) -> int | None:
    """The size in the records of an extended header, None without one."""
    records: Records = {}
    try:
        parse_records(body, records)
        return decimal(records[b"size"])
    except (ContentError, KeyError):
        return None


class KnownBlock(NamedTuple):
    """A block of an older layer: `crc` and `length` of its bytes, which are at `start` of its tar;
    `size` and `blob_crc` of what they are compressed to, at `offset` of its blob.
    """

    blob_crc: int
    offset: int
    size: int
    crc: int
    length: int
    start: int

    def is_of(self, plain: memoryview) -> bool:
        """Whether these are the bytes of the block."""
        return len(plain) == self.length and checksum(plain) == self.crc


_ROW = struct.Struct("<32sIQIII")  # key, and a KnownBlock without its start
_NO_KEY = bytes(32)


class BlockIndex:
    """The blocks of a layer by what they hold, plain and compressed. Those of an older one, whose
    `rows` came from `dump`, are taken where they are equal: from its `tar` and its open file
    `blob`, either of which may be missing (None, -1).

    Damage gives no block: what is there is compared with its checksum.
    """

    def __init__(self, rows: bytes = b"", blob: int = -1, tar: StoredTar | None = None) -> None:
        self._older: dict[bytes, int] = {}
        self._keys: list[bytes] = []
        self._blocks: list[KnownBlock] = []
        self.blob, self.tar = blob, tar
        self._rows: list[bytes] = []
        start = 0
        for key, blob_crc, offset, size, crc, length in _ROW.iter_unpack(rows):
            if key != _NO_KEY:
                self._older[key] = len(self._keys)
            self._keys.append(key)
            self._blocks.append(KnownBlock(blob_crc, offset, size, crc, length, start))
            start += length

    @property
    def has_older(self) -> bool:
        """Whether there is an older layer."""
        return bool(self._older)

    def dump(self) -> bytes:
        """The rows of the blocks that were added."""
        return b"".join(self._rows)

    def find(self, key: bytes) -> KnownBlock | None:
        """The block of the older layer."""
        number = self._older.get(key)
        return None if number is None else self._blocks[number]

    def find_run(self, keys: list[bytes]) -> list[KnownBlock]:
        """Blocks of the older layer that follow each other as these do; none if there are none."""
        first = self._older.get(keys[0], len(self._keys))
        end = first + len(keys)
        return self._blocks[first:end] if self._keys[first:end] == keys else []

    def fill(self, known: KnownBlock, view: memoryview) -> bool:
        """Write a block of the older layer to `view`; whether it is there."""
        if self.tar is None or len(view) != known.length:
            return False
        return self.tar.fill(view, known.start) and known.is_of(view)

    def fill_compressed(self, known: KnownBlock, view: memoryview) -> bool:
        """Write what a block of the older layer is compressed to at the start of `view`; whether it
        is there.
        """
        data = self.read_blob(known.offset, known.size, known.blob_crc)
        view[: len(data)] = data
        return data != b""

    def read_blob(self, offset: int, size: int, crc: int) -> bytes:
        """A part of the older blob; empty if it is not there."""
        if self.blob < 0:
            return b""
        with suppress(OSError):
            data = os.pread(self.blob, size, offset)
            return data if checksum(data) == crc else b""
        return b""

    def add(self, key: bytes, known: KnownBlock) -> None:
        """Add the next block of the new layer."""
        self._rows.append(_ROW.pack(key or _NO_KEY, *known[:-1]))


def checksum(data: bytes | memoryview) -> int:
    """The CRC-32 of a block, as gzip has it."""
    from isal import isal_zlib

    return isal_zlib.crc32(data)


def join_checksums(parts: Iterable[tuple[int, int]]) -> tuple[int, int]:
    """Checksum and length of parts with these checksums and lengths, one after the other."""
    from isal.isal_zlib import crc32_combine

    crc = size = 0
    for part, length in parts:
        crc, size = crc32_combine(crc, part, length), size + length
    return crc, size
