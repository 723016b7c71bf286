"""in-toto statements: a predicate about digests (in-toto Attestation Framework, Statement v1)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Self

from shipline.errors import ContentError
from shipline.oci import NO_ANNOTATIONS, Descriptor, Digest, from_bytes, to_bytes

STATEMENT = "https://in-toto.io/Statement/v1"
_KNOWN = (STATEMENT, "https://in-toto.io/Statement/v0.1")
_HEAVIEST = 5_000_000  # objects and lists: an SBOM has one for each file
_SUBJECTS = 1024  # the limit of sigstore-go


@dataclass(frozen=True, slots=True)
class Subject:
    """What a statement is about: `digests` maps algorithms to hex."""

    name: str
    digests: Mapping[str, str]
    annotations: Mapping[str, Any] = field(default_factory=lambda: NO_ANNOTATIONS, hash=False)

    @classmethod
    def from_json(cls, value: object) -> Self:
        if not isinstance(value, dict):
            raise ContentError(f"not a subject: {value!r:.200}")
        name, digests, annotations = (value.get(key) for key in ("name", "digest", "annotations"))
        if not isinstance(name, str | None) or not isinstance(annotations, dict | None):
            raise ContentError(f"not a subject: {value!r:.200}")
        if not isinstance(digests, dict) or not all(map(_is_text, digests.values())):
            raise ContentError(f"a subject without digests: {value!r:.200}")
        return cls(name or "", digests, annotations or NO_ANNOTATIONS)

    def to_json(self) -> dict[str, Any]:
        value: dict[str, Any] = {"name": self.name} if self.name else {}
        value["digest"] = dict(self.digests)
        if self.annotations:
            value["annotations"] = dict(self.annotations)
        return value


@dataclass(frozen=True, slots=True)
class Statement:
    """`predicate` is a JSON object; older tools also wrote text."""

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
        """A statement about one image; `name` is for people and programs that look at it."""
        subject = Subject(name, {target.digest.algorithm: target.digest.hex}, annotations)
        return cls((subject,), predicate_type, predicate)

    @classmethod
    def parse(cls, raw: bytes) -> Self:
        """Raises ContentError for anything but a statement, version 1 or 0.1."""
        document = from_bytes(raw, heaviest=_HEAVIEST)
        if document.get("_type") not in _KNOWN:
            raise ContentError(f"not an in-toto statement: _type {document.get('_type')!r:.100}")
        subjects, kind = document.get("subject"), document.get("predicateType")
        if not isinstance(subjects, list) or not 0 < len(subjects) <= _SUBJECTS:
            raise ContentError(f"a statement has between 1 and {_SUBJECTS} subjects")
        predicate = document.get("predicate", {})
        if not _is_text(kind) or not kind or not isinstance(predicate, dict | str):
            raise ContentError("the statement lacks its predicateType, or a usable predicate")
        found = tuple(map(Subject.from_json, subjects))
        return cls(found, kind, predicate, document["_type"])

    def to_bytes(self) -> bytes:
        predicate = self.predicate if isinstance(self.predicate, str) else dict(self.predicate)
        return to_bytes(
            {
                "_type": self.type,
                "predicateType": self.predicate_type,
                "subject": [one.to_json() for one in self.subjects],
                "predicate": predicate,
            }
        )

    def subject_of(self, digest: Digest) -> Subject | None:
        """The subject with that digest, None where the statement is about something else."""
        for one in self.subjects:
            if one.digests.get(digest.algorithm) == digest.hex:
                return one
        return None


def _is_text(value: object) -> bool:
    return isinstance(value, str)
