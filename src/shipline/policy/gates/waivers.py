"""Waivers in files of their own: a list of them in YAML or JSON."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator
from datetime import date
from pathlib import Path

from shipline.errors import ConfigError
from shipline.policy.gates.waiver import Waiver
from shipline.units import Day

_KEYS = {one.name for one in dataclasses.fields(Waiver)}
_NEEDED = ("owner", "reason", "until")
_LIMIT = 4 << 20  # bytes


def read_waivers(paths: Iterable[str], root: Path) -> list[Waiver]:
    """All waivers of the files, which hold a list or a mapping with the key `waivers`.

    Raises ConfigError that names file and waiver.
    """
    return [waiver for path in paths for waiver in _file(root / path, path)]


def _file(file: Path, path: str) -> Iterator[Waiver]:
    document = _load(file, path)
    if isinstance(document, dict) and [*document] == ["waivers"]:
        document = document["waivers"]
    if document is None:
        return
    if not isinstance(document, list):
        raise ConfigError(f"{path}: a file of waivers holds a list of them")
    for place, one in enumerate(document, 1):
        try:
            yield waiver_from(one)
        except (ConfigError, ValueError) as error:
            raise ConfigError(f"{path}: waiver {place}: {error}") from None


def waiver_from(value: object) -> Waiver:
    """A waiver from a mapping of texts. Raises ConfigError or ValueError."""
    if not isinstance(value, dict):
        raise ConfigError("a waiver is a mapping")
    unknown = sorted(str(key) for key in value if key not in _KEYS)
    if unknown:
        raise ConfigError(f"unknown key {unknown[0]!r}; known are {', '.join(sorted(_KEYS))}")
    for key in _NEEDED:
        if value.get(key) in (None, ""):
            raise ConfigError(f"a waiver needs {', '.join(_NEEDED)}: {key} is missing")
    texts = {key: _text(key, one) for key, one in value.items() if key != "until"}
    until = value["until"]
    return Waiver(until=Day(until) if type(until) is date else Day.parse(str(until)), **texts)


def _text(key: str, value: object) -> str:
    if not isinstance(value, str):
        raise ConfigError(f"{key} is not text: {value!r:.60}")
    return value


def _load(file: Path, path: str) -> object:
    from ruamel.yaml import YAML
    from ruamel.yaml.error import YAMLError

    try:
        if file.stat().st_size > _LIMIT:
            raise ConfigError(f"{path} is larger than {_LIMIT >> 20} MiB")
        return YAML(typ="safe", pure=True).load(file.read_bytes())
    except OSError as error:
        raise ConfigError(f"cannot read {path}: {error.strerror}") from None
    except (YAMLError, ValueError, RecursionError) as error:
        problem = getattr(error, "problem", None) or "it is no YAML"
        mark = getattr(error, "problem_mark", None)
        line = f":{mark.line + 1}" if mark else ""
        raise ConfigError(f"{path}{line}: {problem}") from None
