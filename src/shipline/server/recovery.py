"""Repair of a data directory: findings repaired, lost records recovered, records converted to
another store.

What cannot be repaired is removed: records without their content are deleted, damaged files move to
DIR/quarantine, an incomplete manifest is deleted with its tags. Pushing the image again restores
it.

Recovered names come from the catalogue of the last garbage collection. Other manifests go to the
repository `recovered`, where they can be listed, pulled by digest, and tagged again.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from shipline.content import LocalStore
from shipline.errors import ConfigError, ContentError, UsageError
from shipline.metadata import DRIVERS, copy_records, open_records
from shipline.oci import MANIFEST_LIMIT, Digest, Index, Manifest, media, parse_manifest
from shipline.server.entries import (
    Changes,
    blob_entries,
    derive,
    kind_of,
    manifest_entries,
    needs,
    read_manifest,
    tag_entries,
)
from shipline.server.fsck import (
    Advance,
    CheckSummary,
    Inconsistency,
    check,
    digest_or_none,
    open_offline,
)
from shipline.server.layout import (
    VERSION,
    DataLayout,
    read_catalogue,
    read_layout,
    sync_directory,
    write_layout,
)
from shipline.server.storage import Storage, lock_directory
from shipline.server.uploads import UploadStore

_BATCH = 500  # findings per transaction
_ROUNDS = 1000  # each removes what relied on what the last removed


def repair(
    storage: Storage,
    *,
    quick: bool = False,
    on_repair: Callable[[Inconsistency], object] = lambda finding: None,
    advance: Advance = lambda size: None,
) -> CheckSummary:
    """Repair every finding; `on_repair` gets each once repaired. Returns what was repaired.

    Hashes files once, unless `quick`. Raises ContentError if findings remain.
    """
    total = _repair_once(storage, quick, on_repair, advance)
    UploadStore(storage).recover()
    for _ in range(_ROUNDS):
        again = _repair_once(storage, True, on_repair, lambda size: None)
        total.kinds += again.kinds
        if again.clean:
            return total
    raise ContentError(
        f"{storage.root} still has findings after {_ROUNDS} rounds: {dict(again.kinds)}",
        code="registry-findings",
    )


def _repair_once(
    storage: Storage, quick: bool, on_repair: Callable[[Inconsistency], object], advance: Advance
) -> CheckSummary:
    summary = CheckSummary()
    findings = iter(check(storage, summary, quick=quick, advance=advance))
    while batch := list(islice(findings, _BATCH)):
        changes: Changes = {}
        for finding in batch:
            changes |= finding.changes
            if finding.quarantine is not None:
                quarantine(storage.root, finding.quarantine)
        storage.commit(changes)
        for finding in batch:
            on_repair(finding)
    return summary


def quarantine(root: Path, path: Path) -> None:
    """Move a file to DIR/quarantine without overwriting one there."""
    directory = root / "quarantine"
    directory.mkdir(exist_ok=True)
    name = f"{path.parent.name}-{path.name}"
    target = directory / name
    number = 0
    while os.path.lexists(target):
        number += 1
        target = directory / f"{name}.{number}"
    path.rename(target)
    sync_directory(directory)
    sync_directory(path.parent)


UNNAMED = "recovered"


@dataclass(slots=True)
class Recovered:
    """How many manifests were recovered with and without a name."""

    named: int = 0
    unnamed: int = 0


def restore_layout(root: Path) -> None:
    """Rewrite an unreadable layout.json, unless the store of the records is missing or ambiguous.

    Raises UsageError while the directory is served.
    """
    try:
        read_layout(root)
    except ContentError:
        layouts = [DataLayout(VERSION, driver) for driver in DRIVERS]
        matching = [layout for layout in layouts if layout.records(root).exists()]
        if len(matching) == 1:
            fd = lock_directory(root)
            try:
                write_layout(root, matching[0])
            finally:
                os.close(fd)


def recover(root: Path) -> Recovered:
    """Quarantine the remains of the records and create new ones in the same store.

    Raises UsageError if the records are readable: use `repair`.
    """
    restore_layout(root)
    _require_lost_metadata(root)
    _create_metadata(root)
    recovered = Recovered()
    with open_offline(root) as storage:
        for entry in read_catalogue(root):
            digest = digest_or_none(entry.digest)
            content = digest and read_manifest(storage.store, digest, entry.media_type)
            if digest and content:
                _add_manifest(storage, entry.repository, digest, content, entry.tags)
                recovered.named += 1
        for digest, content in _manifests(storage.store):
            if not storage.records.scan(("holder", str(digest)), limit=1):
                _add_manifest(storage, UNNAMED, digest, content, ())
                recovered.unnamed += 1
        derive(storage.records, storage.store)
        repair(storage, quick=True)
    return recovered


def _require_lost_metadata(root: Path) -> None:
    with suppress(ContentError), open_offline(root) as storage:
        if storage.records.scan((), limit=1) or not any(_manifests(storage.store)):
            raise UsageError(
                f"the metadata of {root} is readable",
                code="registry-recover",
                hint="use repair without --recover",
            )


def _create_metadata(root: Path) -> None:
    """Create empty metadata; the old is moved to quarantine."""
    fd = lock_directory(root)
    try:
        try:
            layout = DataLayout(VERSION, read_layout(root).metadata)
        except ContentError:
            layout = DataLayout(VERSION, "sqlite")
        path = layout.records(root)
        for old in root.glob(f"{path.name}*"):
            quarantine(root, old)
        open_records(path, layout.metadata).close()
        write_layout(root, layout)
    finally:
        os.close(fd)


def _add_manifest(
    storage: Storage, name: str, digest: Digest, content: Manifest | Index, tags: tuple[str, ...]
) -> None:
    now = storage.clock()
    changes: Changes = manifest_entries(name, digest, content, at=now)
    for need in needs(content):
        if kind_of(content, need) == "blob":
            changes |= blob_entries(name, need.digest, need.size, at=now)
    for tag in tags:
        changes |= tag_entries(name, tag, digest, at=now)
    storage.records.write(changes, durable=False)


def _manifests(store: LocalStore) -> Iterator[tuple[Digest, Manifest | Index]]:
    for algorithm in ("sha256", "sha512"):
        for file in (store.root / "blobs" / algorithm).iterdir():
            digest = digest_or_none(f"{algorithm}:{file.name}")
            content = digest and _parsed(store, digest)
            if digest and content and content.media_type in media.NAMED:
                yield digest, content


def _parsed(store: LocalStore, digest: Digest) -> Manifest | Index | None:
    with store.path(digest).open("rb") as file:
        raw = file.read(MANIFEST_LIMIT + 1)
    if not raw.startswith(b"{") or len(raw) > MANIFEST_LIMIT:
        return None
    try:
        return parse_manifest(raw) if Digest.of(raw, digest.algorithm) == digest else None
    except ContentError:
        return None


def convert(root: Path, metadata: str) -> int:
    """Copy the records to the store `metadata`, switch to it, delete the old one; returns their
    number.

    Can be interrupted at any point. Raises ConfigError if that store is in use already.
    """
    with open_offline(root) as storage:
        before, after = read_layout(root), DataLayout(VERSION, metadata)
        if before.metadata == metadata:
            raise ConfigError(
                f"{root} already keeps its metadata in {metadata}", code="registry-metadata"
            )
        _delete(after.records(root))
        destination = open_records(after.records(root), metadata)
        try:
            number = copy_records(storage.records, destination)
        finally:
            destination.close()
        write_layout(root, after)
    _delete(before.records(root))
    return number


def _delete(records: Path) -> None:
    for path in records.parent.glob(f"{records.name}*"):
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink()
