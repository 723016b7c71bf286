"""The one gate through which requests leave: redirects, retries, limits, and who may see what.

Credentials go to the origin they are bound to and nowhere else: not after a redirect, not to an
upload's Location, not to a Link; `reach` says which token servers may see them.
"""

from __future__ import annotations

import itertools
import random
import threading
import time
from collections.abc import Callable, Collection, Generator
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from shipline import __version__
from shipline.errors import RegistryError, ShiplineError
from shipline.registry.auth import Authority, Scopes, Token
from shipline.registry.credentials import Keychain
from shipline.registry.failures import RETRIED, Refused, Reply, failure
from shipline.registry.hosts import Endpoint, HostSettings
from shipline.registry.origin import Origin, Url
from shipline.registry.reach import Reach, reach_of_lead, reach_of_realm
from shipline.registry.request import Request
from shipline.tasks import Limiter, sleep

if TYPE_CHECKING:
    from shipline.registry.transport import OpenRequest, Response, Transport

TRIES = 5
_REDIRECTS = 5
_FIRST_WAIT_S, _LONGEST_WAIT_S = 0.25, 20.0
_PATIENCE_S = 60.0  # a longer Retry-After is for a person to decide
_MOVED = frozenset({301, 302, 303, 307, 308})


class HostLimits:
    """How many requests run at once at one host; JSON does not wait behind blobs.

    Reading and writing blobs are counted apart, so that copying within a host cannot wait for
    itself: who writes may hold a reader, never the other way round.
    """

    def __init__(self, at_once: int) -> None:
        self.small = Limiter(at_once)
        self.read = Limiter(at_once)
        self.write = Limiter(at_once)


@dataclass(frozen=True, slots=True)
class Caller:
    """On whose behalf a request is made: at which endpoint, about what, needing which rights."""

    endpoint: Endpoint
    repository: str
    scopes: Scopes


class HttpClient:
    """Sends requests. Safe to use from any thread; `close` ends the kept connections."""

    def __init__(
        self,
        settings: HostSettings,
        keychain: Keychain,
        *,
        at_once: int = 8,
        tries: int = TRIES,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.settings = settings
        self.tries = tries
        self._keychain = keychain
        self._at_once = at_once
        self._clock = clock
        self._lock = threading.Lock()
        self._wire_: Transport | None = None
        self._lanes: dict[str, HostLimits] = {}
        self._authorities: dict[Endpoint, Authority] = {}

    def authority(self, endpoint: Endpoint) -> Authority:
        with self._lock:
            found = self._authorities.get(endpoint)
            if found is None:
                found = Authority(endpoint, self._keychain, self._clock)
                self._authorities[endpoint] = found
            return found

    def lanes(self, origin: Origin) -> HostLimits:
        with self._lock:
            return self._lanes.setdefault(origin.authority, HostLimits(self._at_once))

    def call(
        self,
        request: Request,
        *,
        expect: Collection[int],
        doing: str,
        caller: Caller | None = None,
        lane: str = "small",
        tries: int = 0,
        redirects: int = _REDIRECTS,
    ) -> Response:
        """Send until the status is one of `expect`; close the answer when done with it.

        Tries again, after a pause, what may succeed later. Raises AuthError, RegistryError.
        """
        for attempt in itertools.count(1):
            try:
                answer = self._once(request, caller, lane, redirects)
                if answer.status in expect:
                    return answer
                raise failure(answer, doing)
            except RegistryError as error:
                if not error.retriable or attempt >= (tries or self.tries):
                    raise
                pause(attempt, error)
        raise AssertionError  # count() has no end

    def open(self, request: Request, caller: Caller, *, length: int | None) -> OpenRequest:
        """Send a head with the token it needs; the body is the caller's, and not counted.

        Its pace is its producer's, so waiting for a turn could wait for ever.
        """
        bearing = request.bearing(self._authorization(request, caller))
        return self._wire.open(
            request.method,
            request.url,
            self._headers(bearing),
            length=length,
            reach=self._reach(request.url, caller.endpoint.origin),
        )

    def close(self) -> None:
        if self._wire_ is not None:
            self._wire_.close()

    @property
    def _wire(self) -> Transport:
        with self._lock:
            if self._wire_ is None:
                from shipline.registry.transport import Transport

                self._wire_ = Transport(self.settings)
            return self._wire_

    def _once(self, request: Request, caller: Caller | None, lane: str, redirects: int) -> Response:
        """One attempt: with a token if the registry is known to want one, again after a 401."""
        tried = self._authorization(request, caller)
        answer = self._follow(request.bearing(tried), caller, lane, redirects)
        if answer.status != 401 or caller is None or not self._learn(answer, caller, tried):
            return answer
        answer.close()
        again = request.bearing(self._authorization(request, caller))
        return self._follow(again, caller, lane, redirects)

    def _authorization(self, request: Request, caller: Caller | None) -> str:
        if caller is None or request.url.origin != caller.endpoint.origin:
            return ""
        authority = self.authority(caller.endpoint)
        ask = partial(self._converse, caller.endpoint)
        return authority.authorization(caller.repository, caller.scopes, ask)

    def _learn(self, answer: Response, caller: Caller, tried: str) -> bool:
        endpoint = caller.endpoint
        if answer.url.origin != endpoint.origin:
            return False
        header = answer.header("WWW-Authenticate")
        authority = self.authority(endpoint)
        if not header and not authority.knows:
            answer.close()
            header = self._ping(endpoint)
        return authority.learn(header, caller.scopes, tried)

    def _ping(self, endpoint: Endpoint) -> str:
        """The challenge of the front door, for registries that forget it elsewhere (gcr.io)."""
        reply = self._follow(Request("GET", Url(endpoint.origin, "/v2/")), None, "small", 0)
        try:
            return reply.header("WWW-Authenticate")
        finally:
            reply.close()

    def _converse(
        self, endpoint: Endpoint, realm: Url, dance: Generator[Request, Reply, Token]
    ) -> Token:
        internet = self._on_internet(endpoint.origin)
        reach = reach_of_realm(self.settings, endpoint, realm, internet=internet)
        request = next(dance)
        while True:
            reply = self._patiently(request, reach)
            try:
                request = dance.send(reply)
            except StopIteration as done:
                token: Token = done.value
                return token
            finally:
                reply.close()

    def _patiently(self, request: Request, reach: Reach) -> Response:
        for attempt in itertools.count(1):
            try:
                answer = self._follow(request, None, "small", 0, reach)
                if answer.status not in RETRIED or attempt >= self.tries:
                    return answer
                raise failure(answer, "asking for a token")
            except RegistryError as error:
                if not error.retriable or attempt >= self.tries:
                    raise
                pause(attempt, error)
        raise AssertionError  # count() has no end

    def _on_internet(self, origin: Origin) -> bool:
        """Whether the registry has a public address; one behind a proxy is taken to have one."""
        peer = self._wire.peer(origin)
        return not peer or Reach.PUBLIC.allows(peer)

    def _reach(self, url: Url, origin: Origin) -> Reach:
        return reach_of_lead(self.settings, url, origin, internet=self._on_internet(origin))

    def _follow(
        self,
        request: Request,
        caller: Caller | None,
        lane: str,
        redirects: int,
        reach: Reach | None = None,
    ) -> Response:
        first = caller.endpoint.origin if caller else request.url.origin
        for _ in range(redirects + 1):
            far = reach or self._reach(request.url, first)
            answer = self._exchange(request, lane, far)
            if answer.status not in _MOVED or not redirects:
                return answer
            location = answer.header("Location")
            answer.close()
            request = _moved(request, location, answer.status)
        host = first.authority
        raise RegistryError(f"{host}: more than {redirects} redirects", host=host)

    def _exchange(self, request: Request, lane: str, reach: Reach) -> Response:
        limiter: Limiter = getattr(self.lanes(request.url.origin), lane)
        limiter.__enter__()
        try:
            exchange = self._wire.open(
                request.method,
                request.url,
                self._headers(request),
                length=request.length,
                reach=reach,
            )
        except BaseException:
            limiter.__exit__(None, None, None)
            raise
        exchange.on_close(lambda: limiter.__exit__(None, None, None))
        try:
            return _talk(exchange, request)
        except BaseException:
            exchange.close()
            raise

    def _headers(self, request: Request) -> dict[str, str]:
        return {
            "User-Agent": f"shipline/{__version__}",
            "Accept-Encoding": "identity",
            **request.headers,
        }


def pause(attempt: int, error: ShiplineError) -> None:
    """Wait before another attempt: exponential with jitter, or as long as the server asks.

    Raises `error` where that is longer than anyone wants to wait.
    """
    asked = error.retry_after_s if isinstance(error, Refused) else None
    if asked is not None and asked > _PATIENCE_S:
        error.hint = f"the registry asks to come back in {asked:.0f} seconds; {error.hint}"
        raise error
    wait = min(_FIRST_WAIT_S * 2 ** (attempt - 1), _LONGEST_WAIT_S)
    wait *= random.uniform(0.75, 1.25)
    sleep(wait if asked is None else asked + wait / 4)


def _talk(exchange: OpenRequest, request: Request) -> Response:
    """Send the body; a server may answer and stop reading before its end."""
    try:
        if isinstance(request.body, bytes):
            exchange.write(request.body)
        else:
            request.body.send(exchange)
    except RegistryError as error:
        ours = error.host == exchange.url.origin.authority  # else the body's source has failed
        answer = exchange.early() if ours and error.retriable else None
        if answer is None:
            raise
        return answer
    return exchange.answer()


def _moved(request: Request, location: str, status: int) -> Request:
    host = request.url.origin.authority
    keep = status in (307, 308)
    if not location or (request.method not in ("GET", "HEAD") and not keep):
        raise RegistryError(f"{host}: redirected {request.method} with {status}", host=host)
    url = request.url.join(location)
    if request.url.origin.scheme == "https" and url.origin.scheme != "https":
        raise RegistryError(
            f"{host}: redirected from https to {url.origin}",
            host=host,
            hint="the registry, or the proxy before it, must be told that it is reached by https",
        )
    return request.redirected(url, keep_body=keep)
