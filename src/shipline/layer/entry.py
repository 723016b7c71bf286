"""Entries of a file tree: metadata, content, path resolution, and whiteouts."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import Literal, NamedTuple

from shipline.content import Reader
from shipline.errors import ContentError
from shipline.files import open_without_links

Kind = Literal["file", "dir", "symlink", "hardlink", "char", "block", "fifo"]
Xattrs = tuple[tuple[str, bytes], ...]
"""Extended attributes, sorted by name."""

CAPABILITY = "security.capability"
"""The only extended attribute in layers, by BuildKit's rules."""


class Entry(NamedTuple):
    """The metadata of one name; a tuple, because a build makes 75,000 of them.

    `path` is relative and normal: no leading or trailing slash, no empty or `.` part; invalid
    UTF-8 is escaped as by os.fsdecode. `mode` holds the lower twelve bits. `size` is in
    bytes and 0 unless `kind` is file. `link` is the target of a symlink, or the path that a
    hardlink refers to.
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
        """The path of its directory; empty for the top level."""
        return self.path.rpartition("/")[0]

    @property
    def name(self) -> str:
        """The last part of the path."""
        return self.path.rpartition("/")[2]


entry_of: Callable[[tuple[str, Kind, int, int, int, int, int, str, int, int, Xattrs]], Entry]
entry_of = partial(tuple.__new__, Entry)
"""The entry with all these fields, in a third of the time that `Entry` takes."""


class OpenDirectory:
    """An open directory, closed with its last reference.

    `path` leads to it while it is open, even after a rename.
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
            raise ContentError(
                f"cannot open {directory}: {error.strerror}", code="content-unreadable"
            ) from error
        self.path = f"/proc/self/fd/{self.fd}"

    def open(self, name: str) -> int:
        """A descriptor to read the file `name` below it, which the caller closes. A symbolic link
        is an error, also in place of a directory: it may have come after the tree was read. A FIFO
        does not block. Raises OSError.
        """
        return open_without_links(self.fd, name, os.O_RDONLY | os.O_NONBLOCK)

    def __del__(self) -> None:
        if self.fd >= 0:
            os.close(self.fd)


class ContentDigests:
    """Identifiers of files by name: the BLAKE3 digest of the bytes, and with `capabilities` the
    capability, if any.
    """

    def __init__(self, *, capabilities: bool) -> None:
        from blake3 import blake3

        self.hasher = blake3
        self._capabilities = capabilities
        self._found: dict[str, bytes] = {}

    def add(self, name: str, file: int | str, digest: bytes) -> None:
        """Note the digest of a file that was read: `file` is its descriptor or its path."""
        self._found[name] = digest + capability(file) if self._capabilities else digest

    def note(self, name: str, identity: bytes) -> None:
        """Note an identifier that another process has found."""
        self._found[name] = identity

    def get(self, name: str) -> bytes | None:
        """The identifier of a file that was read."""
        return self._found.get(name)


class Source(NamedTuple):
    """The file that holds the content: `name`, relative to the directory `root`. Who reads all of
    it tells `digests`. What those would be told is `known`, if it is, from the cache of stats.
    """

    root: OpenDirectory
    name: str
    digests: ContentDigests | None = None
    known: bytes | None = None

    def identity(self) -> bytes | None:
        """What `digests` was told, or else is known; None without `digests`."""
        return None if self[2] is None else self[2].get(self[1]) or self[3]


Content = bytes | Source | Reader | None
"""The content of a file: its bytes, a file to open, or a reader; None for other kinds."""

Item = tuple[Entry, Content]


class Contents(NamedTuple):
    """What is known of items before they are listed: the bytes of all files, of those whose digest
    is not known, and of the largest one; and the `root` and `digests` of all sources.
    """

    size: int
    unread: int
    largest: int
    places: tuple[tuple[OpenDirectory, ContentDigests | None], ...]

    @classmethod
    def of(cls, items: Iterable[Item]) -> Contents:
        """The contents of a list of items."""
        size = unread = largest = 0
        places: dict[tuple[OpenDirectory, ContentDigests | None], None] = {}
        for (_, _, _, _, _, length, *_), content in items:
            size += length
            largest = max(largest, length)
            if type(content) is Source:
                root, _, digests, known = content
                places[root, digests] = None
                if digests is None or known is None:
                    unread += length
        return cls(size, unread, largest, tuple(places))


KINDS: dict[int, Kind] = {
    stat.S_IFREG: "file",
    stat.S_IFDIR: "dir",
    stat.S_IFLNK: "symlink",
    stat.S_IFCHR: "char",
    stat.S_IFBLK: "block",
    stat.S_IFIFO: "fifo",
}
"""By the type bits of a mode; sockets cannot be in an image."""


def entry_at(root: OpenDirectory, path: str, status: os.stat_result | None = None) -> Entry | None:
    """The entry at `path`, with its link target or capability; None if absent, and for sockets.

    The parents must be directories: a symbolic link among them would be followed.
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
    """The error for a file that cannot be read."""
    return ContentError(
        f"cannot read {error.filename}: {error.strerror}",
        code="content-unreadable",
        hint="make it readable, or exclude it in .dockerignore",
    )


_LINKS = 255  # followed in one path, the limit of other image tools


class SymlinkLoop(ContentError):
    """A path goes through too many symbolic links."""

    code = "symlink-loop"


def resolve(path: str, lookup: Callable[[str], Entry | None], *, follow_last: bool = True) -> str:
    """The canonical form of `path`: no link, `.` or `..` left, never outside the root.

    `lookup` gives the entry at a canonical path. Absolute links start at the root, `..` stops
    there. Absent components are kept as named. Raises SymlinkLoop.
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
"""The prefix of AUFS's own names; all but OPAQUE are ignored."""

OVERLAY = ("trusted.overlay.", "user.overlay.")
"""The prefixes of overlayfs attributes: as root, and in a user namespace."""


def attribute(name: str, *, userxattr: bool) -> str:
    """The overlayfs attribute `name` for this kind of mount."""
    return OVERLAY[userxattr] + name
