"""What needs no signature itself: signatures, attestations and lists of them.

Decided by content and never by the name of a tag or by what a manifest says of its layers: clients
unpack what has the type of a document as willingly as any other layer, if only the configuration is
that of an image. So every layer must be text, which no program is.
"""

from __future__ import annotations

import codecs
import re
import threading

from shipline.content import Fetcher, chunks, fetch_all
from shipline.errors import ContentError
from shipline.oci import (
    MANIFEST_LIMIT,
    Descriptor,
    Digest,
    Index,
    InvalidDigest,
    Manifest,
    media,
    parse_manifest,
)
from shipline.supply import BUNDLE, ENVELOPE, IN_TOTO, SIMPLE_SIGNING

_DOCUMENTS = frozenset(
    {
        SIMPLE_SIGNING,
        ENVELOPE,
        BUNDLE,
        IN_TOTO,
        "application/jose+json",  # Notary Project
        "application/spdx+json",
        "text/spdx",
        "text/spdx+json",
        "application/vnd.cyclonedx",
        "application/vnd.cyclonedx+json",
        "application/vnd.cyclonedx+xml",
        "application/sarif+json",
        media.OCI_EMPTY,
    }
)
_BINARY = frozenset({"application/cose"})  # Notary Project
_INERT = frozenset({media.OCI_EMPTY, "application/vnd.cncf.notary.signature"})  # configurations
_MOST = 64 << 20  # bytes of all documents in a manifest
_REMEMBERED = 10_000  # statements
_TAG = re.compile(r"(sha256|sha512)-([0-9a-f]{64,128})(?:\.(?:sig|att|sbom))?")


class Statements:
    """Answers `is_statement`, and reads what is one only once. Safe to use from any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._known: dict[Digest, None] = {}

    def has(self, source: Fetcher, target: Descriptor) -> bool:
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
    """Whether a manifest holds documents about an image and nothing that could run; False where
    something of it is not there.
    """
    try:
        parsed = parse_manifest(fetch_all(source, target, MANIFEST_LIMIT), target.media_type)
        if isinstance(parsed, Index):  # a list of referrers, whose images are judged one by one
            return bool(parsed.manifests) and all(
                one.artifact_type and one.platform is None for one in parsed.manifests
            )
        return _says_so(parsed) and all(_is_text(source, one) for one in parsed.layers)
    except ContentError:
        return False


def _says_so(manifest: Manifest) -> bool:
    """Binary documents count only beside a configuration with which nothing runs."""
    inert = manifest.config.media_type in _INERT
    return (
        bool(manifest.layers)
        and sum(layer.size for layer in manifest.layers) <= _MOST
        and all(
            layer.media_type in _DOCUMENTS or (inert and layer.media_type in _BINARY)
            for layer in manifest.layers
        )
    )


def _is_text(source: Fetcher, layer: Descriptor) -> bool:
    """UTF-8 without NUL, unless it may be binary."""
    if layer.media_type in _BINARY:
        return True
    decoder = codecs.getincrementaldecoder("utf-8")()
    try:
        with source.fetch(layer) as reader:
            for data in chunks(reader):
                if "\0" in decoder.decode(data):
                    return False
        decoder.decode(b"", final=True)
    except UnicodeDecodeError:
        return False
    return True


def statement_subject(tag: str) -> Digest | None:
    """The image that `sha256-<hex>.sig`, `.att`, `.sbom` or a referrers tag is about."""
    found = _TAG.fullmatch(tag)
    try:
        return Digest.parse(f"{found[1]}:{found[2]}") if found else None
    except InvalidDigest:
        return None
