"""Lists: end-8 tags, end-12 referrers, and the catalogue that Docker's registries have."""

from __future__ import annotations

import json
import re
from typing import Any
from urllib.parse import quote, urlencode

from shipline.oci import Digest, check_repository, media
from shipline.server.http import Headers, Principal, Request, Response, Route, route
from shipline.server.node import Node
from shipline.server.problems import Problem, name_unknown

_PAGE = 10_000  # names
_AT_ONCE = 1000  # names that are read at a time
_ENTRIES = 1000  # descriptors in a page of referrers
_ENOUGH = 2 << 20  # bytes of descriptors after which a page ends
_JSON = ("Content-Type", "application/json")


def listing_routes(node: Node) -> tuple[Route, ...]:
    storage, manifests = node.storage, node.manifests

    def tags(request: Request, name: str) -> Response:
        if not storage.exists(check_repository(name)):
            raise name_unknown(name)
        last, count = _paging(request)
        found = manifests.tags(name, last, count + 1) if count else []
        return _page(f"/v2/{name}/tags/list", {"name": name}, "tags", found, count)

    def catalogue(request: Request) -> Response:
        last, count = _paging(request)
        found = _visible(node, request.identity, last, count + 1) if count else []
        return _page("/v2/_catalog", {}, "repositories", found, count)

    def referrers(request: Request, name: str, digest: str) -> Response:
        check_repository(name)
        subject = Digest.parse(digest)
        wanted = (request.parameter("artifactType") or "").replace(" ", "+")  # written as it is
        last = _last(request)
        page: list[dict[str, Any]] = []
        size, more = 0, False
        for entry in manifests.referrers(name, subject, last):
            if wanted and entry.get("artifactType") != wanted:
                continue
            if len(page) == _ENTRIES or size > _ENOUGH:
                more = True
                break
            page.append(entry)
            size += len(json.dumps(entry))
        headers: Headers = [("Content-Type", media.OCI_INDEX)]
        if wanted:
            headers.append(("OCI-Filters-Applied", "artifactType"))
        if more:
            query = {"last": page[-1]["digest"]} | ({"artifactType": wanted} if wanted else {})
            headers.append(_next(f"/v2/{name}/referrers/{digest}", query))
        document = {"schemaVersion": 2, "mediaType": media.OCI_INDEX, "manifests": page}
        return Response.of(200, headers, json.dumps(document).encode())

    return (
        route("/v2/(?P<name>.+)/tags/list", need="repository", GET=tags),
        route("/v2/(?P<name>.+)/referrers/(?P<digest>[^/]+)", need="repository", GET=referrers),
        route("/v2/_catalog", need="catalog", GET=catalogue),
    )


def _visible(node: Node, identity: Principal, after: str, limit: int) -> list[str]:
    """Up to `limit` names of repositories that the account may pull: the scope of the catalogue,
    which the guard has seen, is about names and not about what is in them.

    Looked for by the thousand: who asks for one of few visible names costs no scan for each name.
    """
    seen: list[str] = []
    while len(seen) < limit:
        page = node.storage.repositories(after, max(limit, _AT_ONCE))
        seen += [name for name in page if identity.could("pull", name)]
        if len(page) < max(limit, _AT_ONCE):
            break
        after = page[-1]
    return seen[:limit]


def _paging(request: Request) -> tuple[str, int]:
    """The name to go on behind, and how many names at most."""
    text = request.parameter("n")
    if text is not None and not re.fullmatch("[0-9]{1,18}", text):
        raise Problem(400, "PAGINATION_NUMBER_INVALID", "n must be a number, not negative")
    return _last(request), _PAGE if text is None else min(int(text), _PAGE)


def _last(request: Request) -> str:
    last = request.parameter("last") or ""
    if "\0" in last:
        raise Problem(400, "NAME_INVALID", "last cannot be a name")
    return last


def _page(path: str, document: dict[str, Any], key: str, found: list[str], count: int) -> Response:
    """`found` has one name more than the page when there is a next page."""
    headers: Headers = [_JSON]
    if count and len(found) > count:
        found = found[:count]
        headers.append(_next(path, {"n": count, "last": found[-1]}))
    return Response.of(200, headers, json.dumps({**document, key: found}).encode())


def _next(path: str, query: dict[str, Any]) -> tuple[str, str]:
    return "Link", f'<{quote(path, safe="/:")}?{urlencode(query)}>; rel="next"'
