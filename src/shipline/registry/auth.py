"""Challenges, scopes and tokens: the conversation with a token server, and the tokens it gave.

RFC 9110 section 11.6.1 for challenges; distribution: auth/token (GET) and auth/oauth (POST).
"""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Callable, Generator, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Self
from urllib.parse import urlencode

from shipline.errors import AuthError
from shipline.registry.credentials import Credentials, Keychain
from shipline.registry.failures import Reply, failure
from shipline.registry.hosts import Endpoint
from shipline.registry.origin import Url
from shipline.registry.request import Request
from shipline.tasks import Limiter

Scopes = tuple["Scope", ...]


@dataclass(frozen=True, slots=True, order=True)
class Scope:
    """`type:name:actions`, with the actions sorted."""

    type: str
    name: str
    actions: frozenset[str]

    @classmethod
    def repository(cls, name: str, *actions: str) -> Self:
        return cls("repository", name, frozenset(actions))

    @classmethod
    def parse_all(cls, text: str) -> tuple[Self, ...]:
        """Read a list separated by spaces, leaving out what is no scope.

        A name may contain a colon, so the first and the last one count.
        """
        found = []
        for piece in text.split():
            kind, colon, rest = piece.partition(":")
            name, second, actions = rest.rpartition(":")
            if colon and second and name:
                kind = kind.partition("(")[0]
                found.append(cls(kind, name, frozenset(filter(None, actions.split(",")))))
        return tuple(found)

    def __str__(self) -> str:
        order = sorted(self.actions, key=lambda action: (action == "push", action))
        return f"{self.type}:{self.name}:{','.join(order)}"


def covers(granted: Scopes, wanted: Scopes) -> bool:
    """Whether a token for `granted` can be used where `wanted` is needed."""
    have = {(scope.type, scope.name): scope.actions for scope in granted}
    return all(scope.actions <= have.get((scope.type, scope.name), frozenset()) for scope in wanted)


def union(first: Scopes, second: Scopes) -> Scopes:
    """One scope per resource, in the order in which resources are first named."""
    found: dict[tuple[str, str], frozenset[str]] = {}
    for scope in (*first, *second):
        key = (scope.type, scope.name)
        found[key] = found.get(key, frozenset()) | scope.actions
    return tuple(Scope(kind, name, actions) for (kind, name), actions in found.items())


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


_MARGIN_S = 10.0  # a token is given up this long before its end
Ask = Callable[[Url, Generator[Request, Reply, Token]], Token]
"""Holds a conversation with the token server at a URL, if that is to be trusted."""


@dataclass(frozen=True, slots=True)
class _Held:
    token: Token
    until: float


class Authority:
    """The memory of one endpoint. Nothing in it is ever sent to another origin."""

    def __init__(self, endpoint: Endpoint, keychain: Keychain, clock: Callable[[], float]) -> None:
        self.endpoint = endpoint
        self._keychain = keychain
        self._clock = clock
        self._lock = threading.Lock()
        self._challenge: Challenge | None = None
        self._held: list[_Held] = []
        self._more: dict[Scopes, Scopes] = {}
        self._turns: dict[Scopes, Limiter] = {}

    @property
    def knows(self) -> bool:
        """Whether the registry has said what it wants."""
        return self._challenge is not None

    def authorization(self, repository: str, scopes: Scopes, ask: Ask) -> str:
        """The header's value for a request, empty where none is needed yet. Raises AuthError."""
        challenge = self._challenge
        if challenge is None:
            return ""
        credentials = self._keychain.credentials(self.endpoint.host, repository)
        if credentials and credentials.registry_token:
            return f"Bearer {credentials.registry_token}"
        if challenge.scheme == "basic":
            return self._basic(credentials)
        with self._lock:
            scopes = self._more.get(scopes, scopes)
            turn = self._turns.setdefault(scopes, Limiter(1))
        with turn:  # one asks, the others find what it got
            token = self._valid(scopes)
            if token is None:
                realm = Url(self.endpoint.origin, "/v2/").join(challenge.realm)
                token = ask(realm, token_dance(realm, challenge.service, scopes, credentials))
                self._keep(token)
        return f"Bearer {token.value}"

    def learn(self, header: str, scopes: Scopes, tried: str) -> bool:
        """Take in the challenge of a 401 to a request that said `tried`.

        Tells whether the request may fare better if it is made again.
        """
        challenge = _choose(parse_challenges(header))
        if challenge is None:
            return False
        with self._lock:
            first = self._challenge is None or self._challenge.scheme != challenge.scheme
            self._challenge = challenge
            before = self._more.get(scopes, scopes)
            wanted = union(before, _within(challenge.scopes, scopes))
            if not covers(before, wanted):
                self._more[scopes] = wanted
            value = tried.removeprefix("Bearer ")
            kept = [held for held in self._held if held.token.value != value]
            forgot = len(kept) != len(self._held)
            self._held = kept
        return first or not tried or forgot or not covers(before, wanted)

    def _basic(self, credentials: Credentials | None) -> str:
        if credentials is None or not (credentials.username or credentials.password):
            host = self.endpoint.host
            raise AuthError(
                f"{host} asks for a user and a password, and none are known",
                host=host,
                status=401,
                hint=f"log in with `shipline login {host}`",
            )
        return credentials.basic

    def _valid(self, scopes: Scopes) -> Token | None:
        now = self._clock()
        with self._lock:
            self._held = [held for held in self._held if held.until > now]
            return next((h.token for h in self._held if covers(h.token.scopes, scopes)), None)

    def _keep(self, token: Token) -> None:
        until = self._clock() + token.lifetime_s - min(_MARGIN_S, token.lifetime_s / 4)
        with self._lock:
            self._held.append(_Held(token, until))


def _choose(challenges: tuple[Challenge, ...]) -> Challenge | None:
    """Bearer before Basic: it gives the registry less."""
    for scheme in ("bearer", "basic"):
        for challenge in challenges:
            if challenge.scheme == scheme and (scheme == "basic" or challenge.realm):
                return challenge
    return None


def _within(asked: Scopes, ours: Scopes) -> Scopes:
    """What a registry asks for, as far as it is about the resources of this request."""
    about = {(scope.type, scope.name) for scope in ours}
    return tuple(scope for scope in asked if (scope.type, scope.name) in about)
