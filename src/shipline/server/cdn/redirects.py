"""Redirects of pulls to the CDN, and the requests with which it comes for the content."""

from __future__ import annotations

import hmac
import ipaddress
import time
from collections.abc import Callable, Mapping
from typing import Self

from shipline.net import read_address
from shipline.oci import Digest, check_repository
from shipline.server.cdn.section import CdnSection
from shipline.server.cdn.signatures import (
    CloudFrontForm,
    Grant,
    HmacForm,
    SecureLinkForm,
    SignedForm,
    VerifiedForm,
    with_query,
)
from shipline.server.http import YEAR_S, Action, Principal, Request
from shipline.server.limits import Network, client_address
from shipline.server.problems import Problem

_PREFIXES = {"address": (32, 128), "network": (24, 64)}  # bits of IPv4, IPv6


class Cdn:
    """The CDN of a node. Safe to use from any thread."""

    def __init__(
        self,
        section: CdnSection,
        form: SignedForm,
        verified: VerifiedForm | None,
        *,
        redirects: bool,
        proxies: tuple[Network, ...] = (),
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._section = section
        self._form, self._verified = form, verified
        self._redirects = redirects
        self._proxies = proxies
        self._clock = clock

    @classmethod
    def of(
        cls,
        section: CdnSection,
        environ: Mapping[str, str],
        *,
        redirects: bool = True,
        proxies: tuple[Network, ...] = (),
        clock: Callable[[], float] = time.time,
    ) -> Self:
        """Raises ConfigError for a missing secret or a bad key. `proxies` say for whom they ask."""
        keys = {key.id: key.secret(environ) for key in section.keys}
        verified: VerifiedForm | None = None
        form: SignedForm
        if section.form == "cloudfront":
            first = section.keys[0].id
            form = CloudFrontForm(section.url.rstrip("/"), first, keys[first])
        elif section.form == "nginx":
            form = verified = SecureLinkForm(keys, bound=section.address_range != "none")
        else:
            form = verified = HmacForm(keys)
        return cls(section, form, verified, redirects=redirects, proxies=proxies, clock=clock)

    def redirect(self, request: Request, name: str, digest: Digest, size: int) -> str | None:
        """The signed URL to send a pull to; None to answer it here.

        Equal for all clients, unless bound to their addresses, for half of the expiry time, so
        that a CDN may also cache by the whole URL.
        """
        section = self._section
        here = request.method != "GET" or request.shared_s is not None or not self._redirects
        if here or size < section.minimum_size.bytes or not section.covers(name):
            return None
        half = max(1, int(section.expiry.seconds) // 2)
        expires = (int(self._clock()) // half + 2) * half
        grant = Grant(_path(name, digest), expires, self._addresses(request))
        return with_query(section.url.rstrip("/") + grant.path, self._form.sign(grant))

    def authorize(self, request: Request, authorize: Callable[[], Principal]) -> Principal:
        """The principal of a request, with the rights of its signed URL if it has one, else as
        `authorize` says. Sets `request.shared_s` for the CDN's requests.

        Raises Problem 403 for a signed URL that is not valid here, or as `authorize`.
        """
        grant = self._grant(request)
        if grant is not None:
            return self._principal(request, grant)
        principal = authorize()
        if principal.name and principal.name == self._section.account:
            request.shared_s = YEAR_S
        return principal

    def _grant(self, request: Request) -> Grant | None:
        """What the signed URL of a request allows, None if it is none."""
        form, match = self._verified, request.match.arguments
        if form is None or request.changes or match.keys() != {"name", "digest"}:
            return None
        if f"{form.name}=" not in request.query_string:
            return None
        query = {name: values[-1] for name, values in request.query.items()}
        client = client_address(request.address, request.header("X-Forwarded-For"), self._proxies)
        path = _path(check_repository(match["name"]), Digest.parse(match["digest"]))
        grant = form.grant(path, query, client)
        right = {} if grant is None else form.query(grant, query["key"])
        given, expected = query.get(form.name, ""), right.get(form.name, "")
        if grant is None or not hmac.compare_digest(given.encode(), expected.encode()):
            raise _refused("the signature of this URL is wrong")
        if {name: [value] for name, value in right.items()} != request.query:
            raise _refused("this URL has parameters that were not signed")  # one entry per URL
        if self._clock() >= grant.expires:
            raise _refused("this URL has expired; ask the registry again")
        if grant.addresses and not Network(grant.addresses).contains(client):
            raise _refused(f"this URL is not for {client}")
        request.address = client
        return grant

    def _principal(self, request: Request, grant: Grant) -> Principal:
        """May pull from the repository that was signed; its route names the digest."""
        name = request.match.arguments["name"]
        left = int(grant.expires - self._clock())
        by_edge = self._verified is not None and self._verified.checked_by_edge
        request.shared_s = YEAR_S if by_edge else 0 if grant.addresses else left

        def may(action: Action, repository: str, tag: str) -> bool:
            return action == "pull" and repository == name

        return Principal("", "anonymous", may)

    def _addresses(self, request: Request) -> str:
        prefixes = _PREFIXES.get(self._section.address_range)
        if prefixes is None:
            return ""
        client = client_address(request.address, request.header("X-Forwarded-For"), self._proxies)
        address = read_address(client)
        if address is None:
            return client
        prefix = prefixes[address.version == 6]
        network = ipaddress.ip_network((address, prefix), strict=False)
        return str(address if prefix == address.max_prefixlen else network)


def _path(name: str, digest: Digest) -> str:
    return f"/v2/{name}/blobs/{digest}"


def _refused(message: str) -> Problem:
    return Problem(403, "DENIED", message)
