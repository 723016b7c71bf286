"""OpenSSH's programs for tests: keys, agents, and a context from which steps mount the client."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

CLIENT = "--mount=type=bind,from=openssh,source=lib,target=/lib " + (
    "--mount=type=bind,from=openssh,source=lib64,target=/lib64 "
    "--mount=type=bind,from=openssh,source=bin,target=/openssh"
)
"""Flags of a RUN that finds the client in /openssh; its context is `client_context`."""


def make_key(place: Path, kind: str = "ed25519", bits: str = "256", *more: str) -> Path:
    """A new private key, its public part beside it."""
    path = place / f"{kind}-{bits}"
    words = ("-q", "-N", "", "-t", kind, "-b", bits, "-f", str(path), *more)
    subprocess.run(["ssh-keygen", *words], check=True)
    return path


def ssh_add(agent: Path | str, *words: str) -> subprocess.CompletedProcess[str]:
    environment = {"SSH_AUTH_SOCK": str(agent), "PATH": "/usr/bin:/bin"}
    return subprocess.run(
        ["ssh-add", *words], env=environment, capture_output=True, text=True, timeout=30
    )


@contextmanager
def ssh_agent(path: Path, key: Path, *outer: str) -> Iterator[Path]:
    """OpenSSH's agent at `path`, with one key; `outer` is a command that it is started by."""
    command = [*outer, "ssh-agent", "-D", "-a", str(path)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE)
    assert process.stdout is not None
    process.stdout.readline()
    try:
        assert ssh_add(path, str(key)).returncode == 0
        yield path
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


def client_context(place: Path) -> Path:
    """`ssh-add` and the libraries that it needs, in /bin, /lib and /lib64."""
    (place / "bin").mkdir(parents=True)
    program = shutil.which("ssh-add")
    assert program is not None, "the package openssh-client is not installed"
    shutil.copy2(program, place / "bin")
    listed = subprocess.run(["ldd", program], check=True, capture_output=True, text=True).stdout
    for library in re.findall(r"(/lib\S+)", listed):
        target = place / library.lstrip("/")
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(library, target)
    return place
