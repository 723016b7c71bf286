"""Our registry node as tests run it: a process of its own, on a free port, that can be killed."""

from __future__ import annotations

import logging
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from commands import Forked
from shipline.server import serve_registry

_START_S = 120.0


@dataclass(frozen=True)
class Node:
    """A node that answers at `url`."""

    url: str
    data: Path
    log: Path
    process: Forked

    @property
    def address(self) -> str:
        """HOST:PORT."""
        return self.url.partition("//")[2]

    def kill(self) -> None:
        """What a power cut is to the process."""
        self.process.kill()
        self.process.wait()

    def stop(self, number: int = signal.SIGTERM) -> int:
        """Ask it to end; returns its exit status."""
        self.process.send_signal(number)
        return self.process.wait(60)


@contextmanager
def node(data: Path, *, listen: str = "127.0.0.1:0", **options: object) -> Iterator[Node]:
    """Serve `data` until the block ends; log beside it."""
    told, log = data.with_name(data.name + ".url"), data.with_name(data.name + ".log")
    told.write_bytes(b"")
    process = Forked(_serve, listen, data, options, stdout=told, stderr=log)
    try:
        yield Node(_started(told, log, process), data, log, process)
    finally:
        process.kill()
        process.wait()


def _serve(listen: str, data: Path, options: dict[str, Any]) -> None:
    logging.basicConfig()
    serve_registry(listen, data, ready=lambda url: print(url, flush=True), **options)


def _started(told: Path, log: Path, process: Forked) -> str:
    end = time.monotonic() + _START_S
    while time.monotonic() < end and process.poll() is None:
        if (url := told.read_text()).endswith("\n"):
            return url.strip()
        time.sleep(0.005)
    raise AssertionError(f"the node did not start:\n{log.read_text()}")
