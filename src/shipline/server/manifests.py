"""Manifests, tags and referrers of the repositories in a data directory."""

from __future__ import annotations

import json
import logging
import os
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from shipline.metadata import Key, walk
from shipline.oci import Descriptor, Digest, Index, Manifest, Platform, is_attestation, media
from shipline.server.cache import StoredManifest
from shipline.server.entries import (
    Changes,
    Counts,
    counts,
    kind_of,
    manifest_entries,
    needs,
    newest_key,
    no_manifest_entries,
    no_tag_entries,
    pack,
    read_manifest,
    subject_of_tag,
    tag_entries,
)
from shipline.server.layout import seal, sync_directory
from shipline.server.problems import Problem, manifest_invalid
from shipline.server.storage import Storage

_log = logging.getLogger(__name__)
_REFERRER_PAGE = 16  # referrers per scan: each may have 4 MiB of annotations
_SHOWN = 100  # tags of one manifest in a listing
_CHILDREN = 32  # children of an index whose facts are looked at
_DEPTH = 3  # of indexes in indexes, whose facts are found out later
_CONFIGS = (media.OCI_CONFIG, media.DOCKER_CONFIG)
_CONFIG_LIMIT = 4 << 20  # bytes
_DESCRIPTION = "org.opencontainers.image.description"
_ABOUT = 200  # characters
_LARGEST = 1 << 60  # bytes: an index may list a large image any number of times

Check = Callable[[], None]
"""Called just before a change, while the affected tags are locked; raises to refuse it."""


def _allow() -> None:
    return None


@dataclass(frozen=True, slots=True)
class ListedFacts:
    """What lists show of a manifest: the bytes that a client downloads for all of its images, their
    platforms, and what the image says of itself. Not `complete` while some of them are not here, or
    there are too many to look at.
    """

    size: int = 0
    platforms: tuple[str, ...] = ()
    description: str = ""
    complete: bool = True


NO_FACTS = ListedFacts(complete=False)


@dataclass(frozen=True, slots=True)
class ManifestEntry:
    """A manifest in a listing: the first of its `tags` by name, whether there are `more`, and when
    (Unix time) and by whom it was pushed.
    """

    digest: Digest
    media_type: str
    size: int
    at: float
    by: str
    tags: tuple[str, ...]
    subject: Digest | None
    more: bool = False


@dataclass(frozen=True, slots=True)
class TaggedDigest:
    """A tag in a listing: its digest, and when (Unix time) and by whom it was set."""

    tag: str
    digest: Digest
    at: float
    by: str


class Manifests:
    """Methods take validated repository names. Safe to use from any thread."""

    def __init__(self, storage: Storage) -> None:
        self._storage = storage

    def get(self, name: str, reference: Digest | str) -> StoredManifest | None:
        """The manifest for a digest or tag; None if there is none or its file is damaged, which
        pushing again repairs.
        """
        located = self._find(name, reference)
        if located is None or isinstance(reference, str):
            return located
        self._storage.protect(name, reference)
        return self._find(name, reference)

    def is_hot(self, name: str, reference: str) -> bool:
        """Whether `get` needs neither the disk nor a lock."""
        return self._storage.cache.has(name, reference) and not self._storage.is_exclusive()

    def target(self, name: str, tag: str) -> Digest | None:
        """The digest of a tag, even if the manifest is damaged; None without the tag."""
        record = self._storage.records.get(("tag", name, tag))
        return None if record is None else Digest.parse(json.loads(record)["digest"])

    def writer(self, name: str, tag: str) -> str:
        """Who set a tag, empty if unknown. For a tag that holds statements about an image it is
        empty once several accounts have written it.
        """
        record = self._storage.records.get(("tag", name, tag))
        return "" if record is None else str(json.loads(record).get("by", ""))

    def tag(self, name: str, tag: str) -> TaggedDigest | None:
        """One entry of `tagged`."""
        record = self._storage.records.get(("tag", name, tag))
        return None if record is None else _tagged(((tag,), record))

    def put(
        self,
        name: str,
        digest: Digest,
        content: Manifest | Index,
        tags: tuple[str, ...] = (),
        *,
        actor: str = "",
        check: Check = _allow,
        fetched: Changes | None = None,
    ) -> None:
        """Store a manifest and point `tags` to it, in one transaction. With the records `fetched`,
        it comes from an upstream, and what it refers to may be missing.

        Raises Problem MANIFEST_BLOB_UNKNOWN if content that it refers to is missing, its subject
        excepted.
        """
        storage = self._storage
        keys = [str(digest), *((name, tag) for tag in tags)]
        with storage.stripes.hold(keys), storage.shared():
            check()
            if fetched is None:
                self._check_dependencies(name, content)
            changes, add = self._manifest_changes(name, digest, content, actor)
            for tag in tags:
                before = self.tag(name, tag)
                if before is None:
                    if not storage.totals.total(name)["tags"]:
                        changes[("dated", name)] = b""
                    add[("usage", name, "tags")] = add.get(("usage", name, "tags"), 0) + 1
                else:
                    changes[newest_key(name, tag, before.at)] = None
                    if before.digest != digest:
                        changes[("tagged", name, str(before.digest), tag)] = None
                by = (
                    actor
                    if before is None or before.by == actor
                    else _writer_after_overwrite(tag, actor)
                )
                changes |= tag_entries(name, tag, digest, at=storage.clock(), by=by)
            self._write(digest, content.raw, known=not add.get(("usage", name, "manifests")))
            storage.commit(changes | (fetched or {}), add)

    def delete(self, name: str, digest: Digest, *, check: Check = _allow) -> bool:
        """Delete a manifest and its tags; False if there is none."""

        def delete() -> bool:
            with self._storage.exclusive():
                check()
                return self.remove(name, digest)

        return self._storage.with_reserve(delete)

    def remove(self, name: str, digest: Digest) -> bool:
        """Like `delete`, inside `exclusive`."""
        storage = self._storage
        value = storage.records.get(("manifest", name, str(digest)))
        if value is None:
            return False
        record = json.loads(value)
        changes = no_manifest_entries(name, str(digest), record.get("subject", ""))
        changes[("deleted", name, str(digest))] = pack(at=storage.clock())
        content = read_manifest(storage.store, digest, record["mediaType"])
        for need in () if content is None else needs(content):
            changes[("needed", name, str(need.digest), str(digest))] = None
        tags = [tag for (tag,), _ in walk(storage.records, ("tagged", name, str(digest)))]
        for tag in tags:
            changes |= self._no_tag(name, tag, str(digest))
        gone = counts(name, manifests=-1, bytes=-int(record["size"]), tags=-len(tags))
        storage.commit(changes, gone)
        return True

    def untag(self, name: str, tag: str, *, check: Check = _allow) -> bool:
        """Remove a tag but not its manifest; False if there is no such tag."""
        storage = self._storage

        def delete() -> bool:
            with storage.stripes.hold([(name, tag)]), storage.shared():
                check()
                digest = self.target(name, tag)
                if digest is None:
                    return False
                storage.commit(self._no_tag(name, tag, str(digest)), counts(name, tags=-1))
                return True

        return storage.with_reserve(delete)

    def tags(self, name: str, after: str, limit: int) -> list[str]:
        """Tags greater than `after`, in byte order."""
        page = self._storage.records.scan(("tag", name), after=_after(after), limit=limit)
        return [key[0] for key, _ in page]

    def tagged(self, name: str, after: str = "", limit: int = 1000) -> list[TaggedDigest]:
        """Like `tags`, with their digests."""
        page = self._storage.records.scan(("tag", name), after=_after(after), limit=limit)
        return list(map(_tagged, page))

    def newest(
        self, name: str, after: str = "", limit: int = 100
    ) -> list[tuple[str, TaggedDigest]]:
        """Tags of images from the newest, each with the cursor to go on `after`."""
        found: list[tuple[str, TaggedDigest]] = []
        if not self.is_dated(name):
            self._date(name)
        start: Key = tuple(after.split("~", 1)) if "~" in after else ()
        while len(found) < limit:
            page = self._storage.records.scan(
                ("newest", name), after=start, limit=limit - len(found)
            )
            stale: Changes = {}
            for key, _ in page:
                tagged = self.tag(name, key[1])
                if tagged is None or newest_key(name, tagged.tag, tagged.at)[2] != key[0]:
                    stale[("newest", name, *key)] = None
                else:
                    found.append(("~".join(key), tagged))
            if stale:
                self._storage.records.write(stale, durable=False)
            if not page:
                break
            start = page[-1][0]
        return found

    def is_dated(self, name: str) -> bool:
        """Whether `newest` reads only what it returns: the records of its order are there."""
        return self._storage.records.get(("dated", name)) is not None

    def _date(self, name: str) -> None:
        """Write the `newest` records of a repository whose tags were set by an older version."""
        with self._storage.exclusive():
            dated: Changes = {
                newest_key(name, tagged.tag, tagged.at): b""
                for tagged in self.every_tag(name)
                if subject_of_tag(tagged.tag) is None
            }
            self._storage.records.write({**dated, ("dated", name): b""})

    def _no_tag(self, name: str, tag: str, digest: str) -> Changes:
        tagged = self.tag(name, tag)
        dated: Changes = {} if tagged is None else {newest_key(name, tag, tagged.at): None}
        return dated | no_tag_entries(name, tag, digest)

    def facts(self, name: str, digest: Digest) -> ListedFacts:
        """What lists show of a manifest. It is in its record; for one that an older version stored,
        or whose images came after it, it is found out now, and kept once it is complete.
        """
        return self._find_facts(name, digest, _DEPTH)

    def _find_facts(self, name: str, digest: Digest, depth: int) -> ListedFacts:
        key = ("manifest", name, str(digest))
        value = self._storage.records.get(key)
        if value is None:
            return NO_FACTS
        if (known := _kept_facts(value)) is not None:
            return known
        record = json.loads(value)
        content = read_manifest(self._storage.store, digest, record["mediaType"])
        if content is None or not depth:
            return NO_FACTS
        facts = self._facts(name, content, lambda child: self._find_facts(name, child, depth - 1))
        if facts.complete:
            with self._storage.stripes.hold([str(digest)]), self._storage.shared():
                if self._storage.records.get(key) == value:
                    kept: Changes = {key: pack(**{**record, **_fields(facts)})}
                    self._storage.records.write(kept, durable=False)
        return facts

    def _stored_facts(self, name: str, digest: Digest) -> ListedFacts:
        value = self._storage.records.get(("manifest", name, str(digest)))
        return NO_FACTS if value is None else _kept_facts(value) or NO_FACTS

    def _facts(
        self, name: str, content: Manifest | Index, of_child: Callable[[Digest], ListedFacts]
    ) -> ListedFacts:
        about = content.annotations.get(_DESCRIPTION, "")
        if isinstance(content, Manifest):
            size = content.config.size + sum(layer.size for layer in content.layers)
            if content.config.media_type not in _CONFIGS:
                return ListedFacts(size, (), about[:_ABOUT])
            config = self._config(content)
            if config is None:
                return ListedFacts(size, (), about[:_ABOUT], complete=False)
            about = about or ((config.config and config.config.labels) or {}).get(_DESCRIPTION, "")
            platform = Platform(config.os, config.architecture, config.variant)
            return ListedFacts(size, (str(platform)[:_ABOUT],), about[:_ABOUT])
        images = [entry for entry in content.manifests[:_CHILDREN] if _is_image(entry)]
        found = [of_child(entry.digest) for entry in images]
        platforms = dict.fromkeys(
            platform
            for entry, facts in zip(images, found, strict=True)
            for platform in ((str(entry.platform),) if entry.platform else facts.platforms)
        )
        return ListedFacts(
            min(sum(facts.size for facts in found), _LARGEST),
            tuple(platforms)[:_CHILDREN],
            next(filter(None, (about, *(facts.description for facts in found))), "")[:_ABOUT],
            complete=all(facts.complete for facts in found) and len(content.manifests) <= _CHILDREN,
        )

    def _config(self, content: Manifest) -> _Config | None:
        described = content.config
        if described.size > _CONFIG_LIMIT:
            return None
        try:
            raw = self._storage.store.path(described.digest).read_bytes()
            config = _CONFIG.decode(raw)
        except (OSError, msgspec.DecodeError, UnicodeDecodeError):
            return None
        return config if config.os and config.architecture else None

    def every_tag(self, name: str) -> Iterator[TaggedDigest]:
        """All tags in byte order, in constant memory."""
        return map(_tagged, walk(self._storage.records, ("tag", name)))

    def list_manifests(self, name: str, after: str = "", limit: int = 100) -> list[ManifestEntry]:
        """Manifests greater than `after`, by digest."""
        page = self._storage.records.scan(("manifest", name), after=_after(after), limit=limit)
        return [self._entry(name, digest, value) for (digest,), value in page]

    def entry(self, name: str, digest: Digest) -> ManifestEntry | None:
        """One entry of `list_manifests`."""
        value = self._storage.records.get(("manifest", name, str(digest)))
        return None if value is None else self._entry(name, str(digest), value)

    def referrers(self, name: str, subject: Digest, after: str) -> Iterator[dict[str, Any]]:
        """Descriptors of the manifests with this `subject`, by digest, after `after`."""
        start: Key = _after(after)
        prefix = ("referrer", name, str(subject))
        while page := self._storage.records.scan(prefix, after=start, limit=_REFERRER_PAGE):
            for _, value in page:
                yield json.loads(value)
            start = page[-1][0]

    def _find(self, name: str, reference: Digest | str) -> StoredManifest | None:
        return self._storage.cache.get(name, reference, lambda: self._load(name, reference))

    def _load(self, name: str, reference: Digest | str) -> StoredManifest | None:
        records = self._storage.records
        digest = reference if isinstance(reference, Digest) else self.target(name, reference)
        record = None if digest is None else records.get(("manifest", name, str(digest)))
        if digest is None or record is None:
            return None
        try:
            raw = self._storage.store.path(digest).read_bytes()
        except FileNotFoundError:
            raw = b""
        if Digest.of(raw, digest.algorithm) != digest:
            _log.error("%s of %s: file missing or damaged", digest, name)
            return None
        return StoredManifest(digest, json.loads(record)["mediaType"], raw)

    def _entry(self, name: str, digest: str, value: bytes) -> ManifestEntry:
        record = json.loads(value)
        prefix = ("tagged", name, digest)
        tags = self._storage.records.scan(prefix, limit=_SHOWN + 1)
        subject = record.get("subject")
        return ManifestEntry(
            Digest.parse(digest),
            record["mediaType"],
            int(record["size"]),
            float(record["at"]),
            record.get("by", ""),
            tuple(tag for (tag,), _ in tags[:_SHOWN]),
            Digest.parse(subject) if subject else None,
            len(tags) > _SHOWN,
        )

    def _manifest_changes(
        self, name: str, digest: Digest, content: Manifest | Index, actor: str
    ) -> tuple[Changes, Counts]:
        storage = self._storage
        storage.promises.add(name, str(digest))
        known = storage.records.get(("manifest", name, str(digest))) is not None
        add = {} if known else counts(name, manifests=1, bytes=len(content.raw))
        facts = _fields(self._facts(name, content, lambda child: self._stored_facts(name, child)))
        at = storage.clock()
        return manifest_entries(name, digest, content, at=at, by=actor, facts=facts), add

    def _check_dependencies(self, name: str, content: Manifest | Index) -> None:
        """Also marks what the manifest refers to as promised, so that a running collection keeps
        it.
        """
        sizes = [
            (need, self._size(kind_of(content, need), name, need.digest)) for need in needs(content)
        ]
        missing = [str(need.digest) for need, size in sizes if size is None]
        if missing:
            raise Problem(
                400,
                "MANIFEST_BLOB_UNKNOWN",
                f"push {missing[0]} to this repository before the manifest that refers to it",
                detail={"digest": missing[0], "digests": missing[:100]},
            )
        for need, size in sizes:
            if size != need.size:
                raise manifest_invalid(f"{need.digest} has {size} bytes, not {need.size}")

    def _size(self, kind: str, name: str, digest: Digest) -> int | None:
        record = self._storage.records.get((kind, name, str(digest)))
        if record is None:
            return None
        self._storage.promises.add(name, str(digest))
        return int(json.loads(record)["size"])

    def _write(self, digest: Digest, raw: bytes, *, known: bool) -> None:
        """Write the manifest's file, unless it exists and is intact."""
        path = self._storage.store.path(digest)
        if _has_content(path, raw):
            if not known:  # its writer may have died before the name was durable
                sync_directory(path.parent)
            return
        fd, draft = tempfile.mkstemp(dir=self._storage.incoming, prefix="manifest-")
        file = Path(draft)
        try:
            with os.fdopen(fd, "wb") as sink:
                sink.write(raw)
                sink.flush()
                seal(fd)
            self._storage.admit(file, digest)
        except BaseException:
            file.unlink(missing_ok=True)
            raise


class _Settings(msgspec.Struct):
    labels: dict[str, str] | None = msgspec.field(name="Labels", default=None)


class _Config(msgspec.Struct):
    """What lists show of an image's configuration; the rest is skipped unread."""

    os: str = ""
    architecture: str = ""
    variant: str = ""
    config: _Settings | None = None


_CONFIG = msgspec.json.Decoder(_Config)


def _fields(facts: ListedFacts) -> dict[str, Any]:
    """As they stand in the record, where only complete ones do."""
    if not facts.complete:
        return {}
    return {"total": facts.size, "platforms": facts.platforms, "about": facts.description}


def _kept_facts(value: bytes) -> ListedFacts | None:
    record = json.loads(value)
    if "total" not in record:
        return None
    return ListedFacts(record["total"], tuple(record["platforms"]), record.get("about", ""))


def _is_image(entry: Descriptor) -> bool:
    """Whether an index lists it as one: not BuildKit's attestations, nor layers of its caches."""
    return entry.media_type in media.NAMED and not is_attestation(entry)


def _writer_after_overwrite(tag: str, actor: str) -> str:
    """The recorded writer of a tag that someone else set before."""
    return actor if subject_of_tag(tag) is None else ""


def _has_content(file: Path, raw: bytes) -> bool:
    try:
        return file.read_bytes() == raw
    except OSError:
        return False


def _tagged(record: tuple[Key, bytes]) -> TaggedDigest:
    (tag,), value = record
    entry = json.loads(value)
    return TaggedDigest(tag, Digest.parse(entry["digest"]), float(entry["at"]), entry.get("by", ""))


def _after(last: str) -> Key:
    return (last,) if last else ()
