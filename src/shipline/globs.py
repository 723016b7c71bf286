"""Glob patterns for path-like names: refs, repositories, tags, files."""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import lru_cache
from itertools import pairwise
from typing import Self

from msgspec import Struct

STAR, DEEP, DIRECTORIES = "[^/]*", ".*", "(?:.*/)?"
_LAZY = {DEEP: ".*?", DIRECTORIES: "(?:.*?/)??"}
_MOST_JOINED = 4


def joined(pieces: Sequence[str]) -> str:
    """One expression, for `fullmatch` with DOTALL, of pieces that match one character each, or are
    `STAR`, `DEEP` or `DIRECTORIES`.

    What stands between two wildcards is sought once, leftmost, since every later match goes on from
    there too: time does not grow exponentially with the wildcards. `DIRECTORIES` after part of a
    name is the exception. Raises ValueError for many of these.
    """
    parts: list[tuple[str, list[str]]] = [("", [])]
    for one in pieces:
        parts.append((one, [])) if one in _LAZY else parts[-1][1].append(one)
    found: list[str] = []
    loose = 0
    for (deep, part), (following, _) in pairwise([*parts, ("", [])]):
        if len(found) == len(parts) - 1:
            found.append(deep + sought(part, STAR))
        elif following == DEEP or part[-1:] == ["/"] or (deep != DEEP and not part):
            found.append(f"(?>{_LAZY.get(deep, '')}{sought(part, STAR, last='[^/]*?')})")
        else:
            found.append(deep + sought(part, STAR))
            loose += 1
    if loose > _MOST_JOINED:
        raise ValueError("** follows part of a name too often")
    return "".join(found)


def sought(pieces: Sequence[str], star: str, *, last: str = "") -> str:
    """One expression of pieces that match one character each or are `star`, which all match the
    same characters; `last` stands for the last `star`, which decides how much is matched.
    """
    parts: list[list[str]] = [[]]
    for one in pieces:
        parts.append([]) if one == star else parts[-1].append(one)
    fixed = ["".join(part) for part in parts]
    middle = [f"(?>{star}?{one})" for one in fixed[1:-1]]
    return "".join([fixed[0], *middle, *([last or star, fixed[-1]] if fixed[1:] else [])])


@lru_cache(1024)
def glob(pattern: str) -> re.Pattern[str]:
    """The glob as a regular expression for `fullmatch`. Raises ValueError.

    `*` and `?` match anything but `/`, `**` matches `/` too, `**/` may be empty, `[abc]`, `[a-z]`
    and `[!abc]` match one character.
    """
    if not pattern:
        raise ValueError("a pattern must not be empty")
    pieces, position = [], 0
    while position < len(pattern):
        piece, length = _piece(pattern, position)
        pieces.append(piece)
        position += length
    try:
        return re.compile(joined(pieces), re.DOTALL)
    except re.error:
        raise ValueError(f"not a pattern: {pattern!r}") from None


def _piece(pattern: str, position: int) -> tuple[str, int]:
    """The expression for the token at `position`, and its length."""
    if pattern.startswith("**/", position) and pattern[:position][-1:] in ("", "/"):
        return DIRECTORIES, 3
    if pattern.startswith("**", position):
        return DEEP, 2
    char = pattern[position]
    end = pattern.find("]", position + 2)
    if char == "[" and end > 0:
        return _set(pattern[position + 1 : end]), end + 1 - position
    return {"*": STAR, "?": "[^/]"}.get(char) or re.escape(char), 1


def _set(inner: str) -> str:
    negated = inner[0] in "!^"
    inner = re.sub(r"([\\^\[&~|])", r"\\\1", inner[1:] if negated else inner)
    return f"[^/{inner}]" if negated else f"[{inner}]"


class Glob(Struct, frozen=True):
    """A glob in a configuration."""

    text: str

    @classmethod
    def parse(cls, text: str) -> Self:
        """Raises ValueError."""
        glob(text)
        return cls(text)

    def matches(self, name: str) -> bool:
        """Whether the whole name matches."""
        return glob(self.text).fullmatch(name) is not None

    def __str__(self) -> str:
        return self.text
