"""DSSE: signed envelopes around bytes of a stated type (github.com/secure-systems-lab/dsse, v1)."""

from __future__ import annotations

import base64
import binascii
from dataclasses import dataclass
from typing import Any, Self

from shipline.errors import ContentError
from shipline.oci import from_bytes, to_bytes

ENVELOPE = "application/vnd.dsse.envelope.v1+json"
IN_TOTO = "application/vnd.in-toto+json"
_SIGNATURES = 16  # of one envelope


def pae(payload_type: str, payload: bytes) -> bytes:
    """What is signed: type and payload, each after its length, so that no two pairs are alike."""
    kind = payload_type.encode()
    return b"DSSEv1 %d %b %d %b" % (len(kind), kind, len(payload), payload)


@dataclass(frozen=True, slots=True)
class Envelope:
    """`signatures` are over `pae(payload_type, payload)`; which key made them is not proven."""

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
            raise ContentError("the envelope is not a JSON object")
        kind, payload, found = (value.get(key) for key in ("payloadType", "payload", "signatures"))
        if not isinstance(kind, str) or not isinstance(found, list):
            raise ContentError("the envelope lacks payloadType or signatures")
        if not 0 < len(found) <= _SIGNATURES:
            raise ContentError(f"the envelope has {len(found)} signatures")
        signatures = tuple(
            from_base64(one.get("sig") if isinstance(one, dict) else None) for one in found
        )
        return cls(from_base64(payload), signatures, kind)

    def to_json(self, *, key_ids: bool) -> dict[str, Any]:
        """`key_ids` writes empty ones, as cosign does in attachments but not in bundles."""
        entries = [
            {**({"keyid": ""} if key_ids else {}), "sig": base64.b64encode(one).decode()}
            for one in self.signatures
        ]
        payload = base64.b64encode(self.payload).decode()
        return {"payloadType": self.payload_type, "payload": payload, "signatures": entries}

    def to_bytes(self) -> bytes:
        return to_bytes(self.to_json(key_ids=True))

    @property
    def message(self) -> bytes:
        return pae(self.payload_type, self.payload)


def from_base64(text: object) -> bytes:
    """The bytes in `text`, of either alphabet. Raises ContentError, also for no bytes at all."""
    if not isinstance(text, str) or not text:
        raise ContentError("where bytes in base64 are expected, there is no text")
    try:
        return base64.b64decode(text.translate({ord("-"): "+", ord("_"): "/"}), validate=True)
    except (binascii.Error, ValueError):
        raise ContentError("where bytes in base64 are expected, there is other text") from None
