"""Blobs: end-2 pull, end-10 delete."""

from __future__ import annotations

from functools import partial

from shipline.oci import Digest, check_repository
from shipline.server.http import (
    File,
    Headers,
    NotSatisfiable,
    Request,
    Response,
    Route,
    byte_range,
    route,
    unchanged,
)
from shipline.server.node import Node
from shipline.server.problems import Problem, blob_unknown
from shipline.server.reach import needed
from shipline.server.storage import Storage

FOREVER = ("Cache-Control", "max-age=31536000, immutable")


def blob_routes(node: Node) -> tuple[Route, ...]:
    storage = node.storage

    def pull(request: Request, name: str, digest: str) -> Response:
        target = Digest.parse(digest)
        size = storage.find_blob(check_repository(name), target)
        if size is None:
            raise blob_unknown(digest)
        return _answer(request, target, File(storage.store.path(target), 0, size))

    def delete(request: Request, name: str, digest: str) -> Response:
        target = Digest.parse(digest)
        check = partial(check_unneeded, storage, name, target)
        if not storage.delete_blob(check_repository(name), target, check=check):
            raise blob_unknown(digest)
        node.note(request, "delete", name, digest=digest)
        return Response.of(202)

    path = "/v2/(?P<name>.+)/blobs/(?P<digest>[^/]+)"
    return (route(path, need="repository", GET=pull, DELETE=delete),)


def check_unneeded(storage: Storage, name: str, digest: Digest) -> None:
    """An image that is there stays whole, whoever may delete: a tag that one may not delete, or
    that is immutable, leads to what is below it too. Raises Problem 405.
    """
    for user in needed(storage, name, str(digest)):
        raise Problem(
            405,
            "UNSUPPORTED",
            f"{digest} is needed by the manifest {user} of {name}; delete that one first",
            headers=(("Allow", "GET, HEAD"),),
        )


def _answer(request: Request, digest: Digest, blob: File) -> Response:
    etag = f'"{digest}"'
    headers: Headers = [
        ("Content-Type", "application/octet-stream"),
        ("Docker-Content-Digest", str(digest)),
        ("ETag", etag),
        ("Accept-Ranges", "bytes"),
        FOREVER,
    ]
    if unchanged(request.header("If-None-Match"), etag):
        return Response(304, headers[1:])
    span = _span(request, etag, blob.size)
    if span is None:
        return _part(200, headers, blob)
    first, last = span
    headers.append(("Content-Range", f"bytes {first}-{last}/{blob.size}"))
    return _part(206, headers, File(blob.path, first, last - first + 1))


def _span(request: Request, etag: str, size: int) -> tuple[int, int] | None:
    if request.method != "GET" or request.header("If-Range") not in (None, etag):
        return None
    try:
        return byte_range(request.header("Range"), size)
    except NotSatisfiable:
        raise Problem(
            416,
            "SIZE_INVALID",
            f"the blob has {size} bytes",
            headers=(("Content-Range", f"bytes */{size}"),),
        ) from None


def _part(status: int, headers: Headers, part: File) -> Response:
    return Response(status, [*headers, ("Content-Length", str(part.size))], part, part.size)
