"""What can be wrong with a data directory, each with what mends it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from shipline.server.entries import Changes

Kind = Literal[
    "damaged-file",  # bytes are not what the name says
    "foreign-file",  # not named by a digest, or not a plain file
    "missing-blob",  # a repository has a blob whose file is gone
    "missing-manifest",  # a repository has a manifest whose file is gone or unreadable
    "incomplete-manifest",  # something that it needs is not in its repository
    "dangling-tag",  # points to a manifest that is not there
    "broken-record",  # cannot be read
    "wrong-index",  # what follows from other records is missing, or too much
    "wrong-count",  # usage counters
]


@dataclass(frozen=True, slots=True)
class Finding:
    """One fault. Mending it is making `changes` and moving the file to quarantine."""

    kind: Kind
    subject: str
    message: str
    changes: Changes = field(default_factory=dict, hash=False, compare=False)
    quarantine: Path | None = None

    def to_json(self) -> dict[str, str]:
        return {"kind": self.kind, "subject": self.subject, "message": self.message}


Findings = Iterable[Finding]
