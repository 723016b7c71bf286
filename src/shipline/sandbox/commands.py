"""Whether a step's command is there at all, told in the words that Docker's users know.

A runtime would find out too, each in its own words. A command under a mount of the step is left
to the runtime: before the mounts are made nobody can see it.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from pathlib import Path

from shipline.errors import SandboxError
from shipline.sandbox.bundle import environment
from shipline.sandbox.rooted import resolve_in_root
from shipline.sandbox.spec import StepSpec

NOT_FOUND, NOT_EXECUTABLE = 127, 126  # as a shell tells them: sh(1)


def missing_command(spec: StepSpec, root: Path) -> tuple[int, str] | None:
    """The status and message for a command that cannot be executed, None when it may be."""
    name = spec.args[0]
    mounts = [os.path.join("/", spec.cwd, mount.target) for mount in spec.mounts]
    status, reason = NOT_FOUND, "executable file not found in $PATH"
    if "/" in name:
        reason = f"stat {name}: no such file or directory"
    for candidate in _candidates(name, spec):
        if any(candidate.startswith(os.path.normpath(mount)) for mount in mounts):
            return None
        mode = _mode(root, candidate)
        if stat.S_ISREG(mode) and mode & 0o111:
            return None
        if mode and "/" in name:
            is_directory = "is a directory: " if stat.S_ISDIR(mode) else ""
            status, reason = NOT_EXECUTABLE, f"{is_directory}permission denied"
    return status, f'exec: "{name}": {reason}'


def _candidates(name: str, spec: StepSpec) -> Iterator[str]:
    if "/" in name:
        yield os.path.join("/", spec.cwd, name)
        return
    path = next(entry for entry in environment(spec) if entry.startswith("PATH="))
    for directory in path.removeprefix("PATH=").split(":"):
        yield os.path.join("/", spec.cwd, directory, name)


def _mode(root: Path, path: str) -> int:
    try:
        return os.lstat(resolve_in_root(root, path)).st_mode
    except (OSError, SandboxError):
        return 0
