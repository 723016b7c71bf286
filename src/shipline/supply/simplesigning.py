"""Simple signing: the payload that says a digest may run under a name.

The "atomic container signature" of containers/image, as cosign's SIGNATURE_SPEC.md uses it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

from shipline.errors import ContentError
from shipline.oci import Digest, from_bytes, to_bytes

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
        """Raises ContentError for anything but exactly the fields of the specification."""
        if len(raw) > PAYLOAD_LIMIT:
            raise ContentError(f"the payload has {len(raw)} bytes, more than {PAYLOAD_LIMIT}")
        document = _exactly(from_bytes(raw), "the payload", "critical", "optional")
        critical = _exactly(document["critical"], "critical", "identity", "image", "type")
        if critical["type"] != _TYPE:
            raise ContentError(f"critical.type is {critical['type']!r:.100}")
        image = _exactly(critical["image"], "critical.image", "docker-manifest-digest")
        identity = _exactly(critical["identity"], "critical.identity", "docker-reference")
        optional = {} if document["optional"] is None else document["optional"]
        if not isinstance(optional, dict):
            raise ContentError("optional is not a JSON object")
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
        raise ContentError(f"{what} must have exactly the fields {', '.join(keys)}")
    return value


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise ContentError(f"text is expected where the payload has {value!r:.100}")
    return value
