"""What a build asks of the machine that started it: files, secrets, SSH agents, logins, and where
its results go. The daemon calls these services through a tunnel in its own connection.

Sources: moby/buildkit, session/: grpc.go, filesync, auth, secrets, sshforward, upload.
"""

from __future__ import annotations

import posixpath
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

from msgspec import Struct, field

from shipline.buildkit.content import content_handlers
from shipline.buildkit.filesync import send_directories
from shipline.buildkit.messages import (
    CheckAgentRequest,
    CredentialsRequest,
    CredentialsResponse,
    Data,
    Empty,
    GetSecretRequest,
)
from shipline.content import OciLayout, chunks
from shipline.grpc.connection import (
    Code,
    Connection,
    Handler,
    Metadata,
    RpcCall,
    RpcError,
    connected,
)
from shipline.grpc.protobuf import decode, encode

_PIECE = 256 << 10  # bytes in one message
_LONGEST_AGENT_MESSAGE = 256 << 10  # bytes, as in OpenSSH

Login = Callable[[str], tuple[str, str] | None]
"""From the host of a registry, with its port, to a user name and a password; an empty name makes
the password an identity token."""

AgentConnection = Callable[[], AbstractContextManager[Callable[[bytes], bytes]]]
"""Connects to an SSH agent, for a function from the body of a request to that of its answer."""

Sink = Callable[[Iterator[bytes], Metadata], None]
"""Takes in the file that an exporter makes, in pieces."""


def no_login(host: str) -> tuple[str, str] | None:
    return None


def no_secret(name: str) -> bytes | None:
    return None


class Services(Struct, frozen=True):
    """What a build may ask for: directories and uploads by name, content stores, secrets and agents
    by id, and for each of its exporters that makes a file, by position, where that goes.
    """

    directories: Mapping[str, Path] = field(default_factory=dict)
    uploads: Mapping[str, Path] = field(default_factory=dict)
    stores: Mapping[str, OciLayout] = field(default_factory=dict)
    secret: Callable[[str], bytes | None] = no_secret
    login: Login = no_login
    agents: Mapping[str, AgentConnection] = field(default_factory=dict)
    sinks: Mapping[int, Sink] = field(default_factory=dict)

    def handlers(self) -> dict[str, Handler]:
        """The methods that a daemon may call, by path."""
        return {
            "/grpc.health.v1.Health/Check": lambda stream: stream.send(b"\x08\x01"),  # serving
            "/moby.filesync.v1.FileSync/DiffCopy": send_directories(self.directories),
            "/moby.filesync.v1.FileSend/DiffCopy": self._take_file,
            "/moby.filesync.v1.Auth/Credentials": self._answer_login,
            "/moby.buildkit.secrets.v1.Secrets/GetSecret": self._answer_secret,
            "/moby.sshforward.v1.SSH/CheckAgent": self._check_agent,
            "/moby.sshforward.v1.SSH/ForwardAgent": self._forward_agent,
            "/moby.upload.v1.Upload/Pull": self._upload,
            **content_handlers(self.stores),
        }

    def _answer_login(self, stream: RpcCall) -> None:
        name, secret = self.login(stream.request(CredentialsRequest).host) or ("", "")
        stream.send(encode(CredentialsResponse(name, secret)))

    def _answer_secret(self, stream: RpcCall) -> None:
        name = stream.request(GetSecretRequest).id
        value = self.secret(name)
        if value is None:
            raise RpcError(Code.NOT_FOUND, f"secret {name}: not found")
        stream.send(encode(Data(value)))

    def _check_agent(self, stream: RpcCall) -> None:
        self._agent(stream.request(CheckAgentRequest).id)
        stream.send(encode(Empty()))

    def _forward_agent(self, stream: RpcCall) -> None:
        connect = self._agent(next(iter(stream.metadata.get("buildkit.ssh.id", ())), ""))
        buffer = bytearray()
        with connect() as answer:
            for message in stream:
                buffer += decode(Data, message).data
                for request in _agent_requests(buffer):
                    reply = answer(request)
                    stream.send(encode(Data(len(reply).to_bytes(4) + reply)))

    def _upload(self, stream: RpcCall) -> None:
        name = posixpath.basename(next(iter(stream.metadata.get("urlpath", ())), ""))
        if (path := self.uploads.get(name)) is None:
            raise RpcError(Code.NOT_FOUND, f"there is nothing to upload as {name!r}")
        with path.open("rb") as file:
            for piece in chunks(file, _PIECE):
                stream.send(encode(Data(piece)))

    def _agent(self, name: str) -> AgentConnection:
        agent = self.agents.get(name or "default")
        if agent is None:
            raise RpcError(Code.NOT_FOUND, f"unset ssh forward key {name or 'default'}")
        return agent

    def _take_file(self, stream: RpcCall) -> None:
        number = next(iter(stream.metadata.get("buildkit-attachable-exporter-id", ())), "0")
        sink = self.sinks.get(int(number) if number.isdecimal() else -1)
        if sink is None:
            raise RpcError(Code.NOT_FOUND, f"exporter {number} makes no file here")
        sink((decode(Data, message).data for message in stream), stream.metadata)


@contextmanager
def open_session(
    connection: Connection, services: Services, *, shared_key: str = ""
) -> Iterator[str]:
    """The id of a session in which `services` can be called, inside the block. The daemon keeps the
    files that it has received for the next session with the same `shared_key`.
    """
    session = uuid.uuid4().hex
    handlers = services.handlers()
    metadata = {
        "x-docker-expose-session-uuid": [session],
        "x-docker-expose-session-name": ["shipline"],
        "x-docker-expose-session-sharedkey": [shared_key],
        "x-docker-expose-session-grpc-method": list(handlers),
    }
    tunnel = connection.call("/moby.buildkit.v1.Control/Session", metadata)
    with connected(Tunnel(tunnel), handlers):
        yield session


class Tunnel:
    """The bytes of a connection as messages of a call."""

    def __init__(self, stream: RpcCall) -> None:
        self._stream = stream
        self._rest = b""

    def read(self, size: int) -> bytes:
        try:
            while not self._rest:
                message = self._stream.receive()
                if message is None:
                    return b""
                self._rest = decode(Data, message).data
        except RpcError as error:
            raise ConnectionError(error.message) from None
        data, self._rest = self._rest[:size], self._rest[size:]
        return data

    def write(self, data: bytes) -> None:
        pieces = (data[start : start + _PIECE] for start in range(0, len(data), _PIECE))
        try:
            for piece in pieces:
                self._stream.send(encode(Data(piece)))
        except RpcError as error:
            raise ConnectionError(error.message) from None

    def close(self) -> None:
        self._stream.cancel()


def _agent_requests(buffer: bytearray) -> Iterator[bytes]:
    """Take the complete requests out of `buffer` (draft-ietf-sshm-ssh-agent, section 3)."""
    while len(buffer) >= 4:
        size = int.from_bytes(buffer[:4])
        if not 0 < size <= _LONGEST_AGENT_MESSAGE:
            raise RpcError(Code.UNKNOWN, "this is not a request to an SSH agent")
        if len(buffer) < 4 + size:
            return
        yield bytes(buffer[4 : 4 + size])
        del buffer[: 4 + size]
