"""Which reports feed which gate: those of its own, and those that steps write for it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from shipline.errors import ConfigError
from shipline.ship.record import DONE, Run
from shipline.ship.scanners import scanner
from shipline.ship.section import Pipeline, Step, listed

if TYPE_CHECKING:
    from shipline.gates import GatesSection


_FINDINGS = ("analysis", "secrets", "vulnerabilities")
"""Kinds of gates whose tools end with a failure where they find something."""


def fed_gates(section: GatesSection | None, pipeline: Pipeline) -> GatesSection | None:
    """The gates of the section, and the usual one of each kind that it does not have and steps have
    reports for. None where there is neither.

    Raises ConfigError for a step whose reports are for a gate that is not there.
    """
    fed = [*_named(pipeline)]
    if not fed:
        return section
    from shipline.gates import REPORT_GATES, GatesSection

    section = section or GatesSection()
    names = {name for name, _, _ in section.gates()}
    usual = [kind for kind in REPORT_GATES if getattr(section, kind) is None]
    for place, gate in fed:
        if gate not in names and gate not in usual:
            known = ", ".join(sorted({*names, *usual}))
            raise ConfigError(f"{place}: {gate!r} is no gate", hint=f"there is {known}")
    return section.with_usual(gate for _, gate in fed if gate in usual)


def _named(pipeline: Pipeline) -> Iterator[tuple[str, str]]:
    """Where reports are, with the gates that they are for."""
    for name, step in pipeline.commands.items():
        if step.scanner is None:
            yield from ((f"steps.{name}.reports", gate) for gate in _gates_of(step))
        elif (gate := scanner(step.scanner).gate) != "sbom":  # what is inside breaks no rule
            yield f"steps.{name}.scanner", gate


def left_to_gates(section: GatesSection | None, step: Step) -> bool:
    """Whether all reports of a step are findings that gates judge: its tool may end with a failure
    only because there are some.
    """
    if section is None or not isinstance(step.reports, Mapping):
        return False
    kinds = {name: kind for name, kind, rules in section.gates() if not rules.skip}
    return bool(step.reports) and all(kinds.get(gate) in _FINDINGS for gate in step.reports)


def findings_in(paths: Iterable[Path]) -> tuple[str, ...]:
    """What reports find fault with: findings, vulnerabilities, failed tests; one line each. Files
    that are no report say nothing.
    """
    from shipline.gates.evidence import read
    from shipline.gates.reports import Findings, TestResults, Vulnerabilities

    found: list[str] = []
    for path in paths:
        report = read(path, str(path)).report
        match report.content if report else None:
            case Findings(items):
                found += [str(one) for one in items if not one.suppressed]
            case Vulnerabilities(vulnerable):
                found += map(str, vulnerable)
            case TestResults() as results:
                found += results.failed_names
    return tuple(found)


def reports_of(section: GatesSection, pipeline: Pipeline, run: Run) -> dict[str, list[str]]:
    """The reports of each gate that steps feed: its own ones, then theirs."""
    own = {name: getattr(rules, "paths", ()) for name, _, rules in section.gates()}
    found: dict[str, list[str]] = {}
    for name, step in pipeline.commands.items():
        for gate, path in _fed(step, run, name):
            if gate in own and path not in found.setdefault(gate, [*own[gate]]):
                found[gate].append(path)
    return found


def _gates_of(step: Step) -> Iterable[str]:
    if step.scanner is not None:
        return (scanner(step.scanner).gate,)
    return step.reports if isinstance(step.reports, Mapping) else ()


def _fed(step: Step, run: Run, name: str) -> Iterator[tuple[str, str]]:
    record = run.step(name)
    if step.scanner is not None and record is not None and record.state in DONE:
        yield from ((scanner(step.scanner).gate, path) for path in record.reports)
    elif isinstance(step.reports, Mapping):
        for gate, paths in step.reports.items():
            yield from ((gate, path) for path in listed(paths))


def without_image(section: GatesSection, pipeline: Pipeline) -> Iterator[str]:
    """The gates that need no image: those of facts and those that steps after the build feed do."""
    after = {
        gate for step in pipeline.commands.values() if step.after_build for gate in _gates_of(step)
    }
    for name, kind, _ in section.gates():
        if kind != "image" and name not in after:
            yield name
