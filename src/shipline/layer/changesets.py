"""Changeset: what a step did to its root, read from the upper directory of an overlay mount.

The rules are BuildKit's, whose layers these have to equal: entries that were only copied up are
dropped, deletions are one whiteout each, times are whole seconds, and of the extended attributes
only the file capability stays.
"""

from __future__ import annotations

import os
import shutil
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple, Protocol

from shipline.errors import ContentError
from shipline.layer.entry import (
    CAPABILITY,
    KINDS,
    OVERLAY,
    PREFIX,
    Entry,
    Item,
    OpenDirectory,
    Source,
    Xattrs,
    entry_at,
    unreadable,
)
from shipline.layer.toc import Row, Toc
from shipline.tasks import check

_SECOND = 1_000_000_000  # nanoseconds
_PIECE = 1 << 20  # bytes
_READ = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC


class Lower(Protocol):
    """The tree as it was. Only asked about paths whose parents are directories in it."""

    def lookup(self, path: str) -> Entry | None:
        """What is at `path`, following no link."""

    def children(self, path: str) -> list[str]:
        """The names in a directory."""

    def open(self, path: str) -> int | None:
        """A descriptor of a file, for the caller to close; None where its content is unknown."""


class _LowerDirectory:
    def __init__(self, root: OpenDirectory) -> None:
        self._root = root

    def lookup(self, path: str) -> Entry | None:
        return entry_at(self._root, path)

    def children(self, path: str) -> list[str]:
        return os.listdir(f"{self._root.path}/{path}")

    def open(self, path: str) -> int | None:
        return os.open(path, _READ, dir_fd=self._root.fd)


@contextmanager
def lower_directory(path: Path) -> Iterator[Lower]:
    """The tree as it was, from a directory that shows it, as a read-only mount does."""
    yield _LowerDirectory(OpenDirectory(path))


def changeset(upper: int | Path, lower: Lower) -> Iterator[Item]:
    """The entries of the layer that turns `lower` into what `lower` and `upper` show together.

    Sorted in each directory, parents first; a parent is there even if it did not change itself.
    Raises ContentError for what cannot be read, and for an upper directory of a mount with
    redirect_dir or metacopy, which cannot be understood alone.
    """
    try:
        yield from _Walk(OpenDirectory(upper), lower).items()
    except OSError as error:
        raise unreadable(error) from error


class _Found(NamedTuple):
    """One name in the upper directory: as an entry, and what overlayfs says of it."""

    entry: Entry
    status: os.stat_result
    is_whiteout: bool
    is_opaque: bool


class _Walk:
    """The walk over the upper directory; `_links` are names of an inode already in the layer."""

    def __init__(self, upper: OpenDirectory, lower: Lower) -> None:
        self._upper = upper
        self._lower = lower
        self._sent: set[str] = set()
        self._links: dict[int, str] = {}
        self._unchanged: dict[int, list[_Found]] = {}

    def items(self) -> Iterator[Item]:
        opaque = self._attributes("").get("opaque") == b"y"
        yield from self._directory("", below=True, opaque=opaque)

    def _directory(self, path: str, *, below: bool, opaque: bool) -> Iterator[Item]:
        """What changed in `path`; `below` if it is a directory in the lower tree as well."""
        prefix = f"{path}/" if path else ""
        found = {name: self._find(prefix + name) for name in os.listdir(self._path(path))}
        gone = set(self._lower.children(path)) - found.keys() if below and opaque else set()
        for name in sorted(found.keys() | gone):
            here = found.get(name)
            if here is None:
                yield from self._whiteout(path, name)
                continue
            old = self._lower.lookup(prefix + name) if below else None
            if here.is_whiteout:
                if old is not None:
                    yield from self._whiteout(path, name)
            elif here.entry.kind == "dir":
                yield from self._enter(here, old, opaque=opaque)
            elif stat.S_IFMT(here.status.st_mode) in KINDS:
                yield from self._other(here, old)

    def _enter(self, here: _Found, old: Entry | None, *, opaque: bool) -> Iterator[Item]:
        if old is None or not _same_owner(here.entry, old):
            yield from self._send(here)
        below = old is not None and old.kind == "dir"
        opaque = opaque or here.is_opaque
        yield from self._directory(here.entry.path, below=below, opaque=opaque)

    def _other(self, here: _Found, old: Entry | None) -> Iterator[Item]:
        inode, linked = here.status.st_ino, here.status.st_nlink > 1
        if old is not None and self._same(here.entry, old):
            if inode in self._links:
                yield from self._send(here)
            elif linked:
                self._unchanged.setdefault(inode, []).append(here)
            return
        yield from self._send(here)
        for other in self._unchanged.pop(inode, ()) if linked else ():
            yield from self._send(other)

    def _send(self, here: _Found) -> Iterator[Item]:
        entry = here.entry
        yield from self._parents(entry.parent)
        self._sent.add(entry.path)
        entry = entry._replace(mtime_ns=entry.mtime_ns // _SECOND * _SECOND)
        if entry.kind == "dir":
            yield entry, None
            return
        first = self._links.get(here.status.st_ino)
        if first is not None:
            yield entry._replace(kind="hardlink", link=first, size=0, xattrs=()), None
            return
        if here.status.st_nlink > 1:
            self._links[here.status.st_ino] = entry.path
        yield entry, Source(self._upper, entry.path) if entry.kind == "file" else None

    def _parents(self, path: str) -> Iterator[Item]:
        if path and path not in self._sent:
            yield from self._send(self._find(path))

    def _whiteout(self, directory: str, name: str) -> Iterator[Item]:
        yield from self._parents(directory)
        path = f"{directory}/{PREFIX}{name}" if directory else PREFIX + name
        yield Entry(path, "file", 0), b""

    def _find(self, path: str) -> _Found:
        status = os.stat(path, dir_fd=self._upper.fd, follow_symlinks=False)
        entry = entry_at(self._upper, path, status) or Entry(path, "file")
        if entry.kind == "char" and status.st_rdev == 0:
            return _Found(entry, status, True, False)
        if entry.kind not in ("file", "dir"):
            return _Found(entry, status, False, False)
        attributes = self._attributes(path)
        if not attributes:
            return _Found(entry, status, False, False)
        if "redirect" in attributes or "metacopy" in attributes:
            raise ContentError(
                f"{path}: the overlay was mounted with redirect_dir or metacopy",
                hint="mount it with redirect_dir=off,metacopy=off",
            )
        is_whiteout = entry.kind == "file" and not entry.size and "whiteout" in attributes
        return _Found(entry, status, is_whiteout, attributes.get("opaque") == b"y")

    def _attributes(self, path: str) -> dict[str, bytes]:
        """The attributes of overlayfs, without their prefix."""
        place = self._path(path)
        return {
            name.removeprefix(prefix): os.getxattr(place, name, follow_symlinks=False)
            for name in os.listxattr(place, follow_symlinks=not path)
            for prefix in OVERLAY
            if name.startswith(prefix)
        }

    def _path(self, path: str) -> str:
        return f"{self._upper.path}/{path}"

    def _same(self, new: Entry, old: Entry) -> bool:
        """Whether a copied-up entry is what it was, as far as a layer tells."""
        if not _same_owner(new, old):
            return False
        if new.kind == "dir":
            return True
        if (new.size, new.mtime_ns, new.link) != (old.size, old.mtime_ns, old.link):
            return False
        if new.kind != "file" or not new.size or new.mtime_ns % _SECOND:
            return True
        return self._same_content(new.path)

    def _same_content(self, path: str) -> bool:
        """Whole seconds are what unpacked layers have: the time alone proves nothing."""
        old = self._lower.open(path)
        if old is None:
            return False
        with open(old, "rb", buffering=0) as before:
            new = os.open(path, _READ, dir_fd=self._upper.fd)
            with open(new, "rb", buffering=0) as after:
                while True:
                    data = after.read(_PIECE)
                    if data != before.read(_PIECE):
                        return False
                    if not data:
                        return True


def conform(upper: int | Path, toc: Toc) -> bool:
    """Make an upper directory, no longer in use, what unpacking its changeset would have made.

    `toc` is that of the layer. What was only copied up goes, and so does what a layer cannot say:
    opaque marks, attributes, fractions of seconds. False where it still differs.
    """
    if toc.opaque:
        return False
    try:
        return _Conforming(OpenDirectory(upper), toc).directory("")
    except OSError as error:
        raise unreadable(error) from error


class _Conforming:
    def __init__(self, upper: OpenDirectory, toc: Toc) -> None:
        self._upper = upper
        self._toc = toc

    def directory(self, path: str) -> bool:
        """Whether the directory `path` now holds what the layer has there."""
        check()
        place = f"{self._upper.path}/{path}"
        self._strip(place, os.listxattr(place))
        rows = self._toc.rows(path)
        hidden = set(self._toc.whiteouts.get(path, ()))
        with os.scandir(place) as listed:
            names = list(listed)
        found = 0
        for here in names:
            status = here.stat(follow_symlinks=False)
            if stat.S_ISCHR(status.st_mode) and not status.st_rdev and here.name in hidden:
                hidden.remove(here.name)
            elif (row := rows.get(here.name)) is None:
                _remove(here)
            elif self._entry(f"{path}/{here.name}" if path else here.name, here.path, row, status):
                found += 1
        for name in hidden - rows.keys():
            os.mknod(f"{place}/{name}", stat.S_IFCHR)
        return found == len(rows)

    def _entry(self, path: str, place: str, row: Row, status: os.stat_result) -> bool:
        if not _is(row, place, status):
            return False
        if not self._strip(place, os.listxattr(place, follow_symlinks=False), row[9]):
            return False
        if row[0] == "dir" and not self.directory(path):
            return False
        if row[0] == "dir" or status.st_mtime_ns != row[5]:
            os.utime(place, ns=(row[5], row[5]), follow_symlinks=False)
        return True

    def _strip(self, place: str, names: list[str], want: Xattrs = ()) -> bool:
        """Take all attributes off but the capability, and labels, which the system gives.

        Whether the capability is as in the layer.
        """
        for name in names:
            if not name.startswith("security."):
                os.removexattr(place, name, follow_symlinks=False)
        if CAPABILITY not in names:
            return not want
        return want == ((CAPABILITY, os.getxattr(place, CAPABILITY, follow_symlinks=False)),)


def _is(row: Row, place: str, status: os.stat_result) -> bool:
    """Whether the file is what `row` says, time and attributes aside."""
    kind = KINDS.get(stat.S_IFMT(status.st_mode))
    size = status.st_size if kind == "file" else 0
    if row[:5] != (kind, stat.S_IMODE(status.st_mode), status.st_uid, status.st_gid, size):
        return False
    if kind == "symlink":
        return os.readlink(place) == row[6]
    if kind in ("char", "block"):
        return status.st_rdev == os.makedev(row[7], row[8])
    return True


def _remove(here: os.DirEntry[str]) -> None:
    if here.is_dir(follow_symlinks=False):
        shutil.rmtree(here.path)
    else:
        os.unlink(here.path)


def _same_owner(new: Entry, old: Entry) -> bool:
    same = ("kind", "mode", "uid", "gid", "major", "minor")
    capability = dict(new.xattrs).get(CAPABILITY) == dict(old.xattrs).get(CAPABILITY)
    return capability and all(getattr(new, name) == getattr(old, name) for name in same)
