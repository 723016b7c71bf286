"""Ctrl-C and SIGTERM: the first cancels the work and waits for it to clean up, the second exits."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import TypeVar

import click

from shipline.cli.failures import INTERRUPTED
from shipline.tasks import TaskGroup

T = TypeVar("T")
_SHOW_CURSOR = b"\x1b[?25h\n"


def run_cancellable(work: Callable[[], T], on_first: Callable[[], object] | None = None) -> T:
    """The value of `work()`, run on a thread of its own. Raises Cancelled when interrupted.

    The handler never raises in the middle of something: it cancels the scope of the work from
    another thread, since the one it interrupts may hold the lock that cancelling takes.
    """
    group = TaskGroup()

    def cancel() -> None:
        group.scope.cancel()
        if on_first is not None:
            on_first()

    with _signals(cancel), group:
        task = group.start(work)
    return task.result()


@contextmanager
def _signals(cancel: Callable[[], None]) -> Iterator[None]:
    seen = threading.Event()

    def handle(number: int, frame: FrameType | None) -> None:
        if seen.is_set():
            _exit_at_once()
        seen.set()
        threading.Thread(target=cancel, name="cancel", daemon=True).start()

    before = {number: signal.signal(number, handle) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _exit_at_once() -> None:
    if sys.stderr.isatty():
        os.write(sys.stderr.fileno(), _SHOW_CURSOR)
    os._exit(INTERRUPTED)


def say_cancelling() -> None:
    click.echo("cancelling; once more exits at once", err=True)
