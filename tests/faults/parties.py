"""What tests with a made-up registry need: a client that knows a secret, and who heard it."""

from __future__ import annotations

from serving import Asked, Served, Told

from shipline.oci import Reference
from shipline.registry import Client, Credentials, HostSettings, StaticKeychain

SECRET = "correct horse"


def secrets_at(served: Served) -> list[str]:
    return [one.headers["authorization"] for one in served.asked if "authorization" in one.headers]


def client_for(served: Served, *, strict: bool = False) -> Client:
    keychain = StaticKeychain({served.host: Credentials("alice", SECRET)})
    return Client(HostSettings(strict=strict), keychain, tries=2)


def name(served: Served) -> Reference:
    return Reference.parse(f"{served.host}/team/app")


def basic(asked: Asked) -> Told | None:
    """401 for who does not say who they are."""
    asked.all()
    if "authorization" not in asked.headers:
        return 401, {"WWW-Authenticate": 'Basic realm="x"'}, b""
    return None
