"""Signatures and attestations read directly from a repository of this node."""

from __future__ import annotations

import io
import json
import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from itertools import islice
from typing import Any

from shipline.content import VerifiedReader
from shipline.errors import NotFound
from shipline.oci import Descriptor, Digest, Index, media, parse_manifest
from shipline.server.cache import StoredManifest
from shipline.server.entries import Changes, pack
from shipline.server.manifests import Manifests
from shipline.server.storage import Storage
from shipline.supply import PublicKey, proven_in
from shipline.trust import statement_subject

_REFERRERS = 1000
_ANNOTATIONS = 16 << 20  # characters in all of them
_PARENTS = ("vouched", "needed")


class StoredEvidence:
    """A `StatementSource` backed by the repository `name`."""

    def __init__(self, storage: Storage, manifests: Manifests, name: str) -> None:
        self._storage = storage
        self._manifests = manifests
        self._name = name

    @contextmanager
    def fetch(self, target: Descriptor) -> Iterator[VerifiedReader]:
        if target.media_type in media.NAMED:
            stored = self._manifests.get(self._name, target.digest)
            if stored is None:
                raise NotFound(f"{self._name} has no manifest {target.digest}", code="content-gone")
            yield VerifiedReader(io.BytesIO(stored.raw), target, self._name)
            return
        blob = self._storage.open_blob(self._name, target.digest)
        if blob is None:
            raise NotFound(f"{self._name} has no blob {target.digest}", code="content-gone")
        with os.fdopen(blob.fd, "rb") as file:
            yield VerifiedReader(file, target, self._name)

    def resolve(self, reference: str) -> Descriptor:
        stored = self.find(Digest.parse(reference) if ":" in reference else reference)
        if stored is None:
            raise NotFound(f"{self._name} has no manifest {reference}", code="content-gone")
        return stored

    def find(self, reference: Digest | str) -> Descriptor | None:
        """Like `resolve`, but None if not found."""
        stored = self._manifests.get(self._name, reference)
        return None if stored is None else descriptor_of(stored)

    def referrers(self, target: Descriptor, artifact_type: str = "") -> tuple[Descriptor, ...]:
        """Referrers marked by `mark_proven` first, newest first, so that no number of others can
        hide them.
        """
        subject, records = str(target.digest), self._storage.records
        marked = records.scan(("proven", self._name, subject), limit=_REFERRERS)
        marks = sorted((json.loads(value) for _, value in marked), key=lambda mark: -mark["at"])
        first = [
            json.loads(value)
            for mark in marks
            if (value := records.get(("referrer", self._name, subject, mark["in"]))) is not None
        ]
        others = self._manifests.referrers(self._name, target.digest, "")
        entries = {entry["digest"]: entry for entry in (*first, *_first_referrers(others))}
        descriptors = map(Descriptor.from_json, entries.values())
        return tuple(
            referrer for referrer in descriptors if artifact_type in ("", referrer.artifact_type)
        )

    def parents(self, target: Descriptor) -> Iterator[Descriptor]:
        """The indexes that list a manifest, proven ones first."""
        child, records = str(target.digest), self._storage.records
        pages = (records.scan((kind, self._name, child), limit=_REFERRERS) for kind in _PARENTS)
        for parent in dict.fromkeys(key[0] for page in pages for key, _ in page):
            stored = self._manifests.get(self._name, Digest.parse(parent))
            if stored is not None and stored.media_type in media.INDEXES:
                yield descriptor_of(stored)

    def mark_proven(self, digest: Digest, keys: Sequence[PublicKey]) -> None:
        """Mark statements signed by `keys` in a manifest that was just pushed, under their subject.
        A mark says where to look first and proves nothing; there is one per statement.
        """
        stored = self._manifests.get(self._name, digest)
        if stored is None:
            return
        changes: Changes = {}
        for subject in self._subjects(stored):
            for statement in proven_in(self, descriptor_of(stored), subject, keys):
                changes |= self._marks(statement, subject, digest)
        if changes:
            self._storage.commit(changes)

    def _marks(self, statement: Digest, subject: Digest, place: Digest) -> Changes:
        key = ("proven", self._name, str(subject), str(statement))
        known = self._storage.records.get(key)
        if known is not None and self._manifests.entry(
            self._name, Digest.parse(json.loads(known)["in"])
        ):
            return {}
        index = self._manifests.get(self._name, subject)
        parsed = None if index is None else parse_manifest(index.raw, index.media_type)
        children = parsed.manifests if isinstance(parsed, Index) else ()
        vouched = (("vouched", self._name, str(child.digest), str(subject)) for child in children)
        at = self._storage.clock()
        return {key: pack(at=at, **{"in": str(place)}), **dict.fromkeys(vouched, b"")}

    def _subjects(self, stored: StoredManifest) -> Iterator[Digest]:
        """The subjects of a manifest: its `subject`, and those in its tags."""
        parsed = parse_manifest(stored.raw, stored.media_type)
        if parsed.subject is not None:
            yield parsed.subject.digest
        tags = ("tagged", self._name, str(stored.digest))
        for (tag,), _ in self._storage.records.scan(tags, limit=_REFERRERS):
            if subject := statement_subject(tag):
                yield subject


def _first_referrers(entries: Iterable[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """The first entries, bounded in number and size."""
    left = _ANNOTATIONS
    for entry in islice(entries, _REFERRERS):
        left -= sum(map(len, (entry.get("annotations") or {}).values()))
        if left < 0:
            return
        yield entry


def descriptor_of(stored: StoredManifest) -> Descriptor:
    """The descriptor of a stored manifest."""
    return Descriptor(stored.media_type, stored.digest, len(stored.raw))
