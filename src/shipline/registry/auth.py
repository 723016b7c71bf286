"""Token authentication: challenges, scopes, the request for a token, and a cache of tokens.

RFC 9110 section 11.6.1 for challenges; distribution: auth/token (GET) and auth/oauth (POST).
"""

from __future__ import annotations

import json
import re
import threading
import time
from collections.abc import Callable, Generator, Iterator, Mapping
from typing import TYPE_CHECKING, Any, ClassVar, Self
from urllib.parse import urlencode

from msgspec import Struct

from shipline.errors import AuthError, RegistryError
from shipline.registry.ambient import login_hint
from shipline.registry.credentials import Credentials, Keychain
from shipline.registry.errors import HttpResponse, response_error
from shipline.registry.hosts import Endpoint
from shipline.registry.request import ClientRequest, Url
from shipline.tasks import Limiter
from shipline.values import Redacted

if TYPE_CHECKING:
    from shipline.registry.shared import SealedCache, SharedCache

Scopes = tuple["Scope", ...]


class Scope(Struct, frozen=True, order=True):
    """`type:name:actions`, with the actions sorted."""

    type: str
    name: str
    actions: frozenset[str]

    @classmethod
    def repository(cls, name: str, *actions: str) -> Self:
        """The scope of these actions on a repository."""
        return cls("repository", name, frozenset(actions))

    @classmethod
    def parse_all(cls, text: str) -> tuple[Self, ...]:
        """Read a space-separated list, skipping invalid entries.

        A name may contain colons: only the first and the last one separate.
        """
        scopes = []
        for piece in text.split():
            kind, colon, rest = piece.partition(":")
            name, second, actions = rest.rpartition(":")
            if colon and second and name:
                kind = kind.partition("(")[0]
                scopes.append(cls(kind, name, frozenset(filter(None, actions.split(",")))))
        return tuple(scopes)

    def __str__(self) -> str:
        order = sorted(self.actions, key=lambda action: (action == "push", action))
        return f"{self.type}:{self.name}:{','.join(order)}"


def covers(granted: Scopes, requested: Scopes) -> bool:
    """Whether a token for `granted` can be used where `requested` is needed."""
    actions = {(scope.type, scope.name): scope.actions for scope in granted}
    return all(
        scope.actions <= actions.get((scope.type, scope.name), frozenset()) for scope in requested
    )


def union(first: Scopes, second: Scopes) -> Scopes:
    """One scope per resource, in the order in which resources are first named."""
    merged: dict[tuple[str, str], frozenset[str]] = {}
    for scope in (*first, *second):
        key = (scope.type, scope.name)
        merged[key] = merged.get(key, frozenset()) | scope.actions
    return tuple(Scope(kind, name, actions) for (kind, name), actions in merged.items())


CLIENT_ID = "shipline"
TOKEN_LIMIT = 64 << 10  # bytes of a token response
_MIN_LIFETIME_S, _DEFAULT_LIFETIME_S, _MAX_LIFETIME_S = (
    1.0,
    60.0,
    3600.0,
)  # bounds of expires_in, and its default
_CHALLENGE = re.compile(r"\s*,*\s*([!#$%&'*+.^_`|~0-9A-Za-z-]+)(?:\s+|(?=,|\Z))")
_PARAMETER = re.compile(
    r"\s*,?\s*([!#$%&'*+.^_`|~0-9A-Za-z-]+)\s*=\s*(?:\"((?:[^\"\\]|\\.)*)\"|([^\s,\"]+))"
)
_MAX_HEADER = 16 << 10  # bytes of a header


class Challenge(Struct, frozen=True):
    """A challenge of a 401; `scheme` is lower case."""

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
    """All challenges of WWW-Authenticate, up to the first malformed one."""
    return tuple(_challenges(header[:_MAX_HEADER]))


def _challenges(text: str) -> Iterator[Challenge]:
    position = 0
    while match := _CHALLENGE.match(text, position):
        position = match.end()
        parameters: dict[str, str] = {}
        while parameter := _PARAMETER.match(text, position):
            name, quoted, plain = parameter.groups()
            value = re.sub(r"\\(.)", r"\1", quoted) if quoted is not None else plain
            parameters.setdefault(name.lower(), value)
            position = parameter.end()
        yield Challenge(match[1].lower(), parameters)


class Token(Redacted, frozen=True):
    """A bearer token for `scopes`; `lifetime_s` counts from its receipt."""

    hidden: ClassVar = frozenset({"value"})

    value: str
    scopes: Scopes
    lifetime_s: float

    @classmethod
    def read(cls, content: bytes, scopes: Scopes, host: str) -> Self:
        """Raises AuthError unless the response holds a token."""
        try:
            document = json.loads(content)
        except (ValueError, RecursionError):
            document = None
        if not isinstance(document, dict):
            raise AuthError(
                f"{host}: the token response is not a JSON object", code="token-invalid", host=host
            )
        value = document.get("token") or document.get("access_token")
        if not isinstance(value, str) or not re.fullmatch(r"[\x21-\x7e]+", value):
            raise AuthError(
                f"{host}: the token response holds no token", code="token-invalid", host=host
            )
        return cls(value, scopes, _lifetime(document))


def token_flow(
    realm: Url, service: str, scopes: Scopes, credentials: Credentials | None
) -> Generator[ClientRequest, HttpResponse, Token]:
    """Request a token with GET, or first with POST (OAuth2) if there is an identity token.

    A server without POST responds 404 or 405: GET follows. Raises AuthError.
    """
    if credentials and credentials.identity_token:
        response = yield _post(realm, service, scopes, credentials)
        if response.status not in (404, 405):
            return _read(response, scopes)
        response.close()
    response = yield _get(realm, service, scopes, credentials)
    return _read(response, scopes)


def _get(
    realm: Url, service: str, scopes: Scopes, credentials: Credentials | None
) -> ClientRequest:
    parameters = [("service", service)] if service else []
    parameters += [("scope", str(scope)) for scope in scopes]
    parameters.append(("client_id", CLIENT_ID))
    if credentials and credentials.username:
        parameters.append(("account", credentials.username))
    headers = {"Authorization": credentials.basic} if credentials else {}
    return ClientRequest("GET", realm.with_query(*parameters), headers)


def _post(realm: Url, service: str, scopes: Scopes, credentials: Credentials) -> ClientRequest:
    form = {
        "grant_type": "refresh_token",
        "service": service,
        "client_id": CLIENT_ID,
        "scope": " ".join(map(str, scopes)),
        "refresh_token": credentials.identity_token,
    }
    headers = {"Content-Type": "application/x-www-form-urlencoded"}
    return ClientRequest("POST", realm, headers, urlencode(form).encode())


def _read(response: HttpResponse, scopes: Scopes) -> Token:
    host = response.url.origin.authority
    if response.status != 200:
        refused = response_error(response, "requesting a token")
        if not 400 <= response.status < 500 or response.status in (408, 425, 429):
            raise refused
        raise AuthError(
            refused.message,
            code="login-refused",
            host=host,
            status=response.status,
            hint=f"the token server at {host} rejects these credentials: check the user name and"
            " the password or token",
        )
    try:
        return Token.read(response.content(TOKEN_LIMIT), scopes, host)
    finally:
        response.close()


def _lifetime(document: Mapping[str, Any]) -> float:
    expires_in = document.get("expires_in", _DEFAULT_LIFETIME_S)
    try:
        seconds = float(expires_in)
    except (TypeError, ValueError, OverflowError):
        return _DEFAULT_LIFETIME_S
    if seconds != seconds or seconds <= 0:
        return _DEFAULT_LIFETIME_S
    return min(max(seconds, _MIN_LIFETIME_S), _MAX_LIFETIME_S)


_READING = frozenset({"pull"})
_ALONE_S = 60.0  # after a token was refused none is taken from other processes for that long
_MARGIN_S = 10.0  # a token is dropped this long before it expires
RequestToken = Callable[[Url, Generator[ClientRequest, HttpResponse, Token]], Token]
"""Runs a token flow with the token server at a URL, if that is trusted."""


class _CachedToken(Struct, frozen=True):
    token: Token
    until: float
    borrowed: bool = False  # from another process


class _SharedToken(Struct, frozen=True):
    """The place of a token in a shared cache, where it is a JSON array: its value, and until when
    it is valid, in Unix time.
    """

    cache: SealedCache
    name: tuple[str, ...]

    def get(self, scopes: Scopes) -> Token | None:
        content = self.cache.get("token", *self.name)
        if content is None:
            return None
        value, until = json.loads(content)
        lifetime_s = min(until - time.time(), _MAX_LIFETIME_S)
        return Token(value, scopes, lifetime_s) if lifetime_s > 0 else None

    def put(self, token: Token) -> None:
        lifetime_s = token.lifetime_s - _margin_s(token)
        content = json.dumps([token.value, time.time() + lifetime_s]).encode()
        self.cache.put(content, lifetime_s, "token", *self.name)

    def drop(self) -> None:
        self.cache.drop("token", *self.name)


def _margin_s(token: Token) -> float:
    return min(_MARGIN_S, token.lifetime_s / 4)


class EndpointAuth:
    """Challenges and tokens of one endpoint, never sent to another origin.

    A challenge concerns the repository that sent it, and others once it could be met; where it
    cannot be met for them, they are still read without credentials. Tokens come from `shared`, and
    go there; one that the registry refuses is dropped there, and none is taken for a while.
    """

    def __init__(
        self,
        endpoint: Endpoint,
        keychain: Keychain,
        clock: Callable[[], float],
        shared: SharedCache | None = None,
    ) -> None:
        self.endpoint = endpoint
        self._keychain = keychain
        self._clock = clock
        self._lock = threading.Lock()
        self._challenge: Challenge | None = None  # the last one that could be met
        self._unmet: dict[str, Challenge] = {}  # by repository
        self._tokens: list[_CachedToken] = []
        self._extra_scopes: dict[Scopes, Scopes] = {}
        self._token_requests: dict[Scopes, Limiter] = {}
        self._shared = shared
        self._places: dict[str, _SharedToken] = {}  # of tokens in use
        self._borrow_from = 0.0

    def authorization(self, repository: str, scopes: Scopes, request_token: RequestToken) -> str:
        """The Authorization header of a request, empty before a challenge. Raises AuthError and
        RegistryError if the repository has sent one that cannot be met; then it is forgotten.
        """
        own = self._unmet.get(repository)
        challenge = own or self._challenge
        if challenge is None:
            return ""
        try:
            found = self._meet(challenge, repository, scopes, request_token)
            self._challenge = challenge
        except (AuthError, RegistryError):
            if own is not None or not all(scope.actions <= _READING for scope in scopes):
                raise
            return ""
        finally:
            self._unmet.pop(repository, None)
        return found

    def _meet(
        self, challenge: Challenge, repository: str, scopes: Scopes, request_token: RequestToken
    ) -> str:
        credentials = self._keychain.credentials(self.endpoint.host, repository)
        if credentials and credentials.registry_token:
            return f"Bearer {credentials.registry_token}"
        if challenge.scheme == "basic":
            return self._basic(credentials)
        with self._lock:
            scopes = self._extra_scopes.get(scopes, scopes)
            request_slot = self._token_requests.setdefault(scopes, Limiter(1))
        with request_slot:  # one thread requests the token, the others reuse it
            token = self._valid(scopes)
            if token is None:
                realm = Url(self.endpoint.origin, "/v2/").join(challenge.realm)
                flow = token_flow(realm, challenge.service, scopes, credentials)
                place = self._place(realm, challenge.service, scopes, credentials)
                token = self._borrow(place, scopes)
                if token is None:
                    token = request_token(realm, flow)
                    self._remember(token, place)
                    if place is not None:
                        place.put(token)
        return f"Bearer {token.value}"

    def refuse(self, authorization: str) -> bool:
        """The registry refused a request with this header: its token is dropped for all processes.
        Returns whether it came from another one.
        """
        value = authorization.removeprefix("Bearer ")
        with self._lock:
            place = self._places.pop(value, None)
            borrowed = any(one.borrowed and one.token.value == value for one in self._tokens)
            if borrowed:
                self._tokens = [one for one in self._tokens if one.token.value != value]
            if place is not None:
                self._borrow_from = self._clock() + _ALONE_S
        if place is not None:
            place.drop()
        return borrowed

    def accept_challenge(
        self, repository: str, header: str, scopes: Scopes, authorization: str
    ) -> bool:
        """Store the repository's challenge of a 401 to a request sent with `authorization`.

        Returns whether a repeated request may succeed.
        """
        challenge = _choose(parse_challenges(header))
        if challenge is None:
            return False
        with self._lock:
            changed = self._challenge is None or self._challenge.scheme != challenge.scheme
            known = self._extra_scopes.get(scopes, scopes)
            requested = union(known, _within(challenge.scopes, scopes))
            if not covers(known, requested):
                self._extra_scopes[scopes] = requested
            value = authorization.removeprefix("Bearer ")
            kept = [cached for cached in self._tokens if cached.token.value != value]
            dropped = len(kept) != len(self._tokens)
            self._tokens = kept
        again = changed or not authorization or dropped or not covers(known, requested)
        if again:
            self._unmet[repository] = challenge
        return again

    def _basic(self, credentials: Credentials | None) -> str:
        if credentials is None or not (credentials.username or credentials.password):
            host = self.endpoint.host
            raise AuthError(
                f"{host} requires a username and password, and none are stored",
                code="login-missing",
                host=host,
                status=401,
                hint=login_hint(host),
            )
        return credentials.basic

    def _valid(self, scopes: Scopes) -> Token | None:
        now = self._clock()
        with self._lock:
            self._tokens = [cached for cached in self._tokens if cached.until > now]
            return next((h.token for h in self._tokens if covers(h.token.scopes, scopes)), None)

    def _remember(
        self, token: Token, place: _SharedToken | None, *, borrowed: bool = False
    ) -> None:
        until = self._clock() + token.lifetime_s - (0 if borrowed else _margin_s(token))
        with self._lock:
            self._tokens.append(_CachedToken(token, until, borrowed))
            if place is not None:
                kept = {cached.token.value for cached in self._tokens}
                places = {**self._places, token.value: place}
                self._places = {value: places[value] for value in places if value in kept}

    def _place(
        self, realm: Url, service: str, scopes: Scopes, credentials: Credentials | None
    ) -> _SharedToken | None:
        if self._shared is None:
            return None
        sealed = self._shared.of(self.endpoint.host, credentials)
        asked = " ".join(map(str, scopes))
        name = (str(self.endpoint.origin), str(realm), service, asked)
        return _SharedToken(sealed, name) if sealed.holds_content else None

    def _borrow(self, place: _SharedToken | None, scopes: Scopes) -> Token | None:
        """The token of another process, unless the registry has just refused one of them."""
        if place is None or self._clock() < self._borrow_from:
            return None
        token = place.get(scopes)
        if token is None:
            return None
        self._remember(token, place, borrowed=True)
        return token


def _choose(challenges: tuple[Challenge, ...]) -> Challenge | None:
    """Bearer before Basic, which exposes the password."""
    for scheme in ("bearer", "basic"):
        for challenge in challenges:
            if challenge.scheme == scheme and (scheme == "basic" or challenge.realm):
                return challenge
    return None


def _within(requested: Scopes, own: Scopes) -> Scopes:
    """The scopes a registry asks for, limited to the resources of this request."""
    resources = {(scope.type, scope.name) for scope in own}
    return tuple(scope for scope in requested if (scope.type, scope.name) in resources)
