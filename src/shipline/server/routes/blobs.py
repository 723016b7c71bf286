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
    not_modified,
    route,
)
from shipline.server.node import Node
from shipline.server.problems import Problem, blob_unknown
from shipline.server.reachability import needed_by
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
        node.publish(request, "delete", name, digest=digest)
        return Response.of(202)

    path = "/v2/(?P<name>.+)/blobs/(?P<digest>[^/]+)"
    return (route(path, requires="repository", GET=pull, DELETE=delete),)


def check_unneeded(storage: Storage, name: str, digest: Digest) -> None:
    """Raises Problem 405 if a manifest refers to the blob: deleting it would break images, even
    ones whose tags the client may not delete.
    """
    for user in needed_by(storage, name, str(digest)):
        raise Problem(
            405,
            "UNSUPPORTED",
            f"{digest} is referenced by manifest {user} of {name}; delete that first",
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
    if not_modified(request.header("If-None-Match"), etag):
        return Response(304, headers[1:])
    content_range = _range(request, etag, blob.size)
    if content_range is None:
        return _file_response(200, headers, blob)
    first, last = content_range
    headers.append(("Content-Range", f"bytes {first}-{last}/{blob.size}"))
    return _file_response(206, headers, File(blob.path, first, last - first + 1))


def _range(request: Request, etag: str, size: int) -> tuple[int, int] | None:
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


def _file_response(status: int, headers: Headers, part: File) -> Response:
    return Response(status, [*headers, ("Content-Length", str(part.size))], part, part.size)
