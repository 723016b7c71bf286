"""Which reports feed which gate: those of its own, and those that steps write for it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

from shipline.errors import ConfigError
from shipline.ship.record import DONE, Run
from shipline.ship.scanners import scanner
from shipline.ship.section import Pipeline, Step, listed

if TYPE_CHECKING:
    from shipline.policy.gates import GatesSection


def check_feeds(section: GatesSection | None, pipeline: Pipeline) -> None:
    """Raises ConfigError for a step whose reports are for a gate that is not there."""
    known = [name for name, _, _ in section.gates()] if section else []
    for name, step in pipeline.commands.items():
        for gate in step.reports if isinstance(step.reports, Mapping) else ():
            if gate not in known:
                there = f"there is {', '.join(known)}" if known else "there are no gates"
                raise ConfigError(f"steps.{name}.reports: {gate!r} is no gate; {there}")


def reports_of(section: GatesSection, pipeline: Pipeline, run: Run) -> dict[str, list[str]]:
    """The reports of each gate that steps feed: its own ones, then theirs."""
    own = {name: getattr(rules, "paths", ()) for name, _, rules in section.gates()}
    found: dict[str, list[str]] = {}
    for name, step in pipeline.commands.items():
        for gate, path in _fed(step, run, name):
            if gate in own and path not in found.setdefault(gate, [*own[gate]]):
                found[gate].append(path)
    return found


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
        gate
        for step in pipeline.commands.values()
        if step.after_build
        for gate in (
            [scanner(step.scanner).gate]
            if step.scanner
            else [*(step.reports if isinstance(step.reports, Mapping) else ())]
        )
    }
    for name, kind, _ in section.gates():
        if kind != "image" and name not in after:
            yield name
