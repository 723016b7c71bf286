"""The whole configuration: each feature's section, which file holds it, and reading it."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from shipline.config.decoding import decode
from shipline.config.document import LIMIT, read_document
from shipline.errors import ConfigError
from shipline.ship import Pipeline

if TYPE_CHECKING:
    from shipline.deliver.ci import CiSection
    from shipline.gates import GatesSection
    from shipline.server import RegistrySection
    from shipline.tags import TagsSection
    from shipline.trust import TrustSection


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
            "shipline.tags:TagsSection",
            "What images are called, and which version they are.",
        ),
    )
    gates: GatesSection | None = field(
        default=None,
        metadata=_section(
            "shipline.gates:GatesSection", "What must hold before an image gets its tags."
        ),
    )
    trust: TrustSection | None = field(
        default=None,
        metadata=_section("shipline.trust:TrustSection", "Which images need which signatures."),
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
            from shipline.ship.reports import with_implied_gates

            with_implied_gates(self.gates, self.pipeline)


NAMES = ("shipline.yaml", "shipline.yml")


def load(path: Path | None, cwd: Path, environ: Mapping[str, str]) -> Config:
    """The configuration of `path`; without one, that which `find` finds, else the defaults.

    `environ` is what `${NAME}` stands for. Raises ConfigError: for a file that cannot be read, and
    InvalidConfig with every problem of one that can.
    """
    place = find(cwd) if path is None else cwd / path
    if place is None:
        return Config()
    shown = os.path.relpath(place, cwd)
    if shown.startswith(".." + os.sep):
        shown = str(place)
    return replace(loads(_content(place, shown), shown, environ), file=place.absolute())


def loads(content: bytes, name: str, environ: Mapping[str, str]) -> Config:
    """The configuration in `content`; messages call the file `name`."""
    return decode(Config, read_document(content, name), environ)


def find(cwd: Path) -> Path | None:
    """The nearest configuration from `cwd` upwards, at most to the root of the git repository.

    Outside of a repository only `cwd` itself counts. Raises ConfigError where both names exist.
    """
    for directory in _upwards(cwd.absolute()):
        found = [directory / name for name in NAMES if (directory / name).is_file()]
        if len(found) > 1:
            raise ConfigError(
                f"{directory} has both {NAMES[0]} and {NAMES[1]}", hint="remove one of them"
            )
        if found:
            return found[0]
    return None


def _upwards(cwd: Path) -> Iterator[Path]:
    passed: list[Path] = []
    for directory in (cwd, *cwd.parents):
        passed.append(directory)
        if (directory / ".git").exists():
            yield from passed
            return
    yield cwd


def _content(place: Path, shown: str) -> bytes:
    try:
        with place.open("rb") as file:
            return file.read(LIMIT + 1)
    except OSError as error:
        raise ConfigError(
            f"cannot read {shown}: {error.strerror}", hint="`shipline init` writes a first one"
        ) from error
