"""Our registry node as tests run it: a process of its own, on a free port, that can be killed."""

from __future__ import annotations

import select
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

_SERVE = """
import logging, sys
from pathlib import Path
from shipline.server import serve_registry
logging.basicConfig()
serve_registry(
    sys.argv[1], Path(sys.argv[2]), ready=lambda url: print(url, flush=True),
    **eval(sys.argv[3]),
)
"""
_START_S = 120.0


@dataclass(frozen=True)
class Node:
    """A node that answers at `url`."""

    url: str
    data: Path
    log: Path
    process: subprocess.Popen[bytes]

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
    log = data.with_name(data.name + ".log")
    with log.open("ab") as errors:
        process = subprocess.Popen(
            [sys.executable, "-c", _SERVE, listen, str(data), repr(options)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=errors,
        )
    assert process.stdout is not None
    try:
        ready, _, _ = select.select([process.stdout], [], [], _START_S)
        url = process.stdout.readline().decode().strip() if ready else ""
        assert url, f"the node did not start:\n{log.read_text()}"
        yield Node(url, data, log, process)
    finally:
        if process.poll() is None:
            process.kill()
        process.wait()
        process.stdout.close()
