"""Docker image manifests of version 2, schema 1: read, and made into a configuration of schema 2.

distribution/docs/spec/manifest-v2-1.md; the form of signatures is that of libtrust's jsonsign.go.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Sequence
from typing import Any

from msgspec import Struct

from shipline.errors import ContentError
from shipline.oci import media
from shipline.oci.descriptor import Digest, text_from
from shipline.oci.manifest import from_bytes

_NEVER = "0001-01-01T00:00:00Z"
_ONLY_V1 = ("id", "parent", "parent_id", "layer_id", "throwaway", "Size")
_ESCAPED = str.maketrans({one: f"\\u{ord(one):04x}" for one in "<>&\u2028\u2029"})  # as Go does


class Schema1(Struct, frozen=True):
    """One image: its layers, bottom first, each with what it adds to the configuration."""

    layers: tuple[tuple[Digest, dict[str, Any]], ...]

    @property
    def blobs(self) -> tuple[Digest, ...]:
        """The layers that have content."""
        return tuple(digest for digest, step in self.layers if step.get("throwaway") is not True)

    def config(self, diff_ids: Sequence[Digest]) -> bytes:
        """The configuration in schema 2, byte for byte as skopeo writes it; `diff_ids` are those of
        `blobs`.
        """
        document = {key: value for key, value in self.layers[-1][1].items() if key not in _ONLY_V1}
        document["rootfs"] = {"type": "layers", "diff_ids": [str(one) for one in diff_ids]}
        document["history"] = [_history(step) for _, step in self.layers]
        text = json.dumps(dict(sorted(document.items())), separators=(",", ":"), ensure_ascii=False)
        return text.translate(_ESCAPED).encode()


def schema1_type(raw: bytes) -> str:
    """The media type of a schema 1 manifest, empty for any other document."""
    if b'"fsLayers"' not in raw:
        return ""
    document = from_bytes(raw)
    if document.get("schemaVersion") != 1:
        return ""
    return media.DOCKER_SCHEMA1_SIGNED if document.get("signatures") else media.DOCKER_SCHEMA1


def schema1_payload(raw: bytes) -> bytes:
    """What the digest of a schema 1 manifest names: its bytes without the signatures. Those are
    not verified: whoever wrote the image made the key. Raises ContentError.
    """
    signatures = from_bytes(raw).get("signatures")
    if not signatures:
        return raw
    try:
        heads = [from_bytes(_decoded(one["protected"])) for one in signatures]
        (payload,) = {raw[: one["formatLength"]] + _decoded(one["formatTail"]) for one in heads}
    except (LookupError, TypeError, ValueError):
        raise ContentError(
            "the signatures of a schema 1 manifest cannot be read", code="manifest-schema1"
        ) from None
    return payload


def parse_schema1(raw: bytes) -> Schema1:
    """Read a schema 1 manifest, signed or not. Raises ContentError."""
    document = from_bytes(schema1_payload(raw))
    blobs, history = document.get("fsLayers"), document.get("history")
    if not isinstance(blobs, list) or not isinstance(history, list) or not blobs:
        raise ContentError("a schema 1 manifest without layers", code="manifest-schema1")
    if len(blobs) != len(history):
        raise ContentError(
            f"a schema 1 manifest of {len(blobs)} layers has {len(history)} steps",
            code="manifest-schema1",
        )
    layers: list[tuple[Digest, dict[str, Any]]] = []
    for blob, step in zip(reversed(blobs), reversed(history), strict=True):
        if not isinstance(blob, dict) or not isinstance(step, dict):
            raise ContentError(
                "a layer of a schema 1 manifest is not an object", code="manifest-schema1"
            )
        added = from_bytes(text_from(step, "v1Compatibility").encode())
        if layers and added.get("id") == layers[-1][1].get("id"):
            layers.pop()  # old clients wrote a layer twice
        layers.append((Digest.parse(text_from(blob, "blobSum")), added))
    return Schema1(tuple(layers))


def _history(step: dict[str, Any]) -> dict[str, Any]:
    container = step.get("container_config")
    command = container.get("Cmd") if isinstance(container, dict) else None
    line = {
        "author": step.get("author"),
        "created_by": " ".join(map(str, command or ())),
        "comment": step.get("comment"),
        "empty_layer": step.get("throwaway") is True,
    }
    created = step.get("created") or _NEVER
    return {"created": created, **{key: value for key, value in line.items() if value}}


def _decoded(text: str) -> bytes:
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))
