"""Digests and descriptors (image specification, descriptor.md)."""

from __future__ import annotations

import base64
import hashlib
import re
import types
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Self

from msgspec import Struct, field

from shipline.errors import ContentError
from shipline.oci.platform import Platform
from shipline.values import replace

_HEX_LENGTH = {"sha256": 64, "sha512": 128}


class InvalidDigest(ContentError):
    """The text is not a digest that shipline can verify."""

    code = "digest-invalid"


class Digest(Struct, frozen=True, order=True):
    """`algorithm:hex`, checked; safe to use in a path or a URL."""

    algorithm: str
    hex: str

    @classmethod
    def parse(cls, text: str) -> Self:
        """Raises InvalidDigest for anything but lower-case sha256 or sha512 of the right length."""
        algorithm, _, encoded = text.partition(":")
        if len(encoded) != _HEX_LENGTH.get(algorithm) or re.search("[^0-9a-f]", encoded):
            raise InvalidDigest(
                f"not a digest: {text[:200]!r}", hint="a digest looks like sha256:<64 hex digits>"
            )
        return cls(algorithm, encoded)

    @classmethod
    def of(cls, content: bytes, algorithm: str = "sha256") -> Self:
        return cls(algorithm, hashlib.new(algorithm, content).hexdigest())

    @property
    def short(self) -> str:
        """The first twelve digits, for people."""
        return self.hex[:12]

    def __str__(self) -> str:
        return f"{self.algorithm}:{self.hex}"


class Hasher:
    """Digest and size in bytes of what passes through."""

    __slots__ = ("_algorithm", "_hash", "size")

    def __init__(self, algorithm: str = "sha256") -> None:
        self._algorithm = algorithm
        self._hash = hashlib.new(algorithm)
        self.size = 0

    def update(self, data: bytes | memoryview) -> None:
        self._hash.update(data)
        self.size += len(data)

    def through(self, chunks: Iterable[bytes]) -> Iterator[bytes]:
        """The same chunks, each hashed before it is passed on."""
        for data in chunks:
            self.update(data)
            yield data

    @property
    def digest(self) -> Digest:
        return Digest(self._algorithm, self._hash.hexdigest())


EMBEDDED_LIMIT = 4 << 20  # bytes of a `data` field
NO_ANNOTATIONS: Mapping[str, str] = types.MappingProxyType({})


def _none() -> Mapping[str, str]:
    return NO_ANNOTATIONS


class Descriptor(Struct, frozen=True):
    """`size` is in bytes. Descriptors of equal content may differ: compare digests."""

    media_type: str
    digest: Digest
    size: int
    platform: Platform | None = None
    annotations: Mapping[str, str] = field(default_factory=_none)
    artifact_type: str = ""
    urls: tuple[str, ...] = ()
    data: bytes | None = None

    def __hash__(self) -> int:
        return hash((self.digest, self.media_type, self.platform))

    @classmethod
    def of(cls, content: bytes, media_type: str, algorithm: str = "sha256") -> Self:
        return cls(media_type, Digest.of(content, algorithm), len(content))

    @classmethod
    def from_json(cls, value: object) -> Self:
        """Raises ContentError for a missing or ill-typed field, InvalidDigest for a bad digest."""
        if not isinstance(value, dict):
            raise ContentError(f"not a descriptor: {value!r:.200}", code="descriptor-invalid")
        media_type, digest, size = (value.get(key) for key in ("mediaType", "digest", "size"))
        if not isinstance(media_type, str) or not isinstance(digest, str):
            raise ContentError(
                f"descriptor without mediaType or digest: {value!r:.200}", code="descriptor-invalid"
            )
        if not isinstance(size, int) or isinstance(size, bool) or size < 0:
            raise ContentError(
                f"descriptor of {digest}: size is {size!r:.40}", code="descriptor-invalid"
            )
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
            value["annotations"] = dict(sorted(self.annotations.items()))
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
    text = value.get(key)
    if text is not None and not isinstance(text, str):
        raise ContentError(f"{key} is not a string: {text!r:.200}", code="descriptor-invalid")
    return text or ""


def annotations_from(value: Mapping[str, Any]) -> Mapping[str, str]:
    """The `annotations` of a parsed document. Raises ContentError if they are not strings."""
    annotations = value.get("annotations") or {}
    if not isinstance(annotations, dict) or not all(
        isinstance(text, str) for text in annotations.values()
    ):
        raise ContentError(
            f"annotations must map strings to strings: {annotations!r:.200}",
            code="descriptor-invalid",
        )
    return types.MappingProxyType(annotations) if annotations else NO_ANNOTATIONS


def _urls(value: object) -> tuple[str, ...]:
    if value is not None and not isinstance(value, list):
        raise ContentError(f"urls are not a list: {value!r:.200}", code="descriptor-invalid")
    return tuple(url for url in value or () if isinstance(url, str))


def _embedded(value: object) -> bytes | None:
    if value is None:
        return None
    if not isinstance(value, str) or len(value) > EMBEDDED_LIMIT:
        raise ContentError(
            "descriptor data is not a string, or too long", code="descriptor-invalid"
        )
    try:
        return base64.b64decode(value, validate=True)
    except ValueError:  # binascii.Error is one; non-ASCII raises a plain one
        raise ContentError("descriptor data is not base64", code="descriptor-invalid") from None
