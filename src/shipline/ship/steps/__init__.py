"""The kinds of steps, a file for each or for two that are close."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from shipline.errors import ContentError
from shipline.ship.plan import ChainStep, PlanInput
from shipline.ship.record import StepResult
from shipline.ship.steps.build import BUILD
from shipline.ship.steps.command import COMMAND
from shipline.ship.steps.gates import GATES
from shipline.ship.steps.publish import PUBLISH, RESERVE
from shipline.ship.steps.sign import COPY, SIGN

KINDS = (COMMAND, BUILD, GATES, RESERVE, SIGN, COPY, PUBLISH)
"""In the order of the chain."""


def declared_steps(inputs: PlanInput) -> Iterator[ChainStep]:
    """The steps of a project, of all kinds."""
    for kind in KINDS:
        yield from kind.steps(inputs)


def decode(kind: str, results: Mapping[str, Any]) -> StepResult | None:
    """What a step of this kind handed on, from its record. Raises ContentError for other kinds."""
    for step_kind in KINDS:
        if step_kind.name == kind:
            return step_kind.decode(results)
    raise ContentError(f"the record has a step of a kind that is not known here: {kind}")
