"""View models of the web pages, read from a data directory: paged lists, and images."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Any, Generic, TypeVar

from shipline.errors import ContentError
from shipline.oci import Descriptor, Digest, ImageConfig, Index, Manifest, media, parse_manifest
from shipline.server.cache import StoredManifest
from shipline.server.entries import Usage
from shipline.server.http import Principal
from shipline.server.manifests import ManifestEntry, Manifests, TaggedDigest
from shipline.server.node import RegistryNode

_CONFIG_LIMIT = 4 << 20  # bytes
_REFERRERS = 200
CHILDREN = 32  # children of an index that are read
_LISTED = 1000  # children of an index that are shown
_MAX_VALUES = 100  # values of one member of the configuration
_MAX_TEXT = 2000  # characters of one label, annotation or step
_MAX_DOCUMENT = 256 << 10  # characters of a manifest that are shown
_FACTS = ("User", "WorkingDir", "Entrypoint", "Cmd", "Env", "ExposedPorts", "Volumes", "StopSignal")
_ATTACHED = (".sig", ".att", ".sbom")
_ATTESTATION = "attestation-manifest"  # BuildKit's annotation, not a platform


Fact = tuple[str, tuple[str, ...]]


@dataclass(frozen=True, slots=True)
class HistoryStep:
    """An entry of the image's history, with its layer if it has one."""

    command: str
    created: str
    layer: Descriptor | None


@dataclass(frozen=True, slots=True)
class Child:
    """A child of an index; `size` in bytes with its layers, None if it is missing or beyond the
    first CHILDREN.
    """

    descriptor: Descriptor
    platform: str
    size: int | None


@dataclass(frozen=True, slots=True)
class Attachment:
    """A manifest attached to another."""

    digest: Digest
    kind: str
    predicate: str
    size: int
    created: str


@dataclass(frozen=True, slots=True)
class ImageView:
    """Everything about one manifest. `config` is None unless it is an image, and if it is
    `damaged`. Long texts are truncated.
    """

    listed: ManifestEntry | None
    document: Manifest | Index
    digest: Digest
    config: ImageConfig | None
    damaged: bool
    facts: tuple[Fact, ...]
    notes: tuple[tuple[str, str], ...]
    children: tuple[Child, ...]
    more_children: int
    steps: tuple[HistoryStep, ...]
    size: int | None
    signatures: tuple[Attachment, ...]
    attestations: tuple[Attachment, ...]
    others: tuple[Attachment, ...]
    more_attached: bool
    text: str


def image(node: RegistryNode, name: str, stored: StoredManifest) -> ImageView:
    """Raises ContentError for a manifest that is damaged on disk."""
    document = parse_manifest(stored.raw, stored.media_type)
    config = config_of(node, name, document)
    attached, more = attached_to(node, name, stored.digest)
    kinds: dict[str, list[Attachment]] = {"signature": [], "attestation": []}
    others: list[Attachment] = []
    for item in attached:
        kinds.get(item.kind, others).append(item)
    return ImageView(
        node.manifests.entry(name, stored.digest),
        document,
        stored.digest,
        config,
        config is None and _has_image_config(document),
        tuple(_facts(config)) if config is not None else (),
        tuple(_notes(document, config)),
        tuple(_children(node, name, document)),
        max(0, len(document.manifests) - _LISTED) if isinstance(document, Index) else 0,
        tuple(_steps(document, config)),
        size_of(node, name, document),
        tuple(kinds["signature"]),
        tuple(kinds["attestation"]),
        tuple(others),
        more,
        _truncate(json.dumps(json.loads(stored.raw), indent=2, ensure_ascii=False), _MAX_DOCUMENT),
    )


def is_image(entry: Descriptor) -> bool:
    return entry.platform is not None and not _is_attestation(entry)


def _is_attestation(entry: Descriptor) -> bool:
    return entry.annotations.get("vnd.docker.reference.type") == _ATTESTATION


def _has_image_config(document: Manifest | Index) -> bool:
    known = (media.OCI_CONFIG, media.DOCKER_CONFIG)
    return isinstance(document, Manifest) and document.config.media_type in known


def _children(node: RegistryNode, name: str, document: Manifest | Index) -> Iterator[Child]:
    entries = document.manifests[:_LISTED] if isinstance(document, Index) else ()
    for number, entry in enumerate(entries):
        platform = "attestation" if _is_attestation(entry) else str(entry.platform or "")
        stored = node.manifests.get(name, entry.digest) if number < CHILDREN else None
        size = None
        if stored is not None:
            size = size_of(node, name, parse_manifest(stored.raw, stored.media_type))
        yield Child(entry, platform, size)


def size_of(node: RegistryNode, name: str, document: Manifest | Index) -> int | None:
    """Bytes to download for everything below the manifest; None for a large index."""
    if isinstance(document, Manifest):
        return document.config.size + sum(layer.size for layer in document.layers)
    if len(document.manifests) > CHILDREN:
        return None
    total = 0
    for entry in document.manifests:
        stored = node.manifests.get(name, entry.digest)
        if stored is not None and stored.media_type in media.MANIFESTS:
            total += size_of(node, name, parse_manifest(stored.raw, stored.media_type)) or 0
    return total


def config_of(node: RegistryNode, name: str, document: Manifest | Index) -> ImageConfig | None:
    if isinstance(document, Index) or not _has_image_config(document):
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


def _steps(document: Manifest | Index, config: ImageConfig | None) -> Iterator[HistoryStep]:
    """The history with its layers; layers without history come last."""
    layers = iter(document.layers if isinstance(document, Manifest) else ())
    for entry in config.history if config is not None else ():
        layer = None if entry.empty_layer else next(layers, None)
        yield HistoryStep(_truncate(entry.created_by or entry.comment), entry.created, layer)
    for layer in layers:
        title = layer.annotations.get("org.opencontainers.image.title", "")
        yield HistoryStep(_truncate(title), "", layer)


def _facts(config: ImageConfig) -> Iterator[Fact]:
    """The container settings of the image; their types are not validated."""
    for key in _FACTS:
        value = config.run.get(key)
        if isinstance(value, (list, dict)):
            texts = tuple(_truncate(str(element)) for element in islice(value, _MAX_VALUES))
        else:
            texts = () if value in (None, "") else (_truncate(str(value)),)
        if texts:
            yield key, texts


def _notes(document: Manifest | Index, config: ImageConfig | None) -> Iterator[tuple[str, str]]:
    """Labels and annotations, sorted by key."""
    labels = config.run.get("Labels") if config is not None else None
    notes = [*(labels.items() if isinstance(labels, dict) else ()), *document.annotations.items()]
    for key, value in sorted((str(key), str(value)) for key, value in notes):
        yield _truncate(key, 255), _truncate(value)


def _truncate(text: str, longest: int = _MAX_TEXT) -> str:
    """Truncate a text, noting how much is missing."""
    if len(text) <= longest:
        return text
    return f"{text[:longest]} … ({len(text) - longest} characters more)"


def attached_to(node: RegistryNode, name: str, digest: Digest) -> tuple[list[Attachment], bool]:
    """What is attached to a manifest, and whether more exists."""
    descriptors = list(islice(_referrers(node, name, digest), _REFERRERS + 1))
    return [*descriptors[:_REFERRERS], *_by_tag(node, name, digest)], len(descriptors) > _REFERRERS


def _referrers(node: RegistryNode, name: str, digest: Digest) -> Iterator[Attachment]:
    for entry in node.manifests.referrers(name, digest, ""):
        yield _attachment(entry)


def _attachment(entry: dict[str, Any]) -> Attachment:
    notes: dict[str, str] = entry.get("annotations") or {}
    artifact_type = str(entry.get("artifactType") or "")
    predicate = notes.get("dev.sigstore.bundle.predicateType", "")
    kind = artifact_type or str(entry["mediaType"])
    if (
        predicate.startswith("https://sigstore.dev/cosign/sign")
        or "cosign.artifact.sig" in artifact_type
    ):
        kind = "signature"
    elif predicate or "in-toto" in artifact_type or "dev.sigstore.bundle" in artifact_type:
        kind = "attestation"
    elif artifact_type == "application/vnd.cncf.notary.signature":
        kind, predicate = "signature", "Notary Project"
    created = notes.get("org.opencontainers.image.created", "")
    return Attachment(
        Digest.parse(entry["digest"]), kind, predicate, int(entry.get("size", 0)), created
    )


def _by_tag(node: RegistryNode, name: str, digest: Digest) -> Iterator[Attachment]:
    """cosign's scheme from before referrers: a tag made from the digest."""
    for suffix in _ATTACHED:
        stored = node.manifests.get(name, f"{digest.algorithm}-{digest.hex}{suffix}")
        if stored is None:
            continue
        document = parse_manifest(stored.raw, stored.media_type)
        layers = document.layers if isinstance(document, Manifest) else ()
        for layer in layers:
            kind = {".sig": "signature", ".att": "attestation"}.get(suffix, layer.media_type)
            predicate = layer.annotations.get("predicateType", "")
            yield Attachment(stored.digest, kind, predicate, layer.size, "")


PAGE = 100  # rows
_MAX_READ = 64 << 10  # bytes; lists do not read larger manifests
_MAX_EXAMINED = 20_000  # names examined for one page
N = TypeVar("N")
R = TypeVar("R")


@dataclass(frozen=True, slots=True)
class RowPage(Generic[R]):
    """Up to PAGE rows. `more` is the name after which the next page starts, empty at the end;
    `stopped`: the search gave up before examining every name.
    """

    rows: tuple[R, ...]
    more: str = ""
    stopped: bool = False


@dataclass(frozen=True, slots=True)
class RepositoryRow:
    """A repository with its usage."""

    name: str
    usage: Usage


@dataclass(frozen=True, slots=True)
class TagRow:
    """A tag with its image; `size` in bytes of all platforms, None if expensive to compute."""

    tagged: TaggedDigest
    media_type: str
    platforms: tuple[str, ...]
    size: int | None
    signatures: int


def repositories(
    node: RegistryNode, principal: Principal, after: str, search: str
) -> RowPage[RepositoryRow]:
    """Repositories after `after` that `principal` may pull, by name."""
    return _page(
        _names(node, after),
        str,
        lambda name: search in name and principal.may("pull", name),
        lambda name: RepositoryRow(name, node.storage.usage(name)),
    )


def tags(node: RegistryNode, name: str, after: str, search: str) -> RowPage[TagRow]:
    """Tags after `after`, without those that only hold signatures and attestations."""
    return _page(
        _tagged(node.manifests, name, after),
        lambda tagged: tagged.tag,
        lambda tagged: search in tagged.tag.lower() and not is_attachment(tagged.tag),
        lambda tagged: _tag_row(node, name, tagged),
    )


def is_attachment(tag: str) -> bool:
    """Whether a tag holds signatures or the like (cosign's), or is a referrers tag."""
    head, dash, rest = tag.partition("-")
    hexadecimal = rest.partition(".")[0]
    return bool(dash) and head in ("sha256", "sha512") and len(hexadecimal) >= 64


def _page(
    items: Iterable[N],
    name: Callable[[N], str],
    accept: Callable[[N], bool],
    row: Callable[[N], R],
) -> RowPage[R]:
    rows: list[R] = []
    last = ""
    for seen, item in enumerate(items):
        if seen == _MAX_EXAMINED:
            return RowPage(tuple(rows), last, stopped=True)
        if accept(item):
            if len(rows) == PAGE:
                return RowPage(tuple(rows), last)
            rows.append(row(item))
        last = name(item)
    return RowPage(tuple(rows))


def _names(node: RegistryNode, after: str) -> Iterator[str]:
    while page := node.storage.repositories(after, 1000):
        yield from page
        after = page[-1]


def _tagged(manifests: Manifests, name: str, after: str) -> Iterator[TaggedDigest]:
    while page := manifests.tagged(name, after, 1000):
        yield from page
        after = page[-1].tag


def _tag_row(node: RegistryNode, name: str, tagged: TaggedDigest) -> TagRow:
    stored = node.manifests.get(name, tagged.digest)
    if stored is None:  # deleted between the two reads
        return TagRow(tagged, "", (), 0, 0)
    if len(stored.raw) > _MAX_READ:
        return TagRow(tagged, stored.media_type, (), None, 0)
    document = parse_manifest(stored.raw, stored.media_type)
    attached, _ = attached_to(node, name, stored.digest)
    return TagRow(
        tagged,
        document.artifact_type or stored.media_type,
        _platforms(node, name, document),
        size_of(node, name, document),
        sum(item.kind == "signature" for item in attached),
    )


def _platforms(node: RegistryNode, name: str, document: Manifest | Index) -> tuple[str, ...]:
    if isinstance(document, Index):
        images = filter(is_image, document.manifests)
        return tuple(str(image.platform) for image in islice(images, CHILDREN))
    config = config_of(node, name, document)
    return (str(config.platform),) if config is not None else ()
