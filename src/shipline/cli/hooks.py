"""`shipline hooks`: git hooks that run the early gates."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from shipline.cli.options import DIRECTORY
from shipline.cli.program import CommandGroup
from shipline.config import load
from shipline.gates import HOOKS, Hook, hook_states, install_hooks, uninstall_hooks
from shipline.git import Git

_Command = Callable[..., Any]


def _hook_flags(command: _Command) -> _Command:
    for name in reversed(HOOKS):
        command = click.option(f"--{name}", is_flag=True, help=f"The {name} hook.")(command)
    return command


@click.group("hooks", cls=CommandGroup)
def group() -> None:
    """Run the early gates before a commit or a push."""


@group.command("install")
@_hook_flags
@DIRECTORY
def install(directory: Path, pre_commit: bool, pre_push: bool) -> None:
    """Write the hooks, both by default. An existing hook is kept and runs first."""
    names = _names(pre_commit, pre_push)
    _show(install_hooks(_git(directory), names, _program()))
    gates = load(None, directory, os.environ).gates
    if gates is None or not any(rules.early for _, _, rules in gates.gates()):
        click.echo("warning: no gate has `early: true`, so the hooks check nothing yet", err=True)


@group.command("uninstall")
@_hook_flags
@DIRECTORY
def uninstall(directory: Path, pre_commit: bool, pre_push: bool) -> None:
    """Remove the hooks and restore the previous ones."""
    _show(uninstall_hooks(_git(directory), _names(pre_commit, pre_push)))


@group.command("status")
@DIRECTORY
def status(directory: Path) -> None:
    """Show which hooks are installed."""
    _show(hook_states(_git(directory), _program()))


def _names(pre_commit: bool, pre_push: bool) -> tuple[str, ...]:
    selected = [name for name, flag in zip(HOOKS, (pre_commit, pre_push), strict=True) if flag]
    return tuple(selected or HOOKS)


def _git(directory: Path) -> Git:
    return Git(directory, os.environ)


def _program() -> str:
    """The command for this program: its bare name if on the PATH, so that updates keep hooks."""
    if shutil.which("shipline"):
        return "shipline"
    return str(Path(sys.argv[0]).absolute())


def _show(hooks: tuple[Hook, ...]) -> None:
    for hook in hooks:
        click.echo(f"{hook.name}: {hook.state} ({hook.path})")
