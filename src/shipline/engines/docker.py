"""Docker's HTTP API (docs.docker.com, Engine API), which Podman's service has, too."""

from __future__ import annotations

import http.client
import json
import os
import shutil
import socket
import subprocess
from collections.abc import Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, closing, contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any, BinaryIO, cast
from urllib.parse import SplitResult, quote

from msgspec import Struct

from shipline.content import Fetcher, LocalStore
from shipline.engines.engine import EngineError, EngineRefused, LoadableImage, connecting
from shipline.errors import NotFound, UsageError
from shipline.net import connect_unix, split_url, without_passwords
from shipline.oci import Descriptor, Digest, InvalidDigest, Reference
from shipline.processes import run_process, ssh_command
from shipline.tasks import check, on_cancel

_CONNECT_S = 10  # seconds
_ANSWER_S = 30  # seconds for the answer to a question; to stop a container takes ten
_LIMIT = 4 << 20  # bytes of an answer
_COPIED = 1 << 20  # bytes at a time
_NO_IMAGE = 404
_SAME = 304  # the container is as it was asked to be
_NO_HEADERS: Mapping[str, str] = {}
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
        connection = socket.create_connection((parts.hostname, port), _CONNECT_S)
        if secure:
            connection = self._secured(connection, parts.hostname)
        connection.settimeout(None)
        return connection

    def _secured(self, plain: socket.socket, host: str) -> socket.socket:
        import ssl

        place = self.certificates
        context = ssl.create_default_context()
        if place is not None and (place / "ca.pem").exists():
            context = ssl.create_default_context(cafile=str(place / "ca.pem"))
        if not self.verify:
            context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        if place is not None and (place / "cert.pem").exists():
            context.load_cert_chain(place / "cert.pem", place / "key.pem", password="")
        return context.wrap_socket(plain, server_hostname=host)


def _parts(url: str) -> SplitResult:
    """The parts of an address, with a port that is a number."""
    try:
        found = split_url(url)
    except UsageError:
        raise _unusable(url) from None
    return found


def check_address(url: str) -> None:
    """Raises EngineError for what is not an address of an engine."""
    parts = _parts(url)
    named = parts.path if parts.scheme == "unix" else parts.hostname
    if parts.scheme not in ("unix", "tcp", "ssh") or not named or parts.password is not None:
        raise _unusable(url)


def _unusable(url: str) -> EngineError:
    return EngineError(
        f"the address of the engine is {without_passwords(url)!r}, which cannot be used here",
        "set DOCKER_HOST to unix://SOCKET, tcp://HOST:PORT or ssh://USER@HOST",
        code="engine-address",
    )


def _ssh(url: str) -> socket.socket:
    """A connection through `docker system dial-stdio` of the other machine, as docker's."""
    parts = _parts(url)
    host, user = parts.hostname or "-", parts.username or ""
    if "-" in (host[0], user[:1]) or parts.password or parts.query or parts.path.strip("/"):
        raise EngineError(
            f"the address of the engine is {without_passwords(url)!r}, which is not"
            " ssh://USER@HOST:PORT",
            "correct DOCKER_HOST, or the context",
            code="engine-address",
        )
    words = [*ssh_command(), "-o", "ConnectTimeout=30", "-T"]
    words += ["-l", user] if user else []
    words += ["-p", str(parts.port)] if parts.port else []
    words += ["--", host, "docker", "system", "dial-stdio"]
    ours, theirs = socket.socketpair()
    with theirs:
        # it ends with our side of the pair; what it has to say goes to the terminal
        subprocess.Popen(words, stdin=theirs.fileno(), stdout=theirs.fileno())
    return ours


class Refused(EngineError):
    """The engine answers with an error, of this HTTP status."""

    code = "engine-refused"

    def __init__(self, message: str, status: int) -> None:
        super().__init__(message)
        self.status = status


class DockerApi:
    """Requests to the engine at an address. All raise EngineError, and Refused."""

    def __init__(self, address: Address) -> None:
        self._address = address

    def __str__(self) -> str:
        return without_passwords(self._address.url)

    def ask(self, method: str, path: str, document: object = None) -> Any:
        """The answer of the engine, None for an empty one; `document` is sent as JSON."""
        answer = self.read(method, path, document)
        return self._document(answer) if answer.strip() else None

    def read(self, method: str, path: str, document: object = None) -> bytes:
        """The answer of the engine as it is; of a long one, the beginning."""
        with self._errors(), self._connected() as connection:
            connection.sock.settimeout(_ANSWER_S)
            return self._request(connection, method, path, *_json(document)).read(_LIMIT)

    def download(self, path: str, file: BinaryIO) -> None:
        """Write a long answer to a file."""
        with self._errors(), self._connected() as connection:
            shutil.copyfileobj(self._request(connection, "GET", path, None, {}), file, _COPIED)

    def follow(
        self,
        method: str,
        path: str,
        archive: Iterable[bytes] | None = None,
        headers: Mapping[str, str] = _NO_HEADERS,
    ) -> Iterator[dict[str, Any]]:
        """What the engine says while it works; a tar archive is sent first."""
        kind = {} if archive is None else {"Content-Type": "application/x-tar"}
        with self._errors(), self._connected() as connection:
            response = self._request(connection, method, path, archive, {**headers, **kind})
            while line := response.readline(_LIMIT):
                if line.strip():
                    said = self._document(line)
                    if not isinstance(said, dict):
                        raise self._no_engine(line)
                    yield said

    @contextmanager
    def attached(self, path: str, document: object) -> Iterator[tuple[socket.socket, BinaryIO]]:
        """A connection that becomes that of a program, to write to and to read from (Engine API,
        "Attach to a container", on hijacking).
        """
        body, headers = _json(document)
        upgrade = {**headers, "Connection": "Upgrade", "Upgrade": "tcp"}
        with ExitStack() as stack:
            with self._errors():
                connection = stack.enter_context(self._connected())
                connection.sock.settimeout(_ANSWER_S)
                response = self._request(connection, "POST", path, body, upgrade)
                connection.sock.settimeout(None)
            yield connection.sock, cast(BinaryIO, response.fp)

    def _document(self, answer: bytes) -> Any:
        try:
            return json.loads(answer)
        except (ValueError, RecursionError):
            raise self._no_engine(answer) from None

    def _no_engine(self, answer: bytes) -> EngineError:
        return EngineError(
            f"what answers at {self} is not an engine: {answer[:200]!r}", code="engine-unreachable"
        )

    def _request(
        self,
        connection: http.client.HTTPConnection,
        method: str,
        path: str,
        body: bytes | Iterable[bytes] | None,
        headers: Mapping[str, str],
    ) -> http.client.HTTPResponse:
        """An answer that is none of an error."""
        with suppress(BrokenPipeError, ConnectionResetError):  # it answers why
            connection.request(method, path, body, headers)
        response = connection.getresponse()
        if response.status < 300 or response.status == _SAME:
            return response
        text = f"the engine at {self} refuses: {_message(response.read(_LIMIT))}"
        raise Refused(text, response.status)

    @contextmanager
    def _connected(self) -> Iterator[http.client.HTTPConnection]:
        connection = http.client.HTTPConnection("docker")
        connection.sock = self._address.connect()
        with closing(connection), on_cancel(lambda: connection.sock.shutdown(socket.SHUT_RDWR)):
            yield connection

    @contextmanager
    def _errors(self) -> Iterator[None]:
        with connecting(str(self)):
            try:
                yield
            except http.client.HTTPException as error:
                check()  # an interruption breaks the connection, too
                raise EngineError(
                    f"no engine answers at {self}: {error!r}", code="engine-unreachable"
                ) from error


def _json(document: object) -> tuple[bytes | None, Mapping[str, str]]:
    if document is None:
        return None, {}
    return json.dumps(document).encode(), {"Content-Type": "application/json"}


class Docker:
    """The engine at an address, which was asked what it can do."""

    def __init__(self, address: Address) -> None:
        """Raises EngineError."""
        self._api = DockerApi(address)
        info = self._api.ask("GET", "/info")
        if not isinstance(info, dict):
            raise EngineError(
                f"what answers at {self} is not an engine: {info!r}", code="engine-unreachable"
            )
        self.several = _CONTAINERD in (info.get("DriverStatus") or ())

    def load(self, image: LoadableImage) -> None:
        self.load_archive(image.archive())

    def load_archive(self, archive: Iterable[bytes]) -> None:
        """Keep the image: `POST /images/load`."""
        for said in self._api.follow("POST", "/images/load?quiet=1", archive):
            if "error" in said:
                raise EngineRefused(f"the engine at {self} refuses the image: {said['error']}")

    def save(self, name: str, file: BinaryIO) -> None:
        """Write the archive of an image, `GET /images/{name}/get`. Raises NotFound."""
        try:
            self._api.download(f"/images/{quote(name, safe='')}/get", file)
        except Refused as error:
            if error.status == _NO_IMAGE:
                raise NotFound(
                    f"{name} is not in the engine at {self}", code="image-not-found"
                ) from None
            raise

    def find(self, name: str) -> Digest | None:
        """Podman takes a name without a host for one of its own images, too."""
        reference = Reference.parse(name)
        try:
            found = self._api.ask("GET", f"/images/{quote(_asked(name, reference), safe='')}/json")
        except Refused as error:
            if error.status == _NO_IMAGE:
                return None
            raise
        known = found if isinstance(found, dict) else {}
        image = _id(str(known.get("Id")), str(self))
        return image if _is_called(reference, known.get("RepoTags")) else None

    def opened(
        self, image: Digest, scratch: Path, store: LocalStore
    ) -> AbstractContextManager[tuple[Fetcher, Descriptor]]:
        return _saved(self, image, scratch, store)

    def __str__(self) -> str:
        return str(self._api)


def _asked(name: str, reference: Reference) -> str:
    """With a tag: a name without one may be the beginning of an ID for the engine, as `cafe`."""
    return name if reference.tag or reference.digest else f"{name}:latest"


def _is_called(reference: Reference, tags: object) -> bool:
    """Whether an image with these tags has the name, at Docker Hub or as one of Podman's own: for
    Podman, `app` is also `registry.example/team/app`. A digest speaks for itself.
    """
    wanted = {str(reference.or_latest), f"localhost/{reference.or_latest.familiar}"}
    return reference.digest is not None or any(
        _canonical(tag) in wanted for tag in (tags if isinstance(tags, list) else ())
    )


def _canonical(tag: object) -> str:
    with suppress(UsageError):
        return str(Reference.parse(str(tag)))
    return ""


def _id(text: str, where: str) -> Digest:
    try:
        return Digest.parse(text)
    except InvalidDigest:
        raise EngineError(
            f"the engine at {where} gives {text[:100]!r} as the ID of an image",
            code="engine-unreachable",
        ) from None


def _saved(
    engine: Docker | PodmanCommand, image: Digest, scratch: Path, store: LocalStore
) -> AbstractContextManager[tuple[Fetcher, Descriptor]]:
    from shipline.engines.archives import saved_image  # slow to import

    return saved_image(image, lambda file: engine.save(str(image), file), scratch, store)


def _message(answer: bytes) -> str:
    try:
        return str(json.loads(answer)["message"])
    except (ValueError, KeyError, TypeError):
        return answer[:500].decode("utf-8", "replace").strip()


class PodmanCommand:
    """Podman without a service: `podman load`."""

    several = False

    def __str__(self) -> str:
        return "podman"

    def find(self, name: str) -> Digest | None:
        said, reference = bytearray(), Reference.parse(name)
        words = ["podman", "image", "inspect", "--format", "{{.Id}} {{json .RepoTags}}", "--"]
        words.append(_asked(name, reference))
        with TemporaryFile() as errors:
            done = run_process(
                words,
                directory=Path("/"),
                environ=os.environ,
                timeout_s=_ANSWER_S,
                write=said.extend,
                stderr=errors,
            )
            errors.seek(0)
            message = errors.read(_LIMIT).decode("utf-8", "replace").strip()
        if not done.status:
            number, _, tags = said.decode("utf-8", "replace").partition(" ")
            image = _id(f"sha256:{number}", str(self))
            return image if _is_called(reference, json.loads(tags or "[]")) else None
        if "image not known" in message:
            return None
        raise EngineRefused(f"podman image inspect failed: {message}", "see `podman info`")

    def opened(
        self, image: Digest, scratch: Path, store: LocalStore
    ) -> AbstractContextManager[tuple[Fetcher, Descriptor]]:
        return _saved(self, image, scratch, store)

    def load(self, image: LoadableImage) -> None:
        self.load_archive(image.archive())

    def save(self, name: str, file: BinaryIO) -> None:
        done = subprocess.run(
            ["podman", "save", "--quiet", "--format", "docker-archive", name],
            stdout=file,
            stderr=subprocess.PIPE,
        )
        if done.returncode:
            message = done.stderr.decode("utf-8", "replace").strip()
            raise EngineRefused(f"podman save failed: {message}", "see `podman images`")

    def load_archive(self, archive: Iterable[bytes]) -> None:
        process = subprocess.Popen(
            ["podman", "load", "--quiet"],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
        )
        assert process.stdin is not None and process.stderr is not None
        with process, on_cancel(process.kill):
            try:
                for data in archive:
                    process.stdin.write(data)
                process.stdin.close()
            except BrokenPipeError:
                pass
            message = process.stderr.read().decode("utf-8", "replace").strip()
        if process.returncode:
            raise EngineRefused(f"podman load failed: {message}", "see `podman info`")
