"""Entries of a file tree: a name and what is known of it, its path, its links, and whiteouts."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable
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


KINDS: dict[int, Kind] = {
    stat.S_IFREG: "file",
    stat.S_IFDIR: "dir",
    stat.S_IFLNK: "symlink",
    stat.S_IFCHR: "char",
    stat.S_IFBLK: "block",
    stat.S_IFIFO: "fifo",
}
"""By the type bits of a mode; sockets have no place in an image."""


def entry_at(root: OpenDirectory, path: str, status: os.stat_result | None = None) -> Entry | None:
    """What is at `path`, with its target or its capability; None for nothing and for sockets.

    The parents must be known to be directories: a link among them would be followed.
    """
    try:
        if status is None:
            status = os.stat(path, dir_fd=root.fd, follow_symlinks=False)
    except (FileNotFoundError, NotADirectoryError):
        return None
    kind = KINDS.get(stat.S_IFMT(status.st_mode))
    if kind is None:
        return None
    entry = Entry(
        path,
        kind,
        stat.S_IMODE(status.st_mode),
        status.st_uid,
        status.st_gid,
        mtime_ns=status.st_mtime_ns,
    )
    if kind == "file":
        raw = capability(f"{root.path}/{path}")
        return entry._replace(size=status.st_size, xattrs=((CAPABILITY, raw),) if raw else ())
    if kind == "symlink":
        return entry._replace(link=os.readlink(path, dir_fd=root.fd))
    if kind in ("char", "block"):
        device = status.st_rdev
        return entry._replace(major=os.major(device), minor=os.minor(device))
    return entry


def capability(file: int | str) -> bytes:
    """The file capability of a file (xattr(7)), empty if it has none."""
    follow = isinstance(file, int)
    try:
        if CAPABILITY in os.listxattr(file, follow_symlinks=follow):
            return os.getxattr(file, CAPABILITY, follow_symlinks=follow)
    except OSError as error:
        if error.errno != errno.ENOTSUP:
            raise
    return b""


def unreadable(error: OSError) -> ContentError:
    """What to tell of a file that cannot be read."""
    return ContentError(
        f"{error.filename}: {error.strerror}",
        hint="make it readable, or exclude it in .dockerignore",
    )


_LINKS = 255  # followed in one path, as the path lookups of image tools allow


class SymlinkLoop(ContentError):
    """A path goes through more symbolic links than anyone means."""

    code = "symlink-loop"


def resolve(path: str, lookup: Callable[[str], Entry | None], *, follow_last: bool = True) -> str:
    """The canonical form of `path`: no link, `.` or `..` left, never outside the root.

    `lookup` says what is at a canonical path. Absolute links start at the root, `..` stops there.
    What does not exist is kept as it is named. Raises SymlinkLoop.
    """
    todo = path.split("/")[::-1]
    done = ""
    links = 0
    while todo:
        part = todo.pop()
        if part in ("", "."):
            continue
        if part == "..":
            done = done.rpartition("/")[0]
            continue
        step = f"{done}/{part}" if done else part
        entry = lookup(step) if todo or follow_last else None
        if entry is None or entry.kind != "symlink":
            done = step
            continue
        links += 1
        if links > _LINKS:
            raise SymlinkLoop(f"too many symbolic links in {path!r:.200}")
        if entry.link.startswith("/"):
            done = ""
        todo += entry.link.split("/")[::-1]
    return done


PREFIX = ".wh."
OPAQUE = ".wh..wh..opq"
RESERVED = ".wh..wh."
"""Begins the names that AUFS kept for itself; those but OPAQUE mean nothing."""

OVERLAY = ("trusted.overlay.", "user.overlay.")
"""Begins the attributes of overlayfs: as root, and in a user namespace."""


def attribute(name: str, *, userxattr: bool) -> str:
    """The overlayfs attribute `name`, as the kind of mount wants it."""
    return OVERLAY[userxattr] + name
