"""A data directory made sound again: findings repaired, lost records recovered, records moved to
another store.

What cannot be mended is taken out: records without their bytes go, damaged files move to
DIR/quarantine, a manifest that needs what is not there goes with its tags. Pushing such an image
again makes it whole.

Names come from the catalogue of the last collection. A manifest that it does not name goes to the
repository `recovered`, where it can be listed, pulled by digest, and tagged again.
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
from shipline.metadata import copy_records, open_records
from shipline.oci import (
    MANIFEST_LIMIT,
    Digest,
    Index,
    InvalidDigest,
    Manifest,
    media,
    parse_manifest,
)
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
from shipline.server.fsck import Advance, CheckSummary, Inconsistency, check, opened
from shipline.server.layout import (
    VERSION,
    DataLayout,
    read_catalogue,
    read_layout,
    sync_directory,
    write_layout,
)
from shipline.server.storage import Storage, claim
from shipline.server.uploads import Uploads

_BATCH = 500  # findings mended at once
_ROUNDS = 1000  # each takes out what stood on what the one before took out


def repair(
    storage: Storage,
    *,
    quick: bool = False,
    told: Callable[[Inconsistency], object] = lambda finding: None,
    advance: Advance = lambda size: None,
) -> CheckSummary:
    """Mend everything; `told` gets each fault once it is mended. Returns what was mended.

    Files are hashed once, unless `quick`. Raises ContentError if faults are left.
    """
    total = _mend(storage, quick, told, advance)
    Uploads(storage).recover()
    for _ in range(_ROUNDS):
        again = _mend(storage, True, told, lambda size: None)
        total.kinds += again.kinds
        if again.clean:
            return total
    raise ContentError(
        f"{storage.root} still has faults after {_ROUNDS} rounds: {dict(again.kinds)}"
    )


def _mend(
    storage: Storage, quick: bool, told: Callable[[Inconsistency], object], advance: Advance
) -> CheckSummary:
    summary = CheckSummary()
    faults = iter(check(storage, summary, quick=quick, advance=advance))
    while batch := list(islice(faults, _BATCH)):
        changes: Changes = {}
        for finding in batch:
            changes |= finding.changes
            if finding.quarantine is not None:
                set_aside(storage.root, finding.quarantine)
        storage.commit(changes)
        for finding in batch:
            told(finding)
    return summary


def set_aside(root: Path, path: Path) -> None:
    """Move a file out, without ever replacing one that was moved before."""
    aside = root / "quarantine"
    aside.mkdir(exist_ok=True)
    name = f"{path.parent.name}-{path.name}"
    place = aside / name
    number = 0
    while os.path.lexists(place):
        number += 1
        place = aside / f"{name}.{number}"
    path.rename(place)
    for directory in (aside, path.parent):
        sync_directory(directory)


UNNAMED = "recovered"


@dataclass(slots=True)
class Recovered:
    """Manifests whose names were known, and manifests without."""

    named: int = 0
    unnamed: int = 0


def recover(root: Path) -> Recovered:
    """Set what is left of the records aside and make new ones, in the store of the old ones.

    Raises UsageError where the records can be read: `repair` is for those.
    """
    _refuse_unless_lost(root)
    _begin_anew(root)
    found = Recovered()
    with opened(root) as storage:
        for entry in read_catalogue(root):
            digest = _digest(entry.digest)
            content = digest and read_manifest(storage.store, digest, entry.media_type)
            if digest and content:
                _place(storage, entry.repository, digest, content, entry.tags)
                found.named += 1
        for digest, content in _manifests(storage.store):
            if not storage.records.scan(("holder", str(digest)), limit=1):
                _place(storage, UNNAMED, digest, content, ())
                found.unnamed += 1
        derive(storage.records, storage.store)
        repair(storage, quick=True)
    return found


def _refuse_unless_lost(root: Path) -> None:
    with suppress(ContentError), opened(root) as storage:
        if storage.records.scan((), limit=1) or not any(_manifests(storage.store)):
            raise UsageError(
                f"the metadata of {root} is there", hint="use repair without --recover"
            )


def _begin_anew(root: Path) -> None:
    """The old records are kept in quarantine."""
    fd = claim(root)
    try:
        try:
            layout = DataLayout(VERSION, read_layout(root).metadata)
        except ContentError:
            layout = DataLayout(VERSION, "sqlite")
        place = layout.records(root)
        for path in root.glob(f"{place.name}*"):
            set_aside(root, path)
        open_records(place, layout.metadata).close()
        write_layout(root, layout)
    finally:
        os.close(fd)


def _place(
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
            digest = _digest(f"{algorithm}:{file.name}")
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


def _digest(text: str) -> Digest | None:
    try:
        return Digest.parse(text)
    except InvalidDigest:
        return None


def convert(root: Path, metadata: str) -> int:
    """Copy the records to `metadata`, switch to it, delete the old ones; returns their number.

    May be interrupted anywhere: the directory has one store or the other. Raises ConfigError if
    it has that store already.
    """
    with opened(root) as storage:
        before, after = read_layout(root), DataLayout(VERSION, metadata)
        if before.metadata == metadata:
            raise ConfigError(f"{root} keeps its metadata in {metadata} already")
        _delete(after.records(root))
        destination = open_records(after.records(root), metadata)
        try:
            number = copy_records(storage.records, destination)
        finally:
            destination.close()
        write_layout(root, after)
    _delete(before.records(root))
    return number


def _delete(place: Path) -> None:
    for path in place.parent.glob(f"{place.name}*"):
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink()
