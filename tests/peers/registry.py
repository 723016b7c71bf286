"""Debian's docker-registry: the reference implementation of the distribution API, version 2.8."""

from __future__ import annotations

import ctypes
import http.client
import json
import shutil
import ssl
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from peers.process import PeerFailed, free_port, listening, running


@dataclass(frozen=True)
class Account:
    """What HTTP Basic authentication asks for."""

    user: str
    password: str


@dataclass(frozen=True)
class Registry:
    """A running registry. `ca` is the certificate to trust when it speaks TLS."""

    host: str
    port: int
    log: Path
    data: Path
    account: Account | None = None
    ca: Path | None = None

    @property
    def address(self) -> str:
        """HOST:PORT, as image names start with."""
        return f"{self.host}:{self.port}"

    @property
    def url(self) -> str:
        return f"{'https' if self.ca else 'http'}://{self.address}"

    @contextmanager
    def beside(self, pid: int) -> Iterator[None]:
        """The same registry, over the same data, also in the network namespace of a process."""
        inside: list[str | Path] = ["nsenter", "--net", "--target", str(pid)]
        command = [*inside, "docker-registry", "serve", self.log.with_suffix(".json")]

        def ready() -> bool:
            probe = [*inside, "curl", "--silent", "--output", "/dev/null", self.url]
            return subprocess.run(probe, check=False).returncode == 0

        with running(command, ready=ready, log=self.log.with_suffix(".inside.log")):
            yield


@contextmanager
def docker_registry(
    work: Path,
    *,
    account: Account | None = None,
    tls: bool = False,
    name: str = "registry",
    schema1: bool = False,
) -> Iterator[Registry]:
    """A registry with its blobs under `work`, deleting allowed; log in `work/NAME.log`. `schema1`:
    it takes manifests of Docker's schema 1.
    """
    program = shutil.which("docker-registry")
    if program is None:
        raise PeerFailed("docker-registry is not installed (Debian package docker-registry)")
    port, data = free_port(), work / name
    http_section: dict[str, object] = {"addr": f"127.0.0.1:{port}", "secret": "tests"}
    configuration: dict[str, object] = {
        "version": "0.1",
        "log": {"level": "warn", "accesslog": {"disabled": True}},
        "storage": {
            "filesystem": {"rootdirectory": str(data), "maxthreads": 100},
            "delete": {"enabled": True},
            "maintenance": {"uploadpurging": {"enabled": False}},
        },
        "http": http_section,
        "compatibility": {"schema1": {"enabled": schema1}},
    }
    ca = None
    if tls:
        ca, key = certificate(work, name)
        http_section["tls"] = {"certificate": str(ca), "key": str(key)}
    if account is not None:
        path = work / f"{name}.htpasswd"
        path.write_text(f"{account.user}:{bcrypt(account.password)}\n")
        configuration["auth"] = {"htpasswd": {"realm": "tests", "path": str(path)}}
    file = work / f"{name}.json"
    file.write_text(json.dumps(configuration))  # JSON is YAML
    registry = Registry("127.0.0.1", port, work / f"{name}.log", data, account, ca)
    try:
        with running([program, "serve", file], ready=lambda: _answers(registry), log=registry.log):
            yield registry
    finally:
        shutil.rmtree(data, ignore_errors=True)


def _answers(registry: Registry) -> bool:
    if not listening(registry.port):
        return False
    connection: http.client.HTTPConnection
    if registry.ca is not None:
        trust = ssl.create_default_context(cafile=str(registry.ca))
        connection = http.client.HTTPSConnection(registry.address, timeout=5, context=trust)
    else:
        connection = http.client.HTTPConnection(registry.address, timeout=5)
    try:
        connection.request("GET", "/v2/")
        return connection.getresponse().status in (200, 401)
    except OSError:
        return False
    finally:
        connection.close()


def certificate(work: Path, name: str) -> tuple[Path, Path]:
    """A self-signed certificate for 127.0.0.1 and localhost, and its key."""
    certificate, key = work / f"{name}.crt", work / f"{name}.key"
    words = (
        "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2 -subj /CN=localhost"
    )
    command: list[str | Path] = ["openssl", *words.split(), "-keyout", key, "-out", certificate]
    command += ["-addext", "subjectAltName=IP:127.0.0.1,DNS:localhost"]
    subprocess.run(command, check=True, capture_output=True)
    return certificate, key


def bcrypt(password: str) -> str:
    """The one hash that the registry's htpasswd reader accepts, made by libxcrypt."""
    library = ctypes.CDLL("libcrypt.so.1")
    library.crypt.restype = ctypes.c_char_p
    setting = b"$2b$05$" + b"shiplineshiplineship.O"
    hashed = library.crypt(password.encode(), setting)
    assert hashed is not None and hashed.startswith(b"$2b$"), "libcrypt has no bcrypt"
    return str(hashed.decode())
