"""A Docker engine of its own, with the BuildKit that is built into it."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from peers.binfmt import can_run_arm64
from peers.process import PeerFailed, running
from peers.registry import Registry


@dataclass(frozen=True)
class Docker:
    """An engine that answers at `host`; `config` is the directory of its client."""

    host: str
    config: Path
    log: Path | None = None

    @property
    def environment(self) -> dict[str, str]:
        return {
            **os.environ,
            "DOCKER_HOST": self.host,
            "DOCKER_CONFIG": str(self.config),
            "BUILDKIT_PROGRESS": "plain",
        }

    def run(
        self, *arguments: str | Path, input: bytes | None = None, timeout_s: float = 300
    ) -> subprocess.CompletedProcess[str]:
        """`docker ARGUMENTS`, whatever its status; output and errors are both in `stdout`."""
        done = subprocess.run(
            ["docker", *map(str, arguments)],
            env=self.environment,
            input=input,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=timeout_s,
        )
        output = done.stdout.decode(errors="replace")
        return subprocess.CompletedProcess(done.args, done.returncode, output, "")


@contextmanager
def dockerd(
    work: Path, registry: Registry, *, name: str = "docker", containerd: bool = True
) -> Iterator[Docker]:
    """An engine with the containerd image store, or with Docker's own, without bridge: build with
    network none or host.

    What a Dockerfile names without a registry (`FROM alpine`) comes from `registry`. Needs root.
    """
    program = shutil.which("dockerd")
    if program is None:
        raise PeerFailed("dockerd is not installed (Debian package docker.io)")
    can_run_arm64()  # BuildKit lists the platforms it can run when it starts
    base = work / name
    base.mkdir()
    configuration = base / "daemon.json"
    configuration.write_text(
        json.dumps(
            {
                "features": {"containerd-snapshotter": containerd},
                "insecure-registries": ["127.0.0.0/8"],
                "registry-mirrors": [registry.url],
            }
        )
    )
    socket, log = base / "socket", work / f"{name}.log"
    docker = Docker(f"unix://{socket}", base / "client", log)
    docker.config.mkdir()
    command: list[str | Path] = [program, "--config-file", configuration, "--host", docker.host]
    command += ["--data-root", base / "data", "--exec-root", base / "run"]
    command += ["--pidfile", base / "pid", "--bridge=none"]
    command += ["--iptables=false", "--ip6tables=false"]
    try:
        with running(command, ready=lambda: _answers(docker, socket), log=log):
            yield docker
    finally:
        _unmount_below(base)
        shutil.rmtree(base)


def _answers(docker: Docker, socket: Path) -> bool:
    return socket.exists() and docker.run("version").returncode == 0


def _unmount_below(directory: Path) -> None:
    """Release what a killed engine left mounted, so that the directory can be removed."""
    mounts = [line.split()[1] for line in Path("/proc/self/mounts").read_text().splitlines()]
    for mount in reversed(mounts):
        if mount.startswith(f"{directory}/"):
            subprocess.run(["umount", "--lazy", mount], check=False)
