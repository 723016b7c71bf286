"""What needs no signature itself: signatures, attestations and lists of them.

Decided by content and never by the name of a tag, so that nothing can run that was let through:
every layer must be a document of a known kind.
"""

from __future__ import annotations

import re

from shipline.errors import ContentError
from shipline.oci import Digest, Index, InvalidDigest, media, parse_manifest
from shipline.supply import BUNDLE, ENVELOPE, IN_TOTO, SIMPLE_SIGNING

_DOCUMENTS = frozenset(
    {
        SIMPLE_SIGNING,
        ENVELOPE,
        BUNDLE,
        IN_TOTO,
        "application/jose+json",  # Notary Project
        "application/cose",
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
_TAG = re.compile(r"(sha256|sha512)-([0-9a-f]{64,128})(?:\.(?:sig|att|sbom))?")


def is_statement(raw: bytes, media_type: str = "") -> bool:
    """Whether a manifest holds documents about an image and nothing that could run."""
    try:
        parsed = parse_manifest(raw, media_type)
    except ContentError:
        return False
    if isinstance(parsed, Index):  # a list of referrers, whose images are judged one by one
        return bool(parsed.manifests) and all(
            one.artifact_type and one.platform is None for one in parsed.manifests
        )
    return bool(parsed.layers) and all(one.media_type in _DOCUMENTS for one in parsed.layers)


def statement_subject(tag: str) -> Digest | None:
    """The image that `sha256-<hex>.sig`, `.att`, `.sbom` or a referrers tag is about."""
    found = _TAG.fullmatch(tag)
    try:
        return Digest.parse(f"{found[1]}:{found[2]}") if found else None
    except InvalidDigest:
        return None
