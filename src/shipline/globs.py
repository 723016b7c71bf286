"""Glob patterns for path-like names: refs, repositories, tags, files."""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Self

from msgspec import Struct


@lru_cache(1024)
def glob(pattern: str) -> re.Pattern[str]:
    """The glob as a regular expression for `fullmatch`. Raises ValueError.

    `*` and `?` match anything but `/`, `**` matches `/` too, `**/` may be empty, `[abc]`, `[a-z]`
    and `[!abc]` match one character.
    """
    if not pattern:
        raise ValueError("a pattern must not be empty")
    text, position = "", 0
    while position < len(pattern):
        piece, length = _piece(pattern, position)
        text, position = text + piece, position + length
    try:
        return re.compile(text, re.DOTALL)
    except re.error:
        raise ValueError(f"not a pattern: {pattern!r}") from None


def _piece(pattern: str, position: int) -> tuple[str, int]:
    """The expression for the token at `position`, and its length."""
    if pattern.startswith("**/", position) and pattern[:position][-1:] in ("", "/"):
        return "(?:.*/)?", 3
    if pattern.startswith("**", position):
        return ".*", 2
    char = pattern[position]
    end = pattern.find("]", position + 2)
    if char == "[" and end > 0:
        return _set(pattern[position + 1 : end]), end + 1 - position
    return {"*": "[^/]*", "?": "[^/]"}.get(char) or re.escape(char), 1


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
