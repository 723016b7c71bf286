"""Blocks: the pieces of a tar that are compressed by themselves, and taken from an older layer.

A block ends where an entry begins, and where depends on the entries close to it alone: equal files
give equal blocks wherever they are, so that a changed file changes one or two of them.
"""

from __future__ import annotations

import os
import struct
import zlib
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from typing import NamedTuple

from shipline.errors import ContentError
from shipline.layer.tar_header import BLOCK, Records, count, decimal, parse_records

LONGEST = 1 << 20  # bytes of a block; changing this or the next two changes digests
_SHORTEST = 256 << 10  # bytes, from which on a block ends before an entry that is chosen
_SPREAD = 512 << 10  # bytes between chosen entries, on average
_EXTENSIONS = b"xgLK"  # type flags of headers that belong to the next one


def ends_block(header: bytes, length: int, previous: int, filled: int) -> bool:
    """Whether a block of `filled` bytes ends before an entry: one that does not fit into it, or
    that is chosen by its header, the likelier the longer the `previous` entry is. What is no entry
    has no header.

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
    """The lengths of an entry's headers and of the whole entry. What is no header is an entry, too,
    so that this never goes back.
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
    """The size in a header, None for what is no header."""
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


class CompressedBlock(NamedTuple):
    """A compressed block, with crc and length of what it holds.

    `key` and `digest` are those of the block before and after compression, if anyone asks.
    """

    data: bytes
    crc: int = 0
    length: int = 0
    key: bytes = b""
    digest: bytes = b""


_ROW = struct.Struct("<32s32sQIII")  # key, digest, offset, size, crc, length


class BlockIndex:
    """The compressed blocks of a layer by what they hold. Those of an older one, whose `rows` came
    from `dump` and whose blob is the open file `blob`, are taken where they are equal.

    A damaged blob gives no part: its bytes are compared with their digest.
    """

    def __init__(self, rows: bytes = b"", blob: int = -1) -> None:
        self._older = {row[0]: row for row in _ROW.iter_unpack(rows)}
        self._blob = blob
        self._rows: list[bytes] = []

    def dump(self) -> bytes:
        """The rows of the parts that were added."""
        return b"".join(self._rows)

    def part(self, block: bytes, compress: Callable[[bytes], CompressedBlock]) -> CompressedBlock:
        """The part for a block: that of the older layer, or else compressed. From any thread."""
        from blake3 import blake3

        key = blake3(block).digest()
        if row := self._older.get(key):
            _, digest, offset, size, crc, length = row
            with suppress(OSError):
                data = os.pread(self._blob, size, offset)
                if blake3(data).digest() == digest:
                    return CompressedBlock(data, crc, length, key, digest)
        made = compress(block)
        return made._replace(key=key, digest=blake3(made.data).digest())

    def add(self, part: CompressedBlock, offset: int) -> None:
        """Add the next part of the layer, which is at `offset` in its blob."""
        data, crc, length, key, digest = part
        self._rows.append(_ROW.pack(key, digest, offset, len(data), crc, length))
