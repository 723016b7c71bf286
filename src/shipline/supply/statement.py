"""Statements about digests, and their predicates (in-toto Attestation Framework, Statement v1)."""

from __future__ import annotations

import base64
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Self

from shipline.content import Fetcher, fetch_all, fetch_image
from shipline.errors import ContentError, UsageError
from shipline.oci import (
    NO_ANNOTATIONS,
    PREDICATE_TYPE,
    Descriptor,
    Digest,
    Index,
    from_bytes,
    to_bytes,
)

STATEMENT = "https://in-toto.io/Statement/v1"
_KNOWN = (STATEMENT, "https://in-toto.io/Statement/v0.1")
_HEAVIEST = 5_000_000  # objects and lists: an SBOM has one for each file
LARGEST = 40 << 20  # bytes, as in BuildKit
_SUBJECTS = 1024  # the limit of sigstore-go
_IN_ENVELOPE = re.compile(r"application/vnd\.in-toto\..*\+dsse")


class InvalidStatement(ContentError):
    """A document is no in-toto statement."""

    code = "statement-invalid"


@dataclass(frozen=True, slots=True)
class Subject:
    """The subject of a statement: `digests` maps algorithms to hex."""

    name: str
    digests: Mapping[str, str]
    annotations: Mapping[str, Any] = field(default_factory=lambda: NO_ANNOTATIONS, hash=False)

    @classmethod
    def from_json(cls, value: object) -> Self:
        if not isinstance(value, dict):
            raise InvalidStatement(f"not a subject: {value!r:.200}")
        name, digests, annotations = (value.get(key) for key in ("name", "digest", "annotations"))
        if not isinstance(name, str | None) or not isinstance(annotations, dict | None):
            raise InvalidStatement(f"not a subject: {value!r:.200}")
        if not isinstance(digests, dict) or not all(map(_is_text, digests.values())):
            raise InvalidStatement(f"a subject without digests: {value!r:.200}")
        return cls(name or "", digests, annotations or NO_ANNOTATIONS)

    def to_json(self) -> dict[str, Any]:
        value: dict[str, Any] = {"name": self.name} if self.name else {}
        value["digest"] = dict(self.digests)
        if self.annotations:
            value["annotations"] = dict(self.annotations)
        return value


@dataclass(frozen=True, slots=True)
class Statement:
    """`predicate` is a JSON object, or text from older tools."""

    subjects: tuple[Subject, ...]
    predicate_type: str
    predicate: Mapping[str, Any] | str = field(hash=False)
    type: str = STATEMENT

    @classmethod
    def about(
        cls,
        target: Descriptor,
        name: str,
        predicate_type: str,
        predicate: Mapping[str, Any],
        *,
        annotations: Mapping[str, Any] = NO_ANNOTATIONS,
    ) -> Self:
        """A statement about one image; `name` is informational."""
        subject = Subject(name, {target.digest.algorithm: target.digest.hex}, annotations)
        return cls((subject,), predicate_type, predicate)

    @classmethod
    def parse(cls, raw: bytes) -> Self:
        """Raises ContentError for anything but a statement, version 1 or 0.1."""
        document = from_bytes(raw, heaviest=_HEAVIEST, largest=LARGEST)
        if document.get("_type") not in _KNOWN:
            raise InvalidStatement(
                f"not an in-toto statement: _type {document.get('_type')!r:.100}"
            )
        subjects, kind = document.get("subject"), document.get("predicateType")
        if not isinstance(subjects, list) or not 0 < len(subjects) <= _SUBJECTS:
            raise InvalidStatement(f"a statement has between 1 and {_SUBJECTS} subjects")
        predicate = document.get("predicate", {})
        if not _is_text(kind) or not kind or not isinstance(predicate, dict | str):
            raise InvalidStatement("the statement lacks a predicateType or a usable predicate")
        subjects_found = tuple(map(Subject.from_json, subjects))
        return cls(subjects_found, kind, predicate, document["_type"])

    def to_bytes(self) -> bytes:
        predicate = self.predicate if isinstance(self.predicate, str) else dict(self.predicate)
        return to_bytes(
            {
                "_type": self.type,
                "predicateType": self.predicate_type,
                "subject": [subject.to_json() for subject in self.subjects],
                "predicate": predicate,
            }
        )

    def subject_of(self, digest: Digest) -> Subject | None:
        """The subject with that digest; None if the statement is about something else."""
        for subject in self.subjects:
            if subject.digests.get(digest.algorithm) == digest.hex:
                return subject
        return None


def _is_text(value: object) -> bool:
    return isinstance(value, str)


COSIGN_SIGN = "https://sigstore.dev/cosign/sign/v1"
"""An empty predicate: the signature alone approves the image."""

SPDX, CYCLONEDX = "https://spdx.dev/Document", "https://cyclonedx.org/bom"
CUSTOM = "https://cosign.sigstore.dev/attestation/v1"
_TYPES = {
    "slsaprovenance": "https://slsa.dev/provenance/v0.2",
    "slsaprovenance02": "https://slsa.dev/provenance/v0.2",
    "slsaprovenance1": "https://slsa.dev/provenance/v1",
    "link": "https://in-toto.io/Link/v1",
    "spdx": SPDX,
    "spdxjson": SPDX,
    "cyclonedx": CYCLONEDX,
    "vuln": "https://cosign.sigstore.dev/attestation/vuln/v1",
    "openvex": "https://openvex.dev/ns",
    "test-result": "https://in-toto.io/attestation/test-result/v0.1",
    "vsa": "https://slsa.dev/verification_summary/v1",
    "custom": CUSTOM,
}

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


def stored_statements(
    source: Fetcher, index: Index, image: Descriptor
) -> Iterator[tuple[str, bytes]]:
    """The unsigned statements about `image` that a build kept in `index` beside it (BuildKit,
    docs/attestations/attestation-storage.md), or Docker Scout in envelopes of DSSE, whose
    signatures do not count here: type of the predicate, and the bytes.

    Raises NotFound, ContentError.
    """
    entry = index.attestation_of(image)
    if entry is None:
        return
    for layer in fetch_image(source, entry).layers:
        if kind := layer.annotations.get(PREDICATE_TYPE, ""):
            content = fetch_all(source, layer, LARGEST)
            yield kind, _payload(content) if _IN_ENVELOPE.match(layer.media_type) else content


def _payload(envelope: bytes) -> bytes:
    payload = from_bytes(envelope, heaviest=_HEAVIEST, largest=LARGEST).get("payload")
    try:
        return base64.b64decode(payload or "", validate=True)
    except (TypeError, ValueError):
        raise InvalidStatement("the payload of an envelope is not in base64") from None


def predicate_type(text: str) -> str:
    """The URI of a short name, or `text` if it is a URI. Raises UsageError."""
    if uri := _TYPES.get(text):
        return uri
    if "://" in text or text.startswith("urn:"):
        return text
    raise UsageError(
        f"not a predicate type: {text!r}",
        code="predicate-invalid",
        hint=f"one of {', '.join(_TYPES)}, or a URI",
    )


def short_name(uri: str) -> str:
    """The shortest name that `predicate_type` reads as `uri`; the URI itself for others."""
    return min((name for name, known in _TYPES.items() if known == uri), key=len, default=uri)


def stated_time(predicate: Mapping[str, Any] | str) -> float | None:
    """The time stated in the predicate, in seconds since 1970; None if there is none."""
    for path in _TIMES:
        value: Any = predicate
        for key in path:
            value = value.get(key) if isinstance(value, Mapping) else None
        if (time := seconds(value)) is not None:
            return time
    return None


def seconds(value: object) -> float | None:
    """A time as RFC 3339 text or as a number of seconds, None for anything else."""
    if isinstance(value, int | float) and not isinstance(value, bool):
        return float(value) if 0 <= value < 1 << 40 else None
    if not isinstance(value, str):
        return None
    try:
        parsed = datetime.fromisoformat(value)
        return (parsed if parsed.tzinfo else parsed.replace(tzinfo=UTC)).timestamp()
    except (ValueError, OverflowError):
        return None
