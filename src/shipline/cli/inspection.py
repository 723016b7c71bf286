"""What is said about an image in a registry: as text, and as values for templates."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from shipline.content import Repository, fetch_all
from shipline.errors import ContentError
from shipline.oci import (
    MANIFEST_LIMIT,
    Descriptor,
    Index,
    Manifest,
    Part,
    Platform,
    Reference,
    parse_manifest,
)

_CONFIG_LIMIT = 8 << 20  # bytes
_ATTESTATION = "vnd.docker.reference.type"


@dataclass(frozen=True, slots=True)
class Inspection:
    """An image or index under the name it was asked for, where its parts can be fetched."""

    reference: Reference
    descriptor: Descriptor
    document: Manifest | Index
    repository: Repository

    def part(self) -> Part:
        """For combining: a single image with its platform."""
        if isinstance(self.document, Index):
            return Part(self.document)
        return Part(self.document, _platform(self._config(self.document)))

    def fields(self) -> dict[str, Any]:
        """What templates see: Name, Manifest, and Image, which is fetched when it is named."""
        return {"Name": str(self.reference), "Manifest": self._manifest(), "Image": self._image}

    def _manifest(self) -> dict[str, Any]:
        value = self.descriptor.to_json()
        if isinstance(self.document, Index):
            value = {"schemaVersion": 2, **value}
            value["manifests"] = [one.to_json() for one in self.document.manifests]
        if self.document.annotations:
            value["annotations"] = dict(self.document.annotations)
        return value

    def _image(self) -> dict[str, Any]:
        """The configuration; for an index one by platform, fetched when it is named."""
        if isinstance(self.document, Manifest):
            return self._config(self.document)
        return {
            str(one.platform): lambda one=one: self._config(self._child(one))
            for one in self.document.manifests
            if one.platform is not None and _ATTESTATION not in one.annotations
        }

    def _child(self, one: Descriptor) -> Manifest:
        child = parse_manifest(fetch_all(self.repository, one, MANIFEST_LIMIT), one.media_type)
        if isinstance(child, Index):
            raise ContentError(f"{one.digest} is an index inside an index")
        return child

    def _config(self, manifest: Manifest) -> dict[str, Any]:
        raw = fetch_all(self.repository, manifest.config, _CONFIG_LIMIT)
        try:
            document = json.loads(raw)
        except ValueError:
            document = None
        if not isinstance(document, dict):
            raise ContentError(f"{manifest.config.digest} is not an image configuration")
        return document


def look_up(repository: Repository, reference: Reference) -> Inspection:
    """Raises NotFound where there is nothing under the name."""
    reference = reference.or_latest
    asked = str(reference.digest) if reference.digest else reference.tag
    target = repository.resolve(asked)
    raw = fetch_all(repository, target, MANIFEST_LIMIT)
    return Inspection(reference, target, parse_manifest(raw, target.media_type), repository)


def describe(found: Inspection) -> str:
    """The image for a person, as `docker buildx imagetools inspect` words it."""
    lines = [
        f"Name:      {found.reference}",
        f"MediaType: {found.descriptor.media_type}",
        f"Digest:    {found.descriptor.digest}",
    ]
    if isinstance(found.document, Index):
        lines += ["", "Manifests:"]
        for one in found.document.manifests:
            lines += [*_entry(found.reference, one), ""]
    return "\n".join(lines).rstrip()


def _entry(reference: Reference, one: Descriptor) -> Iterator[str]:
    yield f"  Name:      {reference.name}@{one.digest}"
    yield f"  MediaType: {one.media_type}"
    if one.platform is not None:
        yield f"  Platform:  {one.platform}"
    if one.artifact_type:
        yield f"  ArtifactType: {one.artifact_type}"
    if one.annotations:
        yield "  Annotations:"
        yield from (f"    {key}: {value}" for key, value in sorted(one.annotations.items()))


def _platform(config: dict[str, Any]) -> Platform | None:
    """None for an artifact, whose configuration is not that of an image."""
    return Platform.from_json(config) if config.get("os") and config.get("architecture") else None
