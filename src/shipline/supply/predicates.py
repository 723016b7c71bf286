"""Types of predicates: their short names, and the time that each of them states."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from shipline.errors import UsageError

COSIGN_SIGN = "https://sigstore.dev/cosign/sign/v1"
"""An empty predicate: the signature alone says that the image is approved."""

CUSTOM = "https://cosign.sigstore.dev/attestation/v1"
_TYPES = {
    "slsaprovenance": "https://slsa.dev/provenance/v0.2",
    "slsaprovenance02": "https://slsa.dev/provenance/v0.2",
    "slsaprovenance1": "https://slsa.dev/provenance/v1",
    "link": "https://in-toto.io/Link/v1",
    "spdx": "https://spdx.dev/Document",
    "spdxjson": "https://spdx.dev/Document",
    "cyclonedx": "https://cyclonedx.org/bom",
    "vuln": "https://cosign.sigstore.dev/attestation/vuln/v1",
    "openvex": "https://openvex.dev/ns",
    "test-result": "https://in-toto.io/attestation/test-result/v0.1",
    "vsa": "https://slsa.dev/verification_summary/v1",
    "custom": CUSTOM,
}
NAMES = tuple(_TYPES)
"""The short names, those of cosign and `test-result` and `vsa`."""

_TIMES = (
    ("runDetails", "metadata", "finishedOn"),  # SLSA provenance 1
    ("metadata", "buildFinishedOn"),  # SLSA provenance 0.2
    ("metadata", "scanFinishedOn"),  # vuln
    ("metadata", "timestamp"),  # CycloneDX
    ("creationInfo", "created"),  # SPDX
    ("timeVerified",),  # verification summary
    ("timestamp",),  # OpenVEX
    ("Timestamp",),  # cosign's custom
)


def predicate_type(text: str) -> str:
    """The URI behind a short name, or `text` where it is one. Raises UsageError."""
    if found := _TYPES.get(text):
        return found
    if "://" in text or text.startswith("urn:"):
        return text
    raise UsageError(
        f"not a predicate type: {text!r}", hint=f"one of {', '.join(_TYPES)}, or a URI"
    )


def short_name(uri: str) -> str:
    """The shortest name that `predicate_type` reads as `uri`; the URI itself for others."""
    return min((name for name, found in _TYPES.items() if found == uri), key=len, default=uri)


def stated_time(predicate: Mapping[str, Any] | str) -> float | None:
    """When the predicate says it was made, in seconds since 1970; None where it does not."""
    for path in _TIMES:
        value: Any = predicate
        for key in path:
            value = value.get(key) if isinstance(value, Mapping) else None
        if (found := seconds(value)) is not None:
            return found
    return None


def seconds(value: object) -> float | None:
    """A time as RFC 3339 text or as a number of seconds, None for anything else."""
    if isinstance(value, int | float) and not isinstance(value, bool):
        return float(value) if 0 <= value < 1 << 40 else None
    if not isinstance(value, str):
        return None
    try:
        found = datetime.fromisoformat(value)
        return (found if found.tzinfo else found.replace(tzinfo=UTC)).timestamp()
    except (ValueError, OverflowError):
        return None
