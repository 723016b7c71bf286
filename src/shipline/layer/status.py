"""The entry of a name on the disk."""

from __future__ import annotations

import errno
import os
import stat

from shipline.errors import ContentError
from shipline.layer.entry import CAPABILITY, Entry, Kind, OpenDirectory

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
