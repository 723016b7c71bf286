"""What one registry said about who may come in, and the tokens that we hold for it."""

from __future__ import annotations

import threading
from collections.abc import Callable, Generator
from dataclasses import dataclass

from shipline.errors import AuthError
from shipline.registry.auth import Challenge, Token, parse_challenges, token_dance
from shipline.registry.credentials import Credentials, Keychain
from shipline.registry.failures import Reply
from shipline.registry.hosts import Endpoint
from shipline.registry.origin import Url
from shipline.registry.request import Request
from shipline.registry.scopes import Scopes, covers, union
from shipline.tasks import Limiter

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
