"""Manifests: end-3 pull, end-7 push, end-9 delete."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

from shipline.metadata import walk
from shipline.oci import (
    MANIFEST_LIMIT,
    Digest,
    Index,
    InvalidReference,
    Manifest,
    check_repository,
    check_tag,
    media,
    parse_manifest,
    weight_of,
)
from shipline.server.cache import StoredManifest
from shipline.server.http import (
    Action,
    Coro,
    Headers,
    Pool,
    Principal,
    Request,
    Response,
    Route,
    cache_forever,
    matches,
    not_modified,
    precondition_holds,
    revalidate,
    route,
)
from shipline.server.node import RegistryNode
from shipline.server.problems import (
    Problem,
    digest_invalid,
    manifest_invalid,
    manifest_unknown,
    precondition_failed,
)
from shipline.server.routes.blobs import check_unneeded
from shipline.server.upstreams.pull_through import ProxiedRepository, PullThrough

_TAGS = 100  # tags in one request
_PARSE_LIMIT, _ACCOUNT_PARSE_LIMIT = 256 << 20, 96 << 20  # bytes
_SMALL = 1 << 20  # bytes
_PER_BYTE, _PER_PART = 3, 300  # bytes in memory per byte, per object or list
_PARSE_WAIT_S = 10.0


def manifest_routes(node: RegistryNode) -> tuple[Route, ...]:
    manifests, parse_memory = node.manifests, ParseMemory()
    through = node.pull_through

    def pull(request: Request, name: str, reference: str) -> Response | Coro[Response]:
        check_repository(name)
        target = _pull_reference(reference)
        if isinstance(target, str) and not request.principal.may("pull", name, target):
            raise Problem(403, "DENIED", f"{request.principal.actor} may not pull {name}:{target}")
        if through is not None and (source := through.source(name)) is not None:
            return pull_through(request, through, source, target)
        return send(request, name, target)

    def pull_through(
        request: Request, through: PullThrough, source: ProxiedRepository, target: Digest | str
    ) -> Coro[Response]:
        headers = yield from through.manifest(source, target)
        response = send(request, source.name, target)
        response.headers.extend(headers)
        return response

    def send(request: Request, name: str, target: Digest | str) -> Response:
        stored = manifests.get(name, target)
        if stored is None:
            raise manifest_unknown(target)
        node.admission.pull(request.principal, name, target, stored)
        caching = cache_forever if isinstance(target, Digest) else revalidate
        headers = _headers(stored, caching(request))
        if not matches(request.header("If-Match"), f'"{stored.digest}"'):
            raise precondition_failed(f"{name}:{target}", stored.digest)
        known = request.header("If-None-Match")
        if known is not None and not_modified(known, f'"{stored.digest}"'):
            return Response(304, headers[1:])
        headers.append(("Content-Length", str(len(stored.raw))))
        if request.method == "GET":
            _note_pull(node, request, name, target, stored)
        return Response(200, headers, stored.raw, len(stored.raw))

    def push(request: Request, name: str, reference: str) -> Response:
        node.refuse_push(check_repository(name))
        target = _reference(reference)
        tags = _tags(request, target)
        raw = request.read(MANIFEST_LIMIT)
        with parse_memory.reserve(raw, request.principal.actor):
            return store(request, name, target, tags, raw)

    def store(
        request: Request, name: str, target: Digest | str, tags: tuple[str, ...], raw: bytes
    ) -> Response:
        digest = _verified(raw, target)
        content = _content(raw, request.content_type)

        def check() -> None:
            _check_conditions(node, request, name, target)
            _check_overwrite(node, request.principal, name, digest, tags)
            node.admission.push(request.principal, name, digest, content, tags)

        actor = request.principal.actor
        manifests.put(name, digest, content, tags, actor=actor, check=check)
        kind, size = content.media_type, len(raw)
        node.publish(
            request, "push", name, digest=str(digest), tags=tags, media_type=kind, size=size
        )
        headers: Headers = [
            ("Location", f"/v2/{name}/manifests/{digest}"),
            ("Docker-Content-Digest", str(digest)),
        ]
        if content.subject is not None:
            headers.append(("OCI-Subject", str(content.subject.digest)))
        if tags and isinstance(target, Digest):
            headers.append(("OCI-Tag", ", ".join(tags)))
        return Response.of(201, headers)

    def delete(request: Request, name: str, reference: str) -> Response:
        node.refuse_delete(check_repository(name))
        target = _reference(reference)

        def check() -> None:
            _check_conditions(node, request, name, target)
            _check_removal(node, request.principal, name, target)
            node.admission.delete(request.principal, name, target)

        gone = (
            manifests.delete(name, target, check=check)
            if isinstance(target, Digest)
            else manifests.untag(name, target, check=check)
        )
        if not gone:
            raise manifest_unknown(reference)
        if isinstance(target, Digest):
            node.publish(request, "delete", name, digest=reference)
        else:
            node.publish(request, "untag", name, tags=(reference,))
        return Response.of(202)

    def pool(name: str, reference: str) -> Pool:
        """Cached manifests are served in the event loop."""
        return Pool.LOOP if node.pulls_in_loop and manifests.is_hot(name, reference) else Pool.DISK

    path = "/v2/(?P<name>.+)/manifests/(?P<reference>[^/]+)"
    methods = {"GET": pull, "PUT": push, "DELETE": delete}
    return (route(path, requires="repository", pool=pool, body=MANIFEST_LIMIT, **methods),)


class ParseMemory:
    """Bounds the memory for parsing manifests, in total and per account. Safe to use from any
    thread.
    """

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._taken: Counter[str] = Counter()

    @contextmanager
    def reserve(self, raw: bytes, actor: str) -> Iterator[None]:
        """Reserve memory for a large document, waiting if necessary. Raises Problem 429 after a
        timeout.
        """
        size = len(raw) * _PER_BYTE + weight_of(raw) * _PER_PART
        if size < _SMALL:
            yield
            return
        with self._changed:
            if not self._changed.wait_for(lambda: self._fits(actor, size), _PARSE_WAIT_S):
                raise Problem(
                    429,
                    "TOOMANYREQUESTS",
                    "too many large manifests at once; try again later",
                    headers=(("Retry-After", "5"),),
                )
            self._taken[actor] += size
        try:
            yield
        finally:
            with self._changed:
                self._taken -= Counter({actor: size})
                self._changed.notify_all()

    def _fits(self, actor: str, size: int) -> bool:
        """A single document always fits."""
        own, every = self._taken[actor], self._taken.total()
        return (not own or own + size <= _ACCOUNT_PARSE_LIMIT) and (
            not every or every + size <= _PARSE_LIMIT
        )


def _check_conditions(
    node: RegistryNode, request: Request, name: str, target: Digest | str
) -> None:
    """Check If-Match and If-None-Match. Raises Problem 412."""
    if_match, if_none_match = request.header("If-Match"), request.header("If-None-Match")
    if if_match is None and if_none_match is None:
        return
    stored = node.manifests.get(name, target)
    if not precondition_holds(
        if_match, if_none_match, "" if stored is None else f'"{stored.digest}"'
    ):
        raise precondition_failed(f"{name}:{target}", stored.digest if stored else "not there")


def _note_pull(
    node: RegistryNode, request: Request, name: str, target: Digest | str, stored: StoredManifest
) -> None:
    tags = () if isinstance(target, Digest) else (target,)
    node.publish(
        request,
        "pull",
        name,
        digest=str(stored.digest),
        tags=tags,
        media_type=stored.media_type,
        size=len(stored.raw),
    )


def _check_overwrite(
    node: RegistryNode, principal: Principal, name: str, digest: Digest, tags: tuple[str, ...]
) -> None:
    """Check the right to create or move each tag; pushing the same digest again only needs push.
    Raises Problem 403.
    """
    for tag in tags:
        before = node.manifests.target(name, tag)
        action: Action = "push" if before in (None, digest) else "update"
        if not principal.may(action, name, tag):
            verb = "create" if action == "push" else "move"
            raise Problem(403, "DENIED", f"{principal.actor} may not {verb} the tag {name}:{tag}")


def _check_removal(
    node: RegistryNode, principal: Principal, name: str, target: Digest | str
) -> None:
    """Deleting a manifest deletes its tags, so all must be allowed, and no index may list it.
    Raises Problem 403 or 405.
    """
    if isinstance(target, Digest):
        check_unneeded(node.storage, name, target)
    tags = [target] if isinstance(target, str) else _tags_of(node, name, target)
    for tag in tags:
        if not principal.may("delete", name, tag):
            raise Problem(403, "DENIED", f"{principal.actor} may not delete the tag {name}:{tag}")


def _tags_of(node: RegistryNode, name: str, digest: Digest) -> Iterator[str]:
    return (tag for (tag,), _ in walk(node.storage.records, ("tagged", name, str(digest))))


def _headers(stored: StoredManifest, caching: tuple[str, str]) -> Headers:
    digest = str(stored.digest)
    return [
        ("Content-Type", stored.media_type),
        ("Docker-Content-Digest", digest),
        ("ETag", f'"{digest}"'),
        caching,
    ]


def _reference(text: str) -> Digest | str:
    """Raises InvalidDigest, or Problem MANIFEST_INVALID for an invalid tag."""
    if ":" in text:
        return Digest.parse(text)
    try:
        return check_tag(text)
    except InvalidReference as error:
        raise manifest_invalid(error.message) from None


def _pull_reference(text: str) -> Digest | str:
    """Like `_reference`, but an invalid tag is unknown."""
    if ":" in text:
        return Digest.parse(text)
    try:
        return check_tag(text)
    except InvalidReference:
        raise manifest_unknown(text) from None


def _tags(request: Request, target: Digest | str) -> tuple[str, ...]:
    """The tags for the manifest: end-7b allows several on a push by digest."""
    if isinstance(target, str):
        return (target,)
    tags = tuple(dict.fromkeys(request.query.get("tag", ())))
    if len(tags) > _TAGS:
        raise Problem(414, "UNSUPPORTED", f"at most {_TAGS} tags per request")
    for tag in tags:
        _check_tag(tag)
    return tags


def _check_tag(tag: str) -> None:
    try:
        check_tag(tag)
    except InvalidReference as error:
        raise manifest_invalid(error.message) from None


def _verified(raw: bytes, target: Digest | str) -> Digest:
    if isinstance(target, str):
        return Digest.of(raw)
    names = Digest.of(raw, target.algorithm)
    if names != target:
        raise digest_invalid(f"the manifest has digest {names}, not {target}")
    return target


def _content(raw: bytes, content_type: str) -> Manifest | Index:
    """Raises ContentError, or Problem for an unsupported media type."""
    content = parse_manifest(raw, content_type)
    if content_type and content.media_type != content_type:
        raise manifest_invalid(
            f"the manifest is {content.media_type!r}, Content-Type says {content_type!r}"
        )
    if content.media_type not in media.NAMED:
        raise manifest_invalid(f"unsupported manifest type {content.media_type!r}")
    if isinstance(content, Index) is not (content.media_type in media.INDEXES):
        raise manifest_invalid(f"the document does not match its type {content.media_type!r}")
    return content
