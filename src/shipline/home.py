"""Where shipline keeps its state on this machine, and docker its configuration."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path


def state_directory() -> Path:
    """Where builds keep their cache: SHIPLINE_HOME, else the user's default directory."""
    if home := os.environ.get("SHIPLINE_HOME"):
        return Path(home)
    if os.geteuid() == 0 and os.access("/var/lib", os.W_OK):
        return Path("/var/lib/shipline")
    base = os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state"
    return Path(base) / "shipline"


def docker_directory(environment: Mapping[str, str]) -> Path:
    """The directory of docker's configuration: DOCKER_CONFIG, else `.docker` of the user."""
    home = environment.get("HOME") or os.path.expanduser("~")
    return Path(environment.get("DOCKER_CONFIG") or f"{home}/.docker")
