"""What the page shows, read from a data directory as frozen values."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from shipline.errors import ContentError
from shipline.oci import (
    Descriptor,
    Digest,
    ImageConfig,
    Index,
    Manifest,
    media,
    parse_manifest,
)
from shipline.server.cache import Stored
from shipline.server.entries import Usage
from shipline.server.identity import Identity
from shipline.server.manifests import Listed, Manifests, Tagged
from shipline.server.node import Node

PAGE = 100  # rows
_SCANNED = 20_000  # repositories looked at for one search
_CONFIG_LIMIT = 4 << 20  # bytes
_REFERRERS = 200
_ATTACHED = (".sig", ".att", ".sbom")
_ATTESTATION = "attestation-manifest"  # BuildKit's mark in an index, no platform of the image


@dataclass(frozen=True, slots=True)
class RepositoryRow:
    """A repository with what it holds."""

    name: str
    usage: Usage


@dataclass(frozen=True, slots=True)
class TagRow:
    """A tag and what is behind it; `size` in bytes, of all platforms together."""

    tagged: Tagged
    media_type: str
    platforms: tuple[str, ...]
    size: int
    signatures: int


@dataclass(frozen=True, slots=True)
class Step:
    """An instruction of the image's history, with the layer that it made, if it made one."""

    command: str
    created: str
    layer: Descriptor | None


@dataclass(frozen=True, slots=True)
class Child:
    """An image of an index; `size` in bytes with its layers, None where it is not here."""

    descriptor: Descriptor
    platform: str
    size: int | None


@dataclass(frozen=True, slots=True)
class Attachment:
    """A manifest that says something about another one."""

    digest: Digest
    what: str
    predicate: str
    size: int
    created: str


@dataclass(frozen=True, slots=True)
class ImageView:
    """Everything about one manifest. `config` is None for an index or another artifact."""

    listed: Listed | None
    document: Manifest | Index
    digest: Digest
    config: ImageConfig | None
    children: tuple[Child, ...]
    steps: tuple[Step, ...]
    size: int
    signatures: tuple[Attachment, ...]
    attestations: tuple[Attachment, ...]
    others: tuple[Attachment, ...]


def repositories(node: Node, identity: Identity, after: str, search: str) -> list[RepositoryRow]:
    """Up to PAGE + 1 repositories that `identity` may pull, by name, those after `after`."""
    found: list[RepositoryRow] = []
    for name in _names(node, after):
        if search in name and identity.may("pull", name):
            found.append(RepositoryRow(name, node.storage.usage(name)))
            if len(found) > PAGE:
                break
    return found


def tags(node: Node, name: str, after: str, search: str) -> list[TagRow]:
    """Up to PAGE + 1 tags, without those that only hold signatures and attestations."""
    found: list[TagRow] = []
    for tagged in _tagged(node.manifests, name, after):
        if search in tagged.tag and not is_attachment(tagged.tag):
            found.append(_tag_row(node, name, tagged))
            if len(found) > PAGE:
                break
    return found


def image(node: Node, name: str, stored: Stored) -> ImageView:
    """Raises ContentError for a document that is damaged on the disk."""
    document = parse_manifest(stored.raw, stored.media_type)
    config = _config(node, name, document)
    attached = [*_referrers(node, name, stored.digest), *_by_tag(node, name, stored.digest)]
    kinds: dict[str, list[Attachment]] = {"signature": [], "attestation": []}
    others: list[Attachment] = []
    for one in attached:
        kinds.get(one.what, others).append(one)
    return ImageView(
        node.manifests.listed(name, stored.digest),
        document,
        stored.digest,
        config,
        tuple(_children(node, name, document)),
        tuple(_steps(document, config)),
        _size(node, name, document),
        tuple(kinds["signature"]),
        tuple(kinds["attestation"]),
        tuple(others),
    )


def is_attachment(tag: str) -> bool:
    """Whether a tag is cosign's for signatures and the like, or the referrers tag."""
    head, dash, rest = tag.partition("-")
    hexadecimal = rest.partition(".")[0]
    return bool(dash) and head in ("sha256", "sha512") and len(hexadecimal) >= 64


def _names(node: Node, after: str) -> Iterator[str]:
    seen = 0
    while seen < _SCANNED and (page := node.storage.repositories(after, 1000)):
        yield from page
        seen, after = seen + len(page), page[-1]


def _tagged(manifests: Manifests, name: str, after: str) -> Iterator[Tagged]:
    seen = 0
    while seen < _SCANNED and (page := manifests.tagged(name, after, 1000)):
        yield from page
        seen, after = seen + len(page), page[-1].tag


def _tag_row(node: Node, name: str, tagged: Tagged) -> TagRow:
    stored = node.manifests.get(name, tagged.digest)
    if stored is None:  # deleted between the two reads
        return TagRow(tagged, "", (), 0, 0)
    document = parse_manifest(stored.raw, stored.media_type)
    attached = [*_referrers(node, name, stored.digest), *_by_tag(node, name, stored.digest)]
    return TagRow(
        tagged,
        document.artifact_type or stored.media_type,
        _platforms(node, name, document),
        _size(node, name, document),
        sum(one.what == "signature" for one in attached),
    )


def _platforms(node: Node, name: str, document: Manifest | Index) -> tuple[str, ...]:
    if isinstance(document, Index):
        return tuple(str(one.platform) for one in document.manifests if _is_image(one))
    config = _config(node, name, document)
    return (str(config.platform),) if config is not None else ()


def _is_image(entry: Descriptor) -> bool:
    kind = entry.annotations.get("vnd.docker.reference.type")
    return entry.platform is not None and kind != _ATTESTATION


def _children(node: Node, name: str, document: Manifest | Index) -> Iterator[Child]:
    for entry in document.manifests if isinstance(document, Index) else ():
        platform = str(entry.platform) if _is_image(entry) else "attestation"
        if entry.platform is None and not entry.annotations:
            platform = ""
        found = node.manifests.get(name, entry.digest)
        size = None
        if found is not None:
            size = _size(node, name, parse_manifest(found.raw, found.media_type))
        yield Child(entry, platform, size)


def _size(node: Node, name: str, document: Manifest | Index) -> int:
    """Bytes that a client downloads for everything below the document, itself not counted."""
    if isinstance(document, Manifest):
        return document.config.size + sum(layer.size for layer in document.layers)
    total = 0
    for entry in document.manifests:
        found = node.manifests.get(name, entry.digest)
        if found is not None and found.media_type in media.MANIFESTS:
            total += _size(node, name, parse_manifest(found.raw, found.media_type))
    return total


def _config(node: Node, name: str, document: Manifest | Index) -> ImageConfig | None:
    if isinstance(document, Index):
        return None
    if document.config.media_type not in (media.OCI_CONFIG, media.DOCKER_CONFIG):
        return None
    blob = node.storage.open_blob(name, document.config.digest)
    if blob is None:
        return None
    with os.fdopen(blob.fd, "rb") as file:
        raw = file.read(_CONFIG_LIMIT)
    try:
        return ImageConfig.parse(raw)
    except ContentError:
        return None


def _steps(document: Manifest | Index, config: ImageConfig | None) -> Iterator[Step]:
    """History beside its layers; layers that no history tells of come last."""
    layers = iter(document.layers if isinstance(document, Manifest) else ())
    for entry in config.history if config is not None else ():
        layer = None if entry.empty_layer else next(layers, None)
        yield Step(entry.created_by or entry.comment, entry.created, layer)
    for layer in layers:
        yield Step(layer.annotations.get("org.opencontainers.image.title", ""), "", layer)


def _referrers(node: Node, name: str, digest: Digest) -> Iterator[Attachment]:
    for number, entry in enumerate(node.manifests.referrers(name, digest, "")):
        if number == _REFERRERS:
            return
        yield _attachment(entry)


def _attachment(entry: dict[str, Any]) -> Attachment:
    notes: dict[str, str] = entry.get("annotations") or {}
    kind = str(entry.get("artifactType") or "")
    predicate = notes.get("dev.sigstore.bundle.predicateType", "")
    what = kind or str(entry["mediaType"])
    if predicate.startswith("https://sigstore.dev/cosign/sign") or "cosign.artifact.sig" in kind:
        what = "signature"
    elif predicate or "in-toto" in kind or "dev.sigstore.bundle" in kind:
        what = "attestation"
    elif kind == "application/vnd.cncf.notary.signature":
        what, predicate = "signature", "Notary Project"
    created = notes.get("org.opencontainers.image.created", "")
    return Attachment(
        Digest.parse(entry["digest"]), what, predicate, int(entry.get("size", 0)), created
    )


def _by_tag(node: Node, name: str, digest: Digest) -> Iterator[Attachment]:
    """cosign's way from before there were referrers: a tag made of the digest."""
    for suffix in _ATTACHED:
        stored = node.manifests.get(name, f"{digest.algorithm}-{digest.hex}{suffix}")
        if stored is None:
            continue
        document = parse_manifest(stored.raw, stored.media_type)
        layers = document.layers if isinstance(document, Manifest) else ()
        for layer in layers:
            what = {".sig": "signature", ".att": "attestation"}.get(suffix, layer.media_type)
            predicate = layer.annotations.get("predicateType", "")
            yield Attachment(stored.digest, what, predicate, layer.size, "")
