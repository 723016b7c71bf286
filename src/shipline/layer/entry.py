"""Entry: one name in a file tree, as a tar member or a directory walk sees it."""

from __future__ import annotations

from typing import Literal, NamedTuple

from shipline.content import Reader

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


class Source(NamedTuple):
    """Where the content of a file is: `name`, relative to the open directory `root`."""

    root: int
    name: str


Content = bytes | Source | Reader | None
"""The content of an entry: itself, a file to open, or bytes to read; None unless it is a file."""

Item = tuple[Entry, Content]
