"""Our node as clients meet it: open over HTTP, or with accounts over TLS; one environment for all.

Every client of this kind is written in Go, so that SSL_CERT_FILE is trusted by all of them, and
reads logins in docker's format.
"""

from __future__ import annotations

import base64
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from commands import run
from guarded import guarded
from nodes import node

Kind = Literal["open", "closed"]
_PLAIN = {
    "skopeo": "--tls-verify=false",
    "podman": "--tls-verify=false",
    "buildah": "--tls-verify=false",
    "oras": "--plain-http",
    "cosign": "--allow-http-registry",
}
_BIN = Path(sys.executable).parent


@dataclass(frozen=True)
class Place:
    """A node at `address`, and the environment of whoever may push to `team/` there."""

    kind: Kind
    address: str
    environment: dict[str, str]
    data: Path

    def plain(self, program: str) -> tuple[str, ...]:
        """The option that lets a program speak HTTP to the node, where it must."""
        return (_PLAIN[program],) if self.kind == "open" else ()

    def run(self, *words: str | Path, cwd: Path | None = None) -> str:
        """Run it; its output, which must be of a success."""
        done = self.attempt(*words, cwd=cwd)
        assert done.returncode == 0, f"{words}\n{done.stdout}{done.stderr}"
        return done.stdout

    def attempt(
        self, *words: str | Path, cwd: Path | None = None
    ) -> subprocess.CompletedProcess[str]:
        return run(*words, environ=self.environment, cwd=cwd)


@contextmanager
def place(kind: Kind, work: Path) -> Iterator[Place]:
    """A node below `work`, until the block ends."""
    if kind == "open":
        with node(work / "data") as running:
            yield Place(kind, running.address, _environment(work, running.address), running.data)
        return
    options = certificate(work)
    with guarded(work / "data", "--accounts", *options) as closed:
        closed.project("team")
        name, secret = closed.robot_login("ci", "team", "pull", "push", "update", "delete")
        environment = _environment(work, closed.address, f"{name}:{secret}")
        yield Place(kind, closed.address, environment, closed.data)


def certificate(work: Path) -> tuple[str, ...]:
    """A certificate for loopback addresses in `work`; the options of the node."""
    certificate, key = work / "tls.crt", work / "tls.key"
    command = "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2"
    words = [*command.split(), "-subj", "/CN=node", "-keyout", str(key), "-out", str(certificate)]
    words += ["-addext", "subjectAltName=IP:127.0.0.1,DNS:localhost"]
    subprocess.run(words, check=True, capture_output=True)
    return "--tls-cert", str(certificate), "--tls-key", str(key)


def _environment(work: Path, address: str, login: str = "") -> dict[str, str]:
    home = work / "home"
    home.mkdir()
    logins = {address: {"auth": base64.b64encode(login.encode()).decode()}} if login else {}
    (home / "config.json").write_text(json.dumps({"auths": logins}))
    found = {
        **os.environ,
        "PATH": f"{_BIN}:{os.environ['PATH']}",
        "HOME": str(home),
        "DOCKER_CONFIG": str(home),
        "REGISTRY_AUTH_FILE": str(home / "config.json"),
        "COSIGN_PASSWORD": "of a test",
    }
    if login:
        found["SSL_CERT_FILE"] = str(work / "tls.crt")
    return found
