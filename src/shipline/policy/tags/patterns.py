"""Patterns of ref names, as workflow files write them: `main`, `feature/**`, `v[0-9]*`, `!v0*`."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from shipline.globs import glob


@dataclass(frozen=True, slots=True)
class Match:
    """`name` is what stands where the pattern's first wildcard begins; whole without one."""

    pattern: str
    name: str


def match(patterns: Sequence[str], ref: str) -> Match | None:
    """The last pattern that matches decides; one with `!` in front excludes.

    `*` and `?` stand for anything but `/`, `**` for anything, `[abc]` for one of them.
    """
    found = None
    for pattern in patterns:
        if glob(pattern.removeprefix("!")).fullmatch(ref):
            found = None if pattern.startswith("!") else Match(pattern, ref[_fixed(pattern) :])
    return found


def check_pattern(pattern: str) -> str:
    """The pattern. Raises ValueError where it cannot match anything."""
    if not pattern.removeprefix("!"):
        raise ValueError("a pattern must not be empty")
    glob(pattern.removeprefix("!"))
    return pattern


def _fixed(pattern: str) -> int:
    """How many characters the pattern gives before its first wildcard; 0 without any."""
    wild = re.search(r"[*?\[]", pattern)
    return wild.start() if wild else 0
