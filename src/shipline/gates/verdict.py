"""Verdicts: what a gate says, and why."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Literal

from shipline.errors import GateRefused, GateUndecided
from shipline.gates.reports import Report, Tool

Number = int | float
_SHOWN = 10  # findings of a check in the message of a failure


class Outcome(StrEnum):
    """How a condition or a gate ended.

    `error`: the evidence could not be read; `incomplete`: it does not prove anything, because it is
    missing, partial, stale or about something else; `waived`: it would fail but for waivers.
    """

    FAIL = "fail"
    ERROR = "error"
    INCOMPLETE = "incomplete"
    WAIVED = "waived"
    PASS = "pass"
    SKIPPED = "skipped"

    @property
    def undecided(self) -> bool:
        return self in (Outcome.ERROR, Outcome.INCOMPLETE)


def worst(outcomes: Iterable[Outcome]) -> Outcome:
    """The outcome of many: a failure outweighs doubt, doubt outweighs success; of none at all it
    is INCOMPLETE.
    """
    found = set(outcomes)
    return next((one for one in Outcome if one in found), Outcome.INCOMPLETE)


@dataclass(frozen=True, slots=True)
class Location:
    """Where something was found, for annotations: `line` 0 is the whole file."""

    path: str
    line: int = 0
    text: str = ""


@dataclass(frozen=True, slots=True)
class Check:
    """One condition of a gate: what was `measured`, against which `limit`, and what to do."""

    name: str
    outcome: Outcome
    reason: str
    measured: str = ""
    limit: str = ""
    hint: str = ""
    details: tuple[str, ...] = ()
    places: tuple[Location, ...] = ()


@dataclass(frozen=True, slots=True)
class JudgedReport:
    """A report that a verdict stands on: `digest` is that of the file."""

    path: str
    format: str = ""
    digest: str = ""
    tool: Tool = field(default_factory=Tool)
    created: datetime | None = None


@dataclass(frozen=True, slots=True)
class Measurements:
    """What later runs compare with: numbers by name, and keys of what was found."""

    numbers: Mapping[str, Number] = field(default_factory=dict)
    keys: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class Verdict:
    """What one gate says. With `advisory`, doubt is told and does not block.

    `scans` are the vulnerability reports of the image that it stands on, where they are whole.
    """

    gate: str
    kind: str
    checks: tuple[Check, ...]
    sources: tuple[JudgedReport, ...] = ()
    measurements: Measurements = field(default_factory=Measurements)
    warnings: tuple[str, ...] = ()
    advisory: bool = False
    scans: tuple[Report, ...] = ()

    @property
    def outcome(self) -> Outcome:
        return worst(check.outcome for check in self.checks)

    @property
    def blocks(self) -> bool:
        if self.outcome is Outcome.FAIL:
            return True
        return self.outcome.undecided and not self.advisory

    @property
    def deciding(self) -> Check:
        """The first check that made the outcome what it is."""
        nothing = Check("gate", Outcome.INCOMPLETE, "nothing was judged")
        return next((one for one in self.checks if one.outcome is self.outcome), nothing)

    @property
    def reason(self) -> str:
        return self.deciding.reason

    @property
    def line(self) -> str:
        """The verdict in one line."""
        return f"{self.gate}: {self.outcome}: {self.reason}"


@dataclass(frozen=True, slots=True)
class Verdicts:
    """What all gates say about one revision or image; `warnings` belong to no single gate."""

    verdicts: tuple[Verdict, ...]
    at: datetime
    revision: str = ""
    image: str = ""
    warnings: tuple[str, ...] = ()

    def __iter__(self) -> Iterator[Verdict]:
        return iter(self.verdicts)

    @property
    def outcome(self) -> Literal["pass", "fail", "undecided"]:
        blocking = [one.outcome for one in self.verdicts if one.blocks]
        if Outcome.FAIL in blocking:
            return "fail"
        return "undecided" if blocking or not self.verdicts else "pass"

    @property
    def exit_code(self) -> int:
        """0 where all is well, 9 where a gate refused, 11 where none did but one could not tell."""
        codes = {"pass": 0, "fail": GateRefused.exit_code, "undecided": GateUndecided.exit_code}
        return codes[self.outcome]

    def require(self) -> None:
        """Raises GateRefused or GateUndecided, with what was found, unless every gate lets the
        release go on.
        """
        lines = tuple(one.line for one in self.verdicts if one.blocks)
        hint = next((one.deciding.hint for one in self.verdicts if one.blocks), "")
        error: GateRefused | GateUndecided
        match self.outcome:
            case "pass":
                return
            case "fail":
                error = GateRefused(_told(lines, "refused"), verdicts=lines, hint=hint)
            case "undecided":
                error = GateUndecided(_told(lines, "could not tell"), verdicts=lines, hint=hint)
        for line in self._findings():
            error.add_note(line)
        raise error

    def _findings(self) -> Iterator[str]:
        """The first things behind each check that is why a gate blocks."""
        for verdict in self.verdicts:
            for check in verdict.checks if verdict.blocks else ():
                if check.outcome is not verdict.outcome or not check.details:
                    continue
                yield from (f"{verdict.gate}: {detail}" for detail in check.details[:_SHOWN])
                if len(check.details) > _SHOWN:
                    yield f"{verdict.gate}: and {len(check.details) - _SHOWN} more"


def _told(lines: tuple[str, ...], what: str) -> str:
    if not lines:
        return "no gate was judged"
    return f"a quality gate {what}" if len(lines) == 1 else f"{len(lines)} quality gates {what}"
