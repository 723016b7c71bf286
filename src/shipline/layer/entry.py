"""Entry: one name in a file tree, as a tar member or a directory walk sees it."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Literal, NamedTuple

from shipline.content import Reader
from shipline.errors import ContentError

Kind = Literal["file", "dir", "symlink", "hardlink", "char", "block", "fifo"]
Xattrs = tuple[tuple[str, bytes], ...]
"""Extended attributes, sorted by name."""

CAPABILITY = "security.capability"
"""The one extended attribute that image layers carry by BuildKit's rules."""


class Entry(NamedTuple):
    """A name and what is known of it; a tuple, because a build makes 75,000 of them.

    `path` is relative and normal: no leading or trailing slash, no empty or `.` part; bytes that
    are not UTF-8 are escaped as by os.fsdecode. `mode` holds the lower twelve bits. `size` is in
    bytes and 0 unless `kind` is file. `link` is the target of a symlink, or the path of the name
    that a hardlink repeats.
    """

    path: str
    kind: Kind
    mode: int = 0o644
    uid: int = 0
    gid: int = 0
    size: int = 0
    mtime_ns: int = 0
    link: str = ""
    major: int = 0
    minor: int = 0
    xattrs: Xattrs = ()

    @property
    def parent(self) -> str:
        """The path of the directory that holds it; empty for the top level."""
        return self.path.rpartition("/")[0]

    @property
    def name(self) -> str:
        """The last part of the path."""
        return self.path.rpartition("/")[2]


class OpenDirectory:
    """A directory that what is inside is reached through; closed with the last user of it.

    `path` leads to it as long as it is open, also after a rename.
    """

    __slots__ = ("fd", "path")

    def __init__(self, directory: int | Path) -> None:
        """Opens a path, or duplicates a descriptor. Raises ContentError."""
        self.fd = -1
        try:
            if isinstance(directory, int):
                self.fd = os.dup(directory)
            else:
                self.fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except OSError as error:
            raise ContentError(f"cannot open {directory}: {error.strerror}") from error
        self.path = f"/proc/self/fd/{self.fd}"

    def __del__(self) -> None:
        if self.fd >= 0:
            os.close(self.fd)


class Source(NamedTuple):
    """Where the content of a file is: `name`, relative to the directory `root`."""

    root: OpenDirectory
    name: str


Content = bytes | Source | Reader | None
"""The content of an entry: itself, a file to open, or bytes to read; None unless it is a file."""

Item = tuple[Entry, Content]
