"""Paths inside a root directory: nothing that the tree holds can lead out of it.

The kernel resolves `..`, absolute names and symbolic links as if the root were `/` (openat2(2),
RESOLVE_IN_ROOT), so a hostile image cannot direct a mount or a write to the host.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from msgspec import Struct

from shipline.errors import SandboxError
from shipline.sandbox import kernel

_MOST_LINKS = 40  # as the kernel: path_resolution(7)
_READ_LIMIT = 16 << 20  # bytes of a file read from an image


class CreatedPath(Struct, frozen=True):
    """A directory or empty file that was created as a mount point, `path` inside `root`."""

    root: Path
    path: str
    is_directory: bool


def resolve_in_root(root: Path, path: str) -> Path:
    """The host's path of `path` inside `root`, links followed; the last part may be missing.

    Raises SandboxError when another part is missing or is not a directory.
    """
    with _directory(root) as top:
        try:
            return _place(top, path)
        except OSError as error:
            raise kernel.sandbox_error(
                f"cannot find {path} in the root file system", error
            ) from error


@contextmanager
def held_in_root(root: Path, path: str) -> Iterator[Path]:
    """A path that leads to `path` inside `root`, links followed, whatever becomes of the tree in
    the block. Raises SandboxError when it is missing.
    """
    with _directory(root) as top, ExitStack() as opened:
        try:
            descriptor = opened.enter_context(_opened(top, path))
        except OSError as error:
            raise kernel.sandbox_error(
                f"cannot find {path} in the root file system", error
            ) from error
        yield Path(f"/proc/self/fd/{descriptor}")


def read_in_root(root: Path, path: str) -> bytes:
    """The content of a regular file inside `root`, empty when there is none. Nothing else is
    opened: that alone starts some devices, such as a watchdog.
    """
    with _directory(root) as top:
        try:
            with _opened(top, path) as found:
                return _content(found) if _is_regular(found) else b""
        except FileNotFoundError:
            return b""
        except OSError as error:
            raise kernel.sandbox_error(
                f"cannot read {path} in the root file system", error
            ) from error


def make_in_root(root: Path, path: str, *, directory: bool) -> tuple[Path, tuple[CreatedPath, ...]]:
    """Create `path` inside `root` unless it exists: its host path, and what was created.

    An existing file or directory is left alone. Raises SandboxError.
    """
    created: list[CreatedPath] = []
    with _directory(root) as top:
        try:
            place = _ensured(top, path, directory, created, _MOST_LINKS)
            return place, tuple(created)
        except OSError as error:
            remove_created(created)
            raise kernel.sandbox_error(f"cannot create the mount point {path}", error) from error


def remove_created(created: Iterable[CreatedPath]) -> None:
    """Remove what `make_in_root` created, if it is still empty; parents keep their present mtime.
    What is at the end of a link that took the place of a parent stays.

    As in BuildKit, a directory in which a mount point was created has a new time in the layer.
    """
    for one in reversed(list(created)):
        try:
            _remove_one(one)
        except OSError as error:
            if error.errno not in (*_FILLED, *_REPLACED):
                raise kernel.sandbox_error(
                    f"cannot remove the mount point {one.path}", error
                ) from error


_FILLED = (errno.ENOTEMPTY, errno.EEXIST)
_REPLACED = (errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.ELOOP)


def _remove_one(one: CreatedPath) -> None:
    directory, name = _split(one.path)
    with (
        _directory(one.root) as top,
        _opened(top, directory, os.O_RDONLY | os.O_DIRECTORY, links=False) as parent,
    ):
        before = os.fstat(parent)
        if one.is_directory:
            os.rmdir(name, dir_fd=parent)
        elif os.stat(name, dir_fd=parent, follow_symlinks=False).st_size == 0:
            os.unlink(name, dir_fd=parent)
        else:
            return
        os.utime(parent, ns=(before.st_atime_ns, before.st_mtime_ns))


def _place(top: int, path: str, links: int = _MOST_LINKS) -> Path:
    try:
        return _located(top, path)
    except FileNotFoundError:
        parent, name = _split(path)
        if not name:
            raise
        with _opened(top, parent) as directory:
            link = _link_at(directory, name)
            if link is None:
                return _host_path(directory) / name
        if links == 0:
            raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), path) from None
        return _place(top, os.path.join(parent, link), links - 1)


def _ensured(top: int, path: str, directory: bool, created: list[CreatedPath], links: int) -> Path:
    try:
        return _located(top, path)
    except FileNotFoundError:
        parent, name = _split(path)
        if links == 0 or not name:
            raise
    _ensured(top, parent, True, created, links)
    with suppress(FileNotFoundError):  # `missing/..` is there once `missing` is
        return _located(top, path)
    with _opened(top, parent) as opened:
        link = _link_at(opened, name)
        if link is None:
            place = _make(opened, name, directory)
            root = _host_path(top)
            created.append(CreatedPath(root, os.path.relpath(place, root), directory))
            return place
    return _ensured(top, os.path.join(parent, link), directory, created, links - 1)


def _make(parent: int, name: str, directory: bool) -> Path:
    if directory:
        os.mkdir(name, dir_fd=parent)
    else:
        flags = os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC
        os.close(os.open(name, flags, dir_fd=parent))
    os.chmod(name, 0o755 if directory else 0o644, dir_fd=parent)  # whatever the umask is
    return _host_path(parent) / name


def _split(path: str) -> tuple[str, str]:
    parent, name = os.path.split(path.rstrip("/"))
    return parent or "/", name


def _link_at(directory: int, name: str) -> str | None:
    try:
        return os.readlink(name, dir_fd=directory)
    except OSError:  # it is not a link, or it is not there
        return None


def _located(top: int, path: str) -> Path:
    with _opened(top, path) as opened:
        return _host_path(opened)


def _host_path(descriptor: int) -> Path:
    return Path(os.readlink(f"/proc/self/fd/{descriptor}"))


def _content(descriptor: int) -> bytes:
    with open(f"/proc/self/fd/{descriptor}", "rb") as file:
        return file.read(_READ_LIMIT)


def _is_regular(descriptor: int) -> bool:
    return (os.fstat(descriptor).st_mode & 0o170000) == 0o100000


@contextmanager
def _opened(top: int, path: str, flags: int = os.O_PATH, *, links: bool = True) -> Iterator[int]:
    descriptor = kernel.open_in_root(top, path, flags, links=links)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


@contextmanager
def _directory(root: Path) -> Iterator[int]:
    try:
        descriptor = os.open(root, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as error:
        raise SandboxError(
            f"no root file system at {root}: {error.strerror}", code="state-directory"
        ) from error
    try:
        yield descriptor
    finally:
        os.close(descriptor)
