"""Manifests that need no signature: statements about images, and lists of them.

A statement is a manifest in which nothing can run, by its content and never by what it says of
itself: clients unpack whatever a manifest lists, whatever type it gives, and a tar of scripts is as
good a text as a document is. So all of this must hold:

- the configuration is `{}`, as OCI artifacts have it (image specification, "Guidelines for Artifact
  Usage"), or that which cosign and BuildKit write beside their documents: no operating system, no
  command, and in its root file system nothing but these documents;
- every layer has the type of a document that is known here, is a JSON object with the members that
  documents of this type have, and is not an archive, which some text is too. (Notary Project's
  other envelope is COSE: not JSON, but no archive either.)
"""

from __future__ import annotations

import re
import threading
from collections.abc import Mapping

from shipline.content import Fetcher, Reader, fetch_all, fetch_document
from shipline.errors import ContentError
from shipline.gates.reports.streams import JsonReader
from shipline.oci import Descriptor, Digest, Index, InvalidDigest, Manifest, from_bytes, media
from shipline.supply import BUNDLE, ENVELOPE, IN_TOTO, SIMPLE_SIGNING

_SPDX = (("spdxVersion",), ("@context", "@graph"))  # 2, 3
_CYCLONEDX = (("bomFormat", "specVersion"),)
_MEMBERS: Mapping[str, tuple[tuple[str, ...], ...]] = {
    SIMPLE_SIGNING: (("critical", "optional"),),
    ENVELOPE: (("payloadType", "payload", "signatures"),),
    BUNDLE: (("mediaType", "verificationMaterial"),),
    IN_TOTO: (("_type", "subject", "predicateType"), ("payloadType", "payload", "signatures")),
    "application/jose+json": (("payload", "protected", "signature"),),  # Notary Project
    "application/spdx+json": _SPDX,
    "text/spdx+json": _SPDX,
    "application/vnd.cyclonedx": _CYCLONEDX,
    "application/vnd.cyclonedx+json": _CYCLONEDX,
    "application/sarif+json": (("version", "runs"),),
    media.OCI_EMPTY: ((),),
}
"""The members that identify a document of a type; one of the lists must be complete."""

_COSE = "application/cose"
_COSE_SIGN1 = (b"\xd2", b"\x84")  # with and without its tag (RFC 9052, 4.2)
_NOWHERE = ("", "unknown")
_CONFIG = {"architecture", "os", "created", "history", "rootfs", "config"}
_CONFIG_LIMIT = 1 << 20  # bytes
_MOST = 64 << 20  # bytes of all documents in a manifest
_BLOCK = 512  # bytes of the header of an archive
_CHUNK = 256 << 10  # bytes
_REMEMBERED = 10_000  # statements
_TAG = re.compile(r"(sha256|sha512)-([0-9a-f]{64,128})(?:\.(?:sig|att|sbom))?")


class StatementCheck:
    """Caches the result of `is_statement`. Safe to use from any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._known: dict[Digest, None] = {}

    def has(self, source: Fetcher, target: Descriptor) -> bool:
        """The cached result of `is_statement`."""
        if target.digest in self._known:
            return True
        if not is_statement(source, target):
            return False
        with self._lock:
            while len(self._known) >= _REMEMBERED:
                del self._known[next(iter(self._known))]
            self._known[target.digest] = None
        return True


def is_statement(source: Fetcher, target: Descriptor) -> bool:
    """Whether a manifest contains only documents about an image and nothing that could run; False
    if part of it is missing.
    """
    try:
        parsed = fetch_document(source, target)
        if isinstance(parsed, Index):  # a list of referrers, whose images are judged one by one
            return bool(parsed.manifests) and all(
                child.artifact_type and child.platform is None for child in parsed.manifests
            )
        return (
            bool(parsed.layers)
            and sum(layer.size for layer in parsed.layers) <= _MOST
            and all(layer.media_type in {*_MEMBERS, _COSE} for layer in parsed.layers)
            and _runs_nothing(source, parsed)
            and all(_is_document(source, layer) for layer in parsed.layers)
        )
    except (ContentError, ValueError, RecursionError):
        return False


def _runs_nothing(source: Fetcher, manifest: Manifest) -> bool:
    raw = fetch_all(source, manifest.config.plain, _CONFIG_LIMIT)
    if raw.strip() == b"{}":
        return True
    config = from_bytes(raw)
    root = config.get("rootfs")
    layers = root.get("diff_ids") if isinstance(root, dict) else []
    return (
        config.keys() <= _CONFIG
        and config.get("os", "") in _NOWHERE
        and config.get("architecture", "") in _NOWHERE
        and not config.get("config")
        and isinstance(layers, list)
        and set(map(str, layers)) <= {str(layer.digest) for layer in manifest.layers}
    )


def _is_document(source: Fetcher, layer: Descriptor) -> bool:
    with source.fetch(layer) as reader:
        seen = _Seen(reader)
        if layer.media_type == _COSE:
            while seen.read(_CHUNK):
                pass
            return seen.head.startswith(_COSE_SIGN1) and not is_tar(seen.head)
        members = _members(seen)
        known = any(
            members >= set(names) if names else not members for names in _MEMBERS[layer.media_type]
        )
        return known and not is_tar(seen.head) and not seen.binary


def _members(seen: _Seen) -> set[str]:
    """Of the JSON object, which is read to its end. Raises ReportError or UnicodeDecodeError."""
    reader = JsonReader(seen)
    names = set(reader.members())
    reader.finish()
    return names


class _Seen:
    """A reader that remembers the beginning of its content, and whether it was text without NUL."""

    def __init__(self, reader: Reader) -> None:
        self._reader = reader
        self.head = b""
        self.binary = False

    def read(self, size: int = -1, /) -> bytes:
        data = self._reader.read(size)
        self.head += data[: _BLOCK - len(self.head)]
        self.binary = self.binary or b"\0" in data
        return data


def is_tar(block: bytes) -> bool:
    """Whether an archive may begin like this, read leniently: the oldest tar has only a checksum,
    and old programs added signed bytes (POSIX.1-2017, pax, "ustar Interchange Format").
    """
    digits = re.search(rb"[0-7]+", block[148:156])
    if len(block) < _BLOCK or digits is None:
        return False
    blank = block[:148] + b" " * 8 + block[156:]
    signed = sum(byte - 256 if byte > 127 else byte for byte in blank)
    return int(digits[0], 8) in (sum(blank), signed)


def statement_subject(tag: str) -> Digest | None:
    """The image that a tag `sha256-<hex>.sig`, `.att`, `.sbom` or a referrers tag belongs to."""
    match = _TAG.fullmatch(tag)
    try:
        return Digest.parse(f"{match[1]}:{match[2]}") if match else None
    except InvalidDigest:
        return None
