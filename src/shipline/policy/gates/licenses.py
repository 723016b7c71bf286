"""Licence expressions (SPDX 2.3, annex D): whether one can be met without a denied licence."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from fnmatch import fnmatchcase
from functools import cache, lru_cache
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from license_expression import Licensing

_LONG = 10_000  # characters of an expression


@lru_cache(1024)
def denied(expression: str, patterns: tuple[str, ...]) -> bool:
    """Whether every way to meet `expression` needs a licence that a pattern names.

    `MIT OR GPL-3.0-only` can be met without the GPL, `MIT AND GPL-3.0-only` cannot. What is no
    expression is denied where one of its words is. Identifiers that SPDX has replaced, such as
    GPL-3.0, are denied by their old and by their new names.
    """
    globs = [one.lower() for one in patterns]
    tree = _parsed(expression)
    try:
        return _is_bad(expression, globs) if tree is None else _needs(tree, globs)
    except RecursionError:  # hundreds of parentheses
        return _is_bad(expression, globs)


def _parsed(expression: str) -> Any:
    """What license-expression makes of the text; None where it is no expression."""
    from license_expression import ExpressionError

    if len(expression) > _LONG:
        return None
    try:
        return _licensing().parse(expression)
    except (ExpressionError, IndexError, AssertionError):  # "()" and "(OR x": the parser's own bugs
        return None


def _needs(tree: Any, globs: list[str]) -> bool:
    """Whether an expression of license-expression needs a denied licence."""
    from license_expression import LicenseWithExceptionSymbol

    if isinstance(tree, _licensing().OR):
        return all(_needs(one, globs) for one in tree.args)
    if isinstance(tree, _licensing().AND):
        return any(_needs(one, globs) for one in tree.args)
    if isinstance(tree, LicenseWithExceptionSymbol):
        return _is_bad(tree.license_symbol.key, globs) or _matches(tree.render(), globs)
    return _is_bad(tree.key, globs)


def _is_bad(text: str, globs: list[str]) -> bool:
    """Whether a pattern names the text, one of its words, or what SPDX calls one of them today."""
    return any(_matches(name, globs) for name in _names(text))


def _names(text: str) -> Iterator[str]:
    yield text
    for word in re.findall(r"[^\s()]+", text):
        yield from (word, word.removesuffix("+"), _replaced().get(word.lower(), word))


def _matches(name: str, globs: list[str]) -> bool:
    return any(fnmatchcase(name.lower(), glob) for glob in globs)


@cache
def _licensing() -> Licensing:
    """A parser that takes any name for a licence: reports have more than SPDX lists."""
    from license_expression import Licensing

    return Licensing()


@cache
def _replaced() -> Mapping[str, str]:
    """Old identifiers of SPDX in lower case, and those that took their place."""
    from license_expression import get_license_index

    return {
        old.lower(): one["spdx_license_key"]
        for one in get_license_index()
        for old in one.get("other_spdx_license_keys", ())
        if one.get("spdx_license_key") and not old.startswith("LicenseRef-")
    }
