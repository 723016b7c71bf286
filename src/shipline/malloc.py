"""The memory that the C library's allocator keeps for later."""

from __future__ import annotations

import ctypes
from contextlib import suppress
from functools import cache

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD, _M_ARENA_MAX = -1, -3, -8
_LONGEST = 32 << 20  # bytes of a block that is kept


@cache
def keep_freed_memory(most: int, *, arenas: int = 0) -> None:
    """Let glibc keep what is freed, `most` bytes at the end of each arena: the kernel would have to
    clear the pages again, which costs as much as hashing their content (mallopt(3)). With `arenas`,
    all threads share as many: each thread's own would keep megabytes. Other C libraries have no
    such option.
    """
    with suppress(AttributeError, OSError):
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(_M_MMAP_THRESHOLD, _LONGEST)
        mallopt(_M_TRIM_THRESHOLD, most)
        if arenas:
            mallopt(_M_ARENA_MAX, arenas)
