"""Real registries for tests: Debian's docker-registry, with whatever it needs around it."""

from __future__ import annotations

import base64
import datetime
import ipaddress
import json
import shutil
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from cryptography.x509.oid import NameOID

from peers import free_port
from serving import ReceivedRequest, Reply, Served, serving

REGISTRY = shutil.which("docker-registry")
BCRYPT_OF_SECRET = "$2b$04$FIkmliTXXCld4PQY/isFp.1PRiZ3INDISA0OoYA/QD9szlZijXqJO"
_LEEWAY_S = 60  # docker-registry takes a token this long after its end
ISSUER, SERVICE = "test-issuer", "test-service"


@contextmanager
def docker_registry(root: Path, **sections: dict[str, Any]) -> Iterator[int]:
    """A registry with its data under `root`; `sections` go into its configuration. Its port."""
    assert REGISTRY is not None
    root.mkdir(parents=True, exist_ok=True)
    port = free_port()
    config = {
        "version": 0.1,
        "log": {"level": "error"},
        "storage": {
            "filesystem": {"rootdirectory": str(root / "data")},
            "delete": {"enabled": True},
        },
        **sections,
        "http": {"addr": f"127.0.0.1:{port}", "secret": "test", **sections.get("http", {})},
    }
    place = root / "config.yml"
    place.write_text(json.dumps(config))
    with (root / "log").open("wb") as log:
        process = subprocess.Popen([REGISTRY, "serve", str(place)], stdout=log, stderr=log)
    try:
        wait_for(port)
        yield port
    finally:
        process.terminate()
        process.wait(60)


def wait_for(port: int, seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
            return
        except OSError:
            if time.monotonic() > end:
                raise
            time.sleep(0.02)


@dataclass(frozen=True)
class Identity:
    """A key and its self-signed certificate, in files too."""

    key: ec.EllipticCurvePrivateKey
    certificate: Path
    private: Path
    der: bytes


def make_identity(root: Path, name: str = "localhost") -> Identity:
    """Good for a server on 127.0.0.1 and for signing tokens."""
    root.mkdir(parents=True, exist_ok=True)
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    now = datetime.datetime.now(datetime.UTC)
    names = [
        x509.DNSName("localhost"),
        x509.DNSName("registry.localtest"),
        x509.IPAddress(ipaddress.ip_address("127.0.0.1")),
    ]
    certificate = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(hours=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    place, private = root / f"{name}.crt", root / f"{name}.key"
    place.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    private.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
    )
    return Identity(key, place, private, certificate.public_bytes(serialization.Encoding.DER))


@contextmanager
def token_server(
    identity: Identity,
    allowed: Callable[[str, str], bool] = lambda user, secret: True,
    lifetime_s: int = 300,
    post: bool = False,
    said_s: int = 300,
) -> Iterator[Served]:
    """Issues tokens for whatever is asked to who is `allowed`; with `post` also by OAuth2.

    A token is good for `lifetime_s` at docker-registry, and said to be good for `said_s`.
    """
    lock = threading.Lock()

    def respond(request: ReceivedRequest) -> Reply:
        body = request.all().decode()
        with lock:
            if request.method == "POST":
                if not post:
                    return 404, {}, b""
                form = {key: value[0] for key, value in parse_qs(body).items()}
                scopes, user, secret = form["scope"].split(), "<token>", form["refresh_token"]
            else:
                scopes = request.query.get("scope", [])
                user, secret = _basic(request.headers.get("authorization", ""))
            if not allowed(user, secret):
                return 401, {}, b'{"details":"incorrect username or password"}'
            token = make_token(identity, user, scopes, lifetime_s)
            return 200, {}, json.dumps({"token": token, "expires_in": said_s}).encode()

    with serving(respond) as served:
        yield served


def token_auth(served: Served, identity: Identity) -> dict[str, Any]:
    """The registry's configuration section that trusts the token server."""
    return {
        "token": {
            "realm": f"{served.url}/token",
            "service": SERVICE,
            "issuer": ISSUER,
            "rootcertbundle": str(identity.certificate),
        }
    }


def make_token(identity: Identity, user: str, scopes: list[str], lifetime_s: int) -> str:
    now = int(time.time())
    access = []
    for scope in scopes:
        kind, _, rest = scope.partition(":")
        name, _, actions = rest.rpartition(":")
        access.append({"type": kind, "name": name, "actions": actions.split(",")})
    header = {"typ": "JWT", "alg": "ES256", "x5c": [base64.b64encode(identity.der).decode()]}
    claims = {
        "iss": ISSUER,
        "sub": user,
        "aud": SERVICE,
        "exp": now + lifetime_s - _LEEWAY_S,
        "nbf": now - 600,
        "iat": now,
        "jti": str(now),
        "access": access,
    }
    signed = b".".join(_b64(json.dumps(part).encode()) for part in (header, claims))
    r, s = decode_dss_signature(identity.key.sign(signed, ec.ECDSA(hashes.SHA256())))
    return (signed + b"." + _b64(r.to_bytes(32, "big") + s.to_bytes(32, "big"))).decode()


def _b64(data: bytes) -> bytes:
    return base64.urlsafe_b64encode(data).rstrip(b"=")


def _basic(header: str) -> tuple[str, str]:
    if not header.startswith("Basic "):
        return "", ""
    user, _, secret = base64.b64decode(header[6:]).decode().partition(":")
    return user, secret
