"""The distribution API of one repository at one endpoint: URLs and authorised requests."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import TYPE_CHECKING

from shipline.errors import AuthError, RegistryError, ShiplineError
from shipline.oci import Digest
from shipline.registry.auth import Scope
from shipline.registry.errors import InvalidResponse
from shipline.registry.hosts import Endpoint
from shipline.registry.http import Caller, HttpClient
from shipline.registry.quirks import Quirks
from shipline.registry.request import ClientRequest, Payload, Url

if TYPE_CHECKING:
    from shipline.registry.transport import ClientResponse, RequestWriter

READ = frozenset({"pull"})
WRITE = frozenset({"pull", "push"})


class RepositoryApi:
    """Least privilege: each call names the actions it needs, `READ` or `WRITE`. Where `measured`,
    they tell how near the endpoint is; `refused` is whether credentials were missing or wrong.
    """

    def __init__(
        self, http: HttpClient, endpoint: Endpoint, repository: str, *, measured: bool = False
    ) -> None:
        self.http = http.hasty if endpoint.mirrored else http
        self.endpoint = endpoint
        self.repository = endpoint.prefix + repository
        self.measured = measured
        self.refused = False

    @property
    def host(self) -> str:
        return self.endpoint.origin.authority

    @property
    def quirks(self) -> Quirks:
        return self.http.quirks(self.endpoint.origin)

    @property
    def has_referrers(self) -> bool:
        """Whether the registry may have the referrers API."""
        unknown = self.http.without_referrers.get(self.endpoint.origin) is None
        return self.quirks.referrers and unknown

    def url(self, *path: str) -> Url:
        """`path` segments are digests, checked tags and constants, which need no escaping. A mirror
        gets the host in `ns`, as from containerd, since it may serve the content of several.
        """
        url = Url(self.endpoint.origin, "/".join(("/v2", self.repository, *path)))
        mirrored = self.endpoint.mirrored
        return url.with_query(("ns", mirrored)) if mirrored else url

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
        try:
            response = self.http.call(
                ClientRequest(method, url, headers or {}, body),
                expect=expect,
                operation=f"{operation} ({self.repository})",
                caller=self._caller(actions, also),
                limit=limit,
                tries=tries,
                redirects=redirects,
            )
        except AuthError:
            self.refused = True
            raise
        except RegistryError as error:
            if method == "GET":
                self.failed(error)
            raise
        if self.measured and method == "GET":
            self.http.mirrors.answered(self.endpoint, response.latency_s)
        return response

    def failed(self, error: ShiplineError) -> None:
        """Note that the endpoint failed, if it is measured."""
        if self.measured:
            self.http.mirrors.failed(self.endpoint, error)

    def delivered(self) -> None:
        """Note that content from the endpoint was verified, if it is measured."""
        if self.measured:
            self.http.mirrors.delivered(self.endpoint)

    def open(self, method: str, url: Url, headers: Mapping[str, str]) -> RequestWriter:
        """Start a request whose body, of unknown length, the caller writes."""
        return self.http.open(ClientRequest(method, url, headers), self._caller(WRITE), length=None)

    def location(self, response: ClientResponse, default: Url | None = None) -> Url:
        """The Location of the response. Raises RegistryError if it is missing or unsafe."""
        text = response.header("Location")
        if not text and default is not None:
            return default
        if not text:
            raise InvalidResponse(self.host, "the upload has no Location")
        url = response.url.join(text)
        if response.url.origin.scheme == "https" and url.origin.scheme != "https":
            raise InvalidResponse(
                self.host,
                "its upload Location is not https",
                hint="configure the registry with its public URL (http.host, or X-Forwarded-Proto "
                "from its proxy)",
            )
        return url

    def _caller(self, actions: frozenset[str], also: str = "") -> Caller:
        scopes = [Scope("repository", self.repository, actions)]
        if also:
            scopes.append(Scope("repository", self.endpoint.prefix + also, READ))
        return Caller(self.endpoint, self.repository, tuple(scopes))
