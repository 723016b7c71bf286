"""Secrets that a section names: from an environment variable or a file."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from shipline.errors import ConfigError
from shipline.files import reading


def read_secret(owner: str, variable: str, file: str, environ: Mapping[str, str]) -> bytes:
    """The secret, empty if neither is configured. Raises ConfigError, about `owner`, if it is
    missing.
    """
    if variable:
        if not (value := environ.get(variable)):
            raise ConfigError(
                f"{owner}: the variable {variable} is not set", code="variable-missing"
            )
        return value.encode()
    if not file:
        return b""
    with reading(file, ConfigError, of=owner):
        return Path(file).read_bytes().strip()
