"""Credentials, whose secrets are kept out of repr, and keychains that supply them."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol

HUB_KEY = "https://index.docker.io/v1/"
_HUB = {"docker.io", "registry-1.docker.io", "index.docker.io"}


@dataclass(frozen=True, slots=True)
class Credentials:
    """Username and password, an identity token (OAuth2 refresh token), or a bearer token."""

    username: str = ""
    password: str = field(default="", repr=False)
    identity_token: str = field(default="", repr=False)
    registry_token: str = field(default="", repr=False)

    @property
    def basic(self) -> str:
        """The value of an Authorization header (RFC 7617), in UTF-8."""
        secret = self.password or self.identity_token
        return "Basic " + base64.b64encode(f"{self.username}:{secret}".encode()).decode()


class Keychain(Protocol):
    def credentials(self, host: str, repository: str) -> Credentials | None:
        """The credentials for `repository` at `host`; None for anonymous. Raises AuthError."""


class NoKeychain:
    """Anonymous everywhere."""

    def credentials(self, host: str, repository: str) -> Credentials | None:
        return None


class StaticKeychain:
    """Fixed credentials per host."""

    def __init__(self, known: Mapping[str, Credentials]) -> None:
        self._known = {normal_host(host): credentials for host, credentials in known.items()}

    def credentials(self, host: str, repository: str) -> Credentials | None:
        return self._known.get(normal_host(host))


def normal_host(key: str) -> str:
    """The host named by a key of a configuration file; Docker Hub's names are one.

    Hosts are compared whole: `registry.example.com.evil` is another host.
    """
    host = key.strip().lower().partition("://")[2] or key.strip().lower()
    host = host.partition("/")[0]
    return "docker.io" if host in _HUB else host
