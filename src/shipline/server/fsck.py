"""Consistency check of a data directory: files, records and derived records.

Read-only; the directory must not be served meanwhile.
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
    "damaged-file",  # content does not match the digest in its name
    "foreign-file",  # not named by a digest, or not a regular file
    "missing-blob",  # the file of a repository's blob is missing
    "missing-manifest",  # its file is missing or unreadable
    "incomplete-manifest",  # refers to content missing from its repository
    "dangling-tag",  # points to a missing manifest
    "broken-record",  # unreadable
    "wrong-index",  # derived records are missing or stale
    "wrong-count",  # wrong usage counters
]


@dataclass(frozen=True, slots=True)
class Inconsistency:
    """One finding. To repair it, write `changes` and move `quarantine` to the quarantine
    directory.
    """

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


def repository_names(records: Records) -> list[str]:
    """Every repository that any record mentions."""
    return sorted({name for kind in _KINDS for name in _repository_names(records, kind)})


def check_repository(records: Records, store: LocalStore, name: str) -> Findings:
    """Findings of one repository."""
    problems = 0
    for finding in _check_records(records, store, name):
        problems += 1
        yield finding
    if not problems:  # derived records of broken ones would be wrong too
        yield from _check_derived(records, store, name)


def stale_holders(records: Records) -> Findings:
    """Holder records of content that the repository does not have: their files would never be
    collected.
    """
    for (digest, name, kind), _ in walk(records, ("holder",)):
        if records.get((kind, name, digest)) is None:
            yield Inconsistency(
                "wrong-index",
                f"{name}@{digest}",
                f"has a holder record for a {kind} that the repository lacks",
                {("holder", digest, name, kind): None},
            )


def _check_records(records: Records, store: LocalStore, name: str) -> Findings:
    has_records = any(records.scan((kind, name), limit=1) for kind in ("blob", "manifest", "tag"))
    if has_records and records.get(("repository", name)) is None:
        missing: Changes = {("repository", name): b""}
        yield Inconsistency("wrong-index", name, "has no repository record", missing)
    for (digest,), value in walk(records, ("blob", name)):
        yield from _check_blob(records, store, name, digest, value)
    for (digest,), value in walk(records, ("manifest", name)):
        yield from _check_manifest(records, store, name, digest, value)
    for (tag,), value in walk(records, ("tag", name)):
        yield from _check_tag(records, name, tag, value)


def _check_blob(
    records: Records, store: LocalStore, name: str, digest: str, value: bytes
) -> Findings:
    subject, removal = f"{name}@{digest}", no_blob_entries(name, digest)
    record = _decode(value, size=int, at=float)
    if record is None or (parsed := digest_or_none(digest)) is None:
        yield Inconsistency(
            "broken-record", subject, "the record of this blob cannot be read", removal
        )
        return
    size = _file_size(store, parsed)
    if size != record["size"]:
        there = "is missing" if size is None else f"has {size} bytes, not {record['size']}"
        yield Inconsistency("missing-blob", subject, f"the file of this blob {there}", removal)


def _check_manifest(
    records: Records, store: LocalStore, name: str, digest: str, value: bytes
) -> Findings:
    subject = f"{name}@{digest}"
    record = _decode(value, mediaType=str, size=int, at=float)
    removal = no_manifest_entries(name, digest, "" if record is None else record.get("subject", ""))
    if record is None or (parsed := digest_or_none(digest)) is None:
        yield Inconsistency(
            "broken-record", subject, "the record of this manifest cannot be read", removal
        )
        return
    content = read_manifest(store, parsed, record["mediaType"])
    if content is None:
        yield Inconsistency(
            "missing-manifest", subject, "its file is missing or not a manifest", removal
        )
        return
    cached = records.get(("cached", name, digest)) is not None  # the rest is fetched when needed
    if not cached and (missing := _missing(records, name, content)):
        yield Inconsistency(
            "incomplete-manifest", subject, f"refers to {missing}, which is missing", removal
        )


def _missing(records: Records, name: str, content: Manifest | Index) -> str | None:
    for need in needs(content):
        value = records.get((kind_of(content, need), name, str(need.digest)))
        record = None if value is None else _decode(value, size=int)
        if record is None or record["size"] != need.size:
            return str(need.digest)
    return None


def _check_tag(records: Records, name: str, tag: str, value: bytes) -> Findings:
    record = _decode(value, digest=str, at=float)
    digest = "" if record is None else record["digest"]
    removal: Changes = {("tag", name, tag): None}
    if digest:
        removal = no_tag_entries(name, tag, digest)
    if not digest:
        yield Inconsistency("broken-record", f"{name}:{tag}", "the record cannot be read", removal)
    elif records.get(("manifest", name, digest)) is None:
        message = f"points to {digest}, which is missing"
        yield Inconsistency("dangling-tag", f"{name}:{tag}", message, removal)


def _check_derived(records: Records, store: LocalStore, name: str) -> Findings:
    expected: set[int] = set()
    for key, value in derived_of(records, store, name):
        expected.add(hash(key))
        if records.get(key) != value:
            message = f"lacks the derived record {' '.join((key[0], *key[2:]))}"
            yield Inconsistency("wrong-index", name, message, {key: value})
    for kind in ("tagged", "referrer", "needed"):
        for rest, _ in walk(records, (kind, name)):
            if hash((kind, name, *rest)) not in expected:
                message = f"has a stale derived record: {' '.join((kind, *rest))}"
                yield Inconsistency("wrong-index", name, message, {(kind, name, *rest): None})
    yield from _check_counts(records, name)


def _check_counts(records: Records, name: str) -> Findings:
    expected = {key[-1]: value for key, value in counted(records, name)}
    recorded = {key[0]: value for key, value in records.scan(("usage", name))}
    for counter in sorted(expected.keys() | recorded.keys()):
        if expected.get(counter, b"0") != recorded.get(counter, b"0"):
            message = f"counts {recorded.get(counter, b'0').decode()} {counter}, "
            message += f"has {expected.get(counter, b'0').decode()}"
            yield Inconsistency(
                "wrong-count", name, message, {("usage", name, counter): expected.get(counter)}
            )


def _repository_names(records: Records, kind: str) -> Iterator[str]:
    after: Key = ()
    while page := records.scan((kind,), after=after, limit=1):
        yield page[0][0][0]
        after = (page[0][0][0], _LAST)


def _decode(value: bytes, **fields: type) -> dict[str, Any] | None:
    """The value of a record, None if it lacks one of the fields."""
    try:
        record = json.loads(value)
        if isinstance(record, dict) and all(
            isinstance(record.get(key), (int, float) if kind is float else kind)
            for key, kind in fields.items()
        ):
            return record
    except ValueError:
        pass
    return None


def digest_or_none(text: str) -> Digest | None:
    try:
        return Digest.parse(text)
    except InvalidDigest:
        return None


def _file_size(store: LocalStore, digest: Digest) -> int | None:
    try:
        return store.path(digest).stat().st_size
    except FileNotFoundError:
        return None


_BLOCK = 1 << 20  # bytes
_UPLOAD_NAME = re.compile(r"[0-9a-f]{8}-[0-9a-f-]{27}|(single|manifest|fill|gone|replica)-.*")
Advance = Callable[[int], object]
"""Called with the size in bytes of each checked file."""


@dataclass(slots=True)
class CheckSummary:
    """What was checked, and the number of findings by kind."""

    files: int = 0
    bytes: int = 0
    repositories: int = 0
    kinds: Counter[str] = field(default_factory=Counter)

    @property
    def clean(self) -> bool:
        return not self.kinds


@contextmanager
def open_offline(root: Path) -> Iterator[Storage]:
    """Open a data directory offline. Raises UsageError if it is none, or is being served."""
    if not (root / "blobs").is_dir():
        raise UsageError(
            f"{root} is not the data directory of a registry",
            code="registry-data-directory",
            hint="name the directory that registry serve was given with --data",
        )
    storage = Storage(root)
    with closing(storage):
        storage.promises.assume_none()
        yield storage


def check(
    storage: Storage,
    summary: CheckSummary,
    *,
    quick: bool = False,
    advance: Advance = lambda size: None,
) -> Findings:
    """Yield the findings as they are made, and fill in `summary`.

    `quick` hashes only manifests.
    """
    for finding in _check_all(storage, summary, quick, advance):
        summary.kinds[finding.kind] += 1
        yield finding


def _check_all(storage: Storage, summary: CheckSummary, quick: bool, advance: Advance) -> Findings:
    for algorithm in ("sha256", "sha512"):
        yield from _check_files(storage.root / "blobs" / algorithm, summary, quick, advance)
    yield from _unknown_entries(storage.root / "blobs")
    for name in repository_names(storage.records):
        summary.repositories += 1
        yield from check_repository(storage.records, storage.store, name)
    yield from stale_holders(storage.records)
    yield from _check_uploads(storage)


def _check_files(directory: Path, summary: CheckSummary, quick: bool, advance: Advance) -> Findings:
    with os.scandir(directory) as entries:
        results = ordered_map(
            lambda path: _check_file(path, quick),
            (Path(entry.path) for entry in entries),
            workers=1 if quick else CPUS,
            ahead=64,
        )
        for size, finding in results:
            summary.files += 1
            summary.bytes += size
            advance(size)
            if finding is not None:
                yield finding


def _check_file(path: Path, quick: bool) -> tuple[int, Inconsistency | None]:
    name = f"{path.parent.name}:{path.name}"
    try:
        digest = Digest.parse(name)
    except InvalidDigest:
        message = "is not named by a digest"
        return 0, Inconsistency("foreign-file", str(path), message, quarantine=path)
    if path.is_symlink() or not path.is_file():
        return 0, Inconsistency("foreign-file", str(path), "is not a regular file", quarantine=path)
    size = path.stat().st_size
    if quick:
        return size, None
    hasher = _hash_file(path, digest.algorithm)
    if hasher == digest:
        return size, None
    message = f"the file has digest {hasher}"
    return size, Inconsistency("damaged-file", name, message, quarantine=path)


def _hash_file(path: Path, algorithm: str) -> Digest:
    """The digest of a file; an unreadable one counts as damaged."""
    hasher = Hasher(algorithm)
    try:
        with path.open("rb", buffering=0) as file:
            while block := file.read(_BLOCK):
                hasher.update(block)
    except OSError:
        hasher.update(b"\0unreadable")
    return hasher.digest


def _unknown_entries(blobs: Path) -> Findings:
    for entry in blobs.iterdir():
        if entry.name not in ("sha256", "sha512"):
            yield Inconsistency(
                "foreign-file", str(entry), "does not belong here", quarantine=entry
            )


def _check_uploads(storage: Storage) -> Findings:
    """Unfinished uploads are no finding: the next start deletes those of a killed process."""
    for path in storage.incoming.iterdir():
        if not _UPLOAD_NAME.fullmatch(path.name) or path.is_symlink() or not path.is_file():
            message = "does not belong here"
            yield Inconsistency("foreign-file", str(path), message, quarantine=path)
