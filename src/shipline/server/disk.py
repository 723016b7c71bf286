"""What the kernel offers for getting bytes to the disk."""

from __future__ import annotations

import os
from pathlib import Path


def seal(fd: int) -> None:
    """Make a file read-only and its bytes durable."""
    os.fchmod(fd, 0o444)
    os.fsync(fd)


def sync_directory(path: Path) -> None:
    """Make the names in a directory durable."""
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
