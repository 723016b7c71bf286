"""Records made again for a data directory that lost all of them.

Names come from the catalogue of the last collection. A manifest that it does not name goes to the
repository `recovered`, where it can be listed, pulled by digest, and tagged again.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from shipline.content import LocalStore
from shipline.errors import ContentError, UsageError
from shipline.metadata import open_records
from shipline.oci import (
    MANIFEST_LIMIT,
    Digest,
    Index,
    InvalidDigest,
    Manifest,
    media,
    parse_manifest,
)
from shipline.server.catalogue import read_catalogue
from shipline.server.check import opened
from shipline.server.derive import derive, read_manifest
from shipline.server.entries import (
    Changes,
    blob_entries,
    kind_of,
    manifest_entries,
    needs,
    tag_entries,
)
from shipline.server.layout import VERSION, Layout, read_layout, write_layout
from shipline.server.repair import repair, set_aside
from shipline.server.storage import Storage, claim

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
            layout = Layout(VERSION, read_layout(root).metadata)
        except ContentError:
            layout = Layout(VERSION, "sqlite")
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
