"""What the commands about accounts share: the directory they open, and how they print."""

from __future__ import annotations

import getpass
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from shipline.server.access import Administration, Directory
    from shipline.server.journal import Event


def data_option(command: Callable[..., None]) -> Callable[..., None]:
    return click.option(
        "--data",
        type=click.Path(path_type=Path, exists=True, file_okay=False),
        required=True,
        metavar="DIR",
        help="The node's data directory.",
    )(command)


@contextmanager
def opened(data: Path) -> Iterator[tuple[Directory, Administration]]:
    from shipline.server.access import Administration, Audit, Directory

    directory = Directory(data)
    try:
        yield directory, Administration(directory, actor=local_actor(), notice=Audit(data).note)
    finally:
        directory.close()


def local_actor() -> str:
    """What the audit log calls the person at this machine."""
    return f"{getpass.getuser()} (local)"


def tell_audit(data: Path) -> Callable[[Event], object]:
    """Writes events to the audit log of a directory, if it has one: a node without accounts does
    not.
    """
    from shipline.server.access import Audit

    return Audit(data).note if (data / "access").is_dir() else lambda event: None


def when(at: float) -> str:
    return datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%d %H:%M:%SZ") if at else "never"


def table(head: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> None:
    every = [head, *rows]
    widths = [max(len(row[column]) for row in every) for column in range(len(head))]
    for row in every:
        cells = (cell.ljust(width) for cell, width in zip(row, widths, strict=True))
        click.echo("  ".join(cells).rstrip())
