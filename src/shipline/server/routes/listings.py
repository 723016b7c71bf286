"""Listings: end-8 tags, end-12 referrers, and docker-registry's catalog."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from typing import Any
from urllib.parse import quote, urlencode

from shipline.oci import Digest, check_repository, media
from shipline.server.http import (
    Coro,
    Headers,
    Principal,
    Request,
    Response,
    Route,
    revalidate,
    route,
)
from shipline.server.node import RegistryNode
from shipline.server.problems import Problem, name_unknown
from shipline.server.upstreams.pull_through import ProxiedRepository, PullThrough

_PAGE = 10_000  # names
_SCAN = 1000  # names per scan
_ENTRIES = 1000  # descriptors in a page of referrers
_PAGE_BYTES = 2 << 20  # bytes of descriptors after which a page ends
_JSON = ("Content-Type", "application/json")


def listing_routes(node: RegistryNode) -> tuple[Route, ...]:
    storage, manifests, through = node.storage, node.manifests, node.pull_through

    def tags(request: Request, name: str) -> Response | Coro[Response]:
        check_repository(name)
        if through is not None and (source := through.source(name)) is not None:
            return upstream_tags(request, through, source)
        if not storage.exists(name):
            raise name_unknown(name)
        last, count = _page_parameters(request)
        tags = manifests.tags(name, last, count + 1) if count else []
        return _page(request, f"/v2/{name}/tags/list", {"name": name}, "tags", tags, count)

    def upstream_tags(
        request: Request, through: PullThrough, source: ProxiedRepository
    ) -> Coro[Response]:
        last, count = _page_parameters(request)
        tags, headers = yield from through.tags(source)
        tags = [tag for tag in tags if tag > last][: count + 1] if count else []
        name = source.name
        response = _page(request, f"/v2/{name}/tags/list", {"name": name}, "tags", tags, count)
        response.headers.extend(headers)
        return response

    def catalogue(request: Request) -> Response:
        last, count = _page_parameters(request)
        names = _visible(node, request.principal, last, count + 1) if count else []
        return _page(request, "/v2/_catalog", {}, "repositories", names, count)

    def referrers(request: Request, name: str, digest: str) -> Response | Coro[Response]:
        check_repository(name)
        subject = Digest.parse(digest)
        if through is not None and (source := through.source(name)) is not None:
            return upstream_referrers(request, through, source, subject)
        return list_referrers(
            request, name, subject, manifests.referrers(name, subject, _last(request))
        )

    def upstream_referrers(
        request: Request, through: PullThrough, source: ProxiedRepository, subject: Digest
    ) -> Coro[Response]:
        entries, headers = yield from through.referrers(source, subject)
        last = _last(request)
        later = (entry for entry in entries if entry["digest"] > last)
        response = list_referrers(request, source.name, subject, later)
        response.headers.extend(headers)
        return response

    def list_referrers(
        request: Request, name: str, subject: Digest, entries: Iterable[dict[str, Any]]
    ) -> Response:
        artifact_type = (request.parameter("artifactType") or "").replace(
            " ", "+"
        )  # clients send the + unescaped
        page: list[dict[str, Any]] = []
        size, more = 0, False
        for entry in entries:
            if artifact_type and entry.get("artifactType") != artifact_type:
                continue
            if len(page) == _ENTRIES or size > _PAGE_BYTES:
                more = True
                break
            page.append(entry)
            size += len(json.dumps(entry))
        headers: Headers = [("Content-Type", media.OCI_INDEX), revalidate(request)]
        if artifact_type:
            headers.append(("OCI-Filters-Applied", "artifactType"))
        if more:
            query = {"last": page[-1]["digest"]} | (
                {"artifactType": artifact_type} if artifact_type else {}
            )
            headers.append(_next(f"/v2/{name}/referrers/{subject}", query))
        document = {"schemaVersion": 2, "mediaType": media.OCI_INDEX, "manifests": page}
        return Response.of(200, headers, json.dumps(document).encode())

    return (
        route("/v2/(?P<name>.+)/tags/list", requires="repository", GET=tags),
        route("/v2/(?P<name>.+)/referrers/(?P<digest>[^/]+)", requires="repository", GET=referrers),
        route("/v2/_catalog", requires="catalog", GET=catalogue),
    )


def _visible(node: RegistryNode, principal: Principal, after: str, limit: int) -> list[str]:
    """Up to `limit` names of repositories that the account may pull. Checks the account's rights:
    the token's scope covers the catalog, not its repositories.
    """
    names: list[str] = []
    while len(names) < limit:
        page = node.storage.repositories(after, max(limit, _SCAN))
        names += [name for name in page if principal.account_may("pull", name)]
        if len(page) < max(limit, _SCAN):
            break
        after = page[-1]
    return names[:limit]


def _page_parameters(request: Request) -> tuple[str, int]:
    """The name to start after, and the maximum number of names."""
    text = request.parameter("n")
    if text is not None and not re.fullmatch("[0-9]{1,100}", text):
        raise Problem(400, "PAGINATION_NUMBER_INVALID", "n must be a non-negative number")
    return _last(request), _PAGE if text is None else min(int(text), _PAGE)


def _last(request: Request) -> str:
    last = request.parameter("last") or ""
    if "\0" in last:
        raise Problem(400, "NAME_INVALID", "invalid last")
    return last


def _page(
    request: Request, path: str, document: dict[str, Any], key: str, names: list[str], count: int
) -> Response:
    """The first `count` names, all if it is 0, with a link to the next page if there are more."""
    headers: Headers = [_JSON, revalidate(request)]
    if count and len(names) > count:
        names = names[:count]
        headers.append(_next(path, {"n": count, "last": names[-1]}))
    return Response.of(200, headers, json.dumps({**document, key: names}).encode())


def _next(path: str, query: dict[str, Any]) -> tuple[str, str]:
    return "Link", f'<{quote(path, safe="/:")}?{urlencode(query)}>; rel="next"'
