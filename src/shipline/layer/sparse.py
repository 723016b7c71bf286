"""Sparse files of GNU tar: maps of what is stored, and contents with their holes filled.

The GNU tar manual, "Storing Sparse Files": the old format and the pax formats 0.0, 0.1 and 1.0.
"""

from __future__ import annotations

from collections.abc import Callable

from shipline.content import Reader
from shipline.errors import ContentError
from shipline.layer.header import BLOCK
from shipline.layer.pax import Records, count, decimal

Fragments = list[tuple[int, int]]
"""Offset and length, in bytes, of the stored parts of a file, in order."""

_MOST = 1 << 20  # fragments
_ZEROS = bytes(1 << 16)
_Exactly = Callable[[int], bytes]


def old_map(block: bytes, exactly: _Exactly) -> tuple[Fragments, int]:
    """Fragments and real size of a member of type S; reads the map's further blocks."""
    fragments = _fields(block[386:482])
    more = block[482]
    while more:
        extension = exactly(BLOCK)
        fragments += _fields(extension[:504])
        more = extension[504]
        _limit(fragments)
    return fragments, count(block[483:495])


def _fields(area: bytes) -> Fragments:
    pairs = (area[at : at + 24] for at in range(0, len(area), 24))
    return [(count(pair[:12]), count(pair[12:])) for pair in pairs if pair[0]]


def pax_map(records: Records, stored: Reader) -> tuple[Fragments, int] | None:
    """Fragments and real size by the records, None if there are none of a sparse file.

    Format 1.0 has its map in front of the content: it is read from `stored`.
    """
    if records.get(b"GNU.sparse.major") == b"1":
        size = records.get(b"GNU.sparse.realsize", b"")
        return _leading_map(stored), decimal(size)
    if b"GNU.sparse.size" not in records:
        return None
    numbers = [decimal(part) for part in records.get(b"GNU.sparse.map", b"").split(b",") if part]
    if len(numbers) % 2:
        raise _malformed()
    return list(zip(numbers[::2], numbers[1::2], strict=True)), decimal(records[b"GNU.sparse.size"])


def _leading_map(stored: Reader) -> Fragments:
    held = b""

    def line() -> int:
        nonlocal held
        while b"\n" not in held:
            data = stored.read(BLOCK)
            if not data or len(held) > BLOCK:
                raise _malformed()
            held += data
        digits, _, held = held.partition(b"\n")
        return decimal(digits)

    total = line()
    if total > _MOST:
        raise _malformed()
    return [(line(), line()) for _ in range(total)]


def _limit(fragments: Fragments) -> None:
    if len(fragments) > _MOST:
        raise _malformed()


def _malformed() -> ContentError:
    return ContentError("tar: malformed map of a sparse file")


class Sparse:
    """The content of a sparse file, with zeros in its holes.

    Raises ContentError for fragments that overlap, that pass the end, or that are not stored.
    """

    def __init__(self, stored: Reader, fragments: Fragments, size: int) -> None:
        _check(fragments, size)
        self._stored = stored
        self._fragments = [*fragments, (size, 0)]
        self._index = 0
        self._at = 0

    def read(self, size: int = -1, /) -> bytes:
        if size < 0:
            return b"".join(iter(lambda: self.read(1 << 20), b""))
        offset, length = self._fragments[self._index]
        while self._at == offset + length and self._index < len(self._fragments) - 1:
            self._index += 1
            offset, length = self._fragments[self._index]
        if self._at < offset:
            data = _ZEROS[: min(size, offset - self._at)]
        else:
            data = self._take(min(size, offset + length - self._at))
        self._at += len(data)
        return data

    def _take(self, size: int) -> bytes:
        if not size:
            return b""
        data = self._stored.read(size)
        if not data:
            raise ContentError("tar: a sparse file is shorter than its map")
        return data


def _check(fragments: Fragments, size: int) -> None:
    at = 0
    for offset, length in fragments:
        if offset < at:
            raise _malformed()
        at = offset + length
    if at > size:
        raise _malformed()
