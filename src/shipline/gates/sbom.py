"""The SBOM gate: number of packages, denied licences and packages."""

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


_MAX_LENGTH = 10_000  # characters of a licence expression


@lru_cache(1024)
def denied(expression: str, patterns: tuple[str, ...]) -> bool:
    """Whether every way to satisfy `expression` needs a licence that matches one of `patterns`.

    `MIT OR GPL-3.0-only` can be satisfied without the GPL, `MIT AND GPL-3.0-only` cannot. Text that
    is not an SPDX expression is denied if one of its words is. Deprecated SPDX identifiers, such as
    GPL-3.0, match by their old and their new names.
    """
    globs = [pattern.lower() for pattern in patterns]
    tree = _parse_expression(expression)
    try:
        return _names_denied(expression, globs) if tree is None else _requires_denied(tree, globs)
    except RecursionError:  # hundreds of parentheses
        return _names_denied(expression, globs)


def _parse_expression(expression: str) -> Any:
    """The text as an expression of license-expression; None if it is not one."""
    from license_expression import ExpressionError

    if len(expression) > _MAX_LENGTH:
        return None
    try:
        return _licensing().parse(expression)
    except (ExpressionError, IndexError, AssertionError):  # "()" and "(OR x": the parser's own bugs
        return None


def _requires_denied(tree: Any, globs: list[str]) -> bool:
    """Whether the parsed expression needs a denied licence."""
    from license_expression import LicenseWithExceptionSymbol

    if isinstance(tree, _licensing().OR):
        return all(_requires_denied(operand, globs) for operand in tree.args)
    if isinstance(tree, _licensing().AND):
        return any(_requires_denied(operand, globs) for operand in tree.args)
    if isinstance(tree, LicenseWithExceptionSymbol):
        return _names_denied(tree.license_symbol.key, globs) or _matches(tree.render(), globs)
    return _names_denied(tree.key, globs)


def _names_denied(text: str, globs: list[str]) -> bool:
    """Whether a pattern matches the text, one of its words, or its current SPDX identifier."""
    return any(_matches(name, globs) for name in _licence_names(text))


def _licence_names(text: str) -> Iterator[str]:
    yield text
    for word in re.findall(r"[^\s()]+", text):
        yield from (word, word.removesuffix("+"), _replaced_identifiers().get(word.lower(), word))


def _matches(name: str, globs: list[str]) -> bool:
    return any(fnmatchcase(name.lower(), glob) for glob in globs)


@cache
def _licensing() -> Licensing:
    """A parser that accepts any licence name: reports use more than SPDX lists."""
    from license_expression import Licensing

    return Licensing()


@cache
def _replaced_identifiers() -> Mapping[str, str]:
    """Deprecated SPDX identifiers, in lower case, with their replacements."""
    from license_expression import get_license_index

    return {
        old.lower(): licence["spdx_license_key"]
        for licence in get_license_index()
        for old in licence.get("other_spdx_license_keys", ())
        if licence.get("spdx_license_key") and not old.startswith("LicenseRef-")
    }


def judge_sbom(rules: SbomGate, reports: list[Sbom]) -> tuple[list[Check], Measurements]:
    """Checks on all documents together."""
    components = [
        *dict.fromkeys(component for report in reports for component in report.components)
    ]
    keys = frozenset(component.purl or str(component) for component in components)
    return [*_checks(rules, components)], Measurements({"components": len(components)}, keys)


def _checks(rules: SbomGate, components: list[Component]) -> Iterator[Check]:
    count, limit = len(components), f">= {rules.min_components}"
    reason = counted(count, "package")
    if count < rules.min_components:
        outcome = Outcome.FAIL if count else Outcome.INCOMPLETE
        reason += f"; at least {rules.min_components:,} expected"
        yield Check("packages", outcome, reason, str(count), limit)
    else:
        yield Check("packages", Outcome.PASS, reason, str(count), limit)
    if rules.deny_licenses:
        offending = [
            component
            for component in components
            if any(denied(text, rules.deny_licenses) for text in component.licenses)
        ]
        yield _none_allowed(
            offending, "licences", ("has a denied licence", "have a denied licence")
        )
    if rules.unknown_licenses == "deny":
        yield _none_allowed(
            [component for component in components if not component.licenses],
            "unknown",
            ("has no licence", "have no licence"),
        )
    if rules.deny_packages:
        yield _none_allowed(
            [component for component in components if _is_denied(component, rules)],
            "denied",
            ("is not allowed", "are not allowed"),
        )


def _is_denied(component: Component, rules: SbomGate) -> bool:
    names = (component.name, str(component), component.purl)
    return any(fnmatchcase(name, pattern) for name in names for pattern in rules.deny_packages)


def _none_allowed(offending: list[Component], name: str, noun: Noun) -> Check:
    details = tuple(
        f"{component}: {' AND '.join(component.licenses) or 'no licence'}"
        for component in offending
    )
    reason = f"{counted(len(offending), 'package')} {noun[len(offending) != 1]}" + (
        f": {listed(map(str, offending))}" if offending else ""
    )
    outcome = Outcome.FAIL if offending else Outcome.PASS
    hint = "replace the packages" if offending else ""
    return Check(name, outcome, reason, str(len(offending)), "<= 0", hint, details)
