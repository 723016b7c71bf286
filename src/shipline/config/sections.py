"""The whole file: the section that each feature owns, side by side."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from shipline.ship import Pipeline

if TYPE_CHECKING:
    from shipline.deliver.ci import CiSection
    from shipline.policy.gates import GatesSection
    from shipline.policy.tags import TagsSection
    from shipline.policy.trust import TrustSection
    from shipline.server import RegistrySection


def _section(place: str, doc: str) -> dict[str, Any]:
    """The metadata of a section that is imported only where the file has it."""
    return {"section": place, "doc": doc}


@dataclass(frozen=True, slots=True)
class Config:
    """What a project says about its way from a commit to an image. Absent sections are None."""

    version: Literal[1] = field(default=1, metadata={"doc": "The version of this format."})
    pipeline: Pipeline = field(default_factory=Pipeline, metadata={"inline": True})
    tags: TagsSection | None = field(
        default=None,
        metadata=_section(
            "shipline.policy.tags:TagsSection",
            "What images are called, and which version they are.",
        ),
    )
    gates: GatesSection | None = field(
        default=None,
        metadata=_section(
            "shipline.policy.gates:GatesSection", "What must hold before an image gets its tags."
        ),
    )
    trust: TrustSection | None = field(
        default=None,
        metadata=_section(
            "shipline.policy.trust:TrustSection", "Which images need which signatures."
        ),
    )
    ci: CiSection | None = field(
        default=None,
        metadata=_section("shipline.deliver.ci:CiSection", "How files of CI systems are written."),
    )
    registry: RegistrySection | None = field(
        default=None,
        metadata=_section("shipline.server:RegistrySection", "The registry node of this machine."),
    )
    file: Path | None = field(default=None, metadata={"key": None})
    """Where it was read from; None where there is no file."""

    def __post_init__(self) -> None:
        if any(isinstance(step.reports, Mapping) for step in self.pipeline.commands.values()):
            from shipline.ship import fed_gates

            fed_gates(self.gates, self.pipeline)
