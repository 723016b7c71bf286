"""Blobs and their uploads: end-2 to end-7, end-10, end-11."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial

from shipline.errors import UsageError
from shipline.oci import Digest, InvalidDigest, check_repository
from shipline.server.http import (
    Coro,
    File,
    Growing,
    Headers,
    NotSatisfiable,
    Request,
    Response,
    Route,
    byte_range,
    cache_forever,
    matches,
    not_modified,
    route,
)
from shipline.server.node import RegistryNode
from shipline.server.problems import (
    Problem,
    blob_unknown,
    digest_invalid,
    precondition_failed,
    received,
)
from shipline.server.reachability import needed_by
from shipline.server.storage import Storage
from shipline.server.uploads import Check
from shipline.server.upstreams.pull_through import ProxiedRepository, PullThrough
from shipline.values import replace


def blob_routes(node: RegistryNode) -> tuple[Route, ...]:
    storage, through = node.storage, node.pull_through

    def pull(request: Request, name: str, digest: str) -> Response | Coro[Response]:
        target = Digest.parse(digest)
        size = storage.find_blob(check_repository(name), target)
        source = None if through is None else through.source(name)
        if size is not None:
            if through is not None and source is not None:
                through.use_blob(source, target)
            location = node.cdn and node.cdn.redirect(request, name, target, size)
            if location:
                return _redirect(location, target)
            return _answer(request, target, File(storage.store.path(target), 0, size))
        if through is None or source is None:
            raise blob_unknown(digest)
        return pull_through(request, through, source, target)

    def pull_through(
        request: Request, through: PullThrough, source: ProxiedRepository, target: Digest
    ) -> Coro[Response]:
        if request.method != "HEAD":
            return _answer(request, target, (yield from through.blob(source, target)))
        size = yield from through.blob_size(source, target)
        headers = _headers(request, target, verified=False)
        return Response(200, [*headers, ("Content-Length", str(size))])

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


def _redirect(location: str, digest: Digest) -> Response:
    """To a signed URL, which expires and may be for this client only, so nobody keeps it."""
    headers = [("Location", location), ("Docker-Content-Digest", str(digest))]
    return Response.of(307, [*headers, ("Cache-Control", "no-store")])


def _headers(request: Request, digest: Digest, *, verified: bool = True) -> Headers:
    """Nobody may keep what could still turn out to be other content."""
    headers = [
        ("Content-Type", _BYTES),
        ("Docker-Content-Digest", str(digest)),
        ("Accept-Ranges", "bytes"),
    ]
    if not verified:
        return [*headers, ("Cache-Control", "no-store")]
    return [*headers, ("ETag", f'"{digest}"'), cache_forever(request)]


def _answer(request: Request, digest: Digest, blob: File | Growing) -> Response:
    verified = isinstance(blob, File) or blob.progress.value >= blob.size
    headers, etag = _headers(request, digest, verified=verified), f'"{digest}"'
    if verified and not matches(request.header("If-Match"), etag):
        raise precondition_failed("the blob", digest)
    if verified and not_modified(request.header("If-None-Match"), etag):
        return Response(304, headers[1:])
    content_range = _range(request, etag if verified else "", blob.size)
    if content_range is None:
        return _file_response(200, headers, blob)
    first, last = content_range
    headers.append(("Content-Range", f"bytes {first}-{last}/{blob.size}"))
    return _file_response(206, headers, replace(blob, start=first, size=last - first + 1))


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


def _file_response(status: int, headers: Headers, part: File | Growing) -> Response:
    return Response(status, [*headers, ("Content-Length", str(part.size))], part, part.size)


_ALGORITHMS = ("sha256", "sha512")
_BYTES = "application/octet-stream"
_CHECK_EVERY = 64 << 20  # bytes of a body between two quota checks


def upload_routes(node: RegistryNode) -> tuple[Route, ...]:
    uploads = node.uploads

    def start(request: Request, name: str) -> Coro[Response]:
        node.refuse_push(check_repository(name))
        actor = request.principal.actor
        mount, digest = request.parameter("mount"), request.parameter("digest")
        if mount and _mount(node, request, mount, name):
            node.publish(request, "mount", name, digest=mount)
            return _created(name, Digest.parse(mount))
        if digest:
            target = Digest.parse(digest)
            check = _quota_check(node, request, name)
            length = request.content_length
            yield from uploads.put(name, target, length, actor=actor, check=check)
            node.publish(
                request, "push", name, digest=digest, size=request.received, media_type=_BYTES
            )
            return _created(name, target)
        node.admission.blob(request.principal, name, 1)
        algorithm = request.parameter("digest-algorithm") or "sha256"
        if algorithm not in _ALGORITHMS:
            raise digest_invalid(f"unsupported digest algorithm {algorithm[:40]!r}")
        return _session_response(202, name, uploads.start(name, algorithm, actor=actor), 0)

    def append(request: Request, name: str, session: str) -> Coro[Response]:
        with _with_location(name, session):
            size = yield from uploads.append(
                name,
                session,
                request.header("Content-Range"),
                request.content_length,
                actor=request.principal.actor,
                check=_quota_check(node, request, name),
                disconnect=request.disconnect,
            )
        return _session_response(202, name, session, size)

    def finish(request: Request, name: str, session: str) -> Coro[Response]:
        digest = request.parameter("digest")
        if digest is None:
            raise digest_invalid("the digest parameter is missing")
        target = Digest.parse(digest)
        with _with_location(name, session):
            yield from uploads.finish(
                name,
                session,
                target,
                request.header("Content-Range"),
                request.content_length,
                actor=request.principal.actor,
                check=_quota_check(node, request, name),
                disconnect=request.disconnect,
            )
        size = node.storage.blob_size(name, target) or 0
        node.publish(request, "push", name, digest=digest, size=size, media_type=_BYTES)
        return _created(name, target)

    def status(request: Request, name: str, session: str) -> Coro[Response]:
        actor = request.principal.actor
        size = yield from uploads.settled_size(check_repository(name), session, actor=actor)
        return _session_response(204, name, session, size)

    def cancel(request: Request, name: str, session: str) -> Response:
        uploads.cancel(check_repository(name), session, actor=request.principal.actor)
        return Response(204)

    return (
        route("/v2/(?P<name>.+)/blobs/uploads/?", requires="upload", POST=start),
        route(
            "/v2/(?P<name>.+)/blobs/uploads/(?P<session>[A-Za-z0-9-]+)",
            requires="upload",
            PATCH=append,
            PUT=finish,
            GET=status,
            DELETE=cancel,
        ),
    )


def _quota_check(node: RegistryNode, request: Request, name: str) -> Check:
    """Checks the quota at the start, periodically, and at the end: the length may be unknown, and
    other uploads run concurrently.
    """
    checked_at = -_CHECK_EVERY

    def check(received_bytes: int, whole: bool) -> None:
        nonlocal checked_at
        if whole or received_bytes - checked_at >= _CHECK_EVERY:
            checked_at = received_bytes
            node.admission.blob(request.principal, name, 0)

    return check


@contextmanager
def _with_location(name: str, session: str) -> Iterator[None]:
    """Adds the Location header to a 416 response."""
    try:
        yield
    except Problem as problem:
        if problem.status == 416:
            problem.headers += (("Location", _location(name, session)),)
        raise


def _location(name: str, session: str) -> str:
    return f"/v2/{name}/blobs/uploads/{session}"


def _mount(node: RegistryNode, request: Request, digest: str, name: str) -> bool:
    """Mount the blob if the client may pull its source; otherwise it uploads, as for a digest that
    cannot be read, and learns nothing about the source. If only the token's scope lacks the source,
    the client is asked for it (401).
    """
    source = request.parameter("from")
    try:
        target = Digest.parse(digest)
        if source is not None:
            check_repository(source)
    except (UsageError, InvalidDigest):
        return False
    principal = request.principal
    if source and not principal.may("pull", source) and principal.account_may("pull", source):
        raise node.authenticator.request_scope(request, source)
    return node.storage.mount(
        target,
        name,
        source,
        actor=principal.actor,
        readable=partial(principal.may, "pull"),
        check=partial(node.admission.blob, principal, name),
    )


def _created(name: str, digest: Digest) -> Response:
    return Response.of(
        201, [("Location", f"/v2/{name}/blobs/{digest}"), ("Docker-Content-Digest", str(digest))]
    )


def _session_response(status: int, name: str, session: str, size: int) -> Response:
    headers: Headers = [
        ("Location", _location(name, session)),
        ("Range", received(size)),
        ("Docker-Upload-UUID", session),
    ]
    return Response(status, headers) if status == 204 else Response.of(status, headers)
