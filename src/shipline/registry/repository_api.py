"""The distribution API of one repository at one endpoint: URLs and authorised requests."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import TYPE_CHECKING

from shipline.errors import RegistryError
from shipline.oci import Digest
from shipline.registry.auth import Scope
from shipline.registry.hosts import Endpoint, Quirks, quirks_of
from shipline.registry.http import Caller, HttpClient
from shipline.registry.request import ClientRequest, Payload, Url

if TYPE_CHECKING:
    from shipline.registry.transport import ClientResponse, RequestWriter

READ = frozenset({"pull"})
WRITE = frozenset({"pull", "push"})


class RepositoryApi:
    """Least privilege: each call names the actions it needs, `READ` or `WRITE`."""

    def __init__(self, http: HttpClient, endpoint: Endpoint, repository: str) -> None:
        self.http = http
        self.endpoint = endpoint
        self.repository = endpoint.prefix + repository

    @property
    def host(self) -> str:
        return self.endpoint.origin.authority

    @property
    def quirks(self) -> Quirks:
        return quirks_of(self.endpoint.origin.host)

    def url(self, *path: str) -> Url:
        """`path` segments are digests, checked tags and constants, which need no escaping."""
        return Url(self.endpoint.origin, "/".join(("/v2", self.repository, *path)))

    def blob(self, digest: Digest) -> Url:
        """The URL of a blob."""
        return self.url("blobs", str(digest))

    def manifest(self, name: str) -> Url:
        """The URL of a manifest, by tag or digest."""
        return self.url("manifests", name)

    def call(
        self,
        method: str,
        url: Url,
        *,
        expect: Collection[int],
        operation: str,
        actions: frozenset[str] = READ,
        also: str = "",
        headers: Mapping[str, str] | None = None,
        body: bytes | Payload = b"",
        limit: str = "small",
        tries: int = 0,
        redirects: int = 5,
    ) -> ClientResponse:
        """See `HttpClient.call`; `also` is another repository to request pull for."""
        return self.http.call(
            ClientRequest(method, url, headers or {}, body),
            expect=expect,
            operation=f"{operation} ({self.repository})",
            caller=self._caller(actions, also),
            limit=limit,
            tries=tries,
            redirects=redirects,
        )

    def open(self, method: str, url: Url, headers: Mapping[str, str]) -> RequestWriter:
        """Start a request whose body, of unknown length, the caller writes."""
        return self.http.open(ClientRequest(method, url, headers), self._caller(WRITE), length=None)

    def location(self, response: ClientResponse, default: Url | None = None) -> Url:
        """The Location of the response. Raises RegistryError if it is missing or unsafe."""
        text = response.header("Location")
        if not text and default is not None:
            return default
        if not text:
            raise RegistryError(f"{self.host}: the upload has no Location", host=self.host)
        url = response.url.join(text)
        if response.url.origin.scheme == "https" and url.origin.scheme != "https":
            raise RegistryError(
                f"{self.host}: its upload Location is not https",
                host=self.host,
                hint="configure the registry with its public URL (http.host, or X-Forwarded-Proto "
                "from its proxy)",
            )
        return url

    def _caller(self, actions: frozenset[str], also: str = "") -> Caller:
        scopes = [Scope("repository", self.repository, actions)]
        if also:
            scopes.append(Scope("repository", self.endpoint.prefix + also, READ))
        return Caller(self.endpoint, self.repository, tuple(scopes))
