"""The gate of the bill of material: how many packages, which licences, which are not allowed."""

from __future__ import annotations

from collections.abc import Iterator
from fnmatch import fnmatchcase

from shipline.policy.gates.counting import Noun, listed
from shipline.policy.gates.licenses import denied
from shipline.policy.gates.reports import Component, Sbom
from shipline.policy.gates.section import SbomGate
from shipline.policy.gates.verdict import Check, Measurements, Outcome
from shipline.units import counted


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
