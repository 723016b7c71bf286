"""Patterns of ref names, as workflow files write them: `main`, `feature/**`, `v[0-9]*`, `!v0*`."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache


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
        if _compiled(pattern.removeprefix("!")).fullmatch(ref):
            found = None if pattern.startswith("!") else Match(pattern, ref[_fixed(pattern) :])
    return found


def check_pattern(pattern: str) -> str:
    """The pattern. Raises ValueError where it cannot match anything."""
    if not pattern.removeprefix("!"):
        raise ValueError("a pattern must not be empty")
    _compiled(pattern.removeprefix("!"))
    return pattern


def _fixed(pattern: str) -> int:
    """How many characters the pattern gives before its first wildcard; 0 without any."""
    wild = re.search(r"[*?\[]", pattern)
    return wild.start() if wild else 0


@lru_cache(256)
def _compiled(pattern: str) -> re.Pattern[str]:
    text, position = "", 0
    while position < len(pattern):
        char = pattern[position]
        if pattern.startswith("**", position):
            text, position = text + ".*", position + 2
            continue
        if char == "[" and (end := pattern.find("]", position + 2)) > 0:
            text, position = text + _set(pattern[position + 1 : end]), end + 1
            continue
        text += {"*": "[^/]*", "?": "[^/]"}.get(char) or re.escape(char)
        position += 1
    try:
        return re.compile(text, re.DOTALL)
    except re.error:
        raise ValueError(f"not a pattern: {pattern!r}") from None


def _set(inner: str) -> str:
    negated, inner = inner[0] in "!^", inner.removeprefix("!").removeprefix("^")
    return "[" + ("^/" if negated else "") + re.sub(r"([\\^\[&~|])", r"\\\1", inner) + "]"
