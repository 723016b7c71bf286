"""Places: the directories of a tree being written, opened without ever leaving its root."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable

from shipline.errors import ContentError
from shipline.layer.entry import Entry, OpenDirectory
from shipline.layer.paths import resolve
from shipline.layer.status import entry_at

_MOST = 64  # open directories
_DEEPEST = 256  # directories in each other
_OPEN = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


class UnsafeEntry(ContentError):
    """An entry of an archive points out of the tree that it is unpacked to."""

    code = "unsafe-entry"


class Places:
    """Opens directories below `root` by their paths, each step alone and without links.

    A link on the way is followed as chroot(2) would, so it cannot lead out. What is missing is
    made, mode 0755; what is no directory is replaced by one.
    """

    def __init__(self, root: OpenDirectory, made: Callable[[str], object]) -> None:
        self._root = root
        self._made = made
        self._open: dict[str, int] = {}

    def directory(self, path: str) -> int:
        """A descriptor of the directory `path`, good until the next call."""
        fd = self._open.get(path)
        if fd is not None:
            return fd
        if not path:
            return self._root.fd
        if len(self._open) >= _MOST:
            self.forget()
        self._open[path] = fd = self._descend(path)
        return fd

    def forget(self, *, keep: int = -1) -> None:
        """Close all but `keep`; to be called when a directory was removed."""
        for path, fd in list(self._open.items()):
            if fd != keep:
                os.close(fd)
                del self._open[path]

    def _descend(self, path: str) -> int:
        parent, _, name = path.rpartition("/")
        above = self.directory(parent)
        try:
            return os.open(name, _OPEN, dir_fd=above)
        except FileNotFoundError:
            os.mkdir(name, 0o755, dir_fd=above)
            self._made(path)
            return os.open(name, _OPEN, dir_fd=above)
        except OSError as error:
            if error.errno not in (errno.ELOOP, errno.ENOTDIR):
                raise
        if stat.S_ISLNK(os.stat(name, dir_fd=above, follow_symlinks=False).st_mode):
            place = resolve(path, self._lookup)
            if place != path:
                return os.dup(self.directory(place))
        os.unlink(name, dir_fd=above)
        os.mkdir(name, 0o755, dir_fd=above)
        self._made(path)
        return os.open(name, _OPEN, dir_fd=above)

    def _lookup(self, path: str) -> Entry | None:
        return entry_at(self._root, path)


def check_path(path: str) -> None:
    """Raises UnsafeEntry unless `path` is relative, goes down only, and not absurdly far."""
    if path.count("/") > _DEEPEST:
        raise UnsafeEntry(f"the archive has an entry too deep to unpack: {path!r:.200}")
    if path.startswith("/") or not path or (".." in path and ".." in path.split("/")):
        raise UnsafeEntry(
            f"the archive has an entry outside of its root: {path!r:.200}",
            hint="it was made to overwrite other files; do not trust where it came from",
        )
