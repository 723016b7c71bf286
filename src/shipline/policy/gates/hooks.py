"""Git hooks that run the early gates, side by side with hooks that were there before.

A hook that is there is kept under `NAME.before-shipline` and runs first; taking ours away puts it
back. The directory is where git itself looks: core.hooksPath, else that of the repository, which
all worktrees share.
"""

from __future__ import annotations

import os
import shlex
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from shipline.errors import ConfigError
from shipline.git import Git

HOOKS = ("pre-commit", "pre-push")
_MARK = "# shipline hook: changes to this file are lost"
_KEPT = ".before-shipline"


class State(StrEnum):
    """What is in the place of a hook."""

    ABSENT = "absent"
    INSTALLED = "installed"
    CHAINED = "installed, after the hook that was there"
    OUTDATED = "outdated: install it again"
    FOREIGN = "another hook"


@dataclass(frozen=True, slots=True)
class Hook:
    """A hook by name, where it is and what is there."""

    name: str
    path: Path
    state: State


def hook_states(git: Git, program: str) -> tuple[Hook, ...]:
    """Every hook that can be installed. Raises GitError."""
    directory = _directory(git)
    return tuple(_look(directory / name, program) for name in HOOKS)


def install_hooks(git: Git, names: tuple[str, ...], program: str) -> tuple[Hook, ...]:
    """Write the hooks `names`, which call `program`; doing it again changes nothing.

    Raises ConfigError where the directory cannot be written, or a hook that was there is in the
    way of one kept earlier; GitError.
    """
    directory = _directory(git)
    try:
        directory.mkdir(parents=True, exist_ok=True)
        return tuple(_install(directory / name, program) for name in names)
    except OSError as error:
        raise _refused(directory, error) from error


def uninstall_hooks(git: Git, names: tuple[str, ...]) -> tuple[Hook, ...]:
    """Take our hooks away and put those that were there back. Others are left alone."""
    directory = _directory(git)
    try:
        return tuple(_uninstall(directory / name) for name in names)
    except OSError as error:
        raise _refused(directory, error) from error


def _directory(git: Git) -> Path:
    return git.directory / git.text("rev-parse", "--git-path", "hooks")


def _look(path: Path, program: str) -> Hook:
    content = _read(path)
    if content is None:
        state = State.ABSENT
    elif _MARK not in content:
        state = State.FOREIGN
    elif content != _script(path.name, program) or not os.access(path, os.X_OK):
        state = State.OUTDATED
    else:
        state = State.CHAINED if _kept(path).exists() else State.INSTALLED
    return Hook(path.name, path, state)


def _install(path: Path, program: str) -> Hook:
    content = _read(path)
    if content is not None and _MARK not in content:
        if _kept(path).exists():
            raise ConfigError(
                f"{path} is not ours, and {_kept(path).name} is there already",
                hint="remove the one that is not needed, then install again",
            )
        path.rename(_kept(path))
    new = path.with_name(f"{path.name}.{os.getpid()}.new")
    new.write_text(_script(path.name, program), encoding="utf-8")
    new.chmod(0o755)
    new.replace(path)
    return _look(path, program)


def _uninstall(path: Path) -> Hook:
    content = _read(path)
    if content is not None and _MARK in content:
        path.unlink()
        if _kept(path).exists():
            _kept(path).rename(path)
    return _look(path, "")


def _kept(path: Path) -> Path:
    return path.with_name(path.name + _KEPT)


def _read(path: Path) -> str | None:
    try:
        return path.read_text(encoding="utf-8", errors="surrogateescape")
    except FileNotFoundError:
        return None


def _refused(directory: Path, error: OSError) -> ConfigError:
    return ConfigError(f"cannot write hooks in {directory}: {error.strerror}")


def _script(name: str, program: str) -> str:
    """git tells pre-push on its input what it pushes, and both hooks want to read it."""
    command = f"{shlex.quote(program)} gate --hook {name}"
    lines = [
        "#!/bin/sh",
        _MARK,
        f'before="$(dirname -- "$0")/{name}{_KEPT}"',
    ]
    if name == "pre-push":
        lines += [
            'refs="$(cat)"',
            'if [ -x "$before" ]; then',
            '  { [ -z "$refs" ] || printf "%s\\n" "$refs"; } | "$before" "$@" || exit $?',
            "fi",
        ]
    else:
        lines += ['if [ -x "$before" ]; then "$before" "$@" || exit $?; fi']
    return "\n".join([*lines, f"exec {command} </dev/null"]) + "\n"
