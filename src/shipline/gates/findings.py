"""The gate of static analysis and of secrets: which findings count."""

from __future__ import annotations

from collections.abc import Iterator

from shipline.gates.context import GateContext, RepositoryPaths
from shipline.gates.reports import Finding, Findings, Level
from shipline.gates.section import FindingsGate
from shipline.gates.thresholds import at_most, undecided
from shipline.gates.verdict import Check, Measurements
from shipline.gates.waivers import Waivers, expired_checks

_HINT = "fix them, or write a waiver with an owner, a reason and an end date"


def judge_findings(
    rules: FindingsGate, reports: list[Findings], waivers: Waivers, gate: str
) -> tuple[list[Check], Measurements]:
    """Checks for one or more reports taken together."""
    found = [one for report in reports for one in report.found if one.state != "absent"]
    keys = frozenset(one.key for one in found)
    return [*_checks(rules, found, waivers, gate)], Measurements({"findings": len(found)}, keys)


def _checks(
    rules: FindingsGate, found: list[Finding], waivers: Waivers, gate: str
) -> Iterator[Check]:
    context = waivers.context
    bad = [one for one in found if _counts(rules, one)]
    new = on = ""
    if rules.new_only:
        bad, new = [one for one in bad if _new(one, context, gate)], "new "
    if rules.changed_lines_only:
        if context.changes is None:
            yield undecided("findings", "nothing to compare with", "name a base: --base main")
            return
        bad, on = _on_changed_lines(bad, context), " on changed lines"
    split = waivers.sort(gate, bad)
    what = (f"{new}finding{on}", f"{new}findings{on}")
    yield at_most("findings", split, rules.max, what=what, hint=_HINT)
    yield from expired_checks(split.expired)


def _counts(rules: FindingsGate, one: Finding) -> bool:
    if one.suppressed and rules.suppressed == "ignore":
        return False
    if one.level >= Level[rules.level.upper()]:
        return True
    return rules.severity is not None and one.severity >= rules.severity


def _new(one: Finding, context: GateContext, gate: str) -> bool:
    """By the baseline if there is one, else by the tool's own comparison, else it is new."""
    before = context.before(gate)
    if before is not None:
        return one.key not in before.keys
    return one.state not in ("unchanged", "updated")


def _on_changed_lines(found: list[Finding], context: GateContext) -> list[Finding]:
    """Findings without a place, or with one that is not clear, are kept."""
    assert context.changes is not None
    changes, places = context.changes, RepositoryPaths(context.changes)
    kept = []
    for one in found:
        files = places.find(one.path) if one.path else ()
        if len(files) != 1 or changes.touches(files[0], one.line):
            kept.append(one)
    return kept
