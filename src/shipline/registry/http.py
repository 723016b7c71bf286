"""The HTTP client: redirects, retries, limits per host, and which origin sees which credentials.

Credentials go only to the origin they are bound to: not along a redirect, to an upload's Location
or to a Link; `address_policy` says which token servers may see them.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Collection, Generator
from copy import copy
from functools import partial
from typing import TYPE_CHECKING

from msgspec import Struct

from shipline import __version__
from shipline.errors import AuthError, ConfigError, RegistryError, ShiplineError
from shipline.lru import TTL_S, Lru
from shipline.propagation import traceparent
from shipline.registry.auth import EndpointAuth, Scopes, Token
from shipline.registry.credentials import Credentials, Keychain
from shipline.registry.errors import (
    RETRIED,
    HttpResponse,
    TokenExpired,
    Unreachable,
    response_error,
    retry_after,
    warnings,
)
from shipline.registry.hosts import (
    AddressPolicy,
    Endpoint,
    HostSettings,
    policy_for_link,
    policy_for_realm,
)
from shipline.registry.limits import HostLimits, RateLimit
from shipline.registry.mirrors import Mirrors
from shipline.registry.quirks import Quirks, quirks_of, shown_quirks
from shipline.registry.request import ClientRequest, Origin, Url
from shipline.registry.retries import TRIES, Retries
from shipline.tasks import Limiter
from shipline.values import replace

if TYPE_CHECKING:
    from shipline.registry.shared import RepositoryFacts
    from shipline.registry.transport import ClientResponse, RequestWriter, Transport

_REDIRECTS = 5
_HOSTS = 1000
_WARNINGS_LIMIT = 100  # different ones
_REDIRECT_STATUSES = frozenset({301, 302, 303, 307, 308})
Explain = Callable[[HttpResponse, str], ShiplineError]


class Caller(Struct, frozen=True):
    """What a request is authorised for: endpoint, repository and scopes."""

    endpoint: Endpoint
    repository: str
    scopes: Scopes


class HttpClient:
    """Sends requests. Safe to use from any thread; `close` closes idle connections."""

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
        self._transports: list[Transport] = []
        self._is_patient = True
        self._is_hasty = False
        self.mirrors = Mirrors(settings.measurements)
        self._limits: dict[str, HostLimits] = {}
        self._auths: dict[Endpoint, EndpointAuth] = {}
        self._facts: dict[tuple[Endpoint, str], RepositoryFacts] = {}
        self._quirks: dict[Origin, Quirks] = {}
        self.without_referrers: Lru[Origin, bool] = Lru(_HOSTS, TTL_S)
        self._warnings: set[tuple[str, str]] = set()

    def auth(self, endpoint: Endpoint) -> EndpointAuth:
        """The challenge and tokens of an endpoint, shared by all threads."""
        with self._lock:
            auth = self._auths.get(endpoint)
            if auth is None:
                auth = EndpointAuth(endpoint, self._keychain, self._clock, self.settings.shared)
                self._auths[endpoint] = auth
            return auth

    def facts(self, endpoint: Endpoint, repository: str) -> RepositoryFacts | None:
        """What is shared of a repository with other processes, one object for all threads."""
        shared = self.settings.shared
        if shared is None or endpoint.mirrored:
            return None
        with self._lock:
            found = self._facts.get((endpoint, repository))
            if found is None:
                from shipline.registry.shared import RepositoryFacts

                strict = endpoint.origin.authority in shared.strict
                found = RepositoryFacts(
                    f"{endpoint.origin}/{repository}",
                    lambda: shared.of(endpoint.host, self._credentials(endpoint, repository)),
                    lambda: strict or self.quirks(endpoint.origin).checks_blobs,
                )
                self._facts[endpoint, repository] = found
            return found

    def _credentials(self, endpoint: Endpoint, repository: str) -> Credentials | None:
        """Those that are needed to share; none where they cannot be read, which is an error only
        if the registry asks for them.
        """
        try:
            return self._keychain.credentials(endpoint.host, repository)
        except (AuthError, ConfigError):
            return None

    def limits(self, origin: Origin) -> HostLimits:
        """The limits of a host, shared by all threads."""
        with self._lock:
            found = self._limits.get(origin.authority)
            if found is None:
                found = self._limits[origin.authority] = HostLimits(self._at_once)
            return found

    def quirks(self, origin: Origin) -> Quirks:
        """The quirks of the registry at `origin`, as far as it has shown them."""
        return self._quirks.get(origin) or quirks_of(origin.host)

    def call(
        self,
        request: ClientRequest,
        *,
        expect: Collection[int],
        operation: str,
        caller: Caller | None = None,
        limit: str = "small",
        tries: int = 0,
        redirects: int = _REDIRECTS,
        linked_from: Origin | None = None,
        explain: Explain = response_error,
    ) -> ClientResponse:
        """Send until the status is one of `expect`; the caller closes the response.

        Retriable failures are retried with backoff. `operation` names the request in messages,
        `limit` the field of `HostLimits` that counts it. `linked_from` is the server that the URL
        came from, if it came from one; `explain` makes the error of another status, and closes its
        response. Raises AuthError, RegistryError.
        """
        retries = Retries(tries or self.tries)
        while True:
            try:
                response = self._attempt(request, caller, limit, redirects, linked_from)
                if response.status in expect:
                    return response
                raise explain(response, operation)
            except RegistryError as error:
                retries.failed(error)

    def open(self, request: ClientRequest, caller: Caller, *, length: int | None) -> RequestWriter:
        """Send an authorised head; the caller writes the body, which no limit counts.

        The body's producer sets the pace, so waiting for a slot could deadlock.
        """
        authorized = _traced(request.with_authorization(self._authorization(request, caller)))
        self.limits(request.url.origin).wait()
        address_policy = self._address_policy(request.url, caller.endpoint.origin)
        return self._open(authorized, length=length, address_policy=address_policy)

    def probe(self, endpoint: Endpoint) -> float:
        """The seconds until the response to GET /v2/ without credentials, whatever it says. Raises
        RegistryError for a server that fails or is not reached soon.
        """
        request = ClientRequest("GET", Url(endpoint.origin, "/v2/"))
        response = self.hasty.call(request, expect=range(500), operation="probing", redirects=0)
        response.close()
        return response.latency_s

    def close(self) -> None:
        """Close idle connections, and keep what was measured of mirrors."""
        self.mirrors.save()
        for transport in self._transports:
            transport.close()

    @property
    def _transport(self) -> Transport:
        with self._lock:
            if not self._transports:
                from shipline.registry.transport import Transport

                self._transports.append(Transport(self.settings))
            return self._transports[0]

    @property
    def impatient(self) -> HttpClient:
        """A client with the same connections that tries only once to reach a server."""
        client = copy(self)
        client._is_patient = False
        return client

    @property
    def hasty(self) -> HttpClient:
        """A client with the same connections for requests that another server can answer as well:
        it tries once, and does not wait for long.
        """
        client = self.impatient
        client._is_hasty, client.tries = True, 1
        return client

    def _open(
        self, request: ClientRequest, *, length: int | None, address_policy: AddressPolicy
    ) -> RequestWriter:
        try:
            return self._transport.open(
                request.method,
                request.url,
                self._headers(request),
                length=length,
                address_policy=address_policy,
                hasty=self._is_hasty,
            )
        except Unreachable as error:
            error.retriable = error.retriable and self._is_patient
            raise

    def _attempt(
        self,
        request: ClientRequest,
        caller: Caller | None,
        limit: str,
        redirects: int,
        linked_from: Origin | None,
    ) -> ClientResponse:
        """One attempt, with a token once the registry has asked for one, repeated after a 401; and
        once more where the token of another process was refused. Raises TokenExpired where that
        was found out after part of a blob may have been sent.
        """
        first = linked_from or (caller.endpoint.origin if caller else request.url.origin)
        challenged = False
        while True:
            authorization = self._authorization(request, caller)
            authorized = request.with_authorization(authorization)
            response = self._follow(authorized, first, limit, redirects)
            if response.status not in (401, 403) or caller is None:
                return response
            borrowed = self.auth(caller.endpoint).refuse(authorization)
            if not borrowed and (challenged or response.status == 403):
                return response
            if response.status == 401:
                challenged = challenged or not borrowed
                if not (self._accept_challenge(response, caller, authorization) or borrowed):
                    return response
            response.close()
            if not isinstance(request.body, bytes):  # the server may have kept some of it
                raise TokenExpired(first.authority)

    def _authorization(self, request: ClientRequest, caller: Caller | None) -> str:
        if caller is None or request.url.origin != caller.endpoint.origin:
            return ""
        auth = self.auth(caller.endpoint)
        request_token = partial(self._fetch_token, caller.endpoint)
        return auth.authorization(caller.repository, caller.scopes, request_token)

    def _accept_challenge(
        self, response: ClientResponse, caller: Caller, authorization: str
    ) -> bool:
        endpoint = caller.endpoint
        if response.url.origin != endpoint.origin:
            return False
        header = response.header("WWW-Authenticate")
        auth = self.auth(endpoint)
        if not header:
            response.close()
            header = self._ping(endpoint)
        return auth.accept_challenge(caller.repository, header, caller.scopes, authorization)

    def _ping(self, endpoint: Endpoint) -> str:
        """The challenge of /v2/, for registries that send none elsewhere (gcr.io)."""
        response = self._follow(
            ClientRequest("GET", Url(endpoint.origin, "/v2/")), endpoint.origin, "small", 0
        )
        try:
            return response.header("WWW-Authenticate")
        finally:
            response.close()

    def _fetch_token(
        self, endpoint: Endpoint, realm: Url, flow: Generator[ClientRequest, HttpResponse, Token]
    ) -> Token:
        on_internet = self._on_internet(endpoint.origin)
        address_policy = policy_for_realm(self.settings, endpoint, realm, on_internet=on_internet)
        request = next(flow)
        while True:
            response = self._send_retrying(request, address_policy)
            try:
                request = flow.send(response)
            except StopIteration as done:
                token: Token = done.value
                return token
            finally:
                response.close()

    def _send_retrying(
        self, request: ClientRequest, address_policy: AddressPolicy
    ) -> ClientResponse:
        retries = Retries(self.tries)
        while True:
            try:
                response = self._follow(request, request.url.origin, "small", 0, address_policy)
                if response.status not in RETRIED or retries.is_last:
                    return response
                raise response_error(response, "requesting a token")
            except RegistryError as error:
                retries.failed(error)

    def _on_internet(self, origin: Origin) -> bool:
        """Whether the registry has a public address; assumed behind a proxy."""
        peer = self._transport.peer(origin)
        return not peer or AddressPolicy.PUBLIC.allows(peer)

    def _address_policy(self, url: Url, origin: Origin) -> AddressPolicy:
        public = url.origin.host != origin.host and self._on_internet(origin)
        return policy_for_link(self.settings, url, origin, on_internet=public)

    def _follow(
        self,
        request: ClientRequest,
        first: Origin,
        limit: str,
        redirects: int,
        address_policy: AddressPolicy | None = None,
    ) -> ClientResponse:
        """Follow redirects; `first` is the server that pointed to the URL of `request`."""
        request = _traced(request)
        for _ in range(redirects + 1):
            policy = address_policy or self._address_policy(request.url, first)
            response = self._send(request, limit, policy)
            if response.status not in _REDIRECT_STATUSES or not redirects:
                return response
            location = response.header("Location")
            response.close()
            request = _redirected(request, location, response.status)
        host = first.authority
        raise RegistryError(
            f"{host}: more than {redirects} redirects", code="registry-redirect", host=host
        )

    def _send(
        self, request: ClientRequest, limit: str, address_policy: AddressPolicy
    ) -> ClientResponse:
        limits = self.limits(request.url.origin)
        limiter: Limiter = getattr(limits, limit)
        if self.tries > 1:  # else there is another server, or an answer that is kept
            limits.wait()
        limiter.__enter__()
        try:
            writer = self._open(request, length=request.length, address_policy=address_policy)
        except BaseException:
            limiter.__exit__(None, None, None)
            raise
        writer.on_close(lambda: limiter.__exit__(None, None, None))
        try:
            response = _send_body(writer, request)
        except BaseException:
            writer.close()
            raise
        self.note(response)
        return response

    def note(self, response: ClientResponse) -> None:
        """Note what the head of a response tells of the host: its limits, warnings and quirks."""
        header, origin = response.header, response.url.origin
        wait_s = retry_after(header("Retry-After")) if response.status >= 400 else None
        limits = self.limits(origin)
        limits.note(response.status, response.began, RateLimit.read(header), wait_s)
        if not self.quirks(origin).name and (quirks := shown_quirks(header)):
            self._quirks[origin] = quirks
        for text in warnings(response.headers("Warning")):
            with self._lock:
                before = len(self._warnings)
                if before < _WARNINGS_LIMIT:
                    self._warnings.add((origin.host, text))
                is_new = len(self._warnings) > before
            if is_new:
                import logging  # 5 ms, for what is rare

                logging.getLogger(__name__).warning("%s warns: %s", origin.authority, text)

    def _headers(self, request: ClientRequest) -> dict[str, str]:
        return {
            "User-Agent": f"shipline/{__version__}",
            "Accept-Encoding": "identity",
            **request.headers,
        }


def _send_body(writer: RequestWriter, request: ClientRequest) -> ClientResponse:
    """Send the body; a server may respond before it has read all of it."""
    try:
        if isinstance(request.body, bytes):
            writer.write(request.body)
        else:
            request.body.send(writer)
    except RegistryError as error:
        ours = error.host == writer.url.origin.authority  # else the source of the body failed
        response = writer.early_response() if ours and error.retriable else None
        if response is None:
            raise
        return response
    return writer.response()


def _traced(request: ClientRequest) -> ClientRequest:
    """The request with the span that it is made for, if there is one."""
    if not (span := traceparent()):
        return request
    return replace(request, headers={**request.headers, "traceparent": span})


def _redirected(request: ClientRequest, location: str, status: int) -> ClientRequest:
    host = request.url.origin.authority
    keep = status in (307, 308)
    if not location or (request.method not in ("GET", "HEAD") and not keep):
        raise RegistryError(
            f"{host}: redirected {request.method} with {status}",
            code="registry-redirect",
            host=host,
        )
    url = request.url.join(location)
    if request.url.origin.scheme == "https" and url.origin.scheme != "https":
        raise RegistryError(
            f"{host}: redirected from https to {url.origin}",
            code="registry-redirect",
            host=host,
            hint="configure the registry, or its proxy, with its public https URL",
        )
    return request.redirected(url, keep_body=keep)
