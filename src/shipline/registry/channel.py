"""One repository at one endpoint: its URLs, and requests that carry the right token."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import TYPE_CHECKING

from shipline.errors import RegistryError
from shipline.oci import Digest
from shipline.registry.auth import Scope
from shipline.registry.hosts import Endpoint, Quirks, quirks_of
from shipline.registry.http import Caller, HttpClient
from shipline.registry.origin import Url
from shipline.registry.request import Payload, Request

if TYPE_CHECKING:
    from shipline.registry.transport import OpenRequest, Response

READ = frozenset({"pull"})
WRITE = frozenset({"pull", "push"})


class Channel:
    """Least privilege: a call names the actions it needs, `READ` or `WRITE`."""

    def __init__(self, gate: HttpClient, endpoint: Endpoint, repository: str) -> None:
        self.gate = gate
        self.endpoint = endpoint
        self.repository = endpoint.prefix + repository

    @property
    def host(self) -> str:
        return self.endpoint.origin.authority

    @property
    def quirks(self) -> Quirks:
        return quirks_of(self.endpoint.origin.host)

    def url(self, *path: str) -> Url:
        """`path` pieces are digests, checked tags and constants: safe in a URL as they are."""
        return Url(self.endpoint.origin, "/".join(("/v2", self.repository, *path)))

    def blob(self, digest: Digest) -> Url:
        return self.url("blobs", str(digest))

    def manifest(self, name: str) -> Url:
        return self.url("manifests", name)

    def call(
        self,
        method: str,
        url: Url,
        *,
        expect: Collection[int],
        doing: str,
        actions: frozenset[str] = READ,
        also: str = "",
        headers: Mapping[str, str] | None = None,
        body: bytes | Payload = b"",
        lane: str = "small",
        tries: int = 0,
        redirects: int = 5,
    ) -> Response:
        """See `Gate.call`; `also` is another repository that must be readable."""
        return self.gate.call(
            Request(method, url, headers or {}, body),
            expect=expect,
            doing=f"{doing} ({self.repository})",
            caller=self._caller(actions, also),
            lane=lane,
            tries=tries,
            redirects=redirects,
        )

    def open(self, method: str, url: Url, headers: Mapping[str, str]) -> OpenRequest:
        """Start a request whose body has no known length, and is written by the caller."""
        return self.gate.open(Request(method, url, headers), self._caller(WRITE), length=None)

    def location(self, answer: Response, otherwise: Url | None = None) -> Url:
        """Where the server says to go on. Raises RegistryError if it says nothing usable."""
        text = answer.header("Location")
        if not text and otherwise is not None:
            return otherwise
        if not text:
            raise RegistryError(f"{self.host}: an upload without Location", host=self.host)
        url = answer.url.join(text)
        if answer.url.origin.scheme == "https" and url.origin.scheme != "https":
            raise RegistryError(
                f"{self.host}: its upload Location is not https",
                host=self.host,
                hint="the registry must be told the URL under which it is reached (http.host, "
                "or X-Forwarded-Proto from the proxy before it)",
            )
        return url

    def _caller(self, actions: frozenset[str], also: str = "") -> Caller:
        scopes = [Scope("repository", self.repository, actions)]
        if also:
            scopes.append(Scope("repository", self.endpoint.prefix + also, READ))
        return Caller(self.endpoint, self.repository, tuple(scopes))
