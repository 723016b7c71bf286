"""A big tree of real files for benchmarks, made of what the machine has.

python -m bench.tree DIRECTORY FILES BYTES
"""

from __future__ import annotations

import os
import shutil
import sys
import zlib
from collections.abc import Iterator
from pathlib import Path

FILES = 65_000
BYTES = 1_200_000_000
_PLACES = ("/usr/lib", "/usr/share", "/usr/local", "/usr/include", "/opt", "/root/.pyenv")
_LARGEST = 100_000_000  # bytes of one file


def make_tree(place: Path, *, files: int = FILES, size: int = BYTES) -> tuple[int, int]:
    """Fill `place` with about `files` files and `size` bytes; returns how many there are.

    The files are drawn evenly from everywhere; the largest are left out until the size fits.
    """
    candidates = sorted(_candidates(), key=lambda one: zlib.crc32(os.fsencode(one[0])))
    low, high = 1, _LARGEST
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (
            (middle, high) if _size(candidates, files, middle) <= size else (low, middle - 1)
        )
    picked = _pick(candidates, files, low)
    for path, _ in picked:
        target = place / path.lstrip("/")
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(path, target, follow_symlinks=False)
    return len(picked), sum(length for _, length in picked)


def _pick(candidates: list[tuple[str, int]], files: int, largest: int) -> list[tuple[str, int]]:
    return [one for one in candidates if one[1] <= largest][:files]


def _size(candidates: list[tuple[str, int]], files: int, largest: int) -> int:
    return sum(length for _, length in _pick(candidates, files, largest))


def _candidates() -> Iterator[tuple[str, int]]:
    for start in _PLACES:
        for directory, _, names in os.walk(start):
            for name in names:
                path = f"{directory}/{name}"
                if not os.path.islink(path) and os.path.isfile(path):
                    length = os.path.getsize(path)
                    if 0 < length <= _LARGEST:
                        yield path, length


if __name__ == "__main__":
    count, total = make_tree(Path(sys.argv[1]), files=int(sys.argv[2]), size=int(sys.argv[3]))
    print(f"tree: {count} files, {total / 1e9:.2f} GB", flush=True)
