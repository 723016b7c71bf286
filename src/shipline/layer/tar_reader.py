"""Tar to entries: every format that images and ADD meet, checked while it is read.

ustar, V7, GNU (long names, base-256 numbers, sparse), star and pax (POSIX.1-2017 pax; the GNU tar
manual, "Tar Internals"). Twenty times as fast as tarfile: content is not touched unless wanted.
"""

from __future__ import annotations

import functools
import zlib
from collections.abc import Callable, Iterator

from shipline.content import Reader
from shipline.errors import ContentError
from shipline.layer.entry import Entry, Kind
from shipline.layer.tar_header import (
    BLOCK,
    Records,
    count,
    decimal,
    nanoseconds,
    number,
    parse_records,
    xattrs,
)

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


_CHUNK = 1 << 20  # bytes
_RECORDS_LIMIT = 1 << 20  # bytes of one extended header or long name
_SECOND = 1_000_000_000  # nanoseconds
_ZERO = bytes(BLOCK)
_KINDS: dict[bytes, Kind] = {
    b"0": "file",
    b"\0": "file",
    b"7": "file",
    b"S": "file",
    b"1": "hardlink",
    b"2": "symlink",
    b"3": "char",
    b"4": "block",
    b"5": "dir",
    b"D": "dir",
    b"6": "fifo",
}
_WITH_CONTENT = frozenset({b"0", b"\0", b"7", b"S", b"D"})
_EXTENSIONS = frozenset({b"x", b"X", b"g", b"L", b"K", b"V"})


class _Input:
    """The archive's bytes, read in large pieces."""

    def __init__(self, source: Reader) -> None:
        self._source = source
        self._held = b""
        self._at = 0

    def take(self, size: int) -> bytes:
        """At most `size` bytes; fewer only where the next call will go on, none at the end."""
        if self._at == len(self._held):
            self._held, self._at = self._source.read(_CHUNK), 0
        data = self._held[self._at : self._at + size]
        self._at += len(data)
        return data

    def exactly(self, size: int) -> bytes:
        at = self._at
        data = self._held[at : at + size]
        self._at = at + len(data)
        while len(data) < size:
            more = self.take(size - len(data))
            if not more:
                raise truncated()
            data += more
        return data

    def header(self) -> bytes:
        """One block; nothing at the end of the archive."""
        if self._at == len(self._held):
            self._held, self._at = self._source.read(_CHUNK), 0
            if not self._held:
                return b""
        return self.exactly(BLOCK)

    def skip(self, size: int) -> None:
        held = len(self._held) - self._at
        if size <= held:
            self._at += size
            return
        self._at = len(self._held)
        size -= held
        while size:
            data = self._source.read(min(size, _CHUNK))
            if not data:
                raise truncated()
            size -= len(data)

    def drain(self) -> None:
        """Read to the end, where verified readers give their verdict."""
        while self._source.read(_CHUNK):
            pass


class FileContent:
    """The content of the entry just read; usable until the next entry is asked for."""

    __slots__ = ("_input", "left")

    def __init__(self, source: _Input, size: int) -> None:
        self._input = source
        self.left = size

    def read(self, size: int = -1, /) -> bytes:
        if size < 0:
            size = self.left
            self.left = 0
            return self._input.exactly(size)
        size = min(size, self.left)
        if not size:
            return b""
        data = self._input.take(size)
        if not data:
            raise truncated()
        self.left -= len(data)
        return data


def read_tar(reader: Reader) -> Iterator[tuple[Entry, Reader | None]]:
    """The members of an archive in order, each file with its content.

    Names come normal (`./a/` is `a`, a leading slash is dropped) and the root itself is left out;
    `..` is passed on: who writes to a disk must refuse it. The reader is read to its end. Raises
    ContentError for a wrong checksum, a cut archive, a number out of range or a header too long.
    """
    source = _Input(reader)
    extended: Records = {}
    for_all: Records = {}
    while (block := source.header()) and block != _ZERO:
        _check_sum(block)
        flag = block[156:157]
        if flag in _EXTENSIONS:
            _extend(source, block, extended, for_all)
            continue
        records = {**for_all, **extended} if extended or for_all else extended
        stored = _stored(block, flag, records)
        raw = FileContent(source, stored)
        entry = _entry(block, flag, stored, records)
        content: Reader | None = raw if entry[1] == "file" else None
        if flag == b"S" or records:
            entry, content = _expanded(entry, content, flag, block, records, source)
            extended = {}
        if entry[0]:
            yield entry, content
        source.skip(raw.left + -stored % BLOCK)
    if extended:
        raise truncated()
    if block and source.header() not in (_ZERO, b""):
        raise ContentError("tar: a member follows the end of the archive")
    source.drain()


def _stored(block: bytes, flag: bytes, records: Records) -> int:
    """Bytes that follow the header; links and devices have none, whatever their size says."""
    if flag not in _WITH_CONTENT:
        return 0
    if b"size" in records:
        return decimal(records[b"size"])
    return count(block[124:136])


def _entry(block: bytes, flag: bytes, size: int, records: Records) -> Entry:
    kind = _KINDS.get(flag)
    if kind is None:
        raise ContentError(f"tar: member of unknown type {flag!r}")
    name = block[:100].partition(b"\0")[0]
    if block[345] and block[257:263] == b"ustar\0":
        end = 476 if block[508:512] == b"tar\0" else 500  # star keeps times behind its prefix
        name = block[345:end].partition(b"\0")[0] + b"/" + name
    link = block[157:257].partition(b"\0")[0] if flag in b"12" else b""
    mode, uid, gid = _owner(block[100:124])
    mtime_ns = number(block[136:148]) * _SECOND
    if records:
        name = records.get(b"GNU.sparse.name") or records.get(b"path", name)
        link = records.get(b"linkpath", link)
        uid = decimal(records[b"uid"]) if b"uid" in records else uid
        gid = decimal(records[b"gid"]) if b"gid" in records else gid
        mtime_ns = nanoseconds(records[b"mtime"]) if b"mtime" in records else mtime_ns
    if kind == "file" and name.endswith(b"/"):
        kind = "dir"  # V7 had no type for directories
    path = _normal(name)
    if kind == "file":
        return Entry(path, kind, mode, uid, gid, size, mtime_ns)
    target = _normal(link) if kind == "hardlink" else link.decode("utf-8", "surrogateescape")
    major, minor = (count(block[329:337]), count(block[337:345])) if flag in b"34" else (0, 0)
    return Entry(path, kind, mode, uid, gid, 0, mtime_ns, target, major, minor)


@functools.lru_cache(4096)
def _owner(fields: bytes) -> tuple[int, int, int]:
    """Mode, uid and gid, which most members of an archive share."""
    return count(fields[:8]) & 0o7777, count(fields[8:16]), count(fields[16:])


def _expanded(
    entry: Entry,
    content: Reader | None,
    flag: bytes,
    block: bytes,
    records: Records,
    source: _Input,
) -> tuple[Entry, Reader | None]:
    """The entry with its attributes, and its content with the holes of a sparse file."""
    entry = entry._replace(xattrs=xattrs(records))
    if content is None:
        return entry, content
    sparse = old_map(block, source.exactly) if flag == b"S" else pax_map(records, content)
    if sparse is None:
        return entry, content
    fragments, size = sparse
    return entry._replace(size=size), Sparse(content, fragments, size)


def _extend(source: _Input, block: bytes, extended: Records, for_all: Records) -> None:
    """Read a member that says something about later ones."""
    flag, size = block[156:157], count(block[124:136])
    if size > _RECORDS_LIMIT:
        raise ContentError(
            f"tar: extended header of {size} bytes, at most {_RECORDS_LIMIT} allowed"
        )
    body = source.exactly(size)
    source.skip(-size % BLOCK)
    if flag == b"L":
        extended[b"path"] = body.partition(b"\0")[0]
    elif flag == b"K":
        extended[b"linkpath"] = body.partition(b"\0")[0]
    elif flag == b"g":
        parse_records(body, for_all)
    elif flag != b"V":
        parse_records(body, extended)


def _normal(raw: bytes) -> str:
    path = raw.decode("utf-8", "surrogateescape").removesuffix("/")
    if path[:1] not in "./" and path[-1:] != "/" and "//" not in path and "/." not in path:
        return path
    return "/".join(part for part in path.split("/") if part not in ("", "."))


def _check_sum(block: bytes) -> None:
    blank = b"%b        %b" % (block[:148], block[156:])
    # Adler's lower half is the plain sum as long as that is below 65521, as for ASCII
    seen = zlib.adler32(blank, 0) & 0xFFFF if blank.isascii() else sum(blank)
    if block[148:156] == b"%06o\0 " % seen:
        return
    stated = number(block[148:156])
    signed = sum(byte - 256 if byte > 127 else byte for byte in blank)  # as old tars added
    if stated not in (seen, signed):
        raise ContentError("tar: wrong checksum, this is not a tar archive or it is damaged")


def truncated() -> ContentError:
    return ContentError(
        "tar: the archive ends in the middle of a member", hint="transfer or create it again"
    )
