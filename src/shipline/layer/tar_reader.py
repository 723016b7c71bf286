"""Reading tar: every format found in images and in archives for ADD, checked as it is read.

ustar, V7, GNU (long names, base-256 numbers, sparse), star and pax (POSIX.1-2017 pax; the GNU tar
manual, "Tar Internals"). Twenty times as fast as tarfile: content that is not read is skipped.
"""

from __future__ import annotations

import functools
import zlib
from collections.abc import Callable, Iterator
from typing import NamedTuple

from shipline.content import Reader
from shipline.errors import ContentError, InvalidArchive
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
"""Offset and length in bytes of the stored parts of a sparse file, in order."""

_MAX_FRAGMENTS = 1 << 20  # fragments
_HOLES, _HOLES_RATIO = 1 << 30, 64  # bytes of holes in an archive, or times the bytes read so far
_ZEROS = bytes(1 << 16)
_ReadExactly = Callable[[int], bytes]


def gnu_sparse_map(block: bytes, read_exactly: _ReadExactly) -> tuple[Fragments, int]:
    """Fragments and real size of a member of type S; reads the extension blocks of the map."""
    fragments = _fields(block[386:482])
    continued = block[482]
    while continued:
        extension = read_exactly(BLOCK)
        fragments += _fields(extension[:504])
        continued = extension[504]
        _check_count(fragments)
    return fragments, count(block[483:495])


def _fields(area: bytes) -> Fragments:
    pairs = (area[position : position + 24] for position in range(0, len(area), 24))
    return [(count(pair[:12]), count(pair[12:])) for pair in pairs if pair[0]]


def pax_sparse_map(records: Records, stored: Reader) -> tuple[Fragments, int] | None:
    """Fragments and real size from the records, None if the file is not sparse.

    Format 1.0 stores the map before the content: it is read from `stored`.
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
    buffer = b""

    def line() -> int:
        nonlocal buffer
        while b"\n" not in buffer:
            data = stored.read(BLOCK)
            if not data or len(buffer) > BLOCK:
                raise _malformed()
            buffer += data
        digits, _, buffer = buffer.partition(b"\n")
        return decimal(digits)

    total = line()
    if total > _MAX_FRAGMENTS:
        raise _malformed()
    return [(line(), line()) for _ in range(total)]


def _check_count(fragments: Fragments) -> None:
    if len(fragments) > _MAX_FRAGMENTS:
        raise _malformed()


def _malformed() -> ContentError:
    return InvalidArchive("tar: malformed map of a sparse file")


class Sparse:
    """The content of a sparse file, with zeros for holes.

    Raises ContentError for fragments that overlap, exceed the size, or are not stored.
    """

    def __init__(self, stored: Reader, fragments: Fragments, size: int) -> None:
        _check(fragments, size)
        self._stored = stored
        self._fragments = [*fragments, (size, 0)]
        self._index = 0
        self._position = 0

    def read(self, size: int = -1, /) -> bytes:
        if size < 0:
            return b"".join(iter(lambda: self.read(1 << 20), b""))
        offset, length = self._fragments[self._index]
        while self._position == offset + length and self._index < len(self._fragments) - 1:
            self._index += 1
            offset, length = self._fragments[self._index]
        if self._position < offset:
            data = _ZEROS[: min(size, offset - self._position)]
        else:
            data = self._take(min(size, offset + length - self._position))
        self._position += len(data)
        return data

    def _take(self, size: int) -> bytes:
        if not size:
            return b""
        data = self._stored.read(size)
        if not data:
            raise InvalidArchive("tar: a sparse file is shorter than its map")
        return data


def _check(fragments: Fragments, size: int) -> None:
    position = 0
    for offset, length in fragments:
        if offset < position:
            raise _malformed()
        position = offset + length
    if position > size:
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
_TYPES_WITH_CONTENT = frozenset({b"0", b"\0", b"7", b"S", b"D"})
_EXTENSION_TYPES = frozenset({b"x", b"X", b"g", b"L", b"K", b"V"})


class _ArchiveReader:
    """The archive's bytes, read in large chunks."""

    def __init__(self, source: Reader) -> None:
        self._source = source
        self._buffer = b""
        self._position = 0
        self._taken = 0
        self._holes = 0

    def add_holes(self, size: int) -> None:
        """Count bytes that are not stored. Raises ContentError for far more than there are others,
        as in an archive that is made to fill a disk.
        """
        self._holes += size
        if self._holes > max(_HOLES, _HOLES_RATIO * self._taken):
            raise ContentError(
                "tar: sparse files unpack to far more than is stored of them",
                code="archive-too-large",
                hint="it may be a decompression bomb; do not trust its origin",
            )

    def _fill(self) -> None:
        self._buffer, self._position = self._source.read(_CHUNK), 0
        self._taken += len(self._buffer)

    def take(self, size: int) -> bytes:
        """At most `size` bytes; fewer at the end of a chunk, none at the end of the archive."""
        if self._position == len(self._buffer):
            self._fill()
        data = self._buffer[self._position : self._position + size]
        self._position += len(data)
        return data

    def read_exactly(self, size: int) -> bytes:
        position = self._position
        data = self._buffer[position : position + size]
        self._position = position + len(data)
        while len(data) < size:
            continued = self.take(size - len(data))
            if not continued:
                raise truncated()
            data += continued
        return data

    def header(self) -> bytes:
        """One block; empty at the end of the archive."""
        if self._position == len(self._buffer):
            self._fill()
            if not self._buffer:
                return b""
        return self.read_exactly(BLOCK)

    def skip(self, size: int) -> None:
        buffer = len(self._buffer) - self._position
        if size <= buffer:
            self._position += size
            return
        self._position = len(self._buffer)
        size -= buffer
        while size:
            data = self._source.read(min(size, _CHUNK))
            if not data:
                raise truncated()
            size -= len(data)
            self._taken += len(data)

    def drain(self) -> None:
        """Read to the end, where verified readers check the digest."""
        while self._source.read(_CHUNK):
            pass


class FileContent:
    """The content of the current entry; valid until the next entry is read."""

    __slots__ = ("_input", "left")

    def __init__(self, source: _ArchiveReader, size: int) -> None:
        self._input = source
        self.left = size

    def take(self, size: int) -> bytes:
        """The next `size` bytes, which must be left."""
        self.left -= size
        return self._input.read_exactly(size)

    def read(self, size: int = -1, /) -> bytes:
        if size < 0:
            return self.take(self.left)
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

    Names are normalised (`./a/` is `a`, a leading slash is dropped), and the root itself is
    omitted; `..` is passed through, for the unpacker to refuse. The reader is read to its end.
    Raises ContentError for a bad checksum, a truncated archive, a number out of range, or an
    oversized header.
    """
    source = _ArchiveReader(reader)
    next_records: Records = {}
    global_records: Records = {}
    while (block := source.header()) and block != _ZERO:
        _check_sum(block)
        flag = block[156:157]
        if flag in _EXTENSION_TYPES:
            _extend(source, block, next_records, global_records)
            continue
        records = (
            {**global_records, **next_records} if next_records or global_records else next_records
        )
        stored = _stored(block, flag, records)
        raw = FileContent(source, stored)
        entry = _entry(block, flag, stored, records)
        content: Reader | None = raw if entry[1] == "file" else None
        if flag == b"S" or records:
            entry, content = _expanded(entry, content, flag, block, records, source)
            next_records = {}
        if entry[0]:
            yield entry, content
        source.skip(raw.left + -stored % BLOCK)
    if next_records:
        raise truncated()
    if block and source.header() not in (_ZERO, b""):
        raise InvalidArchive("tar: a member follows the end of the archive")
    source.drain()


class RawMember(NamedTuple):
    """A member with its very bytes: `header` has the extended ones before it, too; `content` is
    what the archive stores, and `padding` follows it. `owner` are the names of user and group.
    """

    header: bytes
    entry: Entry
    content: FileContent
    padding: FileContent
    owner: tuple[str, str]


class RawTar:
    """An archive in parts that are its very bytes when joined: `members`, and then `rest`."""

    def __init__(self, reader: Reader) -> None:
        self._source = _ArchiveReader(reader)
        self._end = b""

    def members(self) -> Iterator[RawMember]:
        """The members in order; content and padding must be read before the next one.

        Raises ContentError as `read_tar`, and for sparse files, which store other bytes.
        """
        source = self._source
        header: list[bytes] = []
        next_records: Records = {}
        global_records: Records = {}
        while (block := source.header()) and block != _ZERO:
            _check_sum(block)
            header.append(block)
            flag = block[156:157]
            if flag in _EXTENSION_TYPES:
                header.append(_extend(source, block, next_records, global_records))
                continue
            records = {**global_records, **next_records}
            size = _stored(block, flag, records)
            entry = _entry(block, flag, size, records)._replace(xattrs=xattrs(records))
            if flag == b"S" or any(key.startswith(b"GNU.sparse.") for key in records):
                raise InvalidArchive(f"tar: {entry.path} is stored as a sparse file")
            content, padding = FileContent(source, size), FileContent(source, -size % BLOCK)
            yield RawMember(b"".join(header), entry, content, padding, _owner(block, records))
            header, next_records = [], {}
        if header:
            raise truncated()
        self._end = block

    def rest(self) -> Iterator[bytes]:
        """What follows the last member, to the end of the reader; for after `members`."""
        yield self._end
        while data := self._source.take(_CHUNK):
            yield data


def _owner(block: bytes, records: Records) -> tuple[str, str]:
    user, group = (block[start : start + 32].partition(b"\0")[0] for start in (265, 297))
    names = (records.get(b"uname", user), records.get(b"gname", group))
    return names[0].decode("utf-8", "replace"), names[1].decode("utf-8", "replace")


def _stored(block: bytes, flag: bytes, records: Records) -> int:
    """The size in bytes of the content; links and devices have none, whatever the header says."""
    if flag not in _TYPES_WITH_CONTENT:
        return 0
    if b"size" in records:
        return decimal(records[b"size"])
    return count(block[124:136])


def _entry(block: bytes, flag: bytes, size: int, records: Records) -> Entry:
    kind = _KINDS.get(flag)
    if kind is None:
        raise InvalidArchive(f"tar: member of unknown type {flag!r}")
    name = block[:100].partition(b"\0")[0]
    if block[345] and block[257:263] == b"ustar\0":
        end = 476 if block[508:512] == b"tar\0" else 500  # star stores times after the prefix
        name = block[345:end].partition(b"\0")[0] + b"/" + name
    link = block[157:257].partition(b"\0")[0] if flag in b"12" else b""
    mode, uid, gid = _numbers(block[100:124])
    mtime_ns = number(block[136:148]) * _SECOND
    if records:
        name = records.get(b"GNU.sparse.name") or records.get(b"path", name)
        link = records.get(b"linkpath", link)
        uid = _below(_NO_ID, decimal(records[b"uid"])) if b"uid" in records else uid
        gid = _below(_NO_ID, decimal(records[b"gid"])) if b"gid" in records else gid
        mtime_ns = nanoseconds(records[b"mtime"]) if b"mtime" in records else mtime_ns
    if kind == "file" and name.endswith(b"/"):
        kind = "dir"  # V7 has no type for directories
    path = _normal(name)
    if kind == "file":
        return Entry(path, kind, mode, uid, gid, size, mtime_ns)
    target = _normal(link) if kind == "hardlink" else link.decode("utf-8", "surrogateescape")
    major = minor = 0
    if flag in b"34":
        major = _below(_MAJORS, count(block[329:337]))
        minor = _below(_MINORS, count(block[337:345]))
    return Entry(path, kind, mode, uid, gid, 0, mtime_ns, target, major, minor)


@functools.lru_cache(4096)
def _numbers(fields: bytes) -> tuple[int, int, int]:
    """Mode, uid and gid; cached, because most members share them."""
    uid, gid = count(fields[8:16]), count(fields[16:])
    return count(fields[:8]) & 0o7777, _below(_NO_ID, uid), _below(_NO_ID, gid)


_NO_ID = 0xFFFF_FFFF  # chown(2) takes it for "no change"
_MAJORS, _MINORS = 1 << 12, 1 << 20  # the kernel drops further bits: another device


def _below(end: int, value: int) -> int:
    if value >= end:
        raise InvalidArchive(f"tar: {value} is not an owner or device: it is not below {end}")
    return value


def _expanded(
    entry: Entry,
    content: Reader | None,
    flag: bytes,
    block: bytes,
    records: Records,
    source: _ArchiveReader,
) -> tuple[Entry, Reader | None]:
    """The entry with its extended attributes, and its content with the holes of a sparse file."""
    entry = entry._replace(xattrs=xattrs(records))
    if content is None:
        return entry, content
    sparse = (
        gnu_sparse_map(block, source.read_exactly)
        if flag == b"S"
        else pax_sparse_map(records, content)
    )
    if sparse is None:
        return entry, content
    fragments, size = sparse
    source.add_holes(size - sum(length for _, length in fragments))
    return entry._replace(size=size), Sparse(content, fragments, size)


def _extend(
    source: _ArchiveReader, block: bytes, next_records: Records, global_records: Records
) -> bytes:
    """Read an extended header, which applies to later members; returns its body and padding."""
    flag, size = block[156:157], count(block[124:136])
    if size > _RECORDS_LIMIT:
        raise InvalidArchive(
            f"tar: extended header of {size} bytes, at most {_RECORDS_LIMIT} allowed"
        )
    stored = source.read_exactly(size + -size % BLOCK)
    body = stored[:size]
    if flag == b"L":
        next_records[b"path"] = body.partition(b"\0")[0]
    elif flag == b"K":
        next_records[b"linkpath"] = body.partition(b"\0")[0]
    elif flag == b"g":
        parse_records(body, global_records)
    elif flag != b"V":
        parse_records(body, next_records)
    return stored


def _normal(raw: bytes) -> str:
    path = raw.decode("utf-8", "surrogateescape").removesuffix("/")
    if path[:1] not in "./" and path[-1:] != "/" and "//" not in path and "/." not in path:
        return path
    return "/".join(part for part in path.split("/") if part not in ("", "."))


def _check_sum(block: bytes) -> None:
    blank = b"%b        %b" % (block[:148], block[156:])
    # Adler-32's lower half is the plain sum while that is below 65521, as for ASCII
    computed = zlib.adler32(blank, 0) & 0xFFFF if blank.isascii() else sum(blank)
    if block[148:156] == b"%06o\0 " % computed:
        return
    stated = number(block[148:156])
    signed = sum(byte - 256 if byte > 127 else byte for byte in blank)  # as old tars summed
    if stated not in (computed, signed):
        raise InvalidArchive("tar: bad checksum: the archive is damaged, or is not tar")


def truncated() -> ContentError:
    return InvalidArchive("tar: the archive is truncated", hint="transfer or create it again")
