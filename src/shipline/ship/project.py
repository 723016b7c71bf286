"""What a run works with: the project as its file declares it, and the world around it."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from shipline.build import BuildRequest
from shipline.events import Step
from shipline.oci import Descriptor, Reference
from shipline.ship.names import Remote
from shipline.ship.section import Pipeline
from shipline.supply import PrivateKey
from shipline.tags import Event, TagsSection

if TYPE_CHECKING:
    from shipline.gates import GatesSection


@dataclass(frozen=True, slots=True)
class Project:
    """The declared chain. `root` is where its paths start, `file` the configuration in it."""

    root: Path
    file: str
    pipeline: Pipeline
    tags: TagsSection = field(default_factory=TagsSection)
    gates: GatesSection | None = None


@dataclass(frozen=True, slots=True)
class World:
    """What is outside of the project: state directory, environment, registries, why we run.

    `repositories` opens a repository, `build` builds and pushes, `signers` reads the keys that a
    text names.
    """

    home: Path
    environ: Mapping[str, str]
    event: Event
    repositories: Callable[[Reference], Remote]
    build: Callable[[BuildRequest, Step], Descriptor]
    signers: Callable[[str], Sequence[PrivateKey]]
    clock: Callable[[], float] = time.time
