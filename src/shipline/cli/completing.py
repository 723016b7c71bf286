"""Completion in shells: codes, runs and builders of this machine, and file names for the rest."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import click
    from click.shell_completion import CompletionItem


def codes(context: click.Context, parameter: click.Parameter, incomplete: str) -> list[str]:
    """Codes of errors that begin so."""
    from shipline.cli.explain import explanations

    return [one for one in explanations() if one.startswith(incomplete)]


def runs(context: click.Context, parameter: click.Parameter, incomplete: str) -> list[str]:
    """Runs of the history that begin so, the last one first."""
    from shipline.history import RunHistory
    from shipline.home import state_directory

    found = sorted(RunHistory(state_directory()).ids(), reverse=True)
    return [one for one in found if one.startswith(incomplete)]


def builders(context: click.Context, parameter: click.Parameter, incomplete: str) -> list[str]:
    """Builders that begin so."""
    from shipline.builders.instances import NATIVE, BuilderStore

    found = [NATIVE, *(one.name for one in BuilderStore.of(os.environ).stored())]
    return [one for one in found if one.startswith(incomplete)]


def complete_files() -> None:
    """Let shells complete the names of files where nothing else is known."""
    from click.shell_completion import (
        BashComplete,
        CompletionItem,
        FishComplete,
        ShellComplete,
        ZshComplete,
        add_completion_class,
    )

    class WithFiles(ShellComplete):
        def get_completions(self, args: list[str], incomplete: str) -> list[CompletionItem]:
            found = super().get_completions(args, incomplete)
            if found or incomplete.startswith("-"):
                return found
            return [CompletionItem(incomplete, type="file")]

    for shell in (BashComplete, ZshComplete, FishComplete):
        add_completion_class(type(shell.__name__, (WithFiles, shell), {}), shell.name)
