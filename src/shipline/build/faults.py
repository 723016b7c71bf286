"""Errors of the operating system during a build, as errors for people.

A full disk or a directory that cannot be written is not a bug, wherever it is noticed.
"""

from __future__ import annotations

import errno
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from shipline.errors import ContentError, SandboxError, UsageError
from shipline.events import Step
from shipline.units import shown_size

_ROOM = 1 << 20  # bytes; with less free space a disk is full
_FULL = frozenset({errno.ENOSPC, errno.EDQUOT})


@contextmanager
def system_errors(home: Path) -> Iterator[None]:
    """Raises ContentError for a full disk, SandboxError for other errors of the system."""
    try:
        yield
    except BrokenPipeError:  # the reader of our output has gone: the command line handles it
        raise
    except OSError as error:
        where = _place(error) or str(home)
        if error.errno in _FULL:
            hint = full_hint(home) or "free some space there"
            raise ContentError(f"cannot write to {where}: {_reason(error)}", hint=hint) from error
        raise SandboxError(
            f"cannot use {where}: {_reason(error)}", hint=f"the state directory is {home}"
        ) from error


class Damage:
    """Records that files of the state directory were damaged; warns once."""

    def __init__(self, step: Step) -> None:
        self._step = step
        self._lock = threading.Lock()
        self.found = False

    def __call__(self, path: Path) -> None:
        with self._lock:
            first, self.found = not self.found, True
        if first:
            self._step.warn(
                f"{path} was damaged and has been removed",
                "its content is made or fetched again; if this repeats, check the disk",
            )


@contextmanager
def output_errors(destination: str) -> Iterator[None]:
    """Raises UsageError where an output cannot be written; other errors get a note."""
    try:
        yield
    except ContentError as error:
        error.add_note(f"while writing {destination}")
        raise
    except BrokenPipeError:
        raise
    except OSError as error:
        place = _place(error)
        inside = f" ({place})" if place and place != destination else ""
        raise UsageError(
            f"cannot write {destination or 'the output'}{inside}: {_reason(error)}",
            hint="choose another dest= with --output",
        ) from error


def full_hint(home: Path) -> str:
    """What to do if the state directory is full; empty if it is not."""
    status = os.statvfs(home)
    names_left = status.f_favail or not status.f_files  # some filesystems do not count them
    if names_left and status.f_bavail * status.f_frsize >= _ROOM:
        return ""
    size = shown_size(status.f_blocks * status.f_frsize)
    return (
        f"SHIPLINE_HOME is full: {home}, on a disk of {size};"
        " free some space (`shipline prune`), or set it to a directory on a larger disk"
    )


def _place(error: OSError) -> str:
    return os.fsdecode(error.filename) if isinstance(error.filename, (str, bytes)) else ""


def _reason(error: OSError) -> str:
    return error.strerror or str(error)
