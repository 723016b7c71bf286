"""Secrets that a section names: from an environment variable or a file."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from shipline.errors import ConfigError


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
    try:
        return Path(file).read_bytes().strip()
    except OSError as error:
        raise ConfigError(
            f"{owner}: cannot read {file}: {error.strerror}", code="file-unreadable"
        ) from None
