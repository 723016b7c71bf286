"""Containers of a Docker engine: made, started, stopped, removed, and programs run in them.

Source: docs.docker.com, Engine API 1.41 and newer.
"""

from __future__ import annotations

import base64
import io
import json
import socket
import tarfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import Any, BinaryIO
from urllib.parse import quote, urlencode

from shipline.engines.docker import DockerApi, Refused
from shipline.engines.engine import EngineError

_MISSING, _CONFLICT = 404, 409  # HTTP
_STDERR = 2
_LONGEST = 4096  # bytes of what a program says
_HEADER = 8  # bytes of a frame: the stream, three zeros, the length


class Containers:
    """The containers of an engine. All raise EngineError."""

    def __init__(self, api: DockerApi) -> None:
        self._api = api

    def find(self, name: str) -> dict[str, Any] | None:
        """What the engine knows of a container, its `State` at least; None if there is none of that
        name.
        """
        found = self._find(f"/containers/{quote(name)}/json")
        if found is None:
            return None
        if not isinstance(found, dict) or not isinstance(found.get("State"), dict):
            raise EngineError(
                f"the engine at {self._api} describes no container {name}", code="container-missing"
            )
        return found

    def create(self, name: str, document: Mapping[str, object]) -> bool:
        """Make a container, as `document` of `POST /containers/create` says; False if one of that
        name is there.
        """
        try:
            self._api.ask("POST", f"/containers/create?{urlencode({'name': name})}", document)
        except Refused as error:
            if error.status != _CONFLICT:
                raise
            return False
        return True

    def put(self, name: str, place: str, files: Mapping[str, bytes]) -> None:
        """Write files below the directory `place`, which is there, with their directories; they
        belong to root, who alone can change them.
        """
        archive = io.BytesIO()
        with tarfile.open(fileobj=archive, mode="w") as tar:
            directories = {
                "/".join(parts[:length])
                for parts in (path.split("/") for path in files)
                for length in range(1, len(parts))
            }
            for directory in sorted(directories):
                entry = tarfile.TarInfo(directory)
                entry.type, entry.mode = tarfile.DIRTYPE, 0o755
                tar.addfile(entry)
            for path, content in sorted(files.items()):
                entry = tarfile.TarInfo(path)
                entry.size, entry.mode = len(content), 0o644
                tar.addfile(entry, io.BytesIO(content))
        url = f"/containers/{quote(name)}/archive?{urlencode({'path': place})}"
        for _ in self._api.follow("PUT", url, [archive.getvalue()]):
            pass

    def start(self, name: str) -> None:
        """Start it; quiet about one that runs."""
        self._api.ask("POST", f"/containers/{quote(name)}/start")

    def stop(self, name: str) -> None:
        """Stop it; quiet about one that does not run."""
        self._api.ask("POST", f"/containers/{quote(name)}/stop")

    def remove(self, name: str) -> None:
        """Remove it, also if it runs, with the volumes that have no name."""
        self._remove(f"/containers/{quote(name)}?force=1&v=1")

    def has_volume(self, name: str) -> bool:
        return self._find(f"/volumes/{quote(name)}") is not None

    def remove_volume(self, name: str) -> None:
        self._remove(f"/volumes/{quote(name)}")

    def logs(self, name: str, lines: int) -> str:
        """The last lines that its program wrote."""
        query = f"stdout=1&stderr=1&tail={lines}"
        answer = self._api.read("GET", f"/containers/{quote(name)}/logs?{query}")
        text = b"".join(data for _, data in _frames(io.BytesIO(answer)))
        return text.decode(errors="replace").strip()

    def has_image(self, name: str) -> bool:
        return self._find(f"/images/{quote(name)}/json") is not None

    def pull(self, name: str, login: Mapping[str, str] | None) -> None:
        """Have the engine pull an image, with a login as in the API's AuthConfig."""
        encoded = base64.urlsafe_b64encode(json.dumps(login or {}).encode()).decode()
        url = f"/images/create?{urlencode({'fromImage': name})}"
        try:
            for said in self._api.follow("POST", url, headers={"X-Registry-Auth": encoded}):
                if "error" in said:
                    raise EngineError(
                        f"{name} cannot be pulled: {said['error']}", code="engine-pull"
                    )
        except Refused as error:
            raise EngineError(
                f"{name} cannot be pulled: {error.message}", code="engine-pull"
            ) from None

    def info(self) -> dict[str, Any]:
        """What the engine says of itself."""
        found: dict[str, Any] = self._api.ask("GET", "/info")
        return found

    @contextmanager
    def running(self, name: str, command: Sequence[str]) -> Iterator[AttachedPipe]:
        """The standard input and output of a program that runs in a container."""
        document = {
            "Cmd": [*command],
            "AttachStdin": True,
            "AttachStdout": True,
            "AttachStderr": True,
        }
        made = self._api.ask("POST", f"/containers/{quote(name)}/exec", document)
        with self._api.attached(f"/exec/{made['Id']}/start", {"Detach": False, "Tty": False}) as (
            connection,
            answer,
        ):
            yield AttachedPipe(connection, answer)

    def _find(self, path: str) -> Any:
        try:
            return self._api.ask("GET", path)
        except Refused as error:
            if error.status != _MISSING:
                raise
            return None

    def _remove(self, path: str) -> None:
        try:
            self._api.ask("DELETE", path)
        except Refused as error:
            if error.status != _MISSING:
                raise


class AttachedPipe:
    """A program in a container, as bytes: its input and its output; `said` is the last of what it
    wrote to its standard error.
    """

    def __init__(self, connection: socket.socket, answer: BinaryIO) -> None:
        self._socket, self._frames = connection, _frames(answer)
        self._rest = b""
        self.said = b""

    def read(self, size: int) -> bytes:
        while not self._rest:
            frame = next(self._frames, None)
            if frame is None:
                return b""
            stream, data = frame
            if stream == _STDERR:
                self.said = (self.said + data)[-_LONGEST:]
            else:
                self._rest = data
        data, self._rest = self._rest[:size], self._rest[size:]
        return data

    def write(self, data: bytes) -> None:
        self._socket.sendall(data)

    def close(self) -> None:
        with suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)


def _frames(answer: BinaryIO) -> Iterator[tuple[int, bytes]]:
    """The frames of an attached program, each with its stream (Engine API, "Stream format")."""
    while len(header := answer.read(_HEADER)) == _HEADER:
        yield header[0], answer.read(int.from_bytes(header[4:]))
