"""The configuration: its sections, finding the file, and loading it."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Literal, TypeVar

from shipline.config.decoding import decode
from shipline.config.document import LIMIT, read_document
from shipline.errors import ConfigError, UsageError
from shipline.files import reading
from shipline.ship import Pipeline, deploy_step
from shipline.values import doc, replace

if TYPE_CHECKING:
    from shipline.deliver.ci import CiSection
    from shipline.deliver.environments import Environments
    from shipline.gates import GatesSection
    from shipline.server import RegistrySection
    from shipline.tags import TagsSection
    from shipline.trust import TrustSection


T = TypeVar("T")


def _section(target: str, text: str) -> dict[str, object]:
    """The metadata of a section that is imported only if the file has it."""
    return {"section": target, **doc(text)}


@dataclass(frozen=True, slots=True)
class Config:
    """How a project gets from a commit to an image. Absent sections are None."""

    version: Literal[1] = field(default=1, metadata=doc("The version of this format."))
    pipeline: Pipeline = field(default_factory=Pipeline, metadata={"inline": True})
    registry_mirrors: tuple[str, ...] = field(
        default=(),
        metadata=doc(
            "Mirrors to pull from, as [HOST=]URL, by default of Docker Hub; the nearest is"
            " asked first. One that ends in #digest-only is not asked for tags."
        ),
    )
    tags: TagsSection | None = field(
        default=None,
        metadata=_section("shipline.tags:TagsSection", "The tags and versions of images."),
    )
    gates: GatesSection | None = field(
        default=None,
        metadata=_section(
            "shipline.gates:GatesSection", "The checks that an image must pass before it is tagged."
        ),
    )
    trust: TrustSection | None = field(
        default=None,
        metadata=_section("shipline.trust:TrustSection", "The signatures that images need."),
    )
    environments: Environments | None = field(
        default=None,
        metadata=_section(
            "shipline.deliver.environments:Environments",
            "The environments that images are deployed to, by name.",
        ),
    )
    ci: CiSection | None = field(
        default=None,
        metadata=_section(
            "shipline.deliver.ci:CiSection", "How the files for CI systems are generated."
        ),
    )
    registry: RegistrySection | None = field(
        default=None,
        metadata=_section("shipline.server:RegistrySection", "The registry node of this machine."),
    )
    file: Path | None = field(default=None, metadata={"key": None})
    """The file it was read from, if any."""

    def __post_init__(self) -> None:
        if self.registry_mirrors:
            from shipline.registry import parse_mirrors

            try:
                parse_mirrors(self.registry_mirrors)
            except UsageError as error:
                raise ConfigError(f"registry-mirrors: {error.message}", hint=error.hint) from None
        if self.environments:
            from shipline.deliver.environments import require_chain

            require_chain(self.environments)
            for name in map(deploy_step, self.environments):
                if name in self.pipeline.steps:
                    raise ConfigError(f"steps: {name} is the step of an environment: rename yours")
        if any(isinstance(step.reports, Mapping) for step in self.pipeline.commands.values()):
            from shipline.ship.reports import with_implied_gates

            with_implied_gates(self.gates, self.pipeline)


NAMES = ("shipline.yaml", "shipline.yml")


def load(path: Path | None, cwd: Path, environ: Mapping[str, str]) -> Config:
    """The configuration in `path`, or in the file that `find` finds, else the defaults.

    `environ` holds the variables for `${NAME}`. Raises ConfigError for an unreadable file, and
    InvalidConfig with all problems of a readable one.
    """
    file_path = find(cwd) if path is None else cwd / path
    if file_path is None:
        return Config()
    name = os.path.relpath(file_path, cwd)
    if name.startswith(".." + os.sep):
        name = str(file_path)
    return replace(loads(_read_file(file_path, name), name, environ), file=file_path.absolute())


def loads(content: bytes, name: str, environ: Mapping[str, str]) -> Config:
    """The configuration in `content`; `name` is the file name in messages."""
    return decode(Config, read_document(content, name), environ)


def load_document(cls: type[T], path: Path, environ: Mapping[str, str]) -> T:
    """The value of a file that is not shipline.yaml. Raises as `load`."""
    return decode(cls, read_document(_read_file(path, str(path), hint=""), str(path)), environ)


def find(cwd: Path) -> Path | None:
    """The nearest configuration file from `cwd` up to the root of the git repository.

    Outside a repository, only `cwd` is searched. Raises ConfigError if both names exist.
    """
    for directory in _upwards(cwd.absolute()):
        candidates = [directory / name for name in NAMES if (directory / name).is_file()]
        if len(candidates) > 1:
            raise ConfigError(
                f"{directory} has both {NAMES[0]} and {NAMES[1]}",
                code="config-two-files",
                hint="remove one of them",
            )
        if candidates:
            return candidates[0]
    return None


def _upwards(cwd: Path) -> Iterator[Path]:
    directories: list[Path] = []
    for directory in (cwd, *cwd.parents):
        directories.append(directory)
        if (directory / ".git").exists():
            yield from directories
            return
    yield cwd


def _read_file(file_path: Path, name: str, hint: str = "`shipline init` creates one") -> bytes:
    with reading(name, ConfigError, hint=hint), file_path.open("rb") as file:
        return file.read(LIMIT + 1)
