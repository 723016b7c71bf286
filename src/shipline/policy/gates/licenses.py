"""Licence expressions (SPDX 2.3, annex D): whether one can be met without a denied licence."""

from __future__ import annotations

import re
from collections.abc import Callable
from fnmatch import fnmatchcase

_TOKEN = re.compile(r"\(|\)|[^\s()]+")
_DEEP = 50
_LONG = 10_000  # characters


def denied(expression: str, patterns: tuple[str, ...]) -> bool:
    """Whether every way to meet `expression` needs a licence that a pattern names.

    `MIT OR GPL-3.0-only` can be met without the GPL, `MIT AND GPL-3.0-only` cannot. What is no
    expression is denied where one of its words is.
    """

    def bad(word: str) -> bool:
        names = (word.lower(), word.lower().removesuffix("+"))
        return any(fnmatchcase(name, one.lower()) for name in names for one in patterns)

    tokens = _TOKEN.findall(expression[:_LONG])
    try:
        return _Expression(tokens, bad).whole()
    except (IndexError, ValueError):
        return bad(expression) or any(map(bad, tokens))


class _Expression:
    """Raises IndexError or ValueError for what is no expression."""

    def __init__(self, tokens: list[str], bad: Callable[[str], bool]) -> None:
        self._tokens = tokens
        self._bad = bad
        self._depth = 0

    def whole(self) -> bool:
        found = self._either()
        if self._tokens:
            raise ValueError("something follows")
        return found

    def _either(self) -> bool:
        found = self._both()
        while self._next("OR"):
            found = self._both() and found
        return found

    def _both(self) -> bool:
        found = self._one()
        while self._next("AND"):
            found = self._one() or found
        return found

    def _one(self) -> bool:
        token = self._tokens.pop(0)
        if token == "(":
            self._depth += 1
            if self._depth > _DEEP:
                raise ValueError("too deep")
            found = self._either()
            if self._tokens.pop(0) != ")":
                raise ValueError("no end")
            return found
        if token == ")" or token.upper() in ("AND", "OR", "WITH"):
            raise ValueError("no licence")
        if self._next("WITH"):
            return self._bad(f"{token} WITH {self._tokens.pop(0)}") or self._bad(token)
        return self._bad(token)

    def _next(self, word: str) -> bool:
        if self._tokens and self._tokens[0].upper() == word:
            self._tokens.pop(0)
            return True
        return False
