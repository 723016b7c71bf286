"""Verdicts of gates, with their reasons."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Literal

from shipline.errors import GateError, GateRefused, GateUndecided
from shipline.gates.reports import Report, Tool

Number = int | float
_DETAILS_SHOWN = 10  # details of a check in an error message


class Outcome(StrEnum):
    """The outcome of a check or a gate, worst first.

    `error`: a report could not be read; `incomplete`: a report proves nothing: it is missing,
    partial, stale or about something else; `waived`: it would fail without a waiver.
    """

    FAIL = "fail"
    ERROR = "error"
    INCOMPLETE = "incomplete"
    WAIVED = "waived"
    PASS = "pass"
    SKIPPED = "skipped"

    @property
    def undecided(self) -> bool:
        """Whether it is ERROR or INCOMPLETE."""
        return self in (Outcome.ERROR, Outcome.INCOMPLETE)


def worst(outcomes: Iterable[Outcome]) -> Outcome:
    """The worst of the outcomes; INCOMPLETE if there are none."""
    present = set(outcomes)
    return next((outcome for outcome in Outcome if outcome in present), Outcome.INCOMPLETE)


@dataclass(frozen=True, slots=True)
class Location:
    """A place in a file, for annotations; `line` 0 is the whole file."""

    path: str
    line: int = 0
    text: str = ""


@dataclass(frozen=True, slots=True)
class Check:
    """One check of a gate: what was `measured`, the `limit`, and a `hint` what to do."""

    name: str
    outcome: Outcome
    reason: str
    measured: str = ""
    limit: str = ""
    hint: str = ""
    details: tuple[str, ...] = ()
    locations: tuple[Location, ...] = ()


@dataclass(frozen=True, slots=True)
class JudgedReport:
    """A report that a verdict is based on; `digest` is that of the file."""

    path: str
    format: str = ""
    digest: str = ""
    tool: Tool = field(default_factory=Tool)
    created: datetime | None = None


@dataclass(frozen=True, slots=True)
class Measurements:
    """What later runs compare with: numbers by name, and the keys of findings."""

    numbers: Mapping[str, Number] = field(default_factory=dict)
    keys: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class Verdict:
    """The verdict of one gate. With `advisory`, an undecided outcome only warns; one that would
    block does so only in the environments `later`, if some are named.

    `scans` are the complete vulnerability reports of the image that it is based on.
    """

    gate: str
    kind: str
    checks: tuple[Check, ...]
    sources: tuple[JudgedReport, ...] = ()
    measurements: Measurements = field(default_factory=Measurements)
    warnings: tuple[str, ...] = ()
    advisory: bool = False
    scans: tuple[Report, ...] = ()
    later: tuple[str, ...] = ()

    @property
    def outcome(self) -> Outcome:
        """The worst outcome of the checks."""
        return worst(check.outcome for check in self.checks)

    @property
    def blocks(self) -> bool:
        """Whether the release must stop."""
        if self.later:
            return False
        if self.outcome is Outcome.FAIL:
            return True
        return self.outcome.undecided and not self.advisory

    @property
    def deciding_check(self) -> Check:
        """The first check with the outcome of the gate."""
        nothing = Check("gate", Outcome.INCOMPLETE, "nothing was judged")
        return next((check for check in self.checks if check.outcome is self.outcome), nothing)

    @property
    def reason(self) -> str:
        """Why it has this outcome, in one line."""
        where = f"; blocks in {', '.join(self.later)}" if self.later else ""
        return f"{self.deciding_check.reason}{where}"

    @property
    def line(self) -> str:
        """The verdict in one line."""
        return f"{self.gate}: {self.outcome}: {self.reason}"


@dataclass(frozen=True, slots=True)
class Verdicts:
    """The verdicts of all gates on one revision or image, for an environment or for all;
    `warnings` belong to no single gate.
    """

    verdicts: tuple[Verdict, ...]
    at: datetime
    revision: str = ""
    image: str = ""
    warnings: tuple[str, ...] = ()
    environment: str = ""

    def __iter__(self) -> Iterator[Verdict]:
        return iter(self.verdicts)

    @property
    def outcome(self) -> Literal["pass", "fail", "undecided"]:
        """`fail` if a gate refuses, else `undecided` if one could not tell."""
        blocking = [verdict.outcome for verdict in self.verdicts if verdict.blocks]
        if Outcome.FAIL in blocking:
            return "fail"
        return "undecided" if blocking or not self.verdicts else "pass"

    @property
    def exit_code(self) -> int:
        """0 if all gates pass, 9 if one refuses, 11 if none refuses but one could not tell."""
        codes = {"pass": 0, "fail": GateRefused.exit_code, "undecided": GateUndecided.exit_code}
        return codes[self.outcome]

    def require(self) -> None:
        """Raises GateRefused or GateUndecided, with the findings, unless every gate passes."""
        blocking = [verdict for verdict in self.verdicts if verdict.blocks]
        lines = tuple(verdict.line for verdict in blocking)
        hint = next((verdict.deciding_check.hint for verdict in blocking), "")
        error: GateError
        match self.outcome:
            case "pass":
                return
            case "fail":
                error = GateRefused(
                    _failure_message(
                        [one for one in blocking if one.outcome is Outcome.FAIL], "refused"
                    ),
                    code="gate-refused",
                    verdicts=lines,
                    hint=hint,
                )
            case "undecided":
                error = GateUndecided(
                    _failure_message(blocking, "could not tell"),
                    code="gate-undecided",
                    verdicts=lines,
                    hint=hint,
                )
        for line in self._notes():
            error.add_note(line)
        raise error

    def _notes(self) -> Iterator[str]:
        """The first details of each check that blocks."""
        for verdict in self.verdicts:
            for check in verdict.checks if verdict.blocks else ():
                if check.outcome is not verdict.outcome or not check.details:
                    continue
                yield from (
                    f"{verdict.gate}: {detail}" for detail in check.details[:_DETAILS_SHOWN]
                )
                if len(check.details) > _DETAILS_SHOWN:
                    yield f"{verdict.gate}: and {len(check.details) - _DETAILS_SHOWN} more"


def _failure_message(blocking: Sequence[Verdict], did: str) -> str:
    """Which gates, and why if it is one: lists of runs, annotations and summaries show no more."""
    match blocking:
        case []:
            return "no gate was judged"
        case [one]:
            return f"the gate {one.gate} {did}: {one.reason}"
    return f"the gates {', '.join(one.gate for one in blocking)} {did}"
