"""The build step of `shipline ship`: the engine, with the events of the run."""

from __future__ import annotations

from shipline.build import BuildRequest
from shipline.cli import engine
from shipline.events import Step
from shipline.oci import Descriptor


def build(request: BuildRequest, step: Step) -> Descriptor:
    """Build and push; the index, or the manifest of a single platform."""
    return engine.start(request, step).root
