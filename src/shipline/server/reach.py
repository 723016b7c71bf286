"""Which manifests of a repository something still leads to.

Tags lead to manifests, an index to its children, a manifest to its referrers and to the signatures
that cosign names after it: the tags `sha256-<hex>` and `sha256-<hex>.sig`, `.att`, `.sbom`. Those
tags lead nowhere by themselves as long as the image that they are named after is, or was, here.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator

from shipline.metadata import walk
from shipline.oci import Digest, Index, media
from shipline.server.entries import read_manifest
from shipline.server.storage import Storage

_AFTER_AN_IMAGE = re.compile(r"(sha256|sha512)-([0-9a-f]{64}|[0-9a-f]{128})(?:\..+)?\Z")
_TAGS = 1000  # named after one image


def named_after(tag: str) -> str | None:
    """The digest of the image that a tag is named after, None for an ordinary tag."""
    match = _AFTER_AN_IMAGE.match(tag)
    return f"{match[1]}:{match[2]}" if match else None


def companions(storage: Storage, name: str, digest: str) -> Iterator[tuple[str, str]]:
    """The tags named after an image, and the digests that they point to."""
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
    for (found,), _ in walk(storage.records, ("referrer", name, digest)):
        yield found


def ordinary_tags(storage: Storage, name: str, digest: str) -> Iterator[str]:
    """The tags of a manifest that keep it by themselves."""
    for (tag,), _ in walk(storage.records, ("tagged", name, digest)):
        if not follows(storage, name, tag):
            yield tag


def follows(storage: Storage, name: str, tag: str) -> bool:
    """Whether a tag lives and dies with an image of the repository."""
    image = named_after(tag)
    return image is not None and any(
        storage.records.get((kind, name, image)) is not None for kind in ("manifest", "deleted")
    )


def needed(storage: Storage, name: str, digest: str) -> Iterator[str]:
    """The manifests of the repository that do not work without a blob or child."""
    for (manifest,), _ in walk(storage.records, ("needed", name, digest)):
        if storage.records.get(("manifest", name, manifest)) is not None:
            yield manifest


def reachable(storage: Storage, name: str, roots: set[str]) -> set[str]:
    """The digests that the tags of the repository, and `roots`, lead to.

    Memory grows with the number of manifests of this one repository.
    """
    found: set[str] = set()
    waiting = list(roots)
    for (tag,), value in walk(storage.records, ("tag", name)):
        if not follows(storage, name, tag):
            waiting.append(json.loads(value)["digest"])
    while waiting:
        digest = waiting.pop()
        if digest not in found:
            found.add(digest)
            waiting += _next(storage, name, digest)
    return found


def _next(storage: Storage, name: str, digest: str) -> Iterator[str]:
    record = storage.records.get(("manifest", name, digest))
    kind = "" if record is None else json.loads(record)["mediaType"]
    if kind in media.INDEXES:
        yield from _children(storage, digest, kind)
    yield from referrers(storage, name, digest)
    yield from (target for _, target in companions(storage, name, digest))


def _children(storage: Storage, digest: str, media_type: str) -> Iterator[str]:
    content = read_manifest(storage.store, Digest.parse(digest), media_type)
    if isinstance(content, Index):
        yield from (str(child.digest) for child in content.manifests)
