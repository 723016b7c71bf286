"""Manifests, indexes and lists as a registry serves them: verified, by pages, kept for a while."""

from __future__ import annotations

import re
import threading
from collections import OrderedDict
from collections.abc import Collection, Iterator

from shipline.errors import ContentError, DigestMismatch, NotFound, RegistryError
from shipline.oci import MANIFEST_LIMIT, Descriptor, Digest, media
from shipline.registry.channel import Channel
from shipline.registry.origin import Url

ACCEPT = ", ".join(
    (
        media.OCI_INDEX,
        media.OCI_MANIFEST,
        media.DOCKER_INDEX,
        media.DOCKER_MANIFEST,
        media.DOCKER_SCHEMA1_SIGNED,
        "*/*;q=0.1",
    )
)
_KEPT = 16 << 20  # bytes
_VAGUE = {"", "application/json", "text/plain", "application/octet-stream", "text/html"}


class Documents:
    """The last few documents by digest, so that asking for one twice costs one request."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._kept: OrderedDict[Digest, bytes] = OrderedDict()
        self._size = 0

    def get(self, digest: Digest) -> bytes | None:
        with self._lock:
            found = self._kept.get(digest)
            if found is not None:
                self._kept.move_to_end(digest)
            return found

    def keep(self, digest: Digest, content: bytes) -> None:
        """`content` must have been verified."""
        with self._lock:
            if digest in self._kept:
                return
            self._kept[digest] = content
            self._size += len(content)
            while self._size > _KEPT:
                self._size -= len(self._kept.popitem(last=False)[1])


def fetch_document(channel: Channel, name: str) -> tuple[Descriptor, bytes]:
    """GET a manifest by tag or digest; the descriptor is made from the bytes that came.

    Raises NotFound; DigestMismatch if `name` is a digest and the bytes are others, whatever the
    registry's headers say.
    """
    answer = channel.call(
        "GET",
        channel.manifest(name),
        expect={200, 404},
        doing=f"fetching the manifest {name}",
        headers={"Accept": ACCEPT},
    )
    try:
        if answer.status == 404:
            raise NotFound(
                f"{name} is not in {channel.host}/{channel.repository}",
                hint="check the name; a private repository is hidden from those who may not see it",
            )
        content = answer.content(MANIFEST_LIMIT)
        said = answer.header("Content-Type").partition(";")[0].strip().lower()
    finally:
        answer.close()
    promised = Digest.parse(name) if ":" in name else None
    digest = Digest.of(content, promised.algorithm if promised else "sha256")
    if promised is not None and digest != promised:
        raise DigestMismatch(expected=name, got=str(digest), where=channel.host)
    return Descriptor(_media_type(content, said), digest, len(content)), content


def _media_type(content: bytes, said: str) -> str:
    """What the document is: what it says itself where the registry is vague about it."""
    if said not in _VAGUE:
        return said
    from shipline.oci import parse_manifest

    try:
        return parse_manifest(content).media_type
    except ContentError:
        return said or "application/octet-stream"


PAGE_LIMIT = 4 << 20  # bytes
_PAGES = 10_000


def pages(
    channel: Channel, first: Url, doing: str, expect: Collection[int] = (200, 404)
) -> Iterator[bytes]:
    """The body of each page. Raises NotFound for a 404.

    A link is followed within the registry's own origin, once each, and not for ever.
    """
    url, seen = first, {first}
    for _ in range(_PAGES):
        answer = channel.call("GET", url, expect=expect, doing=doing)
        try:
            if answer.status == 404:
                raise NotFound(f"{channel.host}/{channel.repository} does not exist")
            content = answer.content(PAGE_LIMIT)
            link = next_link(answer.header("Link"))
        finally:
            answer.close()
        yield content
        if not link:
            return
        url = url.join(link)
        if url.origin != first.origin:
            raise RegistryError(
                f"{channel.host}: {doing}: the next page is on another host, {url.origin}",
                host=channel.host,
            )
        if url in seen:
            raise RegistryError(f"{channel.host}: {doing}: pages go in a circle", host=channel.host)
        seen.add(url)
    raise RegistryError(f"{channel.host}: {doing}: more than {_PAGES} pages", host=channel.host)


def next_link(header: str) -> str:
    """The target of `rel="next"` (RFC 8288), empty where there is none."""
    for target, parameters in re.findall(r"<([^<>]*)>([^<]*)", header[:8192]):
        if re.search(r";\s*rel\s*=\s*\"?next\b", parameters, re.IGNORECASE):
            return str(target)
    return ""
