"""Garbage collection while the node runs: candidates are found without a lock, then checked again
and removed under the exclusive lock.

Collected are blobs that no manifest of their repository refers to, signatures and referrers of
deleted images, optionally manifests unreachable from any tag, empty repositories, and files without
a holder. Anything pushed, or promised to a client, within the grace period is kept: a push may rely
on it.
"""

from __future__ import annotations

import json
import logging
import os
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any, Literal, TypeVar

from shipline.errors import ShiplineError, UsageError
from shipline.metadata import walk
from shipline.oci import Digest, InvalidDigest
from shipline.server.entries import Changes, Counts, no_blob_entries, no_tag_entries, subject_of_tag
from shipline.server.events import NodeEvent, Publish
from shipline.server.layout import write_catalogue
from shipline.server.manifests import Manifests
from shipline.server.reachability import cosign_tags, needed_by, ordinary_tags, reachable, referrers
from shipline.server.storage import Storage
from shipline.tasks import check, sleep
from shipline.units import Duration
from shipline.values import doc


@dataclass(frozen=True, slots=True)
class GcOptions:
    """What is collected, and when."""

    every: Duration | None = field(
        default=Duration.parse("1h"), metadata=doc("Time between collections; null for none.")
    )
    grace: Duration = field(
        default=Duration.parse("1h"),
        metadata=doc("Keep what was pushed, or requested by a client, within this time."),
    )
    untagged: bool = field(
        default=False, metadata=doc("Collect manifests that no tag, index or subject refers to.")
    )


@dataclass(slots=True)
class GcReport:
    """What was collected, or would be; `bytes` of the removed files."""

    dry_run: bool = False
    repositories: int = 0
    manifests: int = 0
    tags: int = 0
    blobs: int = 0
    files: int = 0
    bytes: int = 0
    seconds: float = 0.0

    def to_json(self) -> dict[str, object]:
        return asdict(self)


REASON = "collected"
_REMOVE_BATCH = 100  # removed under one exclusive lock
_SCAN_BATCH = 500  # examined between two pauses
_ROUNDS = 100  # levels of referrers of referrers
_HOLDERS = 1000  # holders of one file that a dry run examines
T = TypeVar("T")


class GcRun:
    """One garbage collection. In a dry run `_would_remove` stands for what would be gone."""

    def __init__(
        self,
        storage: Storage,
        options: GcOptions,
        dry_run: bool,
        duty_cycle: float,
        actor: str,
        publish: Publish,
    ) -> None:
        """`publish` is called outside the lock."""
        self._storage = storage
        self._manifests = Manifests(storage)
        self._cutoff = storage.clock() - options.grace.seconds
        self._untagged = options.untagged
        self._dry_run = dry_run
        self._actor, self._publish = actor, publish
        self._pending_events: list[NodeEvent] = []  # published after the lock is released
        self._pause_ratio = 1.0 / duty_cycle - 1.0
        self._would_remove: set[int] = set()  # hashes
        self.report = GcReport(dry_run)

    def run(self) -> GcReport:
        """Collect; returns what was removed, or would be."""
        started = time.monotonic()
        try:
            for (name,), _ in walk(self._storage.records, ("repository",)):
                self._collect_records(name)
        except OSError:  # the disk is full: free files first
            self._collect_files()
            raise
        self._collect_files()
        if not self._dry_run:
            write_catalogue(self._storage.root, self._storage.records)
        self.report.seconds = round(time.monotonic() - started, 3)
        return self.report

    def _collect_records(self, name: str) -> None:
        if self._untagged:
            self._collect_untagged(name)
        self._collect_orphans(name)
        self._collect_blobs(name)
        self._collect_repository(name)

    def _collect_untagged(self, name: str) -> None:
        pending = self._unreachable(name)
        while pending:  # an index is removed before its children
            remaining = [
                digest
                for batch in self._throttled(pending)
                for digest in self._remove_manifests(name, batch)
            ]
            if len(remaining) == len(pending):
                return
            pending = remaining

    def _unreachable(self, name: str) -> list[str]:
        old, young = [], set()
        for (digest,), value in walk(self._storage.records, ("manifest", name)):
            if self._recent(name, digest, value):
                young.add(digest)
            else:
                old.append(digest)
        reached = reachable(self._storage, name, young) if old else set()
        return [digest for digest in old if digest not in reached]

    def _remove_manifests(self, name: str, batch: list[str]) -> list[str]:
        """Remove manifests; returns those still in use."""
        remaining = []
        for digest in batch:
            with self._exclusive():
                if not self._remove_manifest(name, digest):
                    remaining.append(digest)
        return remaining

    @contextmanager
    def _exclusive(self) -> Iterator[None]:
        """Hold `exclusive`, then publish what was removed."""
        try:
            with self._storage.exclusive():
                yield
        finally:
            events, self._pending_events = self._pending_events, []
            for event in events:
                self._publish(event)

    def _record_removal(self, kind: Literal["delete", "untag"], name: str, **facts: Any) -> None:
        self._pending_events.append(
            NodeEvent(kind, name, actor=self._actor, message=REASON, **facts)
        )

    def _remove_manifest(self, name: str, digest: str) -> bool:
        """Inside `exclusive`; False if it is still in use."""
        value = self._storage.records.get(("manifest", name, digest))
        if value is None or hash((name, digest)) in self._would_remove:
            return True
        if (
            self._recent(name, digest, value)
            or any(ordinary_tags(self._storage, name, digest))
            or self._is_needed(name, digest)
            or self._subject_exists(name, digest, value)
        ):
            return False
        self.report.manifests += 1
        self.report.tags += sum(1 for _ in walk(self._storage.records, ("tagged", name, digest)))
        if self._dry_run:
            self._would_remove.add(hash((name, digest)))
            self._would_remove.add(hash((digest, name, "manifest")))
        else:
            self._manifests.remove(name, Digest.parse(digest))
            self._record_removal(
                "delete", name, digest=digest, media_type=json.loads(value)["mediaType"]
            )
        return True

    def _collect_orphans(self, name: str) -> None:
        """Collect signatures and referrers of deleted images, recursively."""
        for _ in range(_ROUNDS):
            before = self.report.manifests
            for (digest,), mark in walk(self._storage.records, ("deleted", name)):
                self._collect_orphans_of(name, digest, mark)
            if self.report.manifests == before or self._dry_run:
                return

    def _collect_orphans_of(self, name: str, digest: str, mark: bytes) -> None:
        """Stops once the image is pushed again, which removes the mark."""
        storage, clean = self._storage, True
        for tag, target in list(cosign_tags(storage, name, digest)):
            with self._exclusive():
                marked = self._is_marked(name, digest, mark)
                clean = marked and self._remove_companion(name, tag, target) and clean
        for referrer in list(referrers(storage, name, digest)):
            with self._exclusive():
                clean = self._remove_manifest(name, referrer) and clean
        with storage.exclusive():
            if clean and not self._dry_run and self._is_marked(name, digest, mark):
                storage.commit({("deleted", name, digest): None})

    def _is_marked(self, name: str, digest: str, mark: bytes) -> bool:
        return self._storage.records.get(("deleted", name, digest)) == mark

    def _remove_companion(self, name: str, tag: str, target: str) -> bool:
        record = self._storage.records.get(("tag", name, tag))
        if record is None or json.loads(record)["digest"] != target:
            return record is None
        if self._recent(name, target, record):
            return False
        if self._remove_manifest(name, target):
            return True
        self.report.tags += 1
        if not self._dry_run:
            usage: Counts = {("usage", name, "tags"): -1}
            self._storage.commit(no_tag_entries(name, tag, target), usage)
            self._record_removal("untag", name, digest=target, tags=(tag,))
        return True

    def _collect_blobs(self, name: str) -> None:
        records = self._storage.records
        for batch in self._throttled(walk(records, ("blob", name)), _SCAN_BATCH):
            garbage = [
                digest for (digest,), value in batch if self._is_garbage(name, digest, value)
            ]
            for part in _batches(garbage, _REMOVE_BATCH):
                with self._storage.exclusive():
                    self._remove_blobs(name, part)

    def _remove_blobs(self, name: str, digests: list[str]) -> None:
        changes: Changes = {}
        blobs = size = 0
        for digest in digests:
            value = self._storage.records.get(("blob", name, digest))
            if value is None or not self._is_garbage(name, digest, value):
                continue
            changes |= no_blob_entries(name, digest)
            blobs += 1
            size += int(json.loads(value)["size"])
            if self._dry_run:
                self._would_remove.add(hash((digest, name, "blob")))
        self.report.blobs += blobs
        if changes and not self._dry_run:
            add: Counts = {("usage", name, "blobs"): -blobs, ("usage", name, "bytes"): -size}
            self._storage.commit(changes, add)

    def _is_garbage(self, name: str, digest: str, value: bytes) -> bool:
        return not self._recent(name, digest, value) and not self._is_needed(name, digest)

    def _is_needed(self, name: str, digest: str) -> bool:
        users = needed_by(self._storage, name, digest)
        return any(hash((name, user)) not in self._would_remove for user in users)

    def _subject_exists(self, name: str, digest: str, value: bytes) -> bool:
        """Whether the image that a signature or referrer belongs to exists, perhaps pushed again
        since.
        """
        storage = self._storage
        tags = (tag for (tag,), _ in walk(storage.records, ("tagged", name, digest)))
        images = (json.loads(value).get("subject"), *map(subject_of_tag, tags))
        return any(
            image
            and storage.records.get(("manifest", name, image)) is not None
            and hash((name, image)) not in self._would_remove
            for image in images
        )

    def _recent(self, name: str, digest: str, value: bytes) -> bool:
        promised = self._storage.promises.promised_since(name, digest, self._cutoff)
        return promised or float(json.loads(value)["at"]) > self._cutoff

    def _collect_repository(self, name: str) -> None:
        records = self._storage.records
        with self._storage.exclusive():
            if self._holds_something(name):
                return
            changes: Changes = {("repository", name): None}
            for kind in ("usage", "deleted", "needed", "referrer", "proven", "vouched", "checked"):
                changes |= {(kind, name, *key): None for key, _ in walk(records, (kind, name))}
            self.report.repositories += 1
            if not self._dry_run:
                self._storage.commit(changes)

    def _holds_something(self, name: str) -> bool:
        if self._dry_run:
            return any(self._remaining(name))
        kinds = ("blob", "manifest", "tag")
        return any(self._storage.records.scan((kind, name), limit=1) for kind in kinds)

    def _remaining(self, name: str) -> Iterator[str]:
        """What a dry run would leave in a repository; tags go with their manifest."""
        records, usage = self._storage.records, self._would_remove
        for (tag,), value in walk(records, ("tag", name)):
            if hash((name, json.loads(value)["digest"])) not in usage:
                yield tag
        for (digest,), _ in walk(records, ("manifest", name)):
            if hash((name, digest)) not in usage:
                yield digest
        for (digest,), _ in walk(records, ("blob", name)):
            if hash((digest, name, "blob")) not in usage:
                yield digest

    def _collect_files(self) -> None:
        for algorithm in ("sha256", "sha512"):
            directory = self._storage.root / "blobs" / algorithm
            with os.scandir(directory) as files:
                for batch in self._throttled(files, _SCAN_BATCH):
                    garbage = [
                        file.name for file in batch if not self._is_referenced(algorithm, file.name)
                    ]
                    for part in _batches(garbage, _REMOVE_BATCH):
                        self._remove_files(directory, part)

    def _remove_files(self, directory: Path, names: list[str]) -> None:
        """Rename under the lock, unlink after it: removing large files takes time."""
        trash, algorithm = list[Path](), directory.name
        with self._storage.exclusive():
            for name in names:
                if self._is_referenced(algorithm, name):
                    continue
                try:
                    size = (directory / name).stat().st_size
                except FileNotFoundError:  # evicted meanwhile
                    continue
                self.report.files += 1
                self.report.bytes += size
                if not self._dry_run:
                    trash += self._storage.discard(Digest(algorithm, name))
        for file in trash:
            file.unlink()

    def _is_referenced(self, algorithm: str, name: str) -> bool:
        """Whether a repository uses the file; files not named by a digest are left to `registry
        check`.
        """
        try:
            digest = str(Digest.parse(f"{algorithm}:{name}"))
        except InvalidDigest:
            return True
        holders = self._storage.records.scan(
            ("holder", digest), limit=_HOLDERS if self._would_remove else 1
        )
        return any(hash((digest, *holder)) not in self._would_remove for holder, _ in holders)

    def _throttled(self, items: Iterable[T], number: int = _REMOVE_BATCH) -> Iterator[list[T]]:
        """Batches, with a pause after each in proportion to the time it took."""
        for batch in _batches(items, number):
            started = time.monotonic()
            yield batch
            check()
            if self._pause_ratio > 0:
                sleep((time.monotonic() - started) * self._pause_ratio)


def _batches(items: Iterable[T], number: int) -> Iterator[list[T]]:
    source = iter(items)
    while batch := list(islice(source, number)):
        yield batch


_log = logging.getLogger(__name__)
ACTOR = "collection"  # the actor of automatic collections
_DUTY_CYCLE = 0.25  # the share of its time that an automatic collection works


def collect(
    storage: Storage,
    options: GcOptions | None = None,
    *,
    dry_run: bool = False,
    duty_cycle: float = 1.0,
    actor: str = ACTOR,
    publish: Publish = lambda event: None,
) -> GcReport:
    """Collect once. `duty_cycle` is the fraction of time spent working. `publish` gets an event for
    each removed manifest and tag, and one for the run.

    On a full disk the reserved space is used. Raises UsageError while another collection runs.
    """
    if not storage.collecting.acquire(blocking=False):
        raise UsageError(
            "a garbage collection is already running",
            code="registry-busy",
            hint="wait until it ends",
        )
    options = options or GcOptions()
    try:
        report = storage.with_reserve(
            lambda: GcRun(storage, options, dry_run, duty_cycle, actor, publish).run()
        )
        if not dry_run:
            publish(
                NodeEvent(
                    "collect", actor=actor, message=f"collection: {json.dumps(report.to_json())}"
                )
            )
        return report
    finally:
        storage.reserve.hold()
        storage.collecting.release()


def collect_logged(
    storage: Storage,
    options: GcOptions,
    on_report: Callable[[GcReport | None], object],
    publish: Publish,
) -> None:
    """Collect at a low duty cycle, and log the result; nothing happens while another collection
    runs. `on_report` gets the report, None for a failed run.
    """
    try:
        report = collect(storage, options, duty_cycle=_DUTY_CYCLE, publish=publish)
    except UsageError:  # one that an operator started is running
        return
    except (OSError, ShiplineError) as error:
        _log.error("garbage collection failed: %s", error)
        on_report(None)
        return
    _log.info("collected %s", json.dumps(report.to_json()))
    on_report(report)
