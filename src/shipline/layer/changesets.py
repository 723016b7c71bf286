"""Changesets: what a step changed, read from the upper directory of an overlay mount.

The rules are BuildKit's, whose layers these must equal: entries that were only copied up are
dropped, deletions are one whiteout each, times are whole seconds, and of the extended attributes
only the file capability is kept.
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
_CHUNK = 1 << 20  # bytes


class Lower(Protocol):
    """The tree before the step. Only paths whose parents are directories in it are looked up."""

    def lookup(self, path: str) -> Entry | None:
        """The entry at `path`, without following links."""

    def children(self, path: str) -> list[str]:
        """The names in a directory."""

    def open(self, path: str) -> int | None:
        """A descriptor of a file, which the caller closes; None if its content is unknown."""


class _LowerDirectory:
    def __init__(self, root: OpenDirectory) -> None:
        self._root = root

    def lookup(self, path: str) -> Entry | None:
        return entry_at(self._root, path)

    def children(self, path: str) -> list[str]:
        return os.listdir(f"{self._root.path}/{path}")

    def open(self, path: str) -> int | None:
        return self._root.open(path)


@contextmanager
def lower_directory(path: Path) -> Iterator[Lower]:
    """The tree before the step, in a directory such as a read-only mount."""
    yield _LowerDirectory(OpenDirectory(path))


def changeset(upper: int | Path, lower: Lower) -> Iterator[Item]:
    """The entries of the layer that turns `lower` into the merged view of `lower` and `upper`.

    Sorted in each directory, parents first; unchanged parents of changed entries are included.
    Raises ContentError for unreadable files, and for a mount with redirect_dir or metacopy, whose
    upper directory is not self-contained.
    """
    try:
        yield from _Walk(OpenDirectory(upper), lower).items()
    except OSError as error:
        raise unreadable(error) from error


class _UpperEntry(NamedTuple):
    """A name in the upper directory, with the flags of overlayfs."""

    entry: Entry
    status: os.stat_result
    is_whiteout: bool
    is_opaque: bool


class _Walk:
    """The walk over the upper directory; `_links` maps inodes to paths already in the layer."""

    def __init__(self, upper: OpenDirectory, lower: Lower) -> None:
        self._upper = upper
        self._lower = lower
        self._emitted: set[str] = set()
        self._links: dict[int, str] = {}
        self._unchanged: dict[int, list[_UpperEntry]] = {}

    def items(self) -> Iterator[Item]:
        opaque = self._attributes("").get("opaque") == b"y"
        yield from self._directory("", in_lower=True, opaque=opaque)

    def _directory(self, path: str, *, in_lower: bool, opaque: bool) -> Iterator[Item]:
        """The changes in `path`; `in_lower` if it is a directory in the lower tree too."""
        prefix = f"{path}/" if path else ""
        found = {name: self._read_entry(prefix + name) for name in os.listdir(self._path(path))}
        deleted = set(self._lower.children(path)) - found.keys() if in_lower and opaque else set()
        for name in sorted(found.keys() | deleted):
            item = found.get(name)
            if item is None:
                yield from self._whiteout(path, name)
                continue
            old = self._lower.lookup(prefix + name) if in_lower else None
            if item.is_whiteout:
                if old is not None:
                    yield from self._whiteout(path, name)
            elif item.entry.kind == "dir":
                yield from self._subdirectory(item, old, opaque=opaque)
            elif stat.S_IFMT(item.status.st_mode) in KINDS:
                yield from self._non_directory(item, old)

    def _subdirectory(
        self, item: _UpperEntry, old: Entry | None, *, opaque: bool
    ) -> Iterator[Item]:
        if old is None or not _same_owner(item.entry, old):
            yield from self._emit(item)
        in_lower = old is not None and old.kind == "dir"
        opaque = opaque or item.is_opaque
        yield from self._directory(item.entry.path, in_lower=in_lower, opaque=opaque)

    def _non_directory(self, item: _UpperEntry, old: Entry | None) -> Iterator[Item]:
        inode, linked = item.status.st_ino, item.status.st_nlink > 1
        if old is not None and self._same(item.entry, old):
            if inode in self._links:
                yield from self._emit(item)
            elif linked:
                self._unchanged.setdefault(inode, []).append(item)
            return
        yield from self._emit(item)
        for other in self._unchanged.pop(inode, ()) if linked else ():
            yield from self._emit(other)

    def _emit(self, item: _UpperEntry) -> Iterator[Item]:
        entry = item.entry
        yield from self._parents(entry.parent)
        self._emitted.add(entry.path)
        entry = entry._replace(mtime_ns=entry.mtime_ns // _SECOND * _SECOND)
        if entry.kind == "dir":
            yield entry, None
            return
        first = self._links.get(item.status.st_ino)
        if first is not None:
            yield entry._replace(kind="hardlink", link=first, size=0, xattrs=()), None
            return
        if item.status.st_nlink > 1:
            self._links[item.status.st_ino] = entry.path
        yield entry, Source(self._upper, entry.path) if entry.kind == "file" else None

    def _parents(self, path: str) -> Iterator[Item]:
        if path and path not in self._emitted:
            yield from self._emit(self._read_entry(path))

    def _whiteout(self, directory: str, name: str) -> Iterator[Item]:
        yield from self._parents(directory)
        path = f"{directory}/{PREFIX}{name}" if directory else PREFIX + name
        yield Entry(path, "file", 0), b""

    def _read_entry(self, path: str) -> _UpperEntry:
        status = os.stat(path, dir_fd=self._upper.fd, follow_symlinks=False)
        entry = entry_at(self._upper, path, status) or Entry(path, "file")
        if entry.kind == "char" and status.st_rdev == 0:
            return _UpperEntry(entry, status, True, False)
        if entry.kind not in ("file", "dir"):
            return _UpperEntry(entry, status, False, False)
        attributes = self._attributes(path)
        if not attributes:
            return _UpperEntry(entry, status, False, False)
        if "redirect" in attributes or "metacopy" in attributes:
            raise ContentError(
                f"{path}: the overlay was mounted with redirect_dir or metacopy",
                code="overlay-options",
                hint="mount it with redirect_dir=off,metacopy=off",
            )
        is_whiteout = entry.kind == "file" and not entry.size and "whiteout" in attributes
        return _UpperEntry(entry, status, is_whiteout, attributes.get("opaque") == b"y")

    def _attributes(self, path: str) -> dict[str, bytes]:
        """The attributes of overlayfs, without their prefix."""
        location = self._path(path)
        return {
            name.removeprefix(prefix): os.getxattr(location, name, follow_symlinks=False)
            for name in os.listxattr(location, follow_symlinks=not path)
            for prefix in OVERLAY
            if name.startswith(prefix)
        }

    def _path(self, path: str) -> str:
        return f"{self._upper.path}/{path}"

    def _same(self, new: Entry, old: Entry) -> bool:
        """Whether a copied-up entry is unchanged, as far as a layer records."""
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
        """Unpacked layers have whole seconds, so equal times prove nothing."""
        old = self._lower.open(path)
        if old is None:
            return False
        with open(old, "rb", buffering=0) as before:
            new = self._upper.open(path)
            with open(new, "rb", buffering=0) as after:
                while True:
                    data = after.read(_CHUNK)
                    if data != before.read(_CHUNK):
                        return False
                    if not data:
                        return True


def conform(upper: int | Path, toc: Toc) -> bool:
    """Turn an unmounted upper directory into the result of unpacking its changeset.

    `toc` is that of the layer. Entries that were only copied up are removed, as is what a layer
    cannot record: opaque marks, attributes, fractions of seconds. False if a difference remains.
    """
    if toc.opaque:
        return False
    try:
        return _Conformer(OpenDirectory(upper), toc).directory("")
    except OSError as error:
        raise unreadable(error) from error


class _Conformer:
    def __init__(self, upper: OpenDirectory, toc: Toc) -> None:
        self._upper = upper
        self._toc = toc

    def directory(self, path: str) -> bool:
        """Conform the directory `path`; returns whether it now matches the layer."""
        check()
        location = f"{self._upper.path}/{path}"
        self._strip(location, os.listxattr(location))
        rows = self._toc.rows(path)
        hidden = set(self._toc.whiteouts.get(path, ()))
        with os.scandir(location) as children:
            names = list(children)
        found = 0
        for item in names:
            status = item.stat(follow_symlinks=False)
            if stat.S_ISCHR(status.st_mode) and not status.st_rdev and item.name in hidden:
                hidden.remove(item.name)
            elif (row := rows.get(item.name)) is None:
                _remove(item)
            elif self._entry(f"{path}/{item.name}" if path else item.name, item.path, row, status):
                found += 1
        for name in hidden - rows.keys():
            os.mknod(f"{location}/{name}", stat.S_IFCHR)
        return found == len(rows)

    def _entry(self, path: str, location: str, row: Row, status: os.stat_result) -> bool:
        if not _matches(row, location, status):
            return False
        if not self._strip(location, os.listxattr(location, follow_symlinks=False), row[9]):
            return False
        if row[0] == "dir" and not self.directory(path):
            return False
        if row[0] == "dir" or status.st_mtime_ns != row[5]:
            os.utime(location, ns=(row[5], row[5]), follow_symlinks=False)
        return True

    def _strip(self, location: str, names: list[str], expected: Xattrs = ()) -> bool:
        """Remove all attributes except `security.*`: the capability, and labels set by the system.

        Returns whether the capability matches the layer.
        """
        for name in names:
            if not name.startswith("security."):
                os.removexattr(location, name, follow_symlinks=False)
        if CAPABILITY not in names:
            return not expected
        return expected == ((CAPABILITY, os.getxattr(location, CAPABILITY, follow_symlinks=False)),)


def _matches(row: Row, location: str, status: os.stat_result) -> bool:
    """Whether the file matches `row`, apart from time and attributes."""
    kind = KINDS.get(stat.S_IFMT(status.st_mode))
    size = status.st_size if kind == "file" else 0
    if row[:5] != (kind, stat.S_IMODE(status.st_mode), status.st_uid, status.st_gid, size):
        return False
    if kind == "symlink":
        return os.readlink(location) == row[6]
    if kind in ("char", "block"):
        return status.st_rdev == os.makedev(row[7], row[8])
    return True


def _remove(item: os.DirEntry[str]) -> None:
    if item.is_dir(follow_symlinks=False):
        shutil.rmtree(item.path)
    else:
        os.unlink(item.path)


def _same_owner(new: Entry, old: Entry) -> bool:
    same = ("kind", "mode", "uid", "gid", "major", "minor")
    capability = dict(new.xattrs).get(CAPABILITY) == dict(old.xattrs).get(CAPABILITY)
    return capability and all(getattr(new, name) == getattr(old, name) for name in same)
