"""What a daemon asks of the client of a build, over the session that the client has opened.

The counterpart of `buildkit.session`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import quote, urlsplit

from shipline.build.request import Secret
from shipline.build.ssh import Agent, Answer
from shipline.buildkit.messages import (
    CheckAgentRequest,
    CredentialsRequest,
    CredentialsResponse,
    Data,
    Empty,
    GetSecretRequest,
)
from shipline.buildkit.receiving import receive_directory
from shipline.errors import AuthError
from shipline.grpc.connection import Code, Connection, RpcCall, RpcError
from shipline.grpc.protobuf import decode, encode
from shipline.registry import Credentials
from shipline.tasks import time_limit

_HEALTH_S = 30.0
_PIECE = 256 << 10  # bytes of a file in one message
_LONGEST = 256 << 10  # bytes of an answer of an agent


class ClientSession:
    """The client of a build. Calls raise RpcError."""

    def __init__(self, connection: Connection, shared_key: str) -> None:
        self._connection = connection
        self.shared_key = shared_key

    def check_health(self) -> None:
        """Raises RpcError, TimeoutError if the client is gone."""
        with time_limit(_HEALTH_S):
            self._connection.ask("/grpc.health.v1.Health/Check", Empty(), Empty)

    def receive(
        self, name: str, root: Path, *, only: Sequence[str] = (), without: Sequence[str] = ()
    ) -> None:
        """Make `root` what the client's directory `name` is: `only` some paths of it, or `without`
        what patterns of an ignore file choose.
        """
        selection = {
            name: values
            for key, patterns in (("followpaths", only), ("exclude-patterns", without))
            for name, values in ((key, [quote(one) for one in patterns]), (f"{key}-encoded", ["1"]))
            if patterns
        }
        receive_directory(self._connection, name, root, selection)

    def credentials(self, host: str, repository: str) -> Credentials | None:
        """A Keychain: the client's."""
        try:
            found = self._connection.ask(
                "/moby.filesync.v1.Auth/Credentials", CredentialsRequest(host), CredentialsResponse
            )
        except RpcError as error:
            raise AuthError(
                f"the login for {host} cannot be read: {error.message}",
                code="login-missing",
                host=host,
            ) from None
        if not found.secret:
            return None
        if not found.username:
            return Credentials(identity_token=found.secret)
        return Credentials(found.username, found.secret)

    def secret(self, name: str) -> bytes | None:
        """The value of a secret, None if the client has none of that name."""
        path = "/moby.buildkit.secrets.v1.Secrets/GetSecret"
        try:
            return self._connection.ask(path, GetSecretRequest(name), Data).data
        except RpcError as error:
            if error.code == Code.NOT_FOUND:
                return None
            raise

    def has_agent(self, name: str) -> bool:
        path = "/moby.sshforward.v1.SSH/CheckAgent"
        try:
            self._connection.ask(path, CheckAgentRequest(name), Empty)
        except RpcError as error:
            if error.code in (Code.NOT_FOUND, Code.UNKNOWN):
                return False
            raise
        return True

    @contextmanager
    def agent(self, name: str) -> Iterator[Answer]:
        """A connection to an SSH agent of the client; see `build.ssh.Agent`."""
        stream = self._connection.call(
            "/moby.sshforward.v1.SSH/ForwardAgent", {"buildkit.ssh.id": [name]}
        )
        try:
            yield lambda request: _forwarded(stream, request)
            stream.end()
        finally:
            stream.cancel()

    def upload(self, url: str) -> Iterator[bytes]:
        """The bytes that the client has for a URL of its own."""
        parts = urlsplit(url)
        metadata = {"urlpath": [parts.path], "urlhost": [parts.netloc]}
        stream = self._connection.call("/moby.upload.v1.Upload/Pull", metadata)
        stream.end()
        for message in stream:
            yield decode(Data, message).data

    def send_file(self, number: int, path: Path) -> None:
        """Give the client the file that exporter `number` has made."""
        metadata = {"buildkit-attachable-exporter-id": [str(number)]}
        stream = self._connection.call("/moby.filesync.v1.FileSend/DiffCopy", metadata)
        with path.open("rb") as file:
            while data := file.read(_PIECE):
                stream.send(encode(Data(data)))
        stream.end()
        for _ in stream:
            pass


def _forwarded(stream: RpcCall, request: bytes) -> bytes:
    """The answer to a request, each with its length before it."""
    stream.send(encode(Data(len(request).to_bytes(4) + request)))
    answer = bytearray()
    while len(answer) < 4 or len(answer) < 4 + int.from_bytes(answer[:4]):
        message = stream.receive()
        if message is None or len(answer) > _LONGEST:
            raise ConnectionError("the agent of the client does not answer")
        answer += decode(Data, message).data
    return bytes(answer[4:])


class _HeldSecret(Secret, frozen=True):
    """A secret whose value is in memory."""

    held: bytes = b""

    def value(self, environment: Mapping[str, str]) -> bytes:
        return self.held

    def __repr__(self) -> str:
        return f"_HeldSecret({self.id!r})"


class SessionSecrets(Mapping[str, Secret]):
    """The secrets of a client: each is asked for when a step mounts it."""

    def __init__(self, session: ClientSession) -> None:
        self._session = session

    def __getitem__(self, name: str) -> Secret:
        value = self._session.secret(name)
        if value is None:
            raise KeyError(name)
        return _HeldSecret(name, held=value)

    def __iter__(self) -> Iterator[str]:
        return iter(())

    def __len__(self) -> int:
        return 0


class _SessionAgent:
    def __init__(self, session: ClientSession, name: str) -> None:
        self.connected = lambda: session.agent(name)


class SessionAgents(Mapping[str, Agent]):
    """The SSH agents of a client: each is asked for when a step mounts it."""

    def __init__(self, session: ClientSession) -> None:
        self._session = session

    def __getitem__(self, name: str) -> Agent:
        if not self._session.has_agent(name):
            raise KeyError(name)
        return _SessionAgent(self._session, name)

    def __iter__(self) -> Iterator[str]:
        return iter(())

    def __len__(self) -> int:
        return 0
