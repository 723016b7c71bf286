"""Git hooks that run the early gates.

A hook that is already there is kept as `NAME.before-shipline` and runs first; uninstalling restores
it. Hooks are written where git looks for them: core.hooksPath, else the directory that all
worktrees of the repository share.
"""

from __future__ import annotations

import os
import shlex
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from shipline.errors import ConfigError
from shipline.git import Git
from shipline.tasks import directory_lock

HOOKS = ("pre-commit", "pre-push")
_MARK = "# shipline hook: changes to this file are lost"
_PREVIOUS_SUFFIX = ".before-shipline"


class HookState(StrEnum):
    """Which hook is installed."""

    ABSENT = "absent"
    INSTALLED = "installed"
    CHAINED = "installed, after the previous hook"
    OUTDATED = "outdated: install it again"
    FOREIGN = "another hook"


@dataclass(frozen=True, slots=True)
class Hook:
    """A hook by name, with its path and state."""

    name: str
    path: Path
    state: HookState


def hook_states(git: Git, program: str) -> tuple[Hook, ...]:
    """Every hook that can be installed. Raises GitError."""
    directory = _directory(git)
    return tuple(_state(directory / name, program) for name in HOOKS)


def install_hooks(git: Git, names: tuple[str, ...], program: str) -> tuple[Hook, ...]:
    """Write the hooks `names`, which call `program`; idempotent.

    Raises ConfigError where the directory cannot be written, where core.hooksPath holds a hook of
    another program, or where a hook kept earlier would be overwritten; GitError.
    """
    directory = _directory(git)
    managed = git.run("config", "core.hooksPath", allowed=(0, 1)).status == 0
    try:
        directory.mkdir(parents=True, exist_ok=True)
        with directory_lock(directory):  # so that no hook of ours is kept as the previous one
            return tuple(_install(directory / name, program, managed=managed) for name in names)
    except OSError as error:
        raise _not_writable(directory, error) from error


def uninstall_hooks(git: Git, names: tuple[str, ...]) -> tuple[Hook, ...]:
    """Remove shipline's hooks and restore the previous ones. Other hooks are left alone."""
    directory = _directory(git)
    try:
        return tuple(_uninstall(directory / name) for name in names)
    except OSError as error:
        raise _not_writable(directory, error) from error


def _directory(git: Git) -> Path:
    return git.directory / git.text("rev-parse", "--git-path", "hooks")


def _state(path: Path, program: str) -> Hook:
    content = _read(path)
    if content is None:
        state = HookState.ABSENT
    elif _MARK not in content:
        state = HookState.FOREIGN
    elif content != _script(path.name, program) or not os.access(path, os.X_OK):
        state = HookState.OUTDATED
    else:
        state = HookState.CHAINED if _previous(path).exists() else HookState.INSTALLED
    return Hook(path.name, path, state)


def _install(path: Path, program: str, *, managed: bool) -> Hook:
    content = _read(path)
    if content is not None and _MARK not in content:
        if managed:  # by a tool that finds its hooks by file name, or tracked: must not be renamed
            raise ConfigError(
                f"{path} belongs to another program, which core.hooksPath is set for",
                code="hook-foreign",
                hint=f"add `shipline gate --hook {path.name}` to the hook that it runs",
            )
        if _previous(path).exists():
            raise ConfigError(
                f"{path} is not shipline's, and {_previous(path).name} exists already",
                code="hook-foreign",
                hint="remove one of the two, then install again",
            )
        path.rename(_previous(path))
    new = path.with_name(f"{path.name}.{os.getpid()}.new")
    new.write_text(_script(path.name, program), encoding="utf-8")
    new.chmod(0o755)
    new.replace(path)
    return _state(path, program)


def _uninstall(path: Path) -> Hook:
    content = _read(path)
    if content is not None and _MARK in content:
        path.unlink()
        if _previous(path).exists():
            _previous(path).rename(path)
    return _state(path, "")


def _previous(path: Path) -> Path:
    return path.with_name(path.name + _PREVIOUS_SUFFIX)


def _read(path: Path) -> str | None:
    try:
        return path.read_text(encoding="utf-8", errors="surrogateescape")
    except FileNotFoundError:
        return None


def _not_writable(directory: Path, error: OSError) -> ConfigError:
    return ConfigError(
        f"cannot write hooks in {directory}: {error.strerror}", code="file-unwritable"
    )


def _script(name: str, program: str) -> str:
    """The previous hook inherits standard input, on which git lists the refs of a push."""
    lines = [
        "#!/bin/sh",
        _MARK,
        f'previous="$(dirname -- "$0")/{name}{_PREVIOUS_SUFFIX}"',
        'if [ -x "$previous" ]; then "$previous" "$@" || exit $?; fi',
        f"exec {shlex.quote(program)} gate --hook {name} </dev/null",
    ]
    return "\n".join(lines) + "\n"
