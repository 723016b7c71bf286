"""Attestations as BuildKit keeps them: a manifest of statements beside each image in its index.

Source: BuildKit, docs/attestations/attestation-storage.md.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from msgspec import Struct

from shipline.build.attestation.provenance import image_uri
from shipline.oci import (
    PREDICATE_TYPE,
    REFERENCE_DIGEST,
    REFERENCE_TYPE,
    Descriptor,
    Manifest,
    Platform,
    Reference,
    media,
    to_bytes,
)
from shipline.values import replace

if TYPE_CHECKING:
    from shipline.supply import Statement, Subject


_UNKNOWN = Platform("unknown", "unknown")
_EMPTY = b"{}"


class Attestation(Struct, frozen=True):
    """What is stated about an image. In outputs that are files its file is called `filename`, and
    it is left out with `inline_only`.
    """

    type: str
    document: Mapping[str, Any]
    filename: str
    inline_only: bool = False

    def statement(self, subjects: Iterable[Subject]) -> Statement:
        from shipline.supply import Statement  # slow to import

        return Statement(tuple(subjects), self.type, self.document)

    def file(self, subjects: Iterable[Subject]) -> bytes:
        """The statement as people read it."""
        document = json.loads(self.statement(subjects).to_bytes())
        return json.dumps(document, indent=2, ensure_ascii=False).encode()


class AttestationManifest(Struct, frozen=True):
    """The statements about the image `about`, one in each layer."""

    manifest: Manifest
    about: Descriptor
    blobs: tuple[bytes, ...]

    @property
    def descriptor(self) -> Descriptor:
        """The entry of the index."""
        notes = {REFERENCE_DIGEST: str(self.about.digest), REFERENCE_TYPE: "attestation-manifest"}
        return replace(self.manifest.descriptor, platform=_UNKNOWN, annotations=notes)

    @property
    def documents(self) -> dict[Descriptor, bytes]:
        """All parts, children first."""
        parts = (self.manifest.config, *self.manifest.layers)
        found = {part.plain: raw for part, raw in zip(parts, self.blobs, strict=True)}
        return {**found, self.manifest.descriptor: self.manifest.raw}


def attest_image(
    image: Descriptor,
    platform: Platform,
    attestations: Sequence[Attestation],
    names: Iterable[Reference],
    *,
    artifact: bool,
) -> AttestationManifest:
    """The statements of `attestations` about `image`, which gets `names`; as an OCI artifact that
    refers to the image, or without `artifact` as BuildKit wrote it before 0.32.
    """
    from shipline.supply import IN_TOTO, Subject  # slow to import

    subjects = [
        Subject(image_uri(name, platform), {image.digest.algorithm: image.digest.hex})
        for name in names
    ] or [Subject("_", {image.digest.algorithm: image.digest.hex})]
    statements = [one.statement(subjects).to_bytes() for one in attestations]
    layers = [
        replace(Descriptor.of(raw, IN_TOTO), annotations={PREDICATE_TYPE: one.type})
        for one, raw in zip(attestations, statements, strict=True)
    ]
    if artifact:
        config = _EMPTY
        manifest = Manifest.make(
            replace(Descriptor.of(config, media.OCI_EMPTY), data=config),
            layers,
            subject=image.plain,
            artifact_type=media.ATTESTATIONS,
            indented=True,
        )
    else:
        config = _image_config(layers)
        described = Descriptor.of(config, media.OCI_CONFIG)
        manifest = Manifest.make(described, layers, indented=True)
    return AttestationManifest(manifest, image, (config, *statements))


def _image_config(layers: Iterable[Descriptor]) -> bytes:
    document = {
        "architecture": "unknown",
        "os": "unknown",
        "config": {},
        "rootfs": {"type": "layers", "diff_ids": [str(layer.digest) for layer in layers]},
    }
    return to_bytes(document)
