"""Manifests, tags and referrers of the repositories in a data directory."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from shipline.metadata import Key
from shipline.oci import Descriptor, Digest, Index, Manifest
from shipline.server.cache import Stored
from shipline.server.problems import Problem, manifest_invalid
from shipline.server.storage import Changes, Storage, pack


class Manifests:
    """Every method takes a repository name that was checked. Safe to use from any thread."""

    def __init__(self, storage: Storage) -> None:
        self._storage = storage

    def get(self, name: str, reference: Digest | str) -> Stored | None:
        """The manifest behind a digest or a tag, None where there is none."""
        return self._storage.cache.get(name, str(reference), lambda: self._load(name, reference))

    def put(
        self,
        name: str,
        digest: Digest,
        content: Manifest | Index,
        tags: tuple[str, ...] = (),
    ) -> None:
        """Store a manifest whose bytes have `digest` and let `tags` point to it, all at once.

        Raises Problem MANIFEST_BLOB_UNKNOWN while something that it needs is not here; the subject
        is not needed.
        """
        storage = self._storage
        with storage.lock:
            self._check_needs(name, content)
            changes: Changes = {
                ("repository", name): b"",
                ("manifest", name, str(digest)): self._record(digest, content),
                ("holder", str(digest), name, "manifest"): b"",
            }
            if content.subject is not None:
                key = ("referrer", name, str(content.subject.digest), str(digest))
                changes[key] = json.dumps(_referrer(digest, content).to_json()).encode()
            for tag in tags:
                changes |= self._tag_records(name, tag, digest)
            known = self._storage.records.get(("manifest", name, str(digest))) is not None
            if known and storage.store.path(digest).exists():
                storage.commit(changes)
            else:
                self._write(digest, content.raw, changes)

    def delete(self, name: str, digest: Digest) -> bool:
        """Delete a manifest and every tag that points to it; False where there is none."""
        with self._storage.lock:
            record = self._storage.records.get(("manifest", name, str(digest)))
            if record is None:
                return False
            changes: Changes = {
                ("manifest", name, str(digest)): None,
                ("holder", str(digest), name, "manifest"): None,
            }
            for tag in self._tags_of(name, digest):
                changes[("tag", name, tag)] = None
                changes[("tagged", name, str(digest), tag)] = None
            subject = json.loads(record).get("subject")
            if subject:
                changes[("referrer", name, subject, str(digest))] = None
            self._storage.commit(changes)
            return True

    def untag(self, name: str, tag: str) -> bool:
        """Take a tag away and leave the manifest; False where there is no such tag."""
        with self._storage.lock:
            digest = self._tagged(name, tag)
            if digest is None:
                return False
            self._storage.commit(
                {("tag", name, tag): None, ("tagged", name, str(digest), tag): None}
            )
            return True

    def tags(self, name: str, after: str, limit: int) -> list[str]:
        """Tags in byte order, those greater than `after`."""
        start = (after,) if after else ()
        page = self._storage.records.scan(("tag", name), after=start, limit=limit)
        return [key[0] for key, _ in page]

    def referrers(self, name: str, subject: Digest, after: str) -> Iterator[dict[str, Any]]:
        """Descriptors of the manifests that name `subject`, by digest, those after `after`."""
        start: Key = (after,) if after else ()
        prefix = ("referrer", name, str(subject))
        while page := self._storage.records.scan(prefix, after=start, limit=500):
            for _, value in page:
                yield json.loads(value)
            start = page[-1][0]

    def _load(self, name: str, reference: Digest | str) -> Stored | None:
        digest = reference if isinstance(reference, Digest) else self._tagged(name, reference)
        record = (
            None if digest is None else self._storage.records.get(("manifest", name, str(digest)))
        )
        if digest is None or record is None:
            return None
        raw = self._storage.store.path(digest).read_bytes()
        return Stored(digest, json.loads(record)["mediaType"], raw)

    def _tagged(self, name: str, tag: str) -> Digest | None:
        record = self._storage.records.get(("tag", name, tag))
        return None if record is None else Digest.parse(json.loads(record)["digest"])

    def _tags_of(self, name: str, digest: Digest) -> Iterator[str]:
        prefix = ("tagged", name, str(digest))
        start: Key = ()
        while page := self._storage.records.scan(prefix, after=start, limit=1000):
            yield from (key[0] for key, _ in page)
            start = page[-1][0]

    def _tag_records(self, name: str, tag: str, digest: Digest) -> Changes:
        changes: Changes = {}
        before = self._tagged(name, tag)
        if before is not None and before != digest:
            changes[("tagged", name, str(before), tag)] = None
        changes[("tag", name, tag)] = pack(digest=str(digest), at=self._storage.clock())
        changes[("tagged", name, str(digest), tag)] = b""
        return changes

    def _record(self, digest: Digest, content: Manifest | Index) -> bytes:
        subject = content.subject
        return pack(
            mediaType=content.media_type,
            size=len(content.raw),
            at=self._storage.clock(),
            **({} if subject is None else {"subject": str(subject.digest)}),
        )

    def _check_needs(self, name: str, content: Manifest | Index) -> None:
        if isinstance(content, Index):
            found = [(need, self._manifest_size(name, need.digest)) for need in content.manifests]
        else:
            needs = (content.config, *content.layers)
            found = [
                (need, self._storage.blob_size(name, need.digest))
                for need in needs
                if not _elsewhere(need)
            ]
        missing = [str(need.digest) for need, size in found if size is None]
        if missing:
            raise Problem(
                400,
                "MANIFEST_BLOB_UNKNOWN",
                f"{missing[0]} must be pushed to this repository before what names it",
                detail={"digests": missing[:100]},
            )
        for need, size in found:
            if size != need.size:
                raise manifest_invalid(f"{need.digest} has {size} bytes, not {need.size}")

    def _manifest_size(self, name: str, digest: Digest) -> int | None:
        record = self._storage.records.get(("manifest", name, str(digest)))
        return None if record is None else int(json.loads(record)["size"])

    def _write(self, digest: Digest, raw: bytes, changes: Changes) -> None:
        fd, file = tempfile.mkstemp(dir=self._storage.incoming, prefix="manifest-")
        try:
            with os.fdopen(fd, "wb") as sink:
                sink.write(raw)
                sink.flush()
                self._storage.admit(Path(file), fd, digest, changes)
        except BaseException:
            Path(file).unlink(missing_ok=True)
            raise


def _elsewhere(layer: Descriptor) -> bool:
    """Layers that registries do not hold (image specification, "Non-Distributable Layers")."""
    kind = layer.media_type
    return bool(layer.urls) or ".nondistributable." in kind or ".foreign." in kind


def _referrer(digest: Digest, content: Manifest | Index) -> Descriptor:
    kind = content.artifact_type
    if not kind and isinstance(content, Manifest):
        kind = content.config.media_type
    return Descriptor(
        content.media_type,
        digest,
        len(content.raw),
        annotations=content.annotations,
        artifact_type=kind,
    )
