"""Which file holds the configuration, and reading it."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path

from shipline.config.decode import decode
from shipline.config.document import LIMIT, read_document
from shipline.config.sections import Config
from shipline.errors import ConfigError

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
