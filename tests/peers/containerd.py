"""A containerd of its own, at a socket below a temporary directory."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from peers.docker import unmount_below
from peers.process import running


@dataclass(frozen=True)
class Containerd:
    """An image store that answers at `socket`; what is stored is looked at in `namespace`."""

    socket: Path
    namespace: str = "default"

    def ctr(
        self, *words: str | Path, program: str = "ctr", input: bytes | None = None
    ) -> subprocess.CompletedProcess[str]:
        """`ctr WORDS`, whatever its status; output and errors are both in `stdout`."""
        done = subprocess.run(
            [program, "--address", self.socket, "--namespace", self.namespace, *map(str, words)],
            input=input,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=120,
        )
        return subprocess.CompletedProcess(done.args, done.returncode, done.stdout.decode(), "")

    def images(self) -> list[str]:
        return self.ctr("images", "ls", "-q").stdout.split()

    def blob(self, digest: str) -> bytes:
        done = self.ctr("content", "get", digest)
        assert done.returncode == 0, done.stdout
        return done.stdout.encode()

    def document(self, digest: str) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.blob(digest))
        return found


@contextmanager
def containerd(work: Path) -> Iterator[Containerd]:
    """A containerd with its state below `work`. Needs root."""
    base = work / "containerd"
    base.mkdir()
    configuration, socket = base / "config.toml", base / "socket"
    configuration.write_text(
        f"version = 2\nroot = {json.dumps(str(base / 'root'))}\n"
        f"state = {json.dumps(str(base / 'state'))}\n"
        'disabled_plugins = ["io.containerd.grpc.v1.cri"]\n'
        f"[grpc]\naddress = {json.dumps(str(socket))}\n"
    )
    found = Containerd(socket)
    try:
        with running(
            ["containerd", "--config", configuration],
            ready=partial(_answers, found),
            log=work / "containerd.log",
        ):
            yield found
    finally:
        unmount_below(base)
        shutil.rmtree(base)


def _answers(found: Containerd) -> bool:
    return found.socket.exists() and found.ctr("version").returncode == 0
