"""Removing from a directory what was not written to it."""

from __future__ import annotations

import os
import shutil
from collections import defaultdict
from collections.abc import Iterable, Iterator
from pathlib import Path

from shipline.layer.entry import Entry, Item

_OPEN = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


class Written:
    """What was written to a directory, by the entries that pass through it."""

    def __init__(self) -> None:
        self._names: defaultdict[str, set[str]] = defaultdict(set)
        self._directories: dict[str, Entry] = {}

    def through(self, items: Iterable[Item], prefix: str = "") -> Iterator[Item]:
        """The same items, which are written below `prefix`."""
        self.add(prefix)
        for item in items:
            entry = item[0]
            path = f"{prefix}/{entry.path}" if prefix else entry.path
            self.add(path)
            if entry.kind == "dir":
                self._directories[path] = entry
            yield item

    def add(self, path: str) -> None:
        """Something was written at `path`, relative and normal, and so in its parents."""
        while path:
            parent, _, name = path.rpartition("/")
            if name in self._names[parent]:
                return
            self._names[parent].add(name)
            path = parent

    def remove_others(self, directory: Path) -> None:
        """Remove all else below `directory`. Links are removed and never followed; directories that
        were written keep their times. Raises OSError.
        """
        self._clean(os.open(directory, _OPEN & ~os.O_NOFOLLOW), "")

    def _clean(self, fd: int, path: str) -> None:
        """Clean an open directory, and close it."""
        try:
            known, removed = self._names[path], False
            for name in os.listdir(fd):
                if name not in known:
                    _remove(fd, name)
                    removed = True
                    continue
                below = f"{path}/{name}" if path else name
                if below in self._directories or below in self._names:
                    self._clean(os.open(name, _OPEN, dir_fd=fd), below)
            if removed and (entry := self._directories.get(path)) is not None:
                os.utime(fd, ns=(entry.mtime_ns, entry.mtime_ns))
        finally:
            os.close(fd)


def _remove(fd: int, name: str) -> None:
    try:
        os.unlink(name, dir_fd=fd)
    except IsADirectoryError:
        shutil.rmtree(name, dir_fd=fd)
