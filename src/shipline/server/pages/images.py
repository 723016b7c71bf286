"""One image as its page shows it: configuration, layers, platforms, what is attached, packages."""

from __future__ import annotations

import io
import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import islice
from typing import Any

from shipline.errors import ContentError, NotFound
from shipline.gates.reports import Component, Sbom, parse_report
from shipline.oci import (
    Descriptor,
    Digest,
    ImageConfig,
    Index,
    Manifest,
    is_attestation,
    media,
    parse_manifest,
)
from shipline.server.admission.evidence import StoredEvidence
from shipline.server.cache import StoredManifest
from shipline.server.manifests import ListedFacts, ManifestEntry
from shipline.server.node import RegistryNode
from shipline.supply import stored_statements

_CONFIG_LIMIT = 4 << 20  # bytes
_REFERRERS = 200
CHILDREN = 32  # children of an index that are read
_LISTED = 1000  # children of an index that are shown
_MAX_VALUES = 100  # values of one member of the configuration
_MAX_TEXT = 2000  # characters of one label, annotation or step
_MAX_DOCUMENT = 256 << 10  # characters of a manifest that are shown
_FACTS = ("User", "WorkingDir", "Entrypoint", "Cmd", "Env", "ExposedPorts", "Volumes", "StopSignal")
_ATTACHED = (".sig", ".att", ".sbom")
_PACKAGE_LISTS = ("https://spdx.dev/Document", "https://cyclonedx.org/bom")


Fact = tuple[str, tuple[str, ...]]


@dataclass(frozen=True, slots=True)
class HistoryStep:
    """An entry of the image's history, with its layer if it has one."""

    command: str
    created: str
    layer: Descriptor | None


@dataclass(frozen=True, slots=True)
class Child:
    """A child of an index, and whether it is `here`; `facts` are those of the first CHILDREN."""

    descriptor: Descriptor
    platform: str
    here: bool
    facts: ListedFacts | None


@dataclass(frozen=True, slots=True)
class Attachment:
    """A manifest attached to another."""

    digest: Digest
    kind: str
    predicate: str
    size: int
    created: datetime | None


@dataclass(frozen=True, slots=True)
class ImageView:
    """One manifest. For an index, `chosen` is the child whose configuration and layers are shown;
    for an image it is itself. `config` is None unless that is an image, and if it is `damaged`.
    Long texts are truncated.
    """

    listed: ManifestEntry | None
    document: Manifest | Index
    digest: Digest
    facts: ListedFacts
    chosen: Digest
    config: ImageConfig | None
    damaged: bool
    settings: tuple[Fact, ...]
    notes: tuple[tuple[str, str], ...]
    children: tuple[Child, ...]
    more_children: int
    steps: tuple[HistoryStep, ...]
    signatures: tuple[Attachment, ...]
    attestations: tuple[Attachment, ...]
    others: tuple[Attachment, ...]
    more_attached: bool
    text: str


def image(node: RegistryNode, name: str, stored: StoredManifest, platform: str = "") -> ImageView:
    """With the configuration and layers of its first image, or of the one for `platform`. Raises
    ContentError for a manifest that is damaged on disk.
    """
    document = parse_manifest(stored.raw, stored.media_type)
    children = tuple(_children(node, name, document))
    chosen_digest, chosen = _chosen(node, name, stored.digest, document, children, platform)
    config = config_of(node, name, chosen)
    attached, more = attached_to(node, name, stored.digest)
    kinds: dict[str, list[Attachment]] = {"signature": [], "attestation": []}
    others: list[Attachment] = []
    for item in attached:
        kinds.get(item.kind, others).append(item)
    return ImageView(
        node.manifests.entry(name, stored.digest),
        document,
        stored.digest,
        node.manifests.facts(name, stored.digest),
        chosen_digest,
        config,
        config is None and _has_image_config(chosen),
        tuple(_settings(config)) if config is not None else (),
        tuple(_notes((document, chosen), config)),
        children,
        max(0, len(document.manifests) - _LISTED) if isinstance(document, Index) else 0,
        tuple(_steps(chosen, config)),
        tuple(kinds["signature"]),
        tuple(kinds["attestation"]),
        tuple(others),
        more,
        _truncate(json.dumps(json.loads(stored.raw), indent=2, ensure_ascii=False), _MAX_DOCUMENT),
    )


def is_image(entry: Descriptor) -> bool:
    return entry.platform is not None and not is_attestation(entry)


def _has_image_config(document: Manifest | Index) -> bool:
    known = (media.OCI_CONFIG, media.DOCKER_CONFIG)
    return isinstance(document, Manifest) and document.config.media_type in known


def _children(node: RegistryNode, name: str, document: Manifest | Index) -> Iterator[Child]:
    entries = document.manifests[:_LISTED] if isinstance(document, Index) else ()
    for number, entry in enumerate(entries):
        platform = "attestation" if is_attestation(entry) else str(entry.platform or "")
        here = node.manifests.entry(name, entry.digest) if number < CHILDREN else None
        facts = node.manifests.facts(name, entry.digest) if here is not None else None
        yield Child(entry, platform, here is not None, facts)


def _chosen(
    node: RegistryNode,
    name: str,
    digest: Digest,
    document: Manifest | Index,
    children: tuple[Child, ...],
    platform: str,
) -> tuple[Digest, Manifest | Index]:
    images = [one for one in children if one.here and is_image(one.descriptor)]
    wanted = [one for one in images if one.platform == platform] or images
    for one in wanted[:1]:
        stored = node.manifests.get(name, one.descriptor.digest)
        if stored is not None:
            return stored.digest, parse_manifest(stored.raw, stored.media_type)
    return digest, document


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


def _settings(config: ImageConfig) -> Iterator[Fact]:
    """The container settings of the image; their types are not validated."""
    for key in _FACTS:
        value = config.run.get(key)
        if isinstance(value, (list, dict)):
            texts = tuple(_truncate(str(element)) for element in islice(value, _MAX_VALUES))
        else:
            texts = () if value in (None, "") else (_truncate(str(value)),)
        if texts:
            yield key, texts


def _notes(
    documents: Sequence[Manifest | Index], config: ImageConfig | None
) -> Iterator[tuple[str, str]]:
    """Labels and annotations, sorted by key."""
    labels = config.run.get("Labels") if config is not None else None
    notes = [*(labels.items() if isinstance(labels, dict) else ())]
    notes += [note for document in documents for note in document.annotations.items()]
    for key, value in sorted({(str(key), str(value)) for key, value in notes}):
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
    size = int(entry.get("size", 0))
    return Attachment(Digest.parse(entry["digest"]), kind, predicate, size, _time(created))


def _time(text: str) -> datetime | None:
    """RFC 3339 with a time zone, else None."""
    try:
        made = datetime.fromisoformat(text)
    except ValueError:
        return None
    return made if made.tzinfo is not None else None


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
            yield Attachment(stored.digest, kind, predicate, layer.size, None)


def packages(
    node: RegistryNode, name: str, digest: Digest, stored: StoredManifest
) -> tuple[Component, ...] | None:
    """The packages that a build listed, in the index `stored`, beside its image `digest`, by name;
    None without a list. Raises ContentError for a damaged one.
    """
    document = parse_manifest(stored.raw, stored.media_type)
    if not isinstance(document, Index):
        return None
    entry = next((one for one in document.manifests if one.digest == digest), None)
    if entry is None:
        return None
    source = StoredEvidence(node.storage, node.manifests, name)
    found: set[Component] = set()
    listed = False
    try:
        for kind, raw in stored_statements(source, document, entry):
            if kind.startswith(_PACKAGE_LISTS):
                content = parse_report(io.BytesIO(raw)).content
                listed = listed or isinstance(content, Sbom)
                found.update(content.components if isinstance(content, Sbom) else ())
    except NotFound:
        return None
    by_name = sorted(found, key=lambda one: (one.name.lower(), one.version))
    return tuple(by_name) if listed else None
