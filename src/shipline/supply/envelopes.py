"""Signed payloads and their envelopes: DSSE, simple signing, Sigstore bundles.

Only public keys are supported: certificates and transparency logs need services that a private
registry does not have.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

from shipline.errors import ContentError
from shipline.oci import Digest, from_bytes, to_bytes

ENVELOPE = "application/vnd.dsse.envelope.v1+json"
IN_TOTO = "application/vnd.in-toto+json"
_SIGNATURES = 16  # of one envelope


def pae(payload_type: str, payload: bytes) -> bytes:
    """The signed bytes: type and payload, each with its length (DSSE, PAE)."""
    kind = payload_type.encode()
    return b"DSSEv1 %d %b %d %b" % (len(kind), kind, len(payload), payload)


class InvalidSignature(ContentError):
    """What should be a signature or an attestation is malformed."""

    code = "signature-invalid"


@dataclass(frozen=True, slots=True)
class Envelope:
    """`signatures` are over `pae(payload_type, payload)`; their keys are not verified yet."""

    payload: bytes
    signatures: tuple[bytes, ...]
    payload_type: str = IN_TOTO

    @classmethod
    def parse(cls, raw: bytes) -> Self:
        """Raises ContentError for anything but an envelope with a signature."""
        return cls.from_json(from_bytes(raw))

    @classmethod
    def from_json(cls, value: Any) -> Self:
        if not isinstance(value, dict):
            raise InvalidSignature("the envelope is not a JSON object")
        kind, payload, entries = (
            value.get(key) for key in ("payloadType", "payload", "signatures")
        )
        if not isinstance(kind, str) or not isinstance(entries, list):
            raise InvalidSignature("the envelope lacks payloadType or signatures")
        if not 0 < len(entries) <= _SIGNATURES:
            raise InvalidSignature(f"the envelope has {len(entries)} signatures")
        signatures = tuple(
            from_base64(entry.get("sig") if isinstance(entry, dict) else None) for entry in entries
        )
        return cls(from_base64(payload), signatures, kind)

    def to_json(self, *, key_ids: bool) -> dict[str, Any]:
        """`key_ids` writes empty ones, as cosign does in attachments but not in bundles."""
        entries = [
            {**({"keyid": ""} if key_ids else {}), "sig": base64.b64encode(signature).decode()}
            for signature in self.signatures
        ]
        payload = base64.b64encode(self.payload).decode()
        return {"payloadType": self.payload_type, "payload": payload, "signatures": entries}

    def to_bytes(self) -> bytes:
        return to_bytes(self.to_json(key_ids=True))

    @property
    def message(self) -> bytes:
        """The bytes that are signed."""
        return pae(self.payload_type, self.payload)


def from_base64(text: object) -> bytes:
    """The decoded bytes of `text`, in either alphabet. Raises ContentError, also if there are
    none.
    """
    if not isinstance(text, str) or not text:
        raise InvalidSignature("base64 text is expected")
    try:
        return base64.b64decode(text.translate({ord("-"): "+", ord("_"): "/"}), validate=True)
    except (binascii.Error, ValueError):
        raise InvalidSignature("invalid base64 text") from None


SIMPLE_SIGNING = "application/vnd.dev.cosign.simplesigning.v1+json"
PAYLOAD_LIMIT = 64 << 10  # bytes
_TYPE = "cosign container image signature"


@dataclass(frozen=True, slots=True)
class SimplePayload:
    """`identity` is the docker-reference; `optional` what the signer added."""

    identity: str
    digest: Digest
    optional: Mapping[str, Any]

    @classmethod
    def parse(cls, raw: bytes) -> Self:
        """Parse a payload. Raises ContentError unless it has exactly the fields of the
        specification.
        """
        if len(raw) > PAYLOAD_LIMIT:
            raise InvalidSignature(f"the payload has {len(raw)} bytes, more than {PAYLOAD_LIMIT}")
        document = _exactly(from_bytes(raw), "the payload", "critical", "optional")
        critical = _exactly(document["critical"], "critical", "identity", "image", "type")
        if critical["type"] != _TYPE:
            raise InvalidSignature(f"critical.type is {critical['type']!r:.100}")
        image = _exactly(critical["image"], "critical.image", "docker-manifest-digest")
        identity = _exactly(critical["identity"], "critical.identity", "docker-reference")
        optional = {} if document["optional"] is None else document["optional"]
        if not isinstance(optional, dict):
            raise InvalidSignature("optional is not a JSON object")
        return cls(
            _text(identity["docker-reference"]),
            Digest.parse(_text(image["docker-manifest-digest"])),
            optional,
        )

    def to_bytes(self) -> bytes:
        return to_bytes(
            {
                "critical": {
                    "identity": {"docker-reference": self.identity},
                    "image": {"docker-manifest-digest": str(self.digest)},
                    "type": _TYPE,
                },
                "optional": dict(self.optional) or None,
            }
        )


def _exactly(value: object, what: str, *keys: str) -> dict[str, Any]:
    if not isinstance(value, dict) or set(value) != set(keys):
        raise InvalidSignature(f"{what} must have exactly the fields {', '.join(keys)}")
    return value


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise InvalidSignature(f"the payload has {value!r:.100} instead of a text")
    return value


BUNDLE = "application/vnd.dev.sigstore.bundle.v0.3+json"
_KNOWN = (
    BUNDLE,
    "application/vnd.dev.sigstore.bundle+json;version=0.3",
    "application/vnd.dev.sigstore.bundle+json;version=0.2",
    "application/vnd.dev.sigstore.bundle+json;version=0.1",
)


@dataclass(frozen=True, slots=True)
class Bundle:
    """`hint` names the key that may have signed; it proves nothing."""

    envelope: Envelope
    hint: str = ""

    @classmethod
    def parse(cls, raw: bytes) -> Self:
        """Raises ContentError for other documents, and for bundles without key or envelope."""
        document, hint = parse_bundle(raw)
        if "dsseEnvelope" not in document:
            raise InvalidSignature("the bundle has no DSSE envelope")
        return cls(Envelope.from_json(document["dsseEnvelope"]), hint)

    def to_bytes(self) -> bytes:
        return to_bytes(
            {
                "mediaType": BUNDLE,
                "verificationMaterial": {"publicKey": {"hint": self.hint}},
                "dsseEnvelope": self.envelope.to_json(key_ids=False),
            }
        )


def parse_bundle(raw: bytes) -> tuple[dict[str, Any], str]:
    """A bundle, and its hint at the key that may have signed. Raises ContentError for other
    documents, and for bundles without a key.
    """
    document = from_bytes(raw)
    if document.get("mediaType") not in _KNOWN:
        raise InvalidSignature(f"not a sigstore bundle: mediaType {document.get('mediaType')!r}")
    material = document.get("verificationMaterial")
    if not isinstance(material, dict):
        raise InvalidSignature("the bundle has no verification material")
    key = material.get("publicKey")
    if not isinstance(key, dict):
        raise InvalidSignature("the bundle was signed with a certificate, not with a key")
    return document, str(key.get("hint", ""))
