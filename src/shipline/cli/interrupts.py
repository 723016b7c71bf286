"""Ctrl-C and SIGTERM: the first cancels the work and waits for it to clean up, the second exits."""

from __future__ import annotations

import os
import signal
import socket
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, TypeVar

from shipline.cli.failures import INTERRUPTED
from shipline.errors import Cancelled, ShiplineError
from shipline.tasks import TaskGroup

if TYPE_CHECKING:
    from shipline.events import Step

T = TypeVar("T")
_SIGNALS = (signal.SIGINT, signal.SIGTERM)
_SHOW_CURSOR = b"\x1b[?25h\n"


def run_cancellable(work: Callable[[], T], on_first: Callable[[], object]) -> T:
    """The value of `work()`, run on its own thread. Raises Cancelled if interrupted, after
    `on_first` was called and the work has cleaned up; also where the work failed by that, as on a
    connection that was closed for it.
    """
    group, interrupted = TaskGroup(), threading.Event()

    def cancel() -> None:
        interrupted.set()
        on_first()
        group.scope.cancel()

    try:
        with _on_signals(cancel), group:
            task = group.start(work)
    except ShiplineError as failure:
        if interrupted.is_set():
            raise Cancelled from failure
        raise
    return task.result()


def run_in_step(work: Callable[[], T], step: Step) -> T:
    """As `run_cancellable`; `step` says that the first interruption cancels the work."""
    return run_cancellable(
        work, lambda: step.warn("cancelling", "interrupt once more to exit at once")
    )


@contextmanager
def _on_signals(cancel: Callable[[], None]) -> Iterator[None]:
    """Signals wake a watcher thread through the wakeup descriptor.

    Python runs handlers on the main thread, which may block on a lock just after a signal arrived
    and miss it: one in ten was lost on a busy machine. The C handler itself writes to the wakeup
    descriptor.
    """
    reading, writing = socket.socketpair()
    writing.setblocking(False)
    watchers = TaskGroup()  # not entered: the work keeps its own scope
    handlers = {number: signal.signal(number, lambda *_: None) for number in _SIGNALS}
    descriptor = signal.set_wakeup_fd(writing.fileno(), warn_on_full_buffer=False)
    watchers.start(_watch, reading, lambda: watchers.start(cancel))
    try:
        yield
    finally:
        signal.set_wakeup_fd(descriptor)
        for number, handler in handlers.items():
            signal.signal(number, handler)
        writing.close()
        watchers.join()
        reading.close()


def _watch(reading: socket.socket, on_first: Callable[[], object]) -> None:
    interrupted = False
    while number := reading.recv(1):
        if number[0] not in _SIGNALS:
            continue
        if interrupted:
            _exit_at_once()
        interrupted = True
        on_first()


def _exit_at_once() -> None:
    if sys.stderr.isatty():
        os.write(sys.stderr.fileno(), _SHOW_CURSOR)
    os._exit(INTERRUPTED)
