"""The gate of the bill of material: how many packages, which licences, which are not allowed."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from fnmatch import fnmatchcase
from functools import cache, lru_cache
from typing import TYPE_CHECKING, Any

from shipline.gates.reports import Component, Sbom
from shipline.gates.section import SbomGate
from shipline.gates.thresholds import Noun, listed
from shipline.gates.verdict import Check, Measurements, Outcome
from shipline.units import counted

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


def judge_sbom(rules: SbomGate, reports: list[Sbom]) -> tuple[list[Check], Measurements]:
    """Checks for one or more documents taken together."""
    components = [*dict.fromkeys(one for report in reports for one in report.components)]
    keys = frozenset(one.purl or str(one) for one in components)
    return [*_checks(rules, components)], Measurements({"components": len(components)}, keys)


def _checks(rules: SbomGate, components: list[Component]) -> Iterator[Check]:
    count, limit = len(components), f">= {rules.min_components}"
    reason = counted(count, "package")
    if count < rules.min_components:
        outcome = Outcome.FAIL if count else Outcome.INCOMPLETE
        reason += f", at least {rules.min_components:,} were expected"
        yield Check("packages", outcome, reason, str(count), limit)
    else:
        yield Check("packages", Outcome.PASS, reason, str(count), limit)
    if rules.deny_licenses:
        bad = [
            one
            for one in components
            if any(denied(text, rules.deny_licenses) for text in one.licenses)
        ]
        yield _none(bad, "licences", ("has a denied licence", "have a denied licence"))
    if rules.unknown_licenses == "deny":
        yield _none(
            [one for one in components if not one.licenses],
            "unknown",
            ("has no licence", "have no licence"),
        )
    if rules.deny_packages:
        yield _none(
            [one for one in components if _named(one, rules)],
            "denied",
            ("is not allowed", "are not allowed"),
        )


def _named(one: Component, rules: SbomGate) -> bool:
    names = (one.name, str(one), one.purl)
    return any(fnmatchcase(name, pattern) for name in names for pattern in rules.deny_packages)


def _none(bad: list[Component], name: str, what: Noun) -> Check:
    details = tuple(f"{one}: {' AND '.join(one.licenses) or 'no licence'}" for one in bad)
    reason = f"{counted(len(bad), 'package')} {what[len(bad) != 1]}" + (
        f": {listed(map(str, bad))}" if bad else ""
    )
    outcome = Outcome.FAIL if bad else Outcome.PASS
    hint = "replace the packages" if bad else ""
    return Check(name, outcome, reason, str(len(bad)), "<= 0", hint, details)
