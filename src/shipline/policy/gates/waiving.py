"""Waivers at work: what they take away, which have expired, which nobody needs."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from fnmatch import fnmatchcase
from functools import lru_cache
from typing import Generic, TypeVar

from shipline.globs import Glob, glob
from shipline.policy.gates.context import Context
from shipline.policy.gates.reports import Finding, VexStatement, Vulnerability
from shipline.policy.gates.verdict import Check, Outcome, Verdict
from shipline.policy.gates.waiver import Waiver

_OF_ITEMS = ("analysis", "secrets", "vulnerabilities")
_NO_TIME = datetime.min.replace(tzinfo=UTC)
T = TypeVar("T", Finding, Vulnerability)


@dataclass(frozen=True, slots=True)
class Sorted(Generic[T]):
    """`kept` count, `waived` do not; `expired` are those of `kept` that a waiver covered once."""

    kept: tuple[T, ...]
    waived: tuple[tuple[T, str], ...] = ()
    expired: tuple[tuple[T, Waiver], ...] = ()


@dataclass(slots=True)
class Waivers:
    """The waivers of a section; keeps count of those that were needed while gates are judged."""

    waivers: Sequence[Waiver]
    context: Context
    used: set[int] = field(default_factory=set)

    def sort(
        self, gate: str, items: Iterable[T], statements: Sequence[VexStatement] = ()
    ) -> Sorted[T]:
        """Tell apart what counts and what is waived."""
        kept: list[T] = []
        waived: list[tuple[T, str]] = []
        expired: list[tuple[T, Waiver]] = []
        for item in items:
            waiver = self._find(gate, item)
            if waiver is not None and not waiver.until.over(self.context.now):
                waived.append((item, f"{waiver.reason} ({waiver.owner}, until {waiver.until})"))
                continue
            if isinstance(item, Vulnerability) and (why := excused(item, statements, self.context)):
                waived.append((item, f"VEX: {why}"))
                continue
            kept.append(item)
            if waiver is not None:
                expired.append((item, waiver))
        return Sorted(tuple(kept), tuple(waived), tuple(expired))

    def waive(self, verdict: Verdict) -> Verdict:
        """The verdict, with what a waiver of the whole gate takes away."""
        if verdict.outcome not in (Outcome.FAIL, Outcome.ERROR, Outcome.INCOMPLETE):
            return verdict
        for place, waiver in enumerate(self.waivers):
            if waiver.whole and self._holds(waiver, verdict.gate):
                self.used.add(place)
                if waiver.until.over(self.context.now):
                    return replace(verdict, checks=(*verdict.checks, _over(waiver)))
                return replace(
                    verdict, checks=tuple(_waived(one, waiver) for one in verdict.checks)
                )
        return verdict

    def unused(self, verdicts: Sequence[Verdict]) -> tuple[str, ...]:
        """A warning for each waiver that nobody needed, where all gates it is for could tell."""
        return tuple(
            f"the waiver {waiver} is not needed: remove it"
            for place, waiver in enumerate(self.waivers)
            if place not in self.used and self._was_tried(waiver, verdicts)
        )

    def _was_tried(self, waiver: Waiver, verdicts: Sequence[Verdict]) -> bool:
        meant = [
            one
            for one in verdicts
            if self._holds(waiver, one.gate) and (waiver.whole or one.kind in _OF_ITEMS)
        ]
        decided = [not one.outcome.undecided and bool(one.measurements.numbers) for one in meant]
        return bool(decided) and all(decided)

    def _find(self, gate: str, item: Finding | Vulnerability) -> Waiver | None:
        """The waiver for `item`: one that holds before one that is over."""
        found = [
            (waiver.until.over(self.context.now), place)
            for place, waiver in enumerate(self.waivers)
            if not waiver.whole and self._holds(waiver, gate) and _matches(waiver, item)
        ]
        if not found:
            return None
        self.used.update(place for _, place in found)
        return self.waivers[min(found)[1]]

    def _holds(self, waiver: Waiver, gate: str) -> bool:
        pairs = (
            (waiver.gate, gate),
            (waiver.image, self.context.repository),
            (waiver.environment, self.context.environment),
        )
        return all(not pattern or fnmatchcase(text, pattern) for pattern, text in pairs)


def expired_checks(found: Iterable[tuple[object, Waiver]]) -> tuple[Check, ...]:
    """A failure for each waiver that is over and still needed."""
    waivers = dict.fromkeys(waiver for _, waiver in found)
    return tuple(_over(waiver) for waiver in waivers)


def _over(waiver: Waiver) -> Check:
    return Check(
        "waiver",
        Outcome.FAIL,
        f"the waiver {waiver} ended on {waiver.until}",
        hint=f"fix it, or ask {waiver.owner} for a new end date in a commit",
    )


def let_through(verdict: Verdict, blocks_in: Sequence[Glob], environment: str) -> Verdict:
    """The verdict for an environment: where the gate does not block, what is wrong is WAIVED.

    Without a name of an environment, or of those where it blocks, it blocks.
    """
    if not environment or not blocks_in or any(one.matches(environment) for one in blocks_in):
        return verdict
    why = f"it does not block in {environment}"
    return replace(verdict, checks=tuple(_without(one, why) for one in verdict.checks))


def _waived(check: Check, waiver: Waiver) -> Check:
    return _without(check, f"waived until {waiver.until} by {waiver.owner}: {waiver.reason}")


def _without(check: Check, why: str) -> Check:
    if check.outcome not in (Outcome.FAIL, Outcome.ERROR, Outcome.INCOMPLETE):
        return check
    return replace(check, outcome=Outcome.WAIVED, reason=f"{check.reason}; {why}")


def _matches(waiver: Waiver, item: Finding | Vulnerability) -> bool:
    if isinstance(item, Finding):
        names, package, purl = [item.rule, item.fingerprint], "", ""
    else:
        names, package, purl = [*item.names], item.package, item.purl
    if waiver.id and not any(fnmatchcase(name, waiver.id) for name in names if name):
        return False
    if waiver.path and not glob(waiver.path).fullmatch(item.path):
        return False
    pairs = ((waiver.package, package), (waiver.purl, purl))
    return all(not pattern or (text and fnmatchcase(text, pattern)) for pattern, text in pairs)


def excused(item: Vulnerability, statements: Iterable[VexStatement], context: Context) -> str:
    """Why VEX says that it does not matter, empty where it does: the latest statement decides."""
    about = [one for one in statements if _is_about(one, item, context)]
    if not about:
        return ""
    latest = max(reversed(about), key=lambda one: one.at or _NO_TIME)
    if latest.status not in ("not_affected", "fixed"):
        return ""
    return f"{latest.status.replace('_', ' ')}: {latest.justification}".removesuffix(": ")


def _is_about(statement: VexStatement, item: Vulnerability, context: Context) -> bool:
    if not {statement.vulnerability, *statement.aliases} & set(item.names):
        return False
    if any(_same_package(product, item.purl) for product in statement.products):
        return not statement.parts
    if not any(_is_image(product, context) for product in statement.products):
        return False
    return not statement.parts or any(_same_package(one, item.purl) for one in statement.parts)


def _same_package(pattern: str, purl: str) -> bool:
    """A package URL without version is about all versions; qualifiers and subpaths do not count."""
    wanted, has = _package(pattern), _package(purl)
    return wanted is not None and has is not None and has[: len(wanted)] == wanted


@lru_cache(4096)
def _package(purl: str) -> tuple[str | None, ...] | None:
    """Type, namespace, name and, where it has one, version; None for what is no package URL."""
    from packageurl import PackageURL

    try:
        found = PackageURL.from_string(purl)
    except ValueError:
        return None
    package = (found.type, found.namespace, found.name)
    return (*package, found.version) if found.version else package


def _is_image(product: str, context: Context) -> bool:
    if context.image is None:
        return False
    digests = {context.image.digest} | {one.digest for one in context.image.platforms}
    plain = product.replace("%3A", ":").replace("%3a", ":")
    return any(digest in plain for digest in digests)
