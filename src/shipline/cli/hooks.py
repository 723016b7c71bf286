"""`shipline hooks`: git hooks that run the early gates."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from shipline.gates import HOOKS, Hook, hook_states, install_hooks, uninstall_hooks
from shipline.git import Git

_Command = Callable[..., Any]
_DIRECTORY = click.option(
    "-C",
    "directory",
    type=click.Path(path_type=Path),
    default=".",
    metavar="DIRECTORY",
    help="The directory to work in.",
)


def _which(command: _Command) -> _Command:
    for name in reversed(HOOKS):
        command = click.option(f"--{name}", is_flag=True, help=f"The hook {name}.")(command)
    return command


@click.group("hooks")
def group() -> None:
    """Run the gates that are marked early before a commit or a push."""


@group.command("install")
@_which
@_DIRECTORY
def install(directory: Path, pre_commit: bool, pre_push: bool) -> None:
    """Write the hooks; both where none is named. A hook that is there is kept and runs first."""
    names = _names(pre_commit, pre_push)
    _show(install_hooks(_git(directory), names, _program()))


@group.command("uninstall")
@_which
@_DIRECTORY
def uninstall(directory: Path, pre_commit: bool, pre_push: bool) -> None:
    """Take the hooks away, and put those back that were there before."""
    _show(uninstall_hooks(_git(directory), _names(pre_commit, pre_push)))


@group.command("status")
@_DIRECTORY
def status(directory: Path) -> None:
    """Tell which hooks are there."""
    _show(hook_states(_git(directory), _program()))


def _names(pre_commit: bool, pre_push: bool) -> tuple[str, ...]:
    chosen = [name for name, wanted in zip(HOOKS, (pre_commit, pre_push), strict=True) if wanted]
    return tuple(chosen or HOOKS)


def _git(directory: Path) -> Git:
    return Git(directory, os.environ)


def _program() -> str:
    """This program; by its name where the PATH has it, so that an update does not break hooks."""
    if shutil.which("shipline"):
        return "shipline"
    return str(Path(sys.argv[0]).absolute())


def _show(hooks: tuple[Hook, ...]) -> None:
    for one in hooks:
        click.echo(f"{one.name}: {one.state} ({one.path})")
