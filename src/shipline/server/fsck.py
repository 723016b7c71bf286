"""Whether a data directory keeps its promises: every file, every record, every index.

Nothing is changed, and nobody may serve the directory meanwhile.
"""

from __future__ import annotations

import json
import os
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from shipline.content import LocalStore
from shipline.errors import UsageError
from shipline.metadata import Key, Records, walk
from shipline.oci import Digest, Hasher, Index, InvalidDigest, Manifest
from shipline.server.entries import (
    Changes,
    counted,
    derived_of,
    kind_of,
    needs,
    no_blob_entries,
    no_manifest_entries,
    no_tag_entries,
    read_manifest,
)
from shipline.server.storage import Storage
from shipline.tasks import CPUS, ordered_map

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
class Inconsistency:
    """One fault. Mending it is making `changes` and moving the file to quarantine."""

    kind: Kind
    subject: str
    message: str
    changes: Changes = field(default_factory=dict, hash=False, compare=False)
    quarantine: Path | None = None

    def to_json(self) -> dict[str, str]:
        return {"kind": self.kind, "subject": self.subject, "message": self.message}


Findings = Iterable[Inconsistency]


_KINDS = ("blob", "manifest", "tag", "repository", "tagged", "referrer", "needed", "usage")
_LAST = "\U0010ffff"


def names(records: Records) -> list[str]:
    """Every repository that some record mentions."""
    return sorted({name for kind in _KINDS for name in _distinct(records, kind)})


def repository_findings(records: Records, store: LocalStore, name: str) -> Findings:
    """The faults of one repository."""
    found = 0
    for finding in _stored(records, store, name):
        found += 1
        yield finding
    if not found:  # what follows from faulty records would be faulty
        yield from _derived(records, store, name)


def holder_findings(records: Records) -> Findings:
    """Holders that hold nothing: their files would never be collected."""
    for (digest, name, kind), _ in walk(records, ("holder",)):
        if records.get((kind, name, digest)) is None:
            yield Inconsistency(
                "wrong-index",
                f"{name}@{digest}",
                f"is held as a {kind} that the repository does not have",
                {("holder", digest, name, kind): None},
            )


def _stored(records: Records, store: LocalStore, name: str) -> Findings:
    held = any(records.scan((kind, name), limit=1) for kind in ("blob", "manifest", "tag"))
    if held and records.get(("repository", name)) is None:
        missing: Changes = {("repository", name): b""}
        yield Inconsistency("wrong-index", name, "is not in the list of repositories", missing)
    for (digest,), value in walk(records, ("blob", name)):
        yield from _blob(records, store, name, digest, value)
    for (digest,), value in walk(records, ("manifest", name)):
        yield from _manifest(records, store, name, digest, value)
    for (tag,), value in walk(records, ("tag", name)):
        yield from _tag(records, name, tag, value)


def _blob(records: Records, store: LocalStore, name: str, digest: str, value: bytes) -> Findings:
    subject, gone = f"{name}@{digest}", no_blob_entries(name, digest)
    record = _decoded(value, size=int, at=float)
    if record is None or (parsed := _digest(digest)) is None:
        yield Inconsistency(
            "broken-record", subject, "the record of this blob cannot be read", gone
        )
        return
    size = _size(store, parsed)
    if size != record["size"]:
        there = "is not there" if size is None else f"has {size} bytes, not {record['size']}"
        yield Inconsistency("missing-blob", subject, f"the file of this blob {there}", gone)


def _manifest(
    records: Records, store: LocalStore, name: str, digest: str, value: bytes
) -> Findings:
    subject = f"{name}@{digest}"
    record = _decoded(value, mediaType=str, size=int, at=float)
    gone = no_manifest_entries(name, digest, "" if record is None else record.get("subject", ""))
    if record is None or (parsed := _digest(digest)) is None:
        yield Inconsistency(
            "broken-record", subject, "the record of this manifest cannot be read", gone
        )
        return
    content = read_manifest(store, parsed, record["mediaType"])
    if content is None:
        yield Inconsistency(
            "missing-manifest", subject, "its file is gone or is not a manifest", gone
        )
        return
    if missing := _missing(records, name, content):
        yield Inconsistency(
            "incomplete-manifest", subject, f"needs {missing}, which is not here", gone
        )


def _missing(records: Records, name: str, content: Manifest | Index) -> str | None:
    for need in needs(content):
        value = records.get((kind_of(content, need), name, str(need.digest)))
        record = None if value is None else _decoded(value, size=int)
        if record is None or record["size"] != need.size:
            return str(need.digest)
    return None


def _tag(records: Records, name: str, tag: str, value: bytes) -> Findings:
    record = _decoded(value, digest=str, at=float)
    digest = "" if record is None else record["digest"]
    gone: Changes = {("tag", name, tag): None}
    if digest:
        gone = no_tag_entries(name, tag, digest)
    if not digest:
        yield Inconsistency("broken-record", f"{name}:{tag}", "the record cannot be read", gone)
    elif records.get(("manifest", name, digest)) is None:
        message = f"points to {digest}, which is not here"
        yield Inconsistency("dangling-tag", f"{name}:{tag}", message, gone)


def _derived(records: Records, store: LocalStore, name: str) -> Findings:
    expected: set[int] = set()
    for key, value in derived_of(records, store, name):
        expected.add(hash(key))
        if records.get(key) != value:
            message = f"lacks the index entry {' '.join((key[0], *key[2:]))}"
            yield Inconsistency("wrong-index", name, message, {key: value})
    for kind in ("tagged", "referrer", "needed"):
        for rest, _ in walk(records, (kind, name)):
            if hash((kind, name, *rest)) not in expected:
                message = f"has an index entry too much: {' '.join((kind, *rest))}"
                yield Inconsistency("wrong-index", name, message, {(kind, name, *rest): None})
    yield from _counts(records, name)


def _counts(records: Records, name: str) -> Findings:
    right = {key[-1]: value for key, value in counted(records, name)}
    kept = {key[0]: value for key, value in records.scan(("usage", name))}
    for what in sorted(right.keys() | kept.keys()):
        if right.get(what, b"0") != kept.get(what, b"0"):
            message = f"counts {kept.get(what, b'0').decode()} {what}, "
            message += f"has {right.get(what, b'0').decode()}"
            yield Inconsistency(
                "wrong-count", name, message, {("usage", name, what): right.get(what)}
            )


def _distinct(records: Records, kind: str) -> Iterator[str]:
    after: Key = ()
    while page := records.scan((kind,), after=after, limit=1):
        yield page[0][0][0]
        after = (page[0][0][0], _LAST)


def _decoded(value: bytes, **wanted: type) -> dict[str, Any] | None:
    """The value of a record, None where it is not what it should be."""
    try:
        record = json.loads(value)
        if isinstance(record, dict) and all(
            isinstance(record.get(key), (int, float) if kind is float else kind)
            for key, kind in wanted.items()
        ):
            return record
    except ValueError:
        pass
    return None


def _digest(text: str) -> Digest | None:
    try:
        return Digest.parse(text)
    except InvalidDigest:
        return None


def _size(store: LocalStore, digest: Digest) -> int | None:
    try:
        return store.path(digest).stat().st_size
    except FileNotFoundError:
        return None


_BLOCK = 1 << 20  # bytes
_OURS = re.compile(r"[0-9a-f]{8}-[0-9a-f-]{27}|single-.*|manifest-.*|gone-[0-9]+")
Advance = Callable[[int], object]
"""Called with the bytes of each file that was looked at."""


@dataclass(slots=True)
class CheckSummary:
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
    summary: CheckSummary,
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


def _every(storage: Storage, summary: CheckSummary, quick: bool, advance: Advance) -> Findings:
    for algorithm in ("sha256", "sha512"):
        yield from _files(storage.root / "blobs" / algorithm, summary, quick, advance)
    yield from _strangers(storage.root / "blobs")
    for name in names(storage.records):
        summary.repositories += 1
        yield from repository_findings(storage.records, storage.store, name)
    yield from holder_findings(storage.records)
    yield from _uploads(storage)


def _files(directory: Path, summary: CheckSummary, quick: bool, advance: Advance) -> Findings:
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


def _look(path: Path, quick: bool) -> tuple[int, Inconsistency | None]:
    name = f"{path.parent.name}:{path.name}"
    try:
        digest = Digest.parse(name)
    except InvalidDigest:
        message = "is not named by a digest"
        return 0, Inconsistency("foreign-file", str(path), message, quarantine=path)
    if path.is_symlink() or not path.is_file():
        return 0, Inconsistency("foreign-file", str(path), "is not a plain file", quarantine=path)
    size = path.stat().st_size
    if quick:
        return size, None
    seen = _hashed(path, digest.algorithm)
    if seen == digest:
        return size, None
    message = f"the file has digest {seen}"
    return size, Inconsistency("damaged-file", name, message, quarantine=path)


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
            yield Inconsistency(
                "foreign-file", str(entry), "does not belong here", quarantine=entry
            )


def _uploads(storage: Storage) -> Findings:
    """Halves of uploads are what a kill leaves, and no fault: the next start deletes them."""
    for path in storage.incoming.iterdir():
        if not _OURS.fullmatch(path.name) or path.is_symlink() or not path.is_file():
            message = "does not belong here"
            yield Inconsistency("foreign-file", str(path), message, quarantine=path)
