"""SSH agents of `RUN --mount=type=ssh`: sockets that list keys and sign with them, and do no more.

Requests go to the agent of the user, or are answered with keys from files. As in BuildKit, a step
can neither add nor remove keys, lock the agent or use extensions. References:
draft-ietf-sshm-ssh-agent (messages), RFC 4251 (types), 5656, 8332 and 8709 (signatures).
"""

from __future__ import annotations

import base64
import os
import socket
import stat
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Protocol

from msgspec import Struct

from shipline.build.request import Ssh
from shipline.errors import Cancelled, FlagConflict, UsageError
from shipline.tasks import TaskGroup, on_cancel
from shipline.values import Redacted

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

    SshKey = ed25519.Ed25519PrivateKey | ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey

SSH_AUTH_SOCK = "SSH_AUTH_SOCK"

_FAILURE, _IDENTITIES, _SIGNATURE = 5, 12, 14  # answers
_LIST, _SIGN = 11, 13  # requests
_RSA_SHA2_256, _RSA_SHA2_512 = 2, 4  # flags of a request to sign
_LONGEST = 256 << 10  # bytes of a message, as in OpenSSH
_LONGEST_FILE = 100 << 10  # bytes of a key, as in BuildKit
_AT_ONCE = 16  # connections; further ones wait

Answer = Callable[[bytes], bytes]
"""From the body of a request to that of its answer. Raises OSError if there is none."""


class Agent(Protocol):
    def connected(self) -> AbstractContextManager[Answer]:
        """What answers the requests of one connection; only those that list keys or sign."""


def agents_of(wanted: Sequence[Ssh], environment: Mapping[str, str]) -> dict[str, Agent]:
    """The agents of --ssh by id. Raises UsageError for what is neither a socket nor a key."""
    found: dict[str, Agent] = {}
    for one in wanted:
        if one.id in found:
            raise FlagConflict(f"--ssh: the id {one.id} is given twice")
        found[one.id] = _agent_of(one, environment)
    return found


def _agent_of(ssh: Ssh, environment: Mapping[str, str]) -> Agent:
    default = environment.get(SSH_AUTH_SOCK, "")
    paths = ssh.paths or ((Path(default),) if default else ())
    if not paths:
        raise UsageError(
            f"--ssh {ssh.id}: there is no agent: {SSH_AUTH_SOCK} is not set",
            code="ssh-agent",
            hint=f"start one (eval $(ssh-agent); ssh-add), or name a key: --ssh {ssh.id}=PATH",
        )
    try:
        sockets = [path for path in paths if stat.S_ISSOCK(path.stat().st_mode)]
        if sockets and len(paths) > 1:
            raise FlagConflict(f"--ssh {ssh.id}: pass either one socket or keys")
        if sockets:
            return ForwardedAgent(sockets[0])
        return KeyAgent(tuple(_read_key(ssh.id, path) for path in paths))
    except OSError as error:
        raise UsageError(
            f"--ssh {ssh.id}: cannot read {error.filename}: {error.strerror}",
            code="ssh-key",
            hint="name the socket of an agent, or a private key",
        ) from None


class ForwardedAgent(Struct, frozen=True):
    """The agent that listens on a socket of this machine."""

    path: Path

    @contextmanager
    def connected(self) -> Iterator[Answer]:
        with socket.socket(socket.AF_UNIX) as agent, on_cancel(lambda: _shut(agent)):
            agent.connect(os.fspath(self.path))

            def forward(request: bytes) -> bytes:
                _send(agent, request)
                return _receive(agent)

            yield forward


class Key(Redacted, frozen=True):
    """A key: its public part as SSH encodes it, and a function from data and the flags of a request
    to a signature.
    """

    hidden: ClassVar = frozenset({"sign"})

    public: bytes
    sign: Callable[[bytes, int], bytes]


class KeyAgent(Struct, frozen=True):
    """An agent with keys from files."""

    keys: tuple[Key, ...]

    def connected(self) -> AbstractContextManager[Answer]:
        return nullcontext(self.answer)

    def answer(self, request: bytes) -> bytes:
        if request[0] == _LIST:
            entries = b"".join(_text(key.public) + _text(b"") for key in self.keys)
            return bytes([_IDENTITIES]) + _number(len(self.keys)) + entries
        public, rest = _split_text(request[1:])
        data, rest = _split_text(rest)
        flags = int.from_bytes(rest[:4], "big")
        for key in self.keys:
            if key.public == public:
                return bytes([_SIGNATURE]) + _text(key.sign(data, flags))
        return bytes([_FAILURE])


def guarded(answer: Answer) -> Answer:
    """Refuses what neither lists keys nor signs."""
    return lambda request: answer(request) if request[0] in (_LIST, _SIGN) else bytes([_FAILURE])


@contextmanager
def served(agent: Agent, place: Path, *, uid: int, gid: int, mode: int) -> Iterator[Path]:
    """The path of a socket, in the new directory `place`, where `agent` answers until the block
    ends. Owner and mode are those of the socket; others cannot get to it through the directory.
    """
    place.mkdir(mode=0o700)
    path, group = place / "agent.sock", TaskGroup()  # not entered: it must not stop the step
    try:
        with socket.socket(socket.AF_UNIX) as listener:
            _bind(listener, path)
            os.chown(path, uid, gid)
            os.chmod(path, mode)
            listener.listen(_AT_ONCE)
            serving = group.start(_accept, listener, agent, group)
            try:
                yield path
            finally:
                group.scope.cancel()
                group.join()
            serving.result()
    finally:
        path.unlink(missing_ok=True)
        place.rmdir()


def _bind(listener: socket.socket, path: Path) -> None:
    """Bind by a descriptor: the kernel takes 107 bytes of a path."""
    directory = os.open(path.parent, os.O_PATH | os.O_CLOEXEC)
    try:
        listener.bind(f"/proc/self/fd/{directory}/{path.name}")
    finally:
        os.close(directory)


def _accept(listener: socket.socket, agent: Agent, group: TaskGroup) -> None:
    """Start a thread for each connection, until the scope of `group` is cancelled."""
    slots = threading.Semaphore(_AT_ONCE)

    def converse(connection: socket.socket) -> None:
        try:
            _converse(connection, agent)
        finally:
            slots.release()

    with suppress(Cancelled, OSError), on_cancel(lambda: _shut(listener)):
        while True:
            slots.acquire()
            connection, _ = listener.accept()
            group.start(converse, connection)


def _converse(connection: socket.socket, agent: Agent) -> None:
    with (
        suppress(Cancelled, OSError, ValueError),  # a client that breaks the protocol is hung up on
        connection,
        on_cancel(lambda: _shut(connection)),
        agent.connected() as answer,
    ):
        while True:
            _send(connection, guarded(answer)(_receive(connection)))


def _shut(connection: socket.socket) -> None:
    with suppress(OSError):
        connection.shutdown(socket.SHUT_RDWR)


def _send(connection: socket.socket, message: bytes) -> None:
    connection.sendall(_text(message))


def _receive(connection: socket.socket) -> bytes:
    """The body of the next message, never empty. Raises OSError at the end of the connection."""
    length = int.from_bytes(_exactly(connection, 4), "big")
    if not 0 < length <= _LONGEST:
        raise ConnectionError("the length of a message is not within the limits")
    return _exactly(connection, length)


def _exactly(connection: socket.socket, count: int) -> bytes:
    found = bytearray()
    while len(found) < count:
        piece = connection.recv(count - len(found))
        if not piece:
            raise ConnectionError("the connection has ended")
        found += piece
    return bytes(found)


def _number(value: int) -> bytes:
    return value.to_bytes(4, "big")


def _text(value: bytes) -> bytes:
    return _number(len(value)) + value


def _integer(value: int) -> bytes:
    """An mpint of RFC 4251: positive, with room for the sign."""
    return _text(value.to_bytes(value.bit_length() // 8 + 1, "big"))


def _split_text(data: bytes) -> tuple[bytes, bytes]:
    """A string and what follows it. Raises ValueError if it is cut off."""
    length = int.from_bytes(data[:4], "big")
    if len(data) < 4 + length:
        raise ValueError("a message ends too early")
    return data[4 : 4 + length], data[4 + length :]


def _read_key(name: str, path: Path) -> Key:
    from cryptography.exceptions import UnsupportedAlgorithm  # slow to import
    from cryptography.hazmat.primitives.serialization import (
        load_pem_private_key,
        load_ssh_private_key,
    )

    with path.open("rb") as file:
        content = file.read(_LONGEST_FILE)
    load = load_ssh_private_key if b"BEGIN OPENSSH" in content[:100] else load_pem_private_key
    try:
        return _key(load(content, None))
    except TypeError:
        raise UsageError(
            f"--ssh {name}: {path}: this private key is passphrase protected",
            code="ssh-key",
            hint=f"add it to an agent: ssh-add {path}, and pass --ssh {name}",
        ) from None
    except (ValueError, UnsupportedAlgorithm):
        raise UsageError(
            f"--ssh {name}: {path} is not a usable private key",
            code="ssh-key",
            hint="name an Ed25519, ECDSA or RSA private key, or the socket of an agent",
        ) from None


def _key(private: object) -> Key:
    """The key of the library's object. Raises ValueError for a kind that SSH clients do not use."""
    from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

    match private:
        case ed25519.Ed25519PrivateKey():
            edwards = private
            return _named(edwards, lambda data, _: ("ssh-ed25519", edwards.sign(data)))
        case ec.EllipticCurvePrivateKey() if private.curve.name in _CURVES:
            return _named(private, partial(_sign_by_curve, private))
        case rsa.RSAPrivateKey():
            return _named(private, partial(_sign_by_modulus, private))
    raise ValueError("not a kind of key for SSH")


def _named(private: SshKey, sign: Callable[[bytes, int], tuple[str, bytes]]) -> Key:
    from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

    def signature(data: bytes, flags: int) -> bytes:
        name, signed = sign(data, flags)
        return _text(name.encode()) + _text(signed)

    line = private.public_key().public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH)
    return Key(base64.b64decode(line.split()[1]), signature)


_CURVES = {"secp256r1": "nistp256", "secp384r1": "nistp384", "secp521r1": "nistp521"}


def _sign_by_curve(
    private: ec.EllipticCurvePrivateKey, data: bytes, flags: int
) -> tuple[str, bytes]:
    from cryptography.hazmat.primitives.asymmetric.ec import ECDSA
    from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
    from cryptography.hazmat.primitives.hashes import SHA256, SHA384, SHA512

    digest = {256: SHA256(), 384: SHA384(), 521: SHA512()}[private.key_size]
    numbers = decode_dss_signature(private.sign(data, ECDSA(digest)))
    return f"ecdsa-sha2-{_CURVES[private.curve.name]}", b"".join(map(_integer, numbers))


def _sign_by_modulus(private: rsa.RSAPrivateKey, data: bytes, flags: int) -> tuple[str, bytes]:
    from cryptography.hazmat.primitives.asymmetric.padding import PKCS1v15
    from cryptography.hazmat.primitives.hashes import SHA1, SHA256, SHA512

    if flags & _RSA_SHA2_512:
        return "rsa-sha2-512", private.sign(data, PKCS1v15(), SHA512())
    if flags & _RSA_SHA2_256:
        return "rsa-sha2-256", private.sign(data, PKCS1v15(), SHA256())
    return "ssh-rsa", private.sign(data, PKCS1v15(), SHA1())  # what the oldest servers know
