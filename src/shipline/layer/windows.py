"""Layers of Windows: the files of drive C: are below `Files`, and changes of the registry, of which
none are made here, below `Hives`. Records of each entry have what that file system keeps besides;
targets of links begin with `Files` as well (BuildKit, util/winlayers).
"""

from __future__ import annotations

import base64
import struct
from collections.abc import Iterable, Iterator
from itertools import chain

from shipline.layer.entry import Entry, Item, Xattrs
from shipline.layer.tar_header import ATTRIBUTES, CREATED, SECURITY

_FILES = "Files/"
_SECOND = 1_000_000_000  # nanoseconds


def to_windows(items: Iterable[Item]) -> Iterator[Item]:
    """The items of a layer of Windows with these files, whose times are whole seconds. Its own
    directories have the time of the first one, so that equal files make an equal layer.
    """
    rest = iter(items)
    first = next(rest, None)
    mtime_ns = 0 if first is None else first[0].mtime_ns
    for name in ("Hives", "Files"):
        yield _described(Entry(name, "dir", 0, mtime_ns=mtime_ns)), None
    for entry, content in chain([first] if first else [], rest):
        path, link = f"{_FILES}{entry.path}", entry.link and f"{_FILES}{entry.link}"
        moved = _described(entry._replace(path=path, link=link))
        yield moved._replace(xattrs=(*moved.xattrs, *_SECURITY.get(entry.kind, ()))), content


def from_windows(items: Iterable[Item]) -> Iterator[Item]:
    """The files in a layer of Windows."""
    for entry, content in items:
        if entry.path.startswith(_FILES):
            path, link = entry.path.removeprefix(_FILES), entry.link.removeprefix(_FILES)
            yield entry._replace(path=path, link=link), content


def _described(entry: Entry) -> Entry:
    """The entry with the time when it was made, and as what kind of file."""
    type_bits, attributes = {"dir": (0o040000, b"16"), "file": (0o100000, b"32")}.get(
        entry.kind, (0, b"")
    )
    records = (*entry.xattrs, (CREATED, b"%d.0" % (entry.mtime_ns // _SECOND)))
    if attributes:
        records = (*records, (ATTRIBUTES, attributes))
    return entry._replace(mode=entry.mode | type_bits, xattrs=records)


_Sid = tuple[int, ...]
"""Who has rights: an authority, and what it calls them."""

_ADMINISTRATORS: _Sid = (5, 32, 544)
_USERS: _Sid = (5, 32, 545)
_SYSTEM: _Sid = (5, 18)
_CREATOR: _Sid = (3, 0)
_ALL, _READ_AND_EXECUTE, _GENERIC_ALL = 0x1F01FF, 0x1200A9, 0x10000000
_ADD_DIRECTORIES, _ADD_FILES = 4, 2
_TO_FILES, _TO_DIRECTORIES, _ONLY_INHERITED = 1, 2, 8
_TO_ALL = _TO_FILES | _TO_DIRECTORIES


def _security(*rights: tuple[int, int, _Sid]) -> Xattrs:
    """The record of a self-relative security descriptor ([MS-DTYP] 2.4.6) of the administrators,
    with inheritance, mask and owner of each of these rights.
    """
    entries = b""
    for flags, mask, sid in rights:
        entries += struct.pack("<BBHI", 0, flags, 8 + len(_packed(sid)), mask) + _packed(sid)
    owners = _packed(_ADMINISTRATORS), _packed(_SYSTEM)
    group_at, acl_at = 20 + len(owners[0]), 20 + len(owners[0] + owners[1])
    head = struct.pack("<BBHIIII", 1, 0, 0x8004, 20, group_at, 0, acl_at)
    acl = struct.pack("<BBHHH", 2, 0, 8 + len(entries), len(rights), 0) + entries
    return ((SECURITY, base64.b64encode(b"".join((head, *owners, acl)))),)


def _packed(sid: _Sid) -> bytes:
    authority, *parts = sid
    head = bytes((1, len(parts))) + authority.to_bytes(6, "big")
    return head + struct.pack(f"<{len(parts)}I", *parts)


_SECURITY = {
    "dir": _security(
        (_TO_ALL, _ALL, _ADMINISTRATORS),
        (_TO_ALL, _ALL, _SYSTEM),
        (0, _ALL, _ADMINISTRATORS),
        (_TO_ALL | _ONLY_INHERITED, _GENERIC_ALL, _CREATOR),
        (_TO_ALL, _READ_AND_EXECUTE, _USERS),
        (_TO_DIRECTORIES, _ADD_DIRECTORIES, _USERS),
        (_TO_DIRECTORIES, _ADD_FILES, _USERS),
    ),
    "file": _security(
        (0, _ALL, _ADMINISTRATORS), (0, _ALL, _SYSTEM), (0, _READ_AND_EXECUTE, _USERS)
    ),
}
