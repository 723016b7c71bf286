"""Whether a data directory keeps its promises: every file, every record, every index.

Nothing is changed, and nobody may serve the directory meanwhile.
"""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from shipline.errors import UsageError
from shipline.oci import Digest, Hasher, InvalidDigest
from shipline.server.consistency import holder_findings, names, repository_findings
from shipline.server.findings import Finding, Findings
from shipline.server.storage import Storage
from shipline.tasks import CPUS, ordered_map

_BLOCK = 1 << 20  # bytes
_OURS = re.compile(r"[0-9a-f]{8}-[0-9a-f-]{27}|single-.*|manifest-.*|gone-[0-9]+")
Advance = Callable[[int], object]
"""Called with the bytes of each file that was looked at."""


@dataclass(slots=True)
class Summary:
    """What a check looked at and found; `kinds` counts findings by their kind."""

    files: int = 0
    bytes: int = 0
    repositories: int = 0
    kinds: Counter[str] = field(default_factory=Counter)

    @property
    def clean(self) -> bool:
        return not self.kinds


@contextmanager
def opened(root: Path) -> Iterator[Storage]:
    """A data directory for oneself. Raises UsageError for another kind of directory, and while a
    node serves it.
    """
    if not (root / "blobs").is_dir():
        raise UsageError(
            f"{root} is not the data directory of a registry",
            hint="name the directory that registry serve was given with --data",
        )
    storage = Storage(root)
    with closing(storage):
        storage.touches.trust()
        yield storage


def check(
    storage: Storage,
    summary: Summary,
    *,
    quick: bool = False,
    advance: Advance = lambda size: None,
) -> Findings:
    """Every fault, as it is found; `summary` is filled on the way.

    `quick` hashes no blobs, only manifests.
    """
    for finding in _every(storage, summary, quick, advance):
        summary.kinds[finding.kind] += 1
        yield finding


def _every(storage: Storage, summary: Summary, quick: bool, advance: Advance) -> Findings:
    for algorithm in ("sha256", "sha512"):
        yield from _files(storage.root / "blobs" / algorithm, summary, quick, advance)
    yield from _strangers(storage.root / "blobs")
    for name in names(storage.records):
        summary.repositories += 1
        yield from repository_findings(storage.records, storage.store, name)
    yield from holder_findings(storage.records)
    yield from _uploads(storage)


def _files(directory: Path, summary: Summary, quick: bool, advance: Advance) -> Findings:
    with os.scandir(directory) as entries:
        looks = ordered_map(
            lambda path: _look(path, quick),
            (Path(entry.path) for entry in entries),
            workers=1 if quick else CPUS,
            ahead=64,
        )
        for size, finding in looks:
            summary.files += 1
            summary.bytes += size
            advance(size)
            if finding is not None:
                yield finding


def _look(path: Path, quick: bool) -> tuple[int, Finding | None]:
    name = f"{path.parent.name}:{path.name}"
    try:
        digest = Digest.parse(name)
    except InvalidDigest:
        message = "is not named by a digest"
        return 0, Finding("foreign-file", str(path), message, quarantine=path)
    if path.is_symlink() or not path.is_file():
        return 0, Finding("foreign-file", str(path), "is not a plain file", quarantine=path)
    size = path.stat().st_size
    if quick:
        return size, None
    seen = _hashed(path, digest.algorithm)
    if seen == digest:
        return size, None
    message = f"the file has digest {seen}"
    return size, Finding("damaged-file", name, message, quarantine=path)


def _hashed(path: Path, algorithm: str) -> Digest:
    """Bytes that the disk does not give back are as wrong as others."""
    seen = Hasher(algorithm)
    try:
        with path.open("rb", buffering=0) as file:
            while block := file.read(_BLOCK):
                seen.update(block)
    except OSError:
        seen.update(b"\0unreadable")
    return seen.digest


def _strangers(blobs: Path) -> Findings:
    for entry in blobs.iterdir():
        if entry.name not in ("sha256", "sha512"):
            yield Finding("foreign-file", str(entry), "does not belong here", quarantine=entry)


def _uploads(storage: Storage) -> Findings:
    """Halves of uploads are what a kill leaves, and no fault: the next start deletes them."""
    for path in storage.incoming.iterdir():
        if not _OURS.fullmatch(path.name) or path.is_symlink() or not path.is_file():
            message = "does not belong here"
            yield Finding("foreign-file", str(path), message, quarantine=path)
