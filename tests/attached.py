"""A repository in memory that knows who refers to whom, images in it, and things to attach."""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping
from typing import Any

from shipline.content import Fetcher, MemoryStore, copy_graph
from shipline.errors import ContentError
from shipline.oci import (
    NO_ANNOTATIONS,
    Descriptor,
    Digest,
    ImageConfig,
    Index,
    Manifest,
    Part,
    Platform,
    Reference,
    combine,
    media,
    parse_manifest,
)
from shipline.supply import SIMPLE_SIGNING, PrivateKey
from shipline.values import replace

NAME = Reference.parse("registry.example/team/app:v1")
SIGNATURE = "dev.cosignproject.cosign/signature"
AMD, ARM = Platform("linux", "amd64"), Platform("linux", "arm64")


class Repository(MemoryStore):
    """Content with names, and with referrers as the API of a registry lists them."""

    def referrers(self, target: Descriptor, artifact_type: str = "") -> tuple[Descriptor, ...]:
        found = []
        for content in self.blobs.values():
            try:
                parsed = parse_manifest(content)
            except ContentError:
                continue
            if parsed.subject is None or parsed.subject.digest != target.digest:
                continue
            kind = parsed.artifact_type
            if isinstance(parsed, Manifest):
                kind = kind or parsed.config.media_type
            descriptor = Descriptor.of(content, parsed.media_type)
            found.append(replace(descriptor, artifact_type=kind, annotations=parsed.annotations))
        return tuple(one for one in found if artifact_type in ("", one.artifact_type))

    def swap(self, target: Descriptor, source: Fetcher, tag: str, before: Digest | None) -> bool:
        known = self.tags.get(tag)
        if (None if known is None else known.digest) != before:
            return False
        self.tag(target, source, tag)
        return True

    def delete(self, reference: str) -> None:
        self.blobs = {
            digest: content for digest, content in self.blobs.items() if str(digest) != reference
        }


def add_image(store: Repository, platform: Platform = AMD, *, env: str = "A=1") -> Descriptor:
    """An image without layers; its descriptor."""
    config = ImageConfig(platform).set(Env=[env]).to_bytes()
    manifest = Manifest.make(Descriptor.of(config, media.OCI_CONFIG), [])
    copy_graph(MemoryStore(config, manifest.raw), store, manifest.descriptor)
    return manifest.descriptor


def add_index(store: Repository, *, env: str = "A=1") -> Index:
    """An index of two images, with an attestation as BuildKit puts it there."""
    parts = []
    for platform in (AMD, ARM):
        found = parse_manifest(store.blobs[add_image(store, platform, env=env).digest])
        parts.append(Part(found, platform))
    proof = b'{"_type":"https://in-toto.io/Statement/v0.1"}'
    layer = Descriptor.of(proof, "application/vnd.in-toto+json")
    attestation = Manifest.make(Descriptor.of(b"{}", media.OCI_CONFIG), [layer])
    copy_graph(MemoryStore(proof, b"{}", attestation.raw), store, attestation.descriptor)
    unknown = Platform("unknown", "unknown")
    index = combine([*parts, Part(attestation, unknown)])
    store.push(index.descriptor, MemoryStore(index.raw))
    return index


def payload_for(target: Descriptor, **changes: Any) -> dict[str, Any]:
    """A simple signing payload; `changes` replace parts: type, identity, digest, optional."""
    document: dict[str, Any] = {
        "critical": {
            "identity": {"docker-reference": changes.get("identity", str(NAME))},
            "image": {"docker-manifest-digest": changes.get("digest", str(target.digest))},
            "type": changes.get("type", "cosign container image signature"),
        },
        "optional": changes.get("optional"),
    }
    return document


def signed_layer(
    store: Repository,
    payload: Mapping[str, Any] | bytes,
    key: PrivateKey,
    *,
    media_type: str = SIMPLE_SIGNING,
    signature: str | None = None,
) -> Descriptor:
    """A layer with a true signature over any payload."""
    content = payload if isinstance(payload, bytes) else json.dumps(payload).encode()
    if signature is None:
        signature = base64.b64encode(key.sign(content)).decode()
    layer = Descriptor.of(content, media_type)
    store.push(layer, MemoryStore(content))
    return replace(layer, annotations={SIGNATURE: signature})


def attach(
    store: Repository,
    target: Descriptor,
    layers: list[Descriptor],
    *,
    suffix: str = "sig",
    annotations: Mapping[str, str] = NO_ANNOTATIONS,
) -> Descriptor:
    """Layers under the tag of `target`, whatever they are."""
    config = b"{}"
    manifest = Manifest.make(
        Descriptor.of(config, media.OCI_CONFIG), layers, annotations=annotations
    )
    source = MemoryStore(config, manifest.raw)
    store.push(manifest.config, source)
    store.tag(manifest.descriptor, source, f"sha256-{target.digest.hex}.{suffix}")
    return manifest.descriptor


def refer(store: Repository, target: Descriptor, content: bytes, artifact_type: str) -> Descriptor:
    """A manifest that refers to `target` and holds one blob."""
    layer = Descriptor.of(content, artifact_type)
    manifest = Manifest.make(
        Descriptor.of(b"{}", media.OCI_EMPTY), [layer], subject=target, artifact_type=artifact_type
    )
    source = MemoryStore(b"{}", content, manifest.raw)
    for part in (manifest.config, layer, manifest.descriptor):
        store.push(part, source)
    return manifest.descriptor
