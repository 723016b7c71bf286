"""Reachability of manifests in a repository.

Tags lead to manifests, an index to its children, a manifest to its referrers and to its cosign
tags: `sha256-<hex>` and `sha256-<hex>.sig`, `.att`, `.sbom`. A cosign tag is not a root while the
image that it is named after exists or was deleted here.
"""

from __future__ import annotations

import json
from collections.abc import Iterator

from shipline.metadata import walk
from shipline.oci import Digest, Index, media
from shipline.server.entries import read_manifest, subject_of_tag
from shipline.server.storage import Storage

_TAGS = 1000  # cosign tags of one image


def cosign_tags(storage: Storage, name: str, digest: str) -> Iterator[tuple[str, str]]:
    """The cosign tags of an image, with their digests."""
    stem = digest.replace(":", "-")
    exact = storage.records.get(("tag", name, stem))
    if exact is not None:
        yield stem, json.loads(exact)["digest"]
    page = storage.records.scan(("tag", name), after=(f"{stem}.",), limit=_TAGS)
    for (tag,), value in page:
        if not tag.startswith(f"{stem}."):
            return
        yield tag, json.loads(value)["digest"]


def referrers(storage: Storage, name: str, digest: str) -> Iterator[str]:
    """The digests of the manifests with this `subject`."""
    for (referrer,), _ in walk(storage.records, ("referrer", name, digest)):
        yield referrer


def ordinary_tags(storage: Storage, name: str, digest: str) -> Iterator[str]:
    """The tags of a manifest that are roots."""
    for (tag,), _ in walk(storage.records, ("tagged", name, digest)):
        if not is_companion(storage, name, tag):
            yield tag


def is_companion(storage: Storage, name: str, tag: str) -> bool:
    """Whether a tag belongs to an image that this repository has or had."""
    image = subject_of_tag(tag)
    return image is not None and any(
        storage.records.get((kind, name, image)) is not None for kind in ("manifest", "deleted")
    )


def needed_by(storage: Storage, name: str, digest: str) -> Iterator[str]:
    """The manifests of the repository that refer to this blob or child."""
    for (manifest,), _ in walk(storage.records, ("needed", name, digest)):
        if storage.records.get(("manifest", name, manifest)) is not None:
            yield manifest


def reachable(storage: Storage, name: str, roots: set[str]) -> set[str]:
    """The digests reachable from the repository's tags and from `roots`.

    Memory grows with the manifests of this one repository.
    """
    reached: set[str] = set()
    pending = list(roots)
    for (tag,), value in walk(storage.records, ("tag", name)):
        if not is_companion(storage, name, tag):
            pending.append(json.loads(value)["digest"])
    while pending:
        digest = pending.pop()
        if digest not in reached:
            reached.add(digest)
            pending += _successors(storage, name, digest)
    return reached


def _successors(storage: Storage, name: str, digest: str) -> Iterator[str]:
    record = storage.records.get(("manifest", name, digest))
    kind = "" if record is None else json.loads(record)["mediaType"]
    if kind in media.INDEXES:
        yield from _children(storage, digest, kind)
    yield from referrers(storage, name, digest)
    yield from (target for _, target in cosign_tags(storage, name, digest))


def _children(storage: Storage, digest: str, media_type: str) -> Iterator[str]:
    content = read_manifest(storage.store, Digest.parse(digest), media_type)
    if isinstance(content, Index):
        yield from (str(child.digest) for child in content.manifests)
