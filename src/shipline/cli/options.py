"""Options that several commands have."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from shipline.cli.completing import builders

F = TypeVar("F", bound=Callable[..., Any])

MODES = ("auto", "none", "plain", "quiet", "rawjson", "report", "tty")
"""How progress is shown."""

DIRECTORY = click.option(
    "-C",
    "directory",
    type=click.Path(path_type=Path),
    default=".",
    metavar="DIRECTORY",
    help="Run in this directory.",
)
CONFIGURATION = click.option(
    "-f",
    "--file",
    "path",
    type=click.Path(path_type=Path),
    metavar="PATH",
    help="The configuration; by default shipline.yaml in this directory or above.",
)


class _Mode(click.Choice[str]):
    """One of MODES; an empty value is as good as none, as in buildx."""

    def convert(self, value: str, param: click.Parameter | None, ctx: click.Context | None) -> str:
        return super().convert(value or "auto", param, ctx)


PROGRESS = click.option(
    "--progress",
    type=_Mode(MODES),
    default="auto",
    envvar="BUILDKIT_PROGRESS",
    help="How progress is shown.",
)


def builder_option(help: str) -> Callable[[F], F]:
    """The option that names a builder."""
    return click.option(
        "--builder", envvar="BUILDX_BUILDER", metavar="NAME", shell_complete=builders, help=help
    )


BUILDER = builder_option("The builder to use.")
