"""Sigstore bundles: an envelope with what is needed to check it (sigstore protobuf-specs, v0.3).

Only the public-key form is read and written: certificates and transparency logs need a network of
services that a private registry does not have.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Self

from shipline.errors import ContentError
from shipline.oci import from_bytes, to_bytes
from shipline.supply.dsse import Envelope

BUNDLE = "application/vnd.dev.sigstore.bundle.v0.3+json"
_KNOWN = (
    BUNDLE,
    "application/vnd.dev.sigstore.bundle+json;version=0.3",
    "application/vnd.dev.sigstore.bundle+json;version=0.2",
    "application/vnd.dev.sigstore.bundle+json;version=0.1",
)


@dataclass(frozen=True, slots=True)
class Bundle:
    """`hint` says which key may have signed; it proves nothing."""

    envelope: Envelope
    hint: str = ""

    @classmethod
    def parse(cls, raw: bytes) -> Self:
        """Raises ContentError for other documents, and for bundles without key or envelope."""
        document = from_bytes(raw)
        if document.get("mediaType") not in _KNOWN:
            raise ContentError(f"not a sigstore bundle: mediaType {document.get('mediaType')!r}")
        if "dsseEnvelope" not in document:
            raise ContentError("the bundle holds no DSSE envelope")
        return cls(Envelope.from_json(document["dsseEnvelope"]), _hint(document))

    def to_bytes(self) -> bytes:
        return to_bytes(
            {
                "mediaType": BUNDLE,
                "verificationMaterial": {"publicKey": {"hint": self.hint}},
                "dsseEnvelope": self.envelope.to_json(key_ids=False),
            }
        )


def _hint(document: dict[str, Any]) -> str:
    material = document.get("verificationMaterial")
    if not isinstance(material, dict):
        raise ContentError("the bundle does not say how to verify it")
    key = material.get("publicKey")
    if not isinstance(key, dict):
        raise ContentError("the bundle was signed with a certificate, not with a key")
    return str(key.get("hint", ""))
