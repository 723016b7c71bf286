"""What BuildKit made of the cases in the past, kept as digests: `recorded.txt`, a line for each.

An image of ours that has the digest of its case is the one that BuildKit made, and need not be
built by it again. No other digest proves anything: then the peer is asked. So a record that is
old, made of other base images or by another version costs time, and is never believed.
`compare.py --record` writes it.
"""

from __future__ import annotations

import hashlib
import json
import zlib
from collections.abc import Mapping
from datetime import date
from pathlib import Path

from corpus.builders import Outcome
from corpus.case import Case
from corpus.difference import normal_form

RECORD = Path(__file__).parents[1] / "recorded.txt"
SHARE = 10  # one in so many cases is built by the peer whatever is recorded; each day others


def recordable(case: Case) -> bool:
    """True when what the peer makes of a case is the same each time: no server's port is in it."""
    return case.for_peer and not case.served and not case.images


def due(case: Case, day: date) -> bool:
    """True on the day on which the peer builds the case although it is recorded."""
    return (zlib.crc32(case.name.encode()) + day.toordinal()) % SHARE == 0


def outcome_digest(case: Case, outcome: Outcome, peer: str) -> str:
    """Equal for two outcomes of a case in which nothing differs that the case compares, with the
    same version of the `peer`.
    """
    found = [case.digest, peer, outcome.ok, normal_form(outcome.images, case.skip)]
    return hashlib.sha256(json.dumps(found, sort_keys=True).encode()).hexdigest()


def read_record(path: Path = RECORD) -> dict[str, str]:
    """The recorded digests by the names of cases."""
    lines = path.read_text().splitlines() if path.exists() else []
    return dict(line.split() for line in lines)


def write_record(found: Mapping[str, str], path: Path = RECORD) -> None:
    path.write_text("".join(f"{name} {digest}\n" for name, digest in sorted(found.items())))
