"""Manifests and referrers of a registry, verified.

Distribution specification, "Listing Referrers" and "Referrers Tag Schema"."""

from __future__ import annotations

from collections.abc import Container, Mapping
from contextlib import closing, suppress
from typing import TYPE_CHECKING

from shipline.content import attempts, settling
from shipline.errors import ContentError, DigestMismatch, NotFound, RegistryError
from shipline.oci import (
    MANIFEST_LIMIT,
    Descriptor,
    Digest,
    Index,
    Manifest,
    media,
    parse_manifest,
    schema1_payload,
    schema1_type,
)
from shipline.registry.paging import pages
from shipline.registry.repository_api import WRITE, RepositoryApi
from shipline.registry.request import Url
from shipline.tasks import sleep
from shipline.values import replace

if TYPE_CHECKING:
    from shipline.registry.transport import ClientResponse

ACCEPT = ", ".join(
    (
        media.OCI_INDEX,
        media.OCI_MANIFEST,
        media.DOCKER_INDEX,
        media.DOCKER_MANIFEST,
        media.DOCKER_SCHEMA1_SIGNED,
        media.DOCKER_SCHEMA1,
        "*/*;q=0.1",
    )
)
_RELINKING = frozenset({"DIGEST_INVALID", "MANIFEST_BLOB_UNKNOWN"})
_RELINKED_S = 0.05, 0.2, 0.5
_GENERIC_TYPES = {"", "application/json", "text/plain", "application/octet-stream", "text/html"}


def no_image(repository: str, name: str, hint: str = "") -> NotFound:
    """The error for a tag or digest that `repository`, with its host, does not have."""
    absent = f"{name} is not in {repository}" if ":" in name else f"{repository} has no tag {name}"
    return NotFound(absent, code="image-not-found", hint=hint)


def fetch_manifest(api: RepositoryApi, name: str) -> tuple[Descriptor, bytes]:
    """GET a manifest by tag or digest; the descriptor is computed from the received bytes, of
    schema 1 from what is signed.

    Raises NotFound; DigestMismatch if `name` is a digest that the bytes do not have, whatever the
    headers say.
    """
    response = api.call(
        "GET",
        api.manifest(name),
        expect={200, 404},
        operation=f"fetching the manifest {name}",
        headers={"Accept": ACCEPT},
    )
    try:
        if response.status == 404:
            raise no_image(
                f"{api.host}/{api.repository}",
                name,
                "check the name; a private repository looks absent without access",
            )
        content = response.content(MANIFEST_LIMIT)
        content_type = response.header("Content-Type").partition(";")[0].strip().lower()
    finally:
        response.close()
    expected_digest = Digest.parse(name) if ":" in name else None
    media_type = _media_type(content, content_type)
    if media_type == "text/html":
        raise RegistryError(
            f"{api.host} answered with a web page instead of the manifest {name}",
            code="registry-answer",
            host=api.host,
            hint="check the name of the registry; a proxy may want a login",
        )
    named = schema1_payload(content) if media_type in media.SCHEMA1 else content
    digest = Digest.of(named, expected_digest.algorithm if expected_digest else "sha256")
    if expected_digest is not None and digest != expected_digest:
        raise DigestMismatch(expected=name, got=str(digest), where=api.host)
    return Descriptor(media_type, digest, len(content)), content


def _media_type(content: bytes, content_type: str) -> str:
    """The Content-Type, or the document's own media type where that is generic."""
    if content_type not in _GENERIC_TYPES | media.SCHEMA1:
        return content_type
    if schema1 := schema1_type(content):
        return schema1
    try:
        return parse_manifest(content).media_type
    except ContentError:
        return content_type or "application/octet-stream"


_PAGE_LIMIT = 4 << 20  # bytes of a list of referrers
_REFERRER_PAGES = 100


class _NoReferrersApi(Exception):
    """What answers does not know the referrers API."""


def list_referrers(
    api: RepositoryApi, subject: Digest, artifact_type: str, tags: Container[str] | None = None
) -> tuple[Descriptor, ...]:
    """The manifests with this `subject`, of one artifact type if it is not empty.

    From the referrers API, else the referrers tag, unless it is not among `tags`."""
    entries = _from_api(api, subject, artifact_type)
    if entries is None and (tags is None or referrers_tag(subject) in tags):
        entries = _from_tag(api, subject)
    matching = (
        entry
        for entry in entries or ()
        if not artifact_type or entry.artifact_type == artifact_type
    )
    return tuple({referrer.digest: referrer for referrer in matching}.values())


def add_referrer(api: RepositoryApi, target: Descriptor, content: bytes) -> None:
    """Add a pushed manifest to its subject's referrers tag, for a registry without the API.

    Writes nothing if it is listed already, nor for attestations of a build, which the index of
    their image lists: BuildKit tags none. Raises RegistryError if others keep dropping the entry.
    """
    parsed = parse_manifest(content, target.media_type)
    if parsed.subject is None or _artifact_type(parsed) == media.ATTESTATIONS:
        return
    entry = replace(
        target.plain, artifact_type=_artifact_type(parsed), annotations=parsed.annotations
    )
    subject = parsed.subject.digest
    for _ in attempts():
        before = _from_tag(api, subject)
        if any(referrer.digest == target.digest for referrer in before):
            return
        with settling():
            _put_index(api, subject, Index.make((*before, entry)))
        if any(referrer.digest == target.digest for referrer in _from_tag(api, subject)):
            return
    raise RegistryError(
        f"{api.host}: other clients keep overwriting {referrers_tag(subject)}",
        code="registry-contended",
        host=api.host,
        hint="run the command again",
    )


def restore_referrer(api: RepositoryApi, target: Descriptor, content: bytes) -> None:
    """Add an existing manifest to its subject's referrers tag again if it was dropped."""
    if b'"subject"' not in content:
        return
    subject = parse_manifest(content, target.media_type).subject
    if subject is not None and _from_api(api, subject.digest, "") is None:
        add_referrer(api, target, content)


def drop_referrer(api: RepositoryApi, digest: Digest, content: bytes) -> None:
    """Remove a deleted manifest from its subject's referrers tag, for a registry without the API
    (distribution specification, "Deleting Manifests").
    """
    if b'"subject"' not in content:
        return
    with suppress(ContentError):
        subject = parse_manifest(content).subject
        if subject is None or _from_api(api, subject.digest, "") is not None:
            return
        before = _from_tag(api, subject.digest)
        after = [referrer for referrer in before if referrer.digest != digest]
        if len(after) < len(before):
            _put_index(api, subject.digest, Index.make(after))


def _put_index(api: RepositoryApi, subject: Digest, index: Index) -> None:
    operation, headers = "updating the referrers tag", {"Content-Type": index.media_type}
    put_manifest(api, referrers_tag(subject), index.raw, headers, operation)


def put_manifest(
    api: RepositoryApi, name: str, content: bytes, headers: Mapping[str, str], operation: str
) -> ClientResponse:
    """The response to a PUT, 412 if `headers` have a condition. Repeated while another client
    pushes the same content to a docker-registry on a file system, which empties its links to it for
    an instant.
    """
    conditional = not headers.keys().isdisjoint(("If-Match", "If-None-Match"))
    waits_s = iter(_RELINKED_S)
    while True:
        try:
            response = api.call(
                "PUT",
                api.manifest(name),
                expect={200, 201, 202, *((412,) if conditional else ())},
                operation=operation,
                actions=WRITE,
                headers=headers,
                body=content,
            )
        except RegistryError as error:
            wait_s = next(waits_s, None)
            if wait_s is None or not _RELINKING.issubset(error.diagnostics):
                raise
            sleep(wait_s)
        else:
            response.close()
            return response


def referrers_tag(subject: Digest) -> str:
    """The tag that lists the referrers of `subject`."""
    return f"{subject.algorithm[:32]}-{subject.hex[:64]}"


def _artifact_type(parsed: Manifest | Index) -> str:
    if parsed.artifact_type or isinstance(parsed, Index):
        return parsed.artifact_type
    return parsed.config.media_type


def _from_api(
    api: RepositoryApi, subject: Digest, artifact_type: str
) -> tuple[Descriptor, ...] | None:
    """None without the API, whose responses are image indexes. A registry with it answers with an
    empty one where nothing refers to the subject; one that does not know its path is not asked
    again.
    """
    if not api.has_referrers:
        return None
    first = api.url("referrers", str(subject))
    if artifact_type:
        first = first.with_query(("artifactType", artifact_type))

    def get(url: Url) -> ClientResponse:
        response = api.call(
            "GET", url, expect={200, 404}, operation="listing referrers", redirects=0
        )
        content_type = response.header("Content-Type").partition(";")[0].strip()
        if response.status == 200 and content_type == media.OCI_INDEX:
            return response
        with closing(response):
            if response.status == 404 and b'"errors"' not in response.content(_PAGE_LIMIT):
                api.http.without_referrers.put(api.endpoint.origin, True)
            raise _NoReferrersApi

    entries: list[Descriptor] = []
    try:
        for page in pages(first, get, limit=_PAGE_LIMIT, most=_REFERRER_PAGES):
            entries += _referrer_entries(page, api)
    except _NoReferrersApi:
        return None
    except RegistryError as error:
        if error.retriable or not error.status:
            raise
        return None
    return tuple(entries)


def _from_tag(api: RepositoryApi, subject: Digest) -> tuple[Descriptor, ...]:
    try:
        _, content = fetch_manifest(api, referrers_tag(subject))
    except NotFound:
        return ()
    return _referrer_entries(content, api)


def _referrer_entries(content: bytes, api: RepositoryApi) -> tuple[Descriptor, ...]:
    try:
        parsed = parse_manifest(content)
    except ContentError as error:
        raise ContentError(
            f"{api.host}: its referrers: {error.message}", code="registry-answer"
        ) from None
    return parsed.manifests if isinstance(parsed, Index) else ()
