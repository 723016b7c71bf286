"""A big tree of real files for benchmarks, made of what the machine has."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

FILES = 65_000
BYTES = 1_200_000_000
_PLACES = ("/usr/lib", "/usr/share", "/usr/local", "/usr/include", "/opt", "/root/.pyenv")
_LARGEST = 40_000_000  # bytes of one file


def make_tree(place: Path, *, files: int = FILES, size: int = BYTES) -> tuple[int, int]:
    """Fill `place` with about `files` files and `size` bytes; returns how many there are.

    Small files are taken first from everywhere, then larger ones as long as there is room.
    """
    chosen = sorted(_candidates(), key=lambda one: one[1])
    room = size
    picked: list[str] = []
    for number, (path, length) in enumerate(chosen):
        share = room / max(1, files - len(picked)) * 8
        if len(picked) == files or (length > share and number % 3):
            continue
        if length <= room:
            picked.append(path)
            room -= length
    for path in picked:
        target = place / path.lstrip("/")
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(path, target, follow_symlinks=False)
    return len(picked), size - room


def _candidates() -> Iterator[tuple[str, int]]:
    for start in _PLACES:
        for directory, _, names in os.walk(start):
            for name in names:
                path = f"{directory}/{name}"
                if os.path.islink(path) or not os.path.isfile(path):
                    continue
                length = os.path.getsize(path)
                if 0 < length < _LARGEST:
                    yield path, length
