"""Files that people name: written whole or not at all, by one process at a time. Large files, on
their way to the disk.
"""

from __future__ import annotations

import errno
import os
import stat
import struct
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache, lru_cache
from pathlib import Path
from typing import BinaryIO

from shipline.errors import ShiplineError, UsageError


@contextmanager
def reading(
    name: Path | str, kind: type[ShiplineError] = UsageError, *, of: str = "", hint: str = ""
) -> Iterator[None]:
    """The block reads the file `name`. Raises an error of `kind` if that fails, or if it is not
    text; `of` is the flag or the member that names the file.
    """
    try:
        yield
    except (OSError, UnicodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
        message = f"{of}: cannot read {name}: {reason}".removeprefix(": ")
        raise kind(message, code="file-unreadable", hint=hint) from error


@contextmanager
def writing(
    name: Path | str, kind: type[ShiplineError] = UsageError, *, hint: str = ""
) -> Iterator[None]:
    """The block writes the file `name`. Raises an error of `kind` if that fails."""
    try:
        yield
    except OSError as error:
        message = f"cannot write {name}: {error.strerror}"
        raise kind(message, code="file-unwritable", hint=hint) from error


def read_bounded(path: Path, limit: int) -> bytes:
    """The bytes of a regular file of at most `limit` bytes. Raises OSError for anything else, and
    never waits.
    """
    with open(path, "rb", opener=lambda name, flags: os.open(name, flags | os.O_NONBLOCK)) as file:
        if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            raise OSError(errno.EINVAL, "not a regular file", str(path))
        data = file.read(limit + 1)
    if len(data) > limit:
        raise OSError(errno.EFBIG, f"larger than {limit} bytes", str(path))
    return data


@contextmanager
def open_whole(path: Path) -> Iterator[BinaryIO]:
    """A file that appears at `path` when the block ends without an exception.

    What is there and no regular file, such as a pipe or /dev/null, is written to and never
    replaced. Raises OSError.
    """
    if path.exists() and not path.is_file():
        with path.open("wb") as file:
            yield file
        return
    path = Path(os.path.realpath(path))  # a link stays, and its target is replaced
    partial = _partial(path)
    try:
        with partial.open("wb") as file:
            yield file
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def write_whole(path: Path, data: bytes) -> None:
    """Write a file at once, as `open_whole` does."""
    with open_whole(path) as file:
        file.write(data)


def remove_whole(path: Path) -> None:
    """Remove what `open_whole` would replace: a file, where a link to it stays. Raises OSError."""
    if path.is_file():
        Path(os.path.realpath(path)).unlink(missing_ok=True)


def replace_file(path: Path, data: bytes) -> None:
    """Put a file in the place of whatever is there, whole, for readers of now: it need not survive
    a power failure. Raises OSError.
    """
    partial = _partial(path)
    try:
        partial.write_bytes(data)
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def write_durably(path: Path, data: bytes, mode: int, *, replace: bool = True) -> None:
    """Write a file with these permissions, whole and synced; its name is not. Raises OSError,
    FileExistsError for a file that is there unless `replace` is set.
    """
    partial = _partial(path)
    try:
        with open(partial, "xb", opener=lambda name, flags: os.open(name, flags, mode)) as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        if replace:
            partial.replace(path)
        else:
            os.link(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def _partial(path: Path) -> Path:
    return path.with_name(f".{path.name}.{os.getpid()}-{os.urandom(4).hex()}.part")


def write_at(fd: int, data: memoryview, position: int) -> None:
    """Write all of `data` into a file. Raises OSError."""
    while data:
        written = os.pwrite(fd, data, position)
        data, position = data[written:], position + written


_PIECE = 256 << 10  # bytes


def write_in_pieces(fd: int, data: bytes | memoryview, position: int) -> int:
    """Write all of `data` into a file; returns the position after it. Raises OSError.

    In pieces: the kernel looks for memory in runs as long as the write, and where memory is full of
    cached files it moves pages to make long ones, which takes more time than the copy itself.
    """
    view = memoryview(data)
    for start in range(0, len(view), _PIECE):
        write_at(fd, view[start : start + _PIECE], position + start)
    return position + len(view)


_RANGE_WRITE = 2  # SYNC_FILE_RANGE_WRITE, sync_file_range(2)


class WriteBehind:
    """Lets the kernel write a growing file to its disk at once, while there is other work: what
    waits for the disk at the end then waits for little. It guarantees nothing, and raises nothing.
    """

    def __init__(self, fd: int, begun: int = 0, every: int = 16 << 20) -> None:
        """The first `begun` bytes are not its concern; it asks for at least `every` bytes."""
        self._fd, self._begun, self._every = fd, begun, every

    def grown(self, size: int) -> None:
        """The first `size` bytes have been written."""
        if size - self._begun >= self._every:
            self.flush(size)

    def flush(self, size: int) -> None:
        """The first `size` bytes have been written, and the disk is waited for soon."""
        _sync_file_range()(self._fd, self._begun, size - self._begun, _RANGE_WRITE)
        self._begun = size


@cache
def _sync_file_range() -> Callable[[int, int, int, int], object]:
    import ctypes  # slow to import

    function = ctypes.CDLL(None).sync_file_range
    function.argtypes = (ctypes.c_int, ctypes.c_int64, ctypes.c_int64, ctypes.c_uint)
    return function


RESOLVE_NO_SYMLINKS, RESOLVE_IN_ROOT = 0x4, 0x10
_OPENAT2 = 437  # on every machine
_AGAIN = (errno.EAGAIN, errno.EINTR)  # a concurrent rename (openat2(2), ERRORS); a signal
_ABSENT = (errno.ENOSYS, errno.EPERM)  # openat2(2) is not there, or a filter refuses it


def openat2(directory: int, path: str, flags: int, resolve: int) -> int:
    """A descriptor of `path` below an open directory, found by the rules of openat2(2). Raises
    OSError.
    """
    call, get_errno = _syscall()
    how = _open_how(flags | os.O_CLOEXEC, resolve)
    while (opened := call(_OPENAT2, directory, os.fsencode(path), how, len(how))) < 0:
        number = get_errno()
        if number not in _AGAIN:
            raise OSError(number, os.strerror(number), path)
    return opened


def open_without_links(directory: int, path: str, flags: int) -> int:
    """A descriptor of `path`, a relative one without `..`; a symbolic link in it is an error, also
    where a directory was when the path was found. Raises OSError.
    """
    flags |= os.O_NOFOLLOW | os.O_CLOEXEC
    if "/" in path:
        try:
            return openat2(directory, path, flags, RESOLVE_NO_SYMLINKS)
        except OSError as error:
            if error.errno not in _ABSENT:
                raise
    return os.open(path, flags, dir_fd=directory)


@lru_cache(maxsize=64)
def _open_how(flags: int, resolve: int) -> bytes:
    return struct.pack("=QQQ", flags, 0, resolve)


@cache
def _syscall() -> tuple[Callable[..., int], Callable[[], int]]:
    import ctypes  # slow to import

    function = ctypes.CDLL(None, use_errno=True).syscall
    function.restype = ctypes.c_long
    return function, ctypes.get_errno
