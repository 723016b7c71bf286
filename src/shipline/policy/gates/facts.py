"""Facts of an image, read from its manifest and configuration alone."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field

from shipline.content import Fetcher, fetch_all
from shipline.errors import ContentError
from shipline.oci import MANIFEST_LIMIT, Descriptor, Index, Manifest, Platform, parse_manifest

_CONFIG_LIMIT = 8 << 20  # bytes
_ATTESTATION = "vnd.docker.reference.type"
_BASE = "org.opencontainers.image.base.name"
REVISION = "org.opencontainers.image.revision"
PULL_MERGE = "org.shipline.pull-request.merge"
"""What was built, where the revision is the head of a pull request."""


@dataclass(frozen=True, slots=True)
class ImageFacts:
    """One platform of an image. `size` is that of its compressed layers and configuration, in
    bytes; `user` as the configuration has it; `base` is the name of the base image where an
    annotation or a label tells it.
    """

    platform: str
    digest: str
    config: str
    size: int
    layers: int
    user: str = ""
    base: str = ""
    labels: Mapping[str, str] = field(default_factory=dict)
    ports: tuple[str, ...] = ()

    @property
    def root(self) -> bool:
        """Whether processes start as root."""
        return self.user.partition(":")[0].strip() in ("", "root", "0")


@dataclass(frozen=True, slots=True)
class ImageSubject:
    """The image that is judged, whether or not it has a tag: an index or a single manifest."""

    digest: str
    platforms: tuple[ImageFacts, ...]


def image_facts(source: Fetcher, target: Descriptor) -> ImageSubject:
    """What `target` is, by platform; attestations inside an index are not platforms.

    Raises NotFound, DigestMismatch, or ContentError for documents that are no image.
    """
    document = _document(source, target)
    if isinstance(document, Manifest):
        return ImageSubject(str(target.digest), (_facts(source, target, document, {}),))
    found = []
    for child in document.manifests:
        if _ATTESTATION in child.annotations:
            continue
        manifest = _document(source, child)
        if isinstance(manifest, Index):
            raise ContentError(f"{child.digest} is an index inside an index")
        found.append(_facts(source, child, manifest, document.annotations))
    return ImageSubject(str(target.digest), tuple(found))


def _document(source: Fetcher, target: Descriptor) -> Manifest | Index:
    return parse_manifest(fetch_all(source, target, MANIFEST_LIMIT), target.media_type)


def _facts(
    source: Fetcher, target: Descriptor, manifest: Manifest, outer: Mapping[str, str]
) -> ImageFacts:
    document = _config(source, manifest.config)
    config = document.get("config") or {}
    labels = config.get("Labels") or {}
    ports = config.get("ExposedPorts") or {}
    if not isinstance(labels, dict) or not isinstance(ports, dict):
        raise ContentError(f"{manifest.config.digest} is not an image configuration")
    told = {**outer, **labels, **manifest.annotations}
    platform = target.platform or Platform.from_json(document)
    return ImageFacts(
        str(platform),
        str(target.digest),
        str(manifest.config.digest),
        manifest.config.size + sum(layer.size for layer in manifest.layers),
        len(manifest.layers),
        str(config.get("User") or ""),
        str(told.get(_BASE, "")),
        {str(key): str(value) for key, value in labels.items()},
        tuple(sorted(map(str, ports))),
    )


def _config(source: Fetcher, target: Descriptor) -> dict[str, dict[str, object]]:
    try:
        document = json.loads(fetch_all(source, target, _CONFIG_LIMIT))
    except (ValueError, RecursionError):
        document = None
    if not isinstance(document, dict) or not isinstance(document.get("config") or {}, dict):
        raise ContentError(f"{target.digest} is not an image configuration")
    return document
