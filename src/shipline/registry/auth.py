"""Challenges and tokens: the conversation with a token server, without I/O.

RFC 9110 section 11.6.1 for challenges; distribution: auth/token (GET) and auth/oauth (POST).
"""

from __future__ import annotations

import json
import re
from collections.abc import Generator, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Self
from urllib.parse import urlencode

from shipline.errors import AuthError
from shipline.registry.credentials import Credentials
from shipline.registry.failures import Reply, failure
from shipline.registry.origin import Url
from shipline.registry.request import Request
from shipline.registry.scopes import Scope, Scopes

CLIENT_ID = "shipline"
TOKEN_LIMIT = 64 << 10  # bytes of a token server's answer
_SHORTEST, _USUAL, _LONGEST = 1.0, 60.0, 3600.0  # seconds that a token is believed to hold
_CHALLENGE = re.compile(r"\s*,*\s*([!#$%&'*+.^_`|~0-9A-Za-z-]+)(?:\s+|(?=,|\Z))")
_PARAMETER = re.compile(
    r"\s*,?\s*([!#$%&'*+.^_`|~0-9A-Za-z-]+)\s*=\s*(?:\"((?:[^\"\\]|\\.)*)\"|([^\s,\"]+))"
)
_MOST = 16 << 10  # bytes of a header


@dataclass(frozen=True, slots=True)
class Challenge:
    """What a 401 asks for; `scheme` is lower case."""

    scheme: str
    parameters: Mapping[str, str]

    @property
    def realm(self) -> str:
        return self.parameters.get("realm", "")

    @property
    def service(self) -> str:
        return self.parameters.get("service", "")

    @property
    def scopes(self) -> Scopes:
        return Scope.parse_all(self.parameters.get("scope", ""))


def parse_challenges(header: str) -> tuple[Challenge, ...]:
    """All challenges of WWW-Authenticate; what cannot be read ends the list."""
    return tuple(_challenges(header[:_MOST]))


def _challenges(text: str) -> Iterator[Challenge]:
    position = 0
    while found := _CHALLENGE.match(text, position):
        position = found.end()
        parameters: dict[str, str] = {}
        while parameter := _PARAMETER.match(text, position):
            name, quoted, plain = parameter.groups()
            value = re.sub(r"\\(.)", r"\1", quoted) if quoted is not None else plain
            parameters.setdefault(name.lower(), value)
            position = parameter.end()
        yield Challenge(found[1].lower(), parameters)


@dataclass(frozen=True, slots=True)
class Token:
    """A bearer token for `scopes`; `lifetime_s` counts from its receipt."""

    value: str = field(repr=False)
    scopes: Scopes
    lifetime_s: float

    @classmethod
    def read(cls, content: bytes, scopes: Scopes, host: str) -> Self:
        """Raises AuthError unless the answer holds a token."""
        try:
            document = json.loads(content)
        except (ValueError, RecursionError):
            document = None
        if not isinstance(document, dict):
            raise AuthError(f"{host}: the token server's answer is no JSON object", host=host)
        value = document.get("token") or document.get("access_token")
        if not isinstance(value, str) or not re.fullmatch(r"[\x21-\x7e]+", value):
            raise AuthError(f"{host}: the token server's answer holds no token", host=host)
        return cls(value, scopes, _lifetime(document))


def token_dance(
    realm: Url, service: str, scopes: Scopes, credentials: Credentials | None
) -> Generator[Request, Reply, Token]:
    """Ask for a token: GET with Basic or without; POST first where there is an identity token.

    A server without POST says 404 or 405, and is then asked with GET. Raises AuthError.
    """
    if credentials and credentials.identity_token:
        reply = yield _post(realm, service, scopes, credentials)
        if reply.status not in (404, 405):
            return _read(reply, scopes)
        reply.close()
    reply = yield _get(realm, service, scopes, credentials)
    return _read(reply, scopes)


def _get(realm: Url, service: str, scopes: Scopes, credentials: Credentials | None) -> Request:
    parameters = [("service", service)] if service else []
    parameters += [("scope", str(scope)) for scope in scopes]
    parameters.append(("client_id", CLIENT_ID))
    if credentials and credentials.username:
        parameters.append(("account", credentials.username))
    headers = {"Authorization": credentials.basic} if credentials else {}
    return Request("GET", realm.adding(*parameters), headers)


def _post(realm: Url, service: str, scopes: Scopes, credentials: Credentials) -> Request:
    form = {
        "grant_type": "refresh_token",
        "service": service,
        "client_id": CLIENT_ID,
        "scope": " ".join(map(str, scopes)),
        "refresh_token": credentials.identity_token,
    }
    headers = {"Content-Type": "application/x-www-form-urlencoded"}
    return Request("POST", realm, headers, urlencode(form).encode())


def _read(reply: Reply, scopes: Scopes) -> Token:
    host = reply.url.origin.authority
    if reply.status != 200:
        refused = failure(reply, "asking for a token")
        if not 400 <= reply.status < 500 or reply.status in (408, 425, 429):
            raise refused
        raise AuthError(
            refused.message,
            host=host,
            status=reply.status,
            hint=f"the token server at {host} does not accept these credentials: log in again",
        )
    try:
        return Token.read(reply.content(TOKEN_LIMIT), scopes, host)
    finally:
        reply.close()


def _lifetime(document: Mapping[str, Any]) -> float:
    found = document.get("expires_in", _USUAL)
    try:
        seconds = float(found)
    except (TypeError, ValueError, OverflowError):
        return _USUAL
    if seconds != seconds or seconds <= 0:
        return _USUAL
    return min(max(seconds, _SHORTEST), _LONGEST)
