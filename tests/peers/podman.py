"""Podman with storage and a service of its own."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from peers.docker import unmount_below
from peers.process import running


@dataclass(frozen=True)
class Podman:
    """`environment` names its storage; its service answers at `url`."""

    environment: Mapping[str, str]
    url: str

    def run(self, *words: str) -> subprocess.CompletedProcess[str]:
        """`podman WORDS`, whatever its status; output and errors are both in `stdout`."""
        return subprocess.run(
            ["podman", *words],
            env={**os.environ, **self.environment},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=120,
        )


@contextmanager
def podman(work: Path) -> Iterator[Podman]:
    """Podman with its state below `work`. Needs root."""
    base = work / "podman"
    base.mkdir()
    storage, socket = base / "storage.conf", base / "socket"
    storage.write_text(
        f'[storage]\ndriver = "vfs"\nrunroot = {json.dumps(str(base / "run"))}\n'
        f"graphroot = {json.dumps(str(base / 'data'))}\n"
    )
    found = Podman({"CONTAINERS_STORAGE_CONF": str(storage)}, f"unix://{socket}")
    try:
        with running(
            ["podman", "system", "service", "--time=0", found.url],
            ready=socket.exists,
            log=work / "podman.log",
            environment=dict(found.environment),
        ):
            yield found
    finally:
        unmount_below(base)
        for _ in range(100):  # what cleans up after a container may still write there
            shutil.rmtree(base, ignore_errors=True)
            if not base.exists():
                break
            time.sleep(0.1)
        assert not base.exists()
