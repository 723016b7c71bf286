"""One line of text for one file: name, kind, owner, mode, times, extended attributes.

    NAME                              a regular file; NAME/ is a directory
    NAME -> TARGET                    a symbolic link
    NAME => TARGET                    a hard link
    mode=0644 uid=1 gid=1 mtime=SECONDS
    size=BYTES                        content that repeats the alphabet
    data=TEXT                         content
    dev=c:MAJOR:MINOR                 character (c) or block (b) device
    fifo, socket                      a named pipe, a socket
    xattr:NAME=HEX                    an extended attribute
    same=NAME                         in an expected tree: content of that file of the context
    tar=gz                            see `corpus.context`

Words are split as a shell does; %41 is the byte 0x41, so that names need not be UTF-8.
"""

from __future__ import annotations

import os
import shlex
from collections.abc import Mapping
from dataclasses import dataclass, field
from urllib.parse import unquote_to_bytes

EPOCH = 1_000_000_000  # mtime of entries that name none


@dataclass(frozen=True, slots=True)
class Entry:
    """A file of a build context, of an archive, or of an expected tree."""

    name: str
    kind: str  # file dir symlink hardlink fifo socket c b
    link: str = ""
    data: bytes = b""
    mode: int = 0o644
    uid: int = 0
    gid: int = 0
    mtime: int = EPOCH
    device: tuple[int, int] = (0, 0)
    xattrs: Mapping[str, bytes] = field(default_factory=dict)
    same: str = ""
    archive: str = ""  # compression of the archive that the section's lines describe


def parse(line: str, body: str = "") -> Entry:
    """Read an entry; `body` is the content of a file that has none in the line."""
    name, *words = [_bytes(word) for word in shlex.split(line)]
    kind, link = "file", ""
    if words and words[0] in ("->", "=>"):
        kind, link = ("symlink" if words[0] == "->" else "hardlink"), words[1]
        words = words[2:]
    elif name.endswith("/"):
        kind, name = "dir", name.rstrip("/")
    pairs = dict(word.partition("=")[::2] for word in words)
    device = (0, 0)
    if "dev" in pairs:
        kind, major, minor = pairs["dev"].split(":")
        device = (int(major), int(minor))
    elif special := pairs.keys() & {"fifo", "socket"}:
        (kind,) = special
    default_mode = {"dir": "755", "symlink": "777"}.get(kind, "644")
    return Entry(
        name,
        kind,
        link,
        _content(pairs, body),
        int(pairs.get("mode", default_mode), 8),
        int(pairs.get("uid", 0)),
        int(pairs.get("gid", 0)),
        int(pairs.get("mtime", EPOCH)),
        device,
        {k[6:]: bytes.fromhex(v) for k, v in pairs.items() if k.startswith("xattr:")},
        pairs.get("same", ""),
        pairs.get("tar", ""),
    )


def _content(pairs: Mapping[str, str], body: str) -> bytes:
    if "size" in pairs:
        size = int(pairs["size"])
        return (b"abcdefghijklmnopqrstuvwxyz" * (size // 26 + 1))[:size]
    return os.fsencode(pairs.get("data", body))


def _bytes(word: str) -> str:
    return os.fsdecode(unquote_to_bytes(word))
