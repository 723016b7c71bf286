"""The registry client: connections, tokens and credentials of one command."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import closing
from copy import copy
from pathlib import Path
from typing import TYPE_CHECKING, Self

from msgspec import Struct

from shipline.errors import ContentError
from shipline.oci import Reference
from shipline.registry.auth import Scope
from shipline.registry.credentials import Keychain, NoKeychain
from shipline.registry.hosts import Endpoint, HostSettings, settings_from
from shipline.registry.http import Caller, HttpClient
from shipline.registry.keychain import keychain_from
from shipline.registry.mirrors import Measurement
from shipline.registry.paging import pages
from shipline.registry.repository import KnownBlobs, RemoteRepository
from shipline.registry.repository_api import RepositoryApi
from shipline.registry.request import ClientRequest, Url
from shipline.registry.retries import TRIES

if TYPE_CHECKING:
    from shipline.registry.transport import ClientResponse

_DOCUMENT_LIMIT = 256 << 20  # bytes


class KnownEndpoint(Struct, frozen=True):
    """An endpoint with what is known of it; whether it is the one that is asked first."""

    endpoint: Endpoint
    measurement: Measurement
    chosen: bool


class Client:
    """Connections, tokens and credentials for many registries at once.

    Safe to use from any thread; leaving the block closes the connections. `at_once` bounds blob
    reads, blob writes and other requests, each, per host. A thread that holds more readers than
    that open at one host deadlocks.
    """

    def __init__(
        self,
        settings: HostSettings | None = None,
        keychain: Keychain | None = None,
        *,
        at_once: int = 8,
        tries: int = TRIES,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.settings = settings or HostSettings()
        self._known = KnownBlobs()
        self._http = HttpClient(
            self.settings, keychain or NoKeychain(), at_once=at_once, tries=tries, clock=clock
        )

    @classmethod
    def of(
        cls,
        environment: Mapping[str, str],
        *,
        insecure: Iterable[str] = (),
        ca: Iterable[Path] = (),
        at_once: int = 8,
        tries: int = TRIES,
    ) -> Self:
        """A client with the credentials, mirrors and proxies of this machine and `environment`;
        `insecure` hosts use plain HTTP, `ca` names files of additional CAs. Raises ConfigError.
        """
        settings = settings_from(environment, insecure=insecure, ca=ca)
        return cls(settings, keychain_from(environment), at_once=at_once, tries=tries)

    @property
    def http(self) -> HttpClient:
        """The connections, for services that are no registries."""
        return self._http

    @property
    def impatient(self) -> Client:
        """A client with the same connections, for what can be done without: it tries only once to
        reach a server.
        """
        client = copy(self)
        client._http = self._http.impatient
        return client

    def repository(self, reference: Reference) -> RemoteRepository:
        """The repository of `reference`; its tag and digest are ignored. Makes no request."""
        endpoints = self.settings.endpoints(reference.host)
        measured = len(endpoints) > 1
        apis = tuple(
            RepositoryApi(self._http, endpoint, reference.repository, measured=measured)
            for endpoint in endpoints
        )
        return RemoteRepository(reference.host, reference.repository, apis, self._known)

    def known(self, host: str) -> list[KnownEndpoint]:
        """The endpoints of `host` in the order in which they are asked, the registry itself last.
        Mirrors of which nothing is known are probed.
        """
        *mirrors, registry = self.settings.endpoints(host)
        memory = self._http.mirrors
        memory.probe_unknown(mirrors, self._http.probe)
        order = memory.nearest_first(mirrors, self._http.probe)
        failed = (one for one in mirrors if one not in order)
        first = order[0] if order else registry
        return [
            KnownEndpoint(one, memory.measurement(one), one == first)
            for one in (*order, *failed, registry)
        ]

    def check(self, host: str) -> float | None:
        """Check the credentials for `host` with GET /v2/. Raises AuthError if they are refused; a
        registry with anonymous access accepts any.

        Returns the time on its clock (RFC 9110, "Date"), Unix time, None if it does not say.
        """
        from email.utils import parsedate_to_datetime  # slow, and logins alone come here

        endpoint = self.settings.endpoint(host)
        request = ClientRequest("GET", Url(endpoint.origin, "/v2/"))
        caller = Caller(endpoint, "", ())
        response = self._http.call(request, expect={200}, operation="logging in", caller=caller)
        response.close()
        try:
            return parsedate_to_datetime(response.header("Date")).timestamp()
        except ValueError:
            return None

    def ask(self, host: str, method: str, path: str, body: bytes = b"") -> bytes:
        """Call a registry's own API, outside the distribution specification, with a JSON body;
        returns the body of the response. Raises AuthError, RegistryError.
        """
        endpoint = self.settings.endpoint(host)
        headers = {"Content-Type": "application/json"} if body else {}
        request = ClientRequest(method, Url(endpoint.origin, path), headers, body)
        caller = Caller(endpoint, "", ())
        operation = f"{method} {path.partition('?')[0]}"
        response = self._http.call(request, expect={200, 202}, operation=operation, caller=caller)
        with closing(response):
            return response.content(_DOCUMENT_LIMIT)

    def repositories(self, host: str) -> Iterator[str]:
        """The repositories of a registry (distribution specification, "Catalog"), as far as it
        lists them. Raises AuthError, RegistryError.
        """
        endpoint = self.settings.endpoint(host)
        caller = Caller(endpoint, "", (Scope("registry", "catalog", frozenset("*")),))

        def get(url: Url) -> ClientResponse:
            request = ClientRequest("GET", url)
            return self._http.call(request, expect={200}, operation="listing", caller=caller)

        first = Url(endpoint.origin, "/v2/_catalog").with_query(("n", "1000"))
        for page in pages(first, get, limit=_DOCUMENT_LIMIT):
            try:
                names = json.loads(page).get("repositories") or ()
            except (ValueError, AttributeError):
                raise ContentError(
                    f"{host}: the list of repositories is not JSON", code="registry-answer"
                ) from None
            yield from (name for name in names if isinstance(name, str))

    def get(self, url: str, headers: Mapping[str, str]) -> ClientResponse:
        """GET any URL, with the proxies and authorities of the settings and no credentials but
        those in `headers`: status 200, or 304. Raises AuthError, RegistryError.
        """
        request = ClientRequest("GET", Url.parse(url), headers)
        return self._http.call(
            request, expect={200, 304}, operation="GET", limit="read", redirects=10
        )

    def close(self) -> None:
        """Close all connections."""
        self._http.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
