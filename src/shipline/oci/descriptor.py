"""Descriptors: media type, digest and size of content (descriptor.md)."""

from __future__ import annotations

import base64
import types
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Self

from shipline.errors import ContentError
from shipline.oci.digest import Digest
from shipline.oci.platform import Platform

EMBEDDED_LIMIT = 4 << 20  # bytes of a `data` field
NO_ANNOTATIONS: Mapping[str, str] = types.MappingProxyType({})


def _none() -> Mapping[str, str]:
    return NO_ANNOTATIONS


@dataclass(frozen=True, slots=True)
class Descriptor:
    """`size` is in bytes. Descriptors of equal content may differ: compare digests."""

    media_type: str
    digest: Digest
    size: int
    platform: Platform | None = None
    annotations: Mapping[str, str] = field(default_factory=_none, hash=False)
    artifact_type: str = ""
    urls: tuple[str, ...] = ()
    data: bytes | None = None

    @classmethod
    def of(cls, content: bytes, media_type: str, algorithm: str = "sha256") -> Self:
        return cls(media_type, Digest.of(content, algorithm), len(content))

    @classmethod
    def from_json(cls, value: object) -> Self:
        """Raises ContentError for a missing or ill-typed field, InvalidDigest for a bad digest."""
        if not isinstance(value, dict):
            raise ContentError(f"not a descriptor: {value!r:.200}")
        media_type, digest, size = (value.get(key) for key in ("mediaType", "digest", "size"))
        if not isinstance(media_type, str) or not isinstance(digest, str):
            raise ContentError(f"descriptor without mediaType or digest: {value!r:.200}")
        if not isinstance(size, int) or isinstance(size, bool) or size < 0:
            raise ContentError(f"descriptor of {digest}: size is {size!r:.40}")
        platform = value.get("platform")
        return cls(
            media_type,
            Digest.parse(digest),
            size,
            Platform.from_json(platform) if isinstance(platform, dict) else None,
            annotations_from(value),
            text_from(value, "artifactType"),
            _urls(value.get("urls")),
            _embedded(value.get("data")),
        )

    def to_json(self) -> dict[str, Any]:
        value: dict[str, Any] = {
            "mediaType": self.media_type,
            "digest": str(self.digest),
            "size": self.size,
        }
        if self.urls:
            value["urls"] = list(self.urls)
        if self.annotations:
            value["annotations"] = dict(self.annotations)
        if self.data is not None:
            value["data"] = base64.b64encode(self.data).decode()
        if self.platform is not None:
            value["platform"] = self.platform.to_json()
        if self.artifact_type:
            value["artifactType"] = self.artifact_type
        return value

    @property
    def plain(self) -> Self:
        """Media type, digest and size alone."""
        return replace(
            self, platform=None, annotations=NO_ANNOTATIONS, artifact_type="", urls=(), data=None
        )


def text_from(value: Mapping[str, Any], key: str) -> str:
    """A string field of a parsed document, empty if absent. Raises ContentError."""
    found = value.get(key)
    if found is not None and not isinstance(found, str):
        raise ContentError(f"{key} is not a string: {found!r:.200}")
    return found or ""


def annotations_from(value: Mapping[str, Any]) -> Mapping[str, str]:
    """The `annotations` of a parsed document. Raises ContentError if they are not strings."""
    found = value.get("annotations") or {}
    if not isinstance(found, dict) or not all(isinstance(text, str) for text in found.values()):
        raise ContentError(f"annotations must map strings to strings: {found!r:.200}")
    return types.MappingProxyType(found) if found else NO_ANNOTATIONS


def _urls(value: object) -> tuple[str, ...]:
    if value is not None and not isinstance(value, list):
        raise ContentError(f"urls are not a list: {value!r:.200}")
    return tuple(url for url in value or () if isinstance(url, str))


def _embedded(value: object) -> bytes | None:
    if value is None:
        return None
    if not isinstance(value, str) or len(value) > EMBEDDED_LIMIT:
        raise ContentError("descriptor data is not a string, or too long")
    try:
        return base64.b64decode(value, validate=True)
    except ValueError:  # binascii.Error is one; non-ASCII raises a plain one
        raise ContentError("descriptor data is not base64") from None
