"""Docker's HTTP API (docs.docker.com, Engine API), which Podman's service has, too."""

from __future__ import annotations

import http.client
import json
import socket
import subprocess
from collections.abc import Iterable, Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Any
from urllib.parse import SplitResult, urlsplit

from msgspec import Struct

from shipline.engines.engine import EngineError, LoadableImage, connecting
from shipline.net import connect_unix
from shipline.tasks import on_cancel

_CONNECT_S = 10  # seconds
_LIMIT = 4 << 20  # bytes of an answer
_CONTAINERD = ["driver-type", "io.containerd.snapshotter.v1"]


class Address(Struct, frozen=True):
    """Where an engine listens, as DOCKER_HOST says it; `certificates` is the directory with
    ca.pem, cert.pem and key.pem for TLS, whose server is not looked at unless `verify`.
    """

    url: str
    certificates: Path | None = None
    verify: bool = True

    def connect(self) -> socket.socket:
        """A connection. Raises OSError, and EngineError for an address that cannot be used."""
        parts = _parts(self.url)
        if parts.scheme == "unix":
            return connect_unix(self.url.removeprefix("unix://"))
        if parts.scheme == "ssh":
            return _ssh(self.url)
        if parts.scheme not in ("tcp", "http", "https") or not parts.hostname:
            raise _unusable(self.url)
        secure = self.certificates is not None or parts.scheme == "https"
        port = parts.port or (2376 if secure else 2375)
        plain = socket.create_connection((parts.hostname, port), _CONNECT_S)
        plain.settimeout(None)
        return self._secured(plain, parts.hostname) if secure else plain

    def _secured(self, plain: socket.socket, host: str) -> socket.socket:
        import ssl

        place = self.certificates
        context = ssl.create_default_context()
        if place is not None and (place / "ca.pem").exists():
            context = ssl.create_default_context(cafile=str(place / "ca.pem"))
        if not self.verify:
            context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        if place is not None and (place / "cert.pem").exists():
            context.load_cert_chain(place / "cert.pem", place / "key.pem")
        return context.wrap_socket(plain, server_hostname=host)


def _parts(url: str) -> SplitResult:
    """The parts of an address, with a port that is a number."""
    try:
        found = urlsplit(url)
        _ = found.port
    except ValueError:
        raise _unusable(url) from None
    return found


def _unusable(url: str) -> EngineError:
    return EngineError(
        f"the address of the engine is {url!r}, which cannot be used here",
        "set DOCKER_HOST to unix://SOCKET, tcp://HOST:PORT or ssh://USER@HOST",
    )


def _ssh(url: str) -> socket.socket:
    """A connection through `docker system dial-stdio` of the other machine, as docker's."""
    parts = _parts(url)
    host, user = parts.hostname or "-", parts.username or ""
    if "-" in (host[0], user[:1]) or parts.password or parts.query or parts.path.strip("/"):
        raise EngineError(
            f"the address of the engine is {url!r}, which is not ssh://USER@HOST:PORT",
            "correct DOCKER_HOST, or the context",
        )
    words = ["ssh", "-o", "ConnectTimeout=30", "-T"]
    words += ["-l", user] if user else []
    words += ["-p", str(parts.port)] if parts.port else []
    words += ["--", host, "docker", "system", "dial-stdio"]
    ours, theirs = socket.socketpair()
    with theirs:
        # it ends with our side of the pair; what it has to say goes to the terminal
        subprocess.Popen(words, stdin=theirs.fileno(), stdout=theirs.fileno())
    return ours


class Docker:
    """The engine at an address, which was asked what it can do."""

    def __init__(self, address: Address) -> None:
        """Raises EngineError."""
        self._address = address
        (info,) = self._read(self._ask("GET", "/info"))
        self.several = _CONTAINERD in (info.get("DriverStatus") or ())

    def load(self, image: LoadableImage) -> None:
        """Keep the image: `POST /images/load`."""
        answer = self._ask("POST", "/images/load?quiet=1", image.archive())
        for said in self._read(answer):
            if "error" in said:
                raise EngineError(f"the engine at {self} refuses the image: {said['error']}")

    def __str__(self) -> str:
        return self._address.url

    def _read(self, answer: bytes) -> list[dict[str, Any]]:
        """The documents of an answer, one a line."""
        try:
            found = [json.loads(line) for line in answer.splitlines() if line.strip()]
        except ValueError:
            found = []
        if not found or not all(isinstance(one, dict) for one in found):
            raise EngineError(f"what answers at {self} is no engine: {answer[:200]!r}")
        return found

    def _ask(self, method: str, path: str, body: Iterable[bytes] | None = None) -> bytes:
        headers = {"Content-Type": "application/x-tar"} if body is not None else {}
        with connecting(str(self)), self._connected() as connection:
            with suppress(BrokenPipeError, ConnectionResetError):  # it answers why
                connection.request(method, path, body, headers, encode_chunked=body is not None)
            try:
                response = connection.getresponse()
                answer = response.read(_LIMIT)
            except http.client.HTTPException as error:
                raise EngineError(f"no engine answers at {self}: {error!r}") from error
        if response.status >= 300:
            raise EngineError(f"the engine at {self} refuses: {_message(answer)}")
        return answer

    @contextmanager
    def _connected(self) -> Iterator[http.client.HTTPConnection]:
        connection = http.client.HTTPConnection("docker")
        connection.sock = self._address.connect()
        with closing(connection), on_cancel(lambda: connection.sock.shutdown(socket.SHUT_RDWR)):
            yield connection


def _message(answer: bytes) -> str:
    try:
        return str(json.loads(answer)["message"])
    except (ValueError, KeyError, TypeError):
        return answer[:500].decode("utf-8", "replace").strip()


class PodmanCommand:
    """Podman without a service: `podman load`."""

    several = False

    def load(self, image: LoadableImage) -> None:
        process = subprocess.Popen(
            ["podman", "load", "--quiet"],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
        )
        assert process.stdin is not None and process.stderr is not None
        with process, on_cancel(process.kill):
            try:
                for data in image.archive():
                    process.stdin.write(data)
                process.stdin.close()
            except BrokenPipeError:
                pass
            message = process.stderr.read().decode("utf-8", "replace").strip()
        if process.returncode:
            raise EngineError(f"podman load failed: {message}", "see `podman info`")
