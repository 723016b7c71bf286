"""Manifests and indexes as a registry serves them, verified and kept for a while."""

from __future__ import annotations

import threading
from collections import OrderedDict

from shipline.errors import ContentError, DigestMismatch, NotFound
from shipline.oci import MANIFEST_LIMIT, Descriptor, Digest, media
from shipline.registry.channel import Channel

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
                hint="check the name; a private repository is hidden from who may not see it",
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
