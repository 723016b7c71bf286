"""Actions that generated workflows use, each pinned to a commit.

A pin file is JSON: action -> `version` (a tag, for people) and `commit` (40 hex digits). The one in
this package is the default; a project's own replaces entries of it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib.resources import files
from pathlib import Path
from typing import Any, Self

from shipline.deliver.ci.document import Noted
from shipline.errors import ConfigError

_COMMIT = re.compile(r"[0-9a-f]{40}\Z")
_LIMIT = 1 << 20  # bytes of a pin file


@dataclass(frozen=True, slots=True)
class Pin:
    """One commit of an action, and the name people give it."""

    version: str
    commit: str


@dataclass(frozen=True, slots=True)
class Pins:
    """Pins by action, `owner/name`."""

    table: Mapping[str, Pin] = field(hash=False)

    @classmethod
    def load(cls, own: Path | None = None) -> Self:
        """Those of the package, with the entries of the pin file `own` in their place.

        Raises ConfigError for a file that is not a pin file.
        """
        shipped = files("shipline.deliver.ci").joinpath("pins.json").read_text()
        table = _parse(shipped, "pins.json")
        if own is not None:
            table |= _parse(_read(own), str(own))
        return cls(table)

    def uses(self, action: str, path: str = "") -> Noted:
        """What `uses:` says: `owner/name/path@commit`, with the version as comment."""
        pin = self.table[action]
        place = f"{action}/{path}" if path else action
        return Noted(f"{place}@{pin.commit}", pin.version)


def _read(path: Path) -> str:
    try:
        with path.open("rb") as file:
            return file.read(_LIMIT).decode()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"cannot read the pin file {path}: {error}") from error


def _parse(text: str, name: str) -> dict[str, Pin]:
    try:
        table = json.loads(text)
        return {action: _pin(entry, action, name) for action, entry in table.items()}
    except (ValueError, AttributeError) as error:
        raise ConfigError(f"{name} is not a pin file: {error}") from error


def _pin(entry: Any, action: str, name: str) -> Pin:
    version, commit = (
        (entry.get("version"), entry.get("commit")) if isinstance(entry, dict) else ("", "")
    )
    if not isinstance(version, str) or not re.fullmatch(r"[\w.+-]+", version):
        raise ConfigError(f"{name}: {action} has no version")
    if not isinstance(commit, str) or not _COMMIT.match(commit):
        raise ConfigError(
            f"{name}: the commit of {action} is not 40 hex digits",
            hint="a tag or a branch can be moved; a commit cannot",
        )
    return Pin(version, commit)
