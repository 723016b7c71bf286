"""Tar headers: encoding, and strict parsing of numbers, names and pax records.

POSIX.1-2017 pax, "pax Extended Header"; base-256 numbers and `GNU.sparse.*` from the GNU tar
manual; extended attributes `SCHILY.xattr.*` from star(5).
"""

from __future__ import annotations

import functools
import zlib

from shipline.errors import ContentError, InvalidArchive
from shipline.layer.entry import Entry, Xattrs

BLOCK = 512  # bytes
_OCTAL_7 = 0o7777777
_OCTAL_11 = 0o77777777777
_SECOND = 1_000_000_000  # nanoseconds
_XATTR = b"SCHILY.xattr."
ATTRIBUTES, SECURITY = "MSWINDOWS.fileattr", "MSWINDOWS.rawsd"
CREATED = "LIBARCHIVE.creationtime"
_WHOLE_KEYS = frozenset((ATTRIBUTES, CREATED, SECURITY))
"""Attributes whose records have the same name (`layer.windows`)."""

_TYPE_FLAGS = {
    "file": b"0",
    "hardlink": b"1",
    "symlink": b"2",
    "char": b"3",
    "block": b"4",
    "dir": b"5",
    "fifo": b"6",
    "records": b"x",
}


def encode(entry: Entry) -> bytes:
    """The header blocks of `entry`: equal entries give equal bytes.

    Raises ContentError for what tar cannot represent: NUL in a name, a negative number.
    """
    path, kind, mode, uid, gid, size, mtime_ns, link, major, minor, xattrs = entry
    name = path.encode("utf-8", "surrogateescape")
    if kind == "dir":
        name += b"/"
    seconds, fraction = divmod(mtime_ns, _SECOND)
    if (
        name.isascii()
        and not (link or fraction or xattrs or major or minor)
        and 0 <= seconds <= _OCTAL_11
        and 0 <= uid <= _OCTAL_7
        and 0 <= gid <= _OCTAL_7
        and 0 <= size <= _OCTAL_11
        and b"\0" not in name
    ):
        prefix, short = (b"", name) if len(name) <= 100 else _split(name)
        if short:
            return _block(short, _owner(mode, uid, gid), size, seconds, _tail(kind, prefix))
    return _encode_with_records(entry, name)


def _encode_with_records(entry: Entry, name: bytes) -> bytes:
    _check(entry)
    link = entry.link.encode("utf-8", "surrogateescape")
    records: list[tuple[bytes, bytes]] = []
    prefix, short = _split(name)
    if not short:
        records.append((b"path", name))
        prefix, short = b"", _ascii(name)[:100]
    if len(link) > 100 or not link.isascii():
        records.append((b"linkpath", link))
        link = _ascii(link)[:100]
    uid = _fit(records, b"uid", entry.uid, _OCTAL_7)
    gid = _fit(records, b"gid", entry.gid, _OCTAL_7)
    size = _fit(records, b"size", entry.size, _OCTAL_11)
    seconds, fraction = divmod(entry.mtime_ns, _SECOND)
    if fraction or not 0 <= seconds <= _OCTAL_11:
        records.append((b"mtime", _decimal(entry.mtime_ns)))
        seconds = min(max(seconds, 0), _OCTAL_11)
    for key, value in entry.xattrs:
        kind = b"" if key in _WHOLE_KEYS else _XATTR
        records.append((kind + key.encode("utf-8", "surrogateescape"), value))
    tail = _tail(entry.kind, prefix, link, entry.major, entry.minor)
    header = _block(short, _owner(entry.mode, uid, gid), size, seconds, tail)
    return _extended(short, records) + header if records else header


def _check(entry: Entry) -> None:
    if "\0" in entry.path or "\0" in entry.link:
        raise ContentError(
            f"a name cannot contain a NUL character: {entry.path!r:.200}", code="file-name-unusable"
        )
    numbers = (entry.uid, entry.gid, entry.size, entry.major, entry.minor)
    if min(numbers) < 0 or max(entry.major, entry.minor) > _OCTAL_7:
        raise ContentError(
            f"{entry.path!r:.200}: a number is out of range: {numbers}", code="file-name-unusable"
        )
    for key, _ in entry.xattrs:
        if "=" in key or "\0" in key or not key:
            raise ContentError(
                f"{entry.path!r:.200}: not a valid attribute name: {key!r}",
                code="file-name-unusable",
            )


def _extended(short: bytes, records: list[tuple[bytes, bytes]]) -> bytes:
    body = b"".join(_record(key, value) for key, value in records)
    name = b"PaxHeaders.0/" + short.rstrip(b"/").rpartition(b"/")[2][:80]
    head = _block(name, _owner(0o644, 0, 0), len(body), 0, _tail("records", b""))
    return head + body + bytes(-len(body) % BLOCK)


def _record(key: bytes, value: bytes) -> bytes:
    """`length key=value newline`, where the length counts its own digits."""
    rest = len(key) + len(value) + 3
    length = rest + len(str(rest))
    length = rest + len(str(length))
    return b"%d %b=%b\n" % (length, key, value)


def _fit(records: list[tuple[bytes, bytes]], key: bytes, value: int, limit: int) -> int:
    if value <= limit:
        return value
    records.append((key, b"%d" % value))
    return 0


def _split(name: bytes) -> tuple[bytes, bytes]:
    """Prefix and name of the ustar header; an empty name if it does not fit."""
    if not name.isascii():
        return b"", b""
    if len(name) <= 100:
        return b"", name
    cut = name.find(b"/", max(len(name) - 101, 1))
    if cut < 0 or cut > 155 or cut == len(name) - 1:
        return b"", b""
    return name[:cut], name[cut + 1 :]


def _ascii(name: bytes) -> bytes:
    return name.decode("ascii", "ignore").encode()


def _decimal(nanoseconds: int) -> bytes:
    seconds, fraction = divmod(abs(nanoseconds), _SECOND)
    sign = b"-" if nanoseconds < 0 else b""
    text = b"%d.%09d" % (seconds, fraction)
    return sign + text.rstrip(b"0").rstrip(b".")


def _block(name: bytes, owner: bytes, size: int, seconds: int, tail: tuple[bytes, int]) -> bytes:
    head = b"%b%b%011o\0%011o\0" % (name.ljust(100, b"\0"), owner, size, seconds)
    rest, its_sum = tail
    return b"%b%06o\0 %b" % (head, (zlib.adler32(head, 0) & 0xFFFF) + its_sum, rest)


@functools.lru_cache(1024)
def _owner(mode: int, uid: int, gid: int) -> bytes:
    """The fields from the mode on, which most files share."""
    return b"%07o\0%07o\0%07o\0" % (mode, uid, gid)


@functools.lru_cache(1024)
def _tail(
    kind: str, prefix: bytes, link: bytes = b"", major: int = 0, minor: int = 0
) -> tuple[bytes, int]:
    """What comes after the checksum, and its part of that, in which the checksum is spaces. The
    files of a directory share it.
    """
    tail = b"%b%bustar\x0000%b%07o\0%07o\0%b" % (
        _TYPE_FLAGS[kind],
        link.ljust(100, b"\0"),
        bytes(64),  # no owner names
        major,
        minor,
        prefix,
    )
    # all ASCII, so a sum stays below 65521 and is the lower half of Adler-32
    return tail.ljust(356, b"\0"), (zlib.adler32(tail, 0) & 0xFFFF) + 8 * ord(" ")


Records = dict[bytes, bytes]
"""Extended header records by key, without deleted ones."""

_LARGEST = 1 << 63


@functools.lru_cache(4096)
def number(field: bytes) -> int:
    """A numeric header field: octal text, or base-256 when its top bit is set.

    Only base-256 can be negative. Raises ContentError for anything else.
    """
    if field[0] & 0x80:
        bits = 8 * len(field) - 1
        value = int.from_bytes(field, "big") & ((1 << bits) - 1)
        value -= (value >> (bits - 1)) << bits
    else:
        digits = field.partition(b"\0")[0].strip(b" ") or b"0"
        if digits.strip(b"01234567"):
            raise InvalidArchive(f"tar: not an octal number: {field!r}")
        value = int(digits, 8)
    if not -_LARGEST <= value < _LARGEST:
        raise InvalidArchive(f"tar: number out of range: {field!r}")
    return value


def count(field: bytes) -> int:
    """A numeric field that cannot be negative."""
    value = number(field)
    if value < 0:
        raise InvalidArchive(f"tar: negative number: {value}")
    return value


def text(raw: bytes) -> str:
    """A name up to its first NUL; invalid UTF-8 is escaped."""
    return raw.partition(b"\0")[0].decode("utf-8", "surrogateescape")


_NAMES = (b"path", b"linkpath", b"GNU.sparse.name")


def parse_records(body: bytes, into: Records) -> None:
    """Add the records of an extended header. Raises ContentError if it is malformed."""
    position = 0
    while position < len(body):
        space = body.find(b" ", position, position + 20)
        end = position + decimal(body[position:space]) if space > 0 else 0
        if end <= space or end > len(body) or body[end - 1 : end] != b"\n":
            raise InvalidArchive("tar: malformed extended header")
        key, equals, value = body[space + 1 : end - 1].partition(b"=")
        if not equals or not key:
            raise InvalidArchive("tar: extended header record without a key")
        if b"\0" in key or (key in _NAMES and b"\0" in value):
            raise InvalidArchive("tar: a name with a NUL byte")
        _add(into, key, value)
        position = end


def _add(into: Records, key: bytes, value: bytes) -> None:
    if key in (b"GNU.sparse.offset", b"GNU.sparse.numbytes"):
        # sparse format 0.0 repeats keys that 0.1 writes as one list
        pairs = into.get(b"GNU.sparse.map", b"")
        into[b"GNU.sparse.map"] = pairs + b"," + value if pairs else value
    elif value or key.startswith(_XATTR):
        into[key] = value
    else:
        into.pop(key, None)


def decimal(raw: bytes) -> int:
    """A number in a record. Raises ContentError unless it is decimal digits."""
    if not raw.isdigit() or len(raw) > 19:
        raise InvalidArchive(f"tar: not a decimal number: {raw[:40]!r}")
    return int(raw)


def nanoseconds(raw: bytes) -> int:
    """A time of a record, such as `-1.5`, in nanoseconds; further digits are dropped."""
    whole, _, fraction = raw.removeprefix(b"-").partition(b".")
    if fraction and not fraction.isdigit():
        raise InvalidArchive(f"tar: not a time: {raw[:40]!r}")
    value = decimal(whole) * _SECOND + int(fraction[:9].ljust(9, b"0"))
    return -value if raw.startswith(b"-") else value


def xattrs(records: Records) -> Xattrs:
    """The extended attributes among the records."""
    found = [
        (key[len(_XATTR) :].decode("utf-8", "surrogateescape"), value)
        for key, value in records.items()
        if key.startswith(_XATTR)
    ]
    return tuple(sorted(found))
