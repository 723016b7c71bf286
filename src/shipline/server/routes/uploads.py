"""Pushing blobs: end-4 start, 5 chunk, 6 finish, 11 mount, 13 status, 14 cancel."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial

from shipline.errors import UsageError
from shipline.oci import Digest, check_repository
from shipline.server.http import Headers, Request, Response, Route, Steps, route
from shipline.server.node import Node
from shipline.server.problems import Problem, digest_invalid, received
from shipline.server.uploads import Check

_ALGORITHMS = ("sha256", "sha512")
_BYTES = "application/octet-stream"
_LOOK = 64 << 20  # bytes of a body, until it is asked again whether there is room


def upload_routes(node: Node) -> tuple[Route, ...]:
    uploads = node.uploads

    def start(request: Request, name: str) -> Steps[Response]:
        check_repository(name)
        actor = request.identity.actor
        mount, digest = request.parameter("mount"), request.parameter("digest")
        if mount and _mounted(node, request, Digest.parse(mount), name):
            node.note(request, "mount", name, digest=mount)
            return _created(name, Digest.parse(mount))
        if digest:
            target = Digest.parse(digest)
            check = _room(node, request, name)
            length = request.content_length
            yield from uploads.put(name, target, length, actor=actor, check=check)
            node.note(
                request, "push", name, digest=digest, size=request.received, media_type=_BYTES
            )
            return _created(name, target)
        node.door.blob(request.identity, name, 1)
        algorithm = request.parameter("digest-algorithm") or "sha256"
        if algorithm not in _ALGORITHMS:
            raise digest_invalid(f"digests of {algorithm[:40]!r} cannot be verified here")
        return _open(202, name, uploads.start(name, algorithm, actor=actor), 0)

    def append(request: Request, name: str, session: str) -> Steps[Response]:
        with _placed(name, session):
            size = yield from uploads.append(
                name,
                session,
                request.header("Content-Range"),
                request.content_length,
                actor=request.identity.actor,
                check=_room(node, request, name),
            )
        return _open(202, name, session, size)

    def finish(request: Request, name: str, session: str) -> Steps[Response]:
        digest = request.parameter("digest")
        if digest is None:
            raise digest_invalid("the digest parameter is missing")
        target = Digest.parse(digest)
        with _placed(name, session):
            yield from uploads.finish(
                name,
                session,
                target,
                request.header("Content-Range"),
                request.content_length,
                actor=request.identity.actor,
                check=_room(node, request, name),
            )
        size = node.storage.blob_size(name, target) or 0
        node.note(request, "push", name, digest=digest, size=size, media_type=_BYTES)
        return _created(name, target)

    def status(request: Request, name: str, session: str) -> Response:
        size = uploads.size(check_repository(name), session, actor=request.identity.actor)
        return _open(204, name, session, size)

    def cancel(request: Request, name: str, session: str) -> Response:
        uploads.cancel(check_repository(name), session, actor=request.identity.actor)
        return Response(204)

    return (
        route("/v2/(?P<name>.+)/blobs/uploads/?", need="upload", POST=start),
        route(
            "/v2/(?P<name>.+)/blobs/uploads/(?P<session>[A-Za-z0-9-]+)",
            need="upload",
            PATCH=append,
            PUT=finish,
            GET=status,
            DELETE=cancel,
        ),
    )


def _room(node: Node, request: Request, name: str) -> Check:
    """A check whether there is room for what an upload has brought or promised. A client may say
    nothing about its length, and others bring theirs meanwhile: so this is asked at first, again
    every now and then, and at the end.
    """
    asked = -_LOOK

    def check(came: int, whole: bool) -> None:
        nonlocal asked
        if whole or came - asked >= _LOOK:
            asked = came
            node.door.blob(request.identity, name, 0)

    return check


@contextmanager
def _placed(name: str, session: str) -> Iterator[None]:
    """A chunk that is refused for its range is answered with where to go on, as any other."""
    try:
        yield
    except Problem as problem:
        if problem.status == 416:
            problem.headers += (("Location", _place(name, session)),)
        raise


def _place(name: str, session: str) -> str:
    return f"/v2/{name}/blobs/uploads/{session}"


def _mounted(node: Node, request: Request, digest: Digest, name: str) -> bool:
    """A source that cannot exist, or that the client may not see, is one that has nothing: the
    client uploads instead, and learns nothing. One that only its token leaves out is asked for.
    """
    source = request.parameter("from")
    try:
        if source is not None:
            check_repository(source)
    except UsageError:
        return False
    identity = request.identity
    if source and not identity.may("pull", source) and identity.could("pull", source):
        raise node.guard.narrow(request, source)
    return node.storage.mount(
        digest,
        name,
        source,
        actor=identity.actor,
        readable=partial(identity.may, "pull"),
        check=partial(node.door.blob, identity, name),
    )


def _created(name: str, digest: Digest) -> Response:
    return Response.of(
        201,
        [
            ("Location", f"/v2/{name}/blobs/{digest}"),
            ("Docker-Content-Digest", str(digest)),
        ],
    )


def _open(status: int, name: str, session: str, size: int) -> Response:
    headers: Headers = [
        ("Location", _place(name, session)),
        ("Range", received(size)),
        ("Docker-Upload-UUID", session),
    ]
    return Response(status, headers) if status == 204 else Response.of(status, headers)
