"""Manifests and indexes, kept with the bytes they were parsed from, and how to combine them.

OCI image specification, manifest.md and image-index.md.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Iterable, Mapping
from typing import Any, Self

from msgspec import Struct, field

from shipline.errors import ContentError
from shipline.oci import media
from shipline.oci.descriptor import NO_ANNOTATIONS, Descriptor, Digest, annotations_from, text_from
from shipline.oci.platform import Platform, best_match
from shipline.units import as_unicode
from shipline.values import replace

MANIFEST_LIMIT = 4 << 20  # bytes; registries should take this much
CONFIG_LIMIT = 8 << 20  # bytes of the configuration of an image
MAX_DEPTH = 4  # of indexes in indexes
HEAVIEST = 100_000  # objects and lists of one document
REFERENCE_TYPE, REFERENCE_DIGEST = "vnd.docker.reference.type", "vnd.docker.reference.digest"
PREDICATE_TYPE = "in-toto.io/predicate-type"
"""Annotations of attestations in an index, and of their layers."""
REF_NAME, IMAGE_NAME = "org.opencontainers.image.ref.name", "io.containerd.image.name"
"""Annotations in the index.json of an image layout: a tag, and containerd's full name."""
LAYOUT_FILE = b'{"imageLayoutVersion":"1.0.0"}'  # oci-layout (image-layout.md)

_ENTRIES = 10_000  # descriptors in one document
_FIELDS = {
    field.casefold(): field
    for field in ("schemaVersion", "mediaType", "artifactType", "config", "layers", "manifests")
} | {"subject": "subject", "annotations": "annotations"}


def is_attestation(entry: Descriptor) -> bool:
    """Whether an index lists an attestation of BuildKit's (attestation-storage.md). Engines choose
    by platform alone: what an engine could run is an image, whatever its annotations say.
    """
    platform = entry.platform
    runs = platform is not None and "unknown" not in (platform.os, platform.architecture)
    return REFERENCE_TYPE in entry.annotations and not runs


class InvalidManifest(ContentError):
    """A document is not the manifest or index that it should be."""

    code = "manifest-invalid"


class Manifest(Struct, frozen=True):
    """One image: its config and its layers, bottom first; `raw` is what the digest names."""

    raw: bytes
    media_type: str
    config: Descriptor
    layers: tuple[Descriptor, ...]
    subject: Descriptor | None = None
    artifact_type: str = ""
    annotations: Mapping[str, str] = field(default_factory=dict)

    def __hash__(self) -> int:
        return hash((self.raw, self.media_type))

    @classmethod
    def make(
        cls,
        config: Descriptor,
        layers: Iterable[Descriptor],
        *,
        media_type: str = media.OCI_MANIFEST,
        subject: Descriptor | None = None,
        artifact_type: str = "",
        annotations: Mapping[str, str] = NO_ANNOTATIONS,
        indented: bool = False,
    ) -> Self:
        """An `indented` one has the bytes that BuildKit gives it."""
        layers = tuple(layers)
        document: dict[str, Any] = {"schemaVersion": 2, "mediaType": media_type}
        if artifact_type:
            document["artifactType"] = artifact_type
        document["config"] = config.to_json()
        document["layers"] = [layer.to_json() for layer in layers]
        _finish(document, subject, annotations)
        raw = to_go_bytes(document, indent=2) if indented else to_bytes(document)
        return cls(raw, media_type, config, layers, subject, artifact_type, annotations)

    @property
    def descriptor(self) -> Descriptor:
        return Descriptor.of(self.raw, self.media_type)


class Index(Struct, frozen=True):
    """One image for several platforms (image-index.md), or any list of manifests."""

    raw: bytes
    media_type: str
    manifests: tuple[Descriptor, ...]
    subject: Descriptor | None = None
    artifact_type: str = ""
    annotations: Mapping[str, str] = field(default_factory=dict)

    def __hash__(self) -> int:
        return hash((self.raw, self.media_type))

    @classmethod
    def make(
        cls,
        manifests: Iterable[Descriptor],
        *,
        media_type: str = media.OCI_INDEX,
        subject: Descriptor | None = None,
        annotations: Mapping[str, str] = NO_ANNOTATIONS,
        indented: bool = False,
    ) -> Self:
        """An `indented` one has the bytes that BuildKit and buildx give it."""
        manifests = tuple(manifests)
        document: dict[str, Any] = {"schemaVersion": 2, "mediaType": media_type}
        document["manifests"] = [entry.to_json() for entry in manifests]
        _finish(document, subject, annotations)
        raw = to_go_bytes(document, indent=2) if indented else to_bytes(document)
        return cls(raw, media_type, manifests, subject, annotations=annotations)

    @property
    def descriptor(self) -> Descriptor:
        return Descriptor.of(self.raw, self.media_type)

    @property
    def platforms(self) -> tuple[Platform, ...]:
        """The platforms of the entries, without attestations (unknown/unknown)."""
        platforms = (entry.platform for entry in self.manifests)
        return tuple(
            platform for platform in platforms if platform is not None and platform.os != "unknown"
        )

    @property
    def images(self) -> tuple[Descriptor, ...]:
        """The entries with a platform that are no attestations of BuildKit."""
        return tuple(one for one in self.manifests if one.platform and not is_attestation(one))

    def attestation_of(self, image: Descriptor) -> Descriptor | None:
        """The entry with the attestations of an image (BuildKit, attestation-storage.md)."""
        about = str(image.digest)
        return next(
            (one for one in self.manifests if one.annotations.get(REFERENCE_DIGEST) == about), None
        )

    def only(self, platforms: Collection[Platform]) -> Index:
        """An index of the images for `platforms`, and of the attestations about them."""
        images = {str(one.digest) for one in self.manifests if one.platform in platforms}
        kept = (
            one
            for one in self.manifests
            if str(one.digest) in images or one.annotations.get(REFERENCE_DIGEST) in images
        )
        return Index.make(kept, media_type=self.media_type, annotations=self.annotations)

    def select(self, platform: Platform) -> Descriptor | None:
        """The entry that fits `platform` best, None if none does."""
        best = best_match(platform, self.platforms)
        if best is None:
            return None
        return next(entry for entry in self.manifests if entry.platform == best)


def parse_manifest(raw: bytes, media_type: str = "") -> Manifest | Index:
    """Read a manifest or an index; `media_type` is the registry's Content-Type, if any.

    Raises ContentError for anything else, for a document that claims to be both (CVE-2021-41190),
    for one whose `mediaType` contradicts the registry, for schema 1, and for a field that
    differs only in case: Go's readers accept `Layers` as `layers`.
    """
    document = from_bytes(raw)
    for key in document:
        if _FIELDS.get(key.casefold(), key) != key:
            raise InvalidManifest(f"{key!r} must be spelled {_FIELDS[key.casefold()]!r}")
    content_type = media_type.partition(";")[0].strip()
    declared = text_from(document, "mediaType")
    if declared and content_type in media.NAMED and declared != content_type:
        raise InvalidManifest(f"the manifest says {declared!r}, its registry says {content_type!r}")
    if "manifests" in document and ("layers" in document or "config" in document):
        raise InvalidManifest("a document cannot be both a manifest and an index")
    if document.get("schemaVersion") == 1 or "fsLayers" in document:
        raise ContentError(
            "the image has a Docker schema 1 manifest",
            code="manifest-schema1",
            hint="push it again with a newer client",
        )
    if "manifests" in document:
        return _index(raw, document, declared or content_type or media.OCI_INDEX)
    if "config" in document and "layers" in document:
        return _manifest(raw, document, declared or content_type or media.OCI_MANIFEST)
    raise InvalidManifest("the document is neither a manifest nor an index")


def to_bytes(document: Mapping[str, Any]) -> bytes:
    """JSON as stored: compact, UTF-8."""
    return as_unicode(json.dumps(document, separators=(",", ":"), ensure_ascii=False)).encode()


def to_go_bytes(document: Mapping[str, Any], indent: int | None = None) -> bytes:
    """JSON as Go's encoding/json writes it, which BuildKit is made with: equal documents have equal
    digests.
    """
    separators = (",", ":") if indent is None else (",", ": ")
    text = json.dumps(document, indent=indent, separators=separators, ensure_ascii=False)
    return re.sub("[<>&\u2028\u2029\ud800-\udfff]", _escaped, text).encode()


def _escaped(match: re.Match[str]) -> str:
    number = ord(match[0])
    return "\\ufffd" if 0xD800 <= number < 0xE000 else f"\\u{number:04x}"


def weight_of(raw: bytes) -> int:
    """The approximate number of objects and lists in a JSON text, eight commas counting as one. The
    memory to parse it grows with that: 4 MB of `[{},{}]` took 80 MB.
    """
    return raw.count(b"{") + raw.count(b"[") + raw.count(b",") // 8


def from_bytes(
    raw: bytes, *, heaviest: int = HEAVIEST, largest: int = 4 * MANIFEST_LIMIT
) -> dict[str, Any]:
    """The JSON object in `raw` (RFC 8259: UTF-8 without BOM, finite numbers), whose `weight_of` is
    at most `heaviest`, of at most `largest` bytes.

    Raises ContentError, also for duplicate keys and lone surrogates, which parsers read
    differently.
    """
    if len(raw) > largest:
        raise InvalidManifest(f"the document has {len(raw)} bytes, too many")
    if weight_of(raw) > heaviest:
        raise InvalidManifest(f"the document has more than {heaviest} objects and lists")
    try:
        document = json.loads(raw.decode(), object_pairs_hook=_unique, parse_constant=_not_json)
        if b"\\u" in raw:
            json.dumps(document, ensure_ascii=False).encode()
    except (ValueError, RecursionError) as error:
        raise InvalidManifest(f"not JSON: {error}") from None
    if not isinstance(document, dict):
        raise InvalidManifest("not a JSON object")
    return document


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    members = dict(pairs)
    if len(members) != len(pairs):
        raise ValueError("a key is repeated")
    return members


def _not_json(word: str) -> None:
    raise ValueError(f"{word} is not a value")


def _finish(
    document: dict[str, Any], subject: Descriptor | None, annotations: Mapping[str, str]
) -> None:
    if subject is not None:
        document["subject"] = subject.to_json()
    if annotations:
        document["annotations"] = dict(sorted(annotations.items()))


def _entries(document: Mapping[str, Any], key: str) -> tuple[Descriptor, ...]:
    entries = document[key]
    if entries is None:
        return ()
    if not isinstance(entries, list) or len(entries) > _ENTRIES:
        raise InvalidManifest(f"{key} is not a list, or has more than {_ENTRIES} entries")
    return tuple(map(Descriptor.from_json, entries))


def _subject(document: Mapping[str, Any]) -> Descriptor | None:
    subject = document.get("subject")
    return None if subject is None else Descriptor.from_json(subject)


def _manifest(raw: bytes, document: Mapping[str, Any], media_type: str) -> Manifest:
    return Manifest(
        raw,
        media_type,
        Descriptor.from_json(document["config"]),
        _entries(document, "layers"),
        _subject(document),
        text_from(document, "artifactType"),
        annotations_from(document),
    )


def _index(raw: bytes, document: Mapping[str, Any], media_type: str) -> Index:
    return Index(
        raw,
        media_type,
        _entries(document, "manifests"),
        _subject(document),
        text_from(document, "artifactType"),
        annotations_from(document),
    )


class Part(Struct, frozen=True):
    """A document to combine; `platform` is that of a single image, from its configuration, and
    `given` the descriptor that it was given by, if any.
    """

    document: Manifest | Index
    platform: Platform | None = None
    given: Descriptor | None = None

    @property
    def descriptors(self) -> tuple[Descriptor, ...]:
        if isinstance(self.document, Index):
            return self.document.manifests
        own = self.given or self.document.descriptor
        return (replace(own, platform=self.platform),)


def combine(
    parts: Iterable[Part],
    *,
    annotations: Mapping[str, str] = NO_ANNOTATIONS,
    annotate: Iterable[tuple[Platform | None, str, str]] = (),
) -> Index:
    """One index of all manifests of `parts`, in order, each digest once.

    `annotations` go to the index; `annotate` holds (platform or None for all, key, value) for
    descriptors. The index is a Docker manifest list if all its manifests are Docker's and nothing
    is annotated, which that type does not support.
    """
    annotate = tuple(annotate)
    by_digest: dict[Digest, Descriptor] = {}
    for manifest in (descriptor for part in parts for descriptor in part.descriptors):
        known = by_digest.setdefault(manifest.digest, manifest)
        by_digest[manifest.digest] = replace(
            known,
            platform=manifest.platform or known.platform,
            annotations={**known.annotations, **manifest.annotations},
        )
    manifests = [_annotated(manifest, annotate) for manifest in by_digest.values()]
    docker = all(
        manifest.media_type == media.DOCKER_MANIFEST and not manifest.annotations
        for manifest in manifests
    )
    media_type = media.DOCKER_INDEX if docker and not annotations else media.OCI_INDEX
    return Index.make(manifests, media_type=media_type, annotations=annotations, indented=True)


def _annotated(
    manifest: Descriptor, annotate: tuple[tuple[Platform | None, str, str], ...]
) -> Descriptor:
    more = {
        key: value for platform, key, value in annotate if platform in (None, manifest.platform)
    }
    return replace(manifest, annotations={**manifest.annotations, **more})
