"""The kinds of steps: one file for each, or for two that belong together."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from shipline.errors import ContentError
from shipline.ship.plan import PipelineStep, PlanInput
from shipline.ship.record import StepResult
from shipline.ship.steps.build import BUILD
from shipline.ship.steps.command import COMMAND
from shipline.ship.steps.deploy import DEPLOY
from shipline.ship.steps.gates import GATES
from shipline.ship.steps.publish import PUBLISH, RESERVE
from shipline.ship.steps.sign import COPY, SIGN

KINDS = (COMMAND, BUILD, GATES, RESERVE, SIGN, COPY, PUBLISH, DEPLOY)
"""In the order of the pipeline."""


def declared_steps(inputs: PlanInput) -> Iterator[PipelineStep]:
    """The steps of a project, of all kinds."""
    for kind in KINDS:
        yield from kind.steps(inputs)


def decode(kind: str, results: Mapping[str, Any]) -> StepResult | None:
    """The result of a step of this kind, from its record. Raises ContentError for unknown kinds."""
    for step_kind in KINDS:
        if step_kind.name == kind:
            return step_kind.decode(results)
    raise ContentError(f"the record has a step of an unknown kind: {kind}", code="run-unreadable")
