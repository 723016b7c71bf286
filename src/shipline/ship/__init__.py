"""The declared chain: from a commit to a signed image whose names come last.

The section is cheap to import, for the configuration; the rest is loaded when it is first named.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from shipline.ship.section import Build, Pipeline, Sign, Step, When

if TYPE_CHECKING:
    from shipline.ship.feeds import fed_gates
    from shipline.ship.imaging import read_built
    from shipline.ship.plan import UNGATED, UNGATED_HINT, Plan, Wanted
    from shipline.ship.prepare import Prepared, missing_parts, prepare
    from shipline.ship.project import Project, World
    from shipline.ship.record import Run, State, StepRecord
    from shipline.ship.render import (
        failure_sections,
        outputs,
        plan_text,
        run_text,
        summary,
        ungated,
    )
    from shipline.ship.runs import Runs
    from shipline.ship.shipping import find_run, ship
    from shipline.ship.steplogs import StepLogs

__all__ = [
    "UNGATED",
    "UNGATED_HINT",
    "Build",
    "Pipeline",
    "Plan",
    "Prepared",
    "Project",
    "Run",
    "Runs",
    "Sign",
    "State",
    "Step",
    "StepLogs",
    "StepRecord",
    "Wanted",
    "When",
    "World",
    "failure_sections",
    "fed_gates",
    "find_run",
    "missing_parts",
    "outputs",
    "plan_text",
    "prepare",
    "read_built",
    "run_text",
    "ship",
    "summary",
    "ungated",
]

_PLACES = {
    "fed_gates": "feeds",
    "read_built": "imaging",
    "UNGATED": "plan",
    "UNGATED_HINT": "plan",
    "Plan": "plan",
    "Wanted": "plan",
    "Prepared": "prepare",
    "missing_parts": "prepare",
    "prepare": "prepare",
    "Project": "project",
    "World": "project",
    "Run": "record",
    "State": "record",
    "StepRecord": "record",
    "failure_sections": "render",
    "outputs": "render",
    "plan_text": "render",
    "run_text": "render",
    "summary": "render",
    "ungated": "render",
    "Runs": "runs",
    "find_run": "shipping",
    "ship": "shipping",
    "StepLogs": "steplogs",
}


def __getattr__(name: str) -> Any:
    if name not in _PLACES:
        raise AttributeError(name)
    found = getattr(importlib.import_module(f"shipline.ship.{_PLACES[name]}"), name)
    globals()[name] = found  # a module of that name would hide it
    return found
