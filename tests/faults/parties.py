"""For tests with a fake registry: a client with a secret, and which servers received it."""

from __future__ import annotations

from serving import ReceivedRequest, Reply, Served
from shipline.oci import Reference
from shipline.registry import Client, Credentials, HostSettings, StaticKeychain

SECRET = "correct horse"


def secrets_at(served: Served) -> list[str]:
    return [
        one.headers["authorization"] for one in served.requests if "authorization" in one.headers
    ]


def client_for(served: Served, *, strict: bool = False) -> Client:
    keychain = StaticKeychain({served.host: Credentials("alice", SECRET)})
    return Client(HostSettings(strict=strict), keychain, tries=2)


def name(served: Served) -> Reference:
    return Reference.parse(f"{served.host}/team/app")


def basic(request: ReceivedRequest) -> Reply | None:
    """401 without credentials."""
    request.all()
    if "authorization" not in request.headers:
        return 401, {"WWW-Authenticate": 'Basic realm="x"'}, b""
    return None
