"""Numbers and extended header records of tar, checked.

POSIX.1-2017 pax, "pax Extended Header"; base-256 numbers and `GNU.sparse.*` from the GNU tar
manual; extended attributes `SCHILY.xattr.*` from star(5).
"""

from __future__ import annotations

import functools

from shipline.errors import ContentError
from shipline.layer.entry import Xattrs

Records = dict[bytes, bytes]
"""Extended header records by key; a record that the archive took back is absent."""

_XATTR = b"SCHILY.xattr."
_LARGEST = 1 << 63
_SECOND = 1_000_000_000  # nanoseconds


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
            raise ContentError(f"tar: not an octal number: {field!r}")
        value = int(digits, 8)
    if not -_LARGEST <= value < _LARGEST:
        raise ContentError(f"tar: number out of range: {field!r}")
    return value


def count(field: bytes) -> int:
    """A numeric field that cannot be below zero."""
    value = number(field)
    if value < 0:
        raise ContentError(f"tar: negative number: {value}")
    return value


def text(raw: bytes) -> str:
    """A name up to its first NUL; bytes that are not UTF-8 are escaped."""
    return raw.partition(b"\0")[0].decode("utf-8", "surrogateescape")


def parse_records(body: bytes, into: Records) -> None:
    """Add the records of an extended header. Raises ContentError where it is malformed."""
    at = 0
    while at < len(body):
        space = body.find(b" ", at, at + 20)
        end = at + decimal(body[at:space]) if space > 0 else 0
        if end <= space or end > len(body) or body[end - 1 : end] != b"\n":
            raise ContentError("tar: malformed extended header")
        key, equals, value = body[space + 1 : end - 1].partition(b"=")
        if not equals or not key:
            raise ContentError("tar: extended header record without a key")
        _add(into, key, value)
        at = end


def _add(into: Records, key: bytes, value: bytes) -> None:
    if key in (b"GNU.sparse.offset", b"GNU.sparse.numbytes"):
        # sparse format 0.0 repeats its keys, which say what 0.1 writes as one list
        held = into.get(b"GNU.sparse.map", b"")
        into[b"GNU.sparse.map"] = held + b"," + value if held else value
    elif value or key.startswith(_XATTR):
        into[key] = value
    else:
        into.pop(key, None)


def decimal(raw: bytes) -> int:
    """A number in a record. Raises ContentError unless it is decimal digits."""
    if not raw.isdigit() or len(raw) > 19:
        raise ContentError(f"tar: not a decimal number: {raw[:40]!r}")
    return int(raw)


def nanoseconds(raw: bytes) -> int:
    """A time of a record, `-1.5`, in nanoseconds; further digits are dropped."""
    whole, _, fraction = raw.removeprefix(b"-").partition(b".")
    if fraction and not fraction.isdigit():
        raise ContentError(f"tar: not a time: {raw[:40]!r}")
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
