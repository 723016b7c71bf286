"""What the kernel offers for getting bytes to the disk."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Callable
from pathlib import Path

_SYNC_FILE_RANGE_WRITE = 2


def start_writeback(fd: int, start: int, size: int) -> None:
    """Let the disk begin with these bytes, so that the fsync at the end has little left to do.

    A hint: it promises nothing, and does nothing where the system has no sync_file_range(2).
    """
    if _sync_file_range is not None:
        _sync_file_range(fd, start, size, _SYNC_FILE_RANGE_WRITE)


def sync_directory(path: Path) -> None:
    """Make the names in a directory durable."""
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def _bound() -> Callable[[int, int, int, int], int] | None:
    function = getattr(ctypes.CDLL(None), "sync_file_range", None)
    if function is None:
        return None
    function.argtypes = (ctypes.c_int, ctypes.c_int64, ctypes.c_int64, ctypes.c_uint)
    bound: Callable[[int, int, int, int], int] = function
    return bound


_sync_file_range = _bound()
