"""A replication: follows a journal, and applies its entries to another registry.

One thread reads the journal into the backlog, some apply entries from there. A cut journal, a first
start and other filters make it compare everything, once.
"""

from __future__ import annotations

import json
import logging
import random
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial

from shipline.content import copy_graph
from shipline.errors import AuthError, Cancelled, NotFound, RegistryError, ShiplineError
from shipline.events import Attribute
from shipline.globs import Glob
from shipline.images import (
    CopyOptions,
    Meter,
    NarrowedSource,
    Remote,
    TagMoved,
    copy_tag,
    digest_of,
)
from shipline.oci import (
    Descriptor,
    Digest,
    InvalidDigest,
    InvalidReference,
    Platform,
    Reference,
    check_repository,
    check_tag,
    media,
)
from shipline.propagation import SpanContext, within
from shipline.regions.backlog import Backlog
from shipline.regions.sources import JournalSource, LocalJournal, Page, RemoteJournal
from shipline.registry import Client
from shipline.server import Storage
from shipline.server.entries import subject_of_tag
from shipline.server.journal import JournalEntry
from shipline.server.replication import RegionState, ReplicationSection
from shipline.server.repository import StoredRepositories
from shipline.tasks import TaskGroup, sleep
from shipline.telemetry.server_spans import ServerSpan, ServerSpans
from shipline.values import replace

_log = logging.getLogger(__name__)
_IDLE_WAIT_S, _BUSY_WAIT_S = 30.0, 1.0  # of a poll; while there is work, reports are more frequent
_SILENT_S = 15.0  # after which a poll that has no answer counts as lag
_RETRY_S, _LONGEST_RETRY_S = 1.0, 300.0
_LATER_S = 0.5
_CLOSED_S = 5.0  # between two looks whether a window has opened
_BATCH = 1000  # entries
_EVERY = (Glob("**"),)
Open = Callable[[str], Remote]
Known = Callable[[JournalEntry], bool]
"""Whether the target has the content and the tag of an entry."""


class _Later(Exception):
    """What the entry depends on has not arrived, or may still be undone."""


@dataclass(frozen=True, slots=True)
class Ends:
    """The two ends of a replication: repositories by their name on this node, the journal of the
    source, and what the target has.
    """

    source: Open
    target: Open
    journal: JournalSource
    known: Callable[[], Known]
    held: Callable[[], Iterable[JournalEntry]]


@dataclass(slots=True)
class _Progress:
    started: float
    seen: float = 0.0
    verified: float = 0.0
    skew_s: float = 0.0
    behind: int = 0
    errors: int = 0
    error: str = ""


class JournalReplication:
    """Applies what a journal says to another registry; see `server.replication.Replication`."""

    def __init__(
        self,
        section: ReplicationSection,
        ends: Ends,
        backlog: Backlog,
        *,
        clock: Callable[[], float] = time.time,
        spans: ServerSpans | None = None,
    ) -> None:
        self._section = section
        self._spans = spans
        self._ends = ends
        self._backlog = backlog
        self._clock = clock
        self._meter = Meter(section.bandwidth.bytes if section.bandwidth else None)
        platforms = tuple(map(Platform.parse, section.platforms))
        self._options = CopyOptions(platforms, section.referrers, exact=True)
        self._lock = threading.Lock()
        self._progress = _Progress(clock())

    @property
    def section(self) -> ReplicationSection:
        return self._section

    def start(self, group: TaskGroup) -> None:
        group.start(self._follow)
        for _ in range(self._section.at_once):
            group.start(self._work)

    def state(self) -> RegionState:
        section, progress, now = self._section, self._progress, self._clock()
        oldest = self._backlog.oldest
        lag_s = max(now + progress.skew_s - oldest, 0.0) if oldest else 0.0
        silent_s = now - (progress.seen or progress.started)
        quiet_s = _SILENT_S if progress.seen else 0.0
        if silent_s > _IDLE_WAIT_S + _SILENT_S or (progress.error and silent_s > quiet_s):
            lag_s = max(lag_s, silent_s)
        entries = progress.behind + len(self._backlog)
        return RegionState(
            section.name,
            "pull" if section.from_ else "push",
            section.from_ or section.to,
            entries if entries or progress.seen else None,
            lag_s,
            self._meter.in_flight,
            progress.errors,
            progress.error,
            progress.verified,
            progress.seen,
        )

    def poll(self, wait_s: float) -> None:
        """Read the journal once, up to what it has or for `wait_s`, into the backlog."""
        purpose = self._purpose()
        page = self._ends.journal.after(self._backlog.cursor(purpose), wait_s, self._report())
        if page.cut:
            self._reconcile(page, purpose)
        elif page.entries or page.cursor != self._backlog.cursor(purpose):
            self._backlog.add(filter(self._accepts, page.entries), page.cursor, purpose)
        now, progress = self._clock(), self._progress
        progress.seen, progress.skew_s = now, page.skew_s
        number = page.cursor.partition("-")[0]
        progress.behind = max(page.last - int(number or 0), 0) if page.entries else 0
        if not self._backlog and not progress.behind:
            progress.verified, progress.error = now, ""

    def apply_one(self, timeout_s: float = 0.0) -> bool:
        """Apply an entry that is due; False if none was. Failures are noted, and tried again."""
        entry = self._backlog.take(timeout_s)
        if entry is None:
            return False
        try:
            with self._traced(entry):
                undone = self._backlog.may_be_undone(entry)
                self._apply(entry)
                if undone:
                    raise _Later
        except _Later:
            self._backlog.back(entry, lambda attempts: _LATER_S)
        except Cancelled:
            self._backlog.back(entry, lambda attempts: 0.0)
            raise
        except Exception as error:
            self._failed(f"{entry.repository}:{entry.tag or entry.digest}", error)
            self._backlog.back(entry, partial(_delay_s, error))
        else:
            self._backlog.done(entry)
        return True

    @contextmanager
    def _traced(self, entry: JournalEntry) -> Iterator[None]:
        """Apply an entry as a part of the trace of its push."""
        parent, spans = SpanContext.parse(entry.trace), self._spans
        own = None if spans is None or parent is None else spans.begin(parent)
        started, error = self._clock(), ""
        try:
            with within(own or parent):
                yield
        except _Later:
            own = None
            raise
        except BaseException as failure:
            error = str(failure) or type(failure).__name__
            raise
        finally:
            if spans is not None and own is not None:
                attributes: dict[str, Attribute] = {
                    "shipline.replication": self._section.name,
                    "shipline.repository": entry.repository,
                    "shipline.operation": entry.op,
                    "shipline.lag_s": max(started - entry.at, 0.0),
                    "oci.manifest.digest": entry.digest,
                }
                name = f"SYNC {entry.repository}:{entry.tag or entry.digest}"
                seconds = self._clock() - started
                spans.end(
                    ServerSpan(
                        own, parent, name, started, seconds, attributes, error, is_server=False
                    )
                )

    def _follow(self) -> None:
        failures = 0
        try:
            while True:
                try:
                    self.poll(_BUSY_WAIT_S if self._backlog else _IDLE_WAIT_S)
                    failures = 0
                except Exception as error:
                    failures += 1
                    self._failed("the journal", error)
                    sleep(_delay_s(error, failures, longest_s=60.0))
        except Cancelled:
            return

    def _work(self) -> None:
        try:
            while True:
                if self._section.is_open(self._clock()):
                    self.apply_one(_CLOSED_S)
                else:
                    sleep(_CLOSED_S)
        except Cancelled:
            return

    def _failed(self, what: str, error: Exception) -> None:
        known = isinstance(error, (ShiplineError, OSError))
        message = error.message if isinstance(error, ShiplineError) else str(error)
        with self._lock:
            self._progress.errors += 1
            self._progress.error = f"{what}: {message}"
        if known:
            hint = f" ({error.hint})" if isinstance(error, ShiplineError) and error.hint else ""
            _log.warning("replication %s: %s: %s%s", self._section.name, what, message, hint)
        else:  # keep the node running
            _log.exception("replication %s: %s", self._section.name, what)

    def _report(self) -> Mapping[str, str]:
        """For the other node's list of followers."""
        progress = self._progress
        return {
            "pending": str(len(self._backlog)),
            "oldest": f"{self._backlog.oldest:.3f}",
            "bytes": str(self._meter.in_flight),
            "errors": str(progress.errors),
            "verified": f"{progress.verified:.3f}",
        }

    def _purpose(self) -> str:
        """What the cursor is valid for: with another source or filter, everything is compared."""
        section = self._section
        filters = {
            "from": section.from_,
            "to": section.to,
            "repositories": list(map(str, section.repositories)),
            "tags": list(map(str, section.tags)),
            "platforms": list(section.platforms),
            "referrers": section.referrers,
            "deletes": section.deletes,
        }
        return json.dumps(filters, sort_keys=True)

    def _reconcile(self, page: Page, purpose: str) -> None:
        """Add what the other node has and this one does not; then go on from the page's cursor,
        which was taken before.
        """
        _log.info("replication %s: comparing everything", self._section.name)
        known, now = self._ends.known(), self._clock() + page.skew_s
        there: dict[str, set[str]] = {}
        batch: list[JournalEntry] = []
        for entry in self._ends.journal.snapshot():
            if self._section.deletes:
                there.setdefault(entry.repository, set()).add(entry.tag or entry.digest)
            if self._accepts(entry) and not known(entry):
                batch.append(replace(entry, at=now))
            if len(batch) >= _BATCH:
                self._backlog.add(batch, "", purpose)
                batch = []
        batch += filter(self._accepts, self._gone(there, now))
        self._backlog.add(batch, page.cursor, purpose)

    def _gone(self, there: Mapping[str, set[str]], now: float) -> Iterator[JournalEntry]:
        """Tags and referrers that the target has or is about to get and the source does not have,
        in repositories that it has: one that it does not show at all may only be hidden from this
        account.
        """
        waiting = self._backlog.tags()
        for name, tags in there.items():
            found = waiting.get(name, set())
            with suppress(NotFound):
                found |= set(self._ends.target(name).tags())
            for tag in found - tags:
                yield JournalEntry(0, "untag", name, "", tag, at=now)
        for entry in self._ends.held() if there else ():
            if entry.op == "refer" and entry.digest not in there.get(
                entry.repository, entry.digest
            ):
                yield replace(entry, op="delete", at=now)

    def _accepts(self, entry: JournalEntry) -> bool:
        section = self._section
        if entry.op in ("untag", "delete") and not section.deletes:
            return False
        companion = entry.op == "refer" or (entry.tag and subject_of_tag(entry.tag) is not None)
        if companion and not section.referrers:
            return False
        tags = _EVERY if companion or not entry.tag else section.tags
        return (
            any(glob.matches(entry.repository) for glob in section.repositories)
            and any(glob.matches(entry.tag) for glob in tags)
            and _is_valid(entry)
        )

    def _apply(self, entry: JournalEntry) -> None:
        source, target = self._ends.source(entry.repository), self._ends.target(entry.repository)
        match entry.op:
            case "tag":
                self._copy_tag(entry, source, target)
            case "refer":
                if self._has_subject(entry.repository, entry.subject, target):
                    self._copy_referrer(entry, source, target)
            case "untag":
                if digest_of(source, entry.tag) is None:
                    _delete(target, entry.tag)
            case "delete":
                self._delete(entry, source, target)

    def _delete(self, entry: JournalEntry, source: Remote, target: Remote) -> None:
        """Delete a manifest, which takes its tags along: should the source have got it again
        meanwhile, they may have been copied already.
        """
        root = Descriptor(entry.media_type or media.OCI_MANIFEST, _digest(entry), 0)
        if not target.exists(root) or source.exists(root):
            return
        _delete(target, entry.digest)
        if source.exists(root):
            back = (tag for tag in source.tags() if digest_of(source, tag) == root.digest)
            tags = (replace(entry, seq=0, op="tag", tag=tag, size=0) for tag in back)
            self._backlog.again(filter(self._accepts, tags))

    def _copy_tag(self, entry: JournalEntry, source: Remote, target: Remote) -> None:
        if not entry.seq and digest_of(source, entry.tag) != _digest(entry):
            return  # the journal says later where it points to
        subject = subject_of_tag(entry.tag)
        if subject is not None and not self._has_subject(entry.repository, subject, target):
            return
        try:
            root = _root(entry, source)
            copy_tag(source, target, root, entry.tag, options=self._options, meter=self._meter)
        except NotFound:
            if digest_of(source, entry.tag) == _digest(entry):
                raise  # it is damaged there

    def _copy_referrer(self, entry: JournalEntry, source: Remote, target: Remote) -> None:
        try:
            copy_graph(NarrowedSource(source, self._meter, ()), target, _root(entry, source))
        except NotFound:
            if source.exists(Descriptor(entry.media_type, _digest(entry), entry.size)):
                raise

    def _has_subject(self, repository: str, subject: str, target: Remote) -> bool:
        """Whether the target has the image that a statement is about: one that the filters left out
        needs none. Raises _Later while the image may be on its way.
        """
        if target.exists(Descriptor(media.OCI_MANIFEST, Digest.parse(subject), 0)):
            return True
        if self._backlog.has_tags(repository):
            raise _Later
        return False


def _delay_s(error: Exception, attempts: int, longest_s: float = _LONGEST_RETRY_S) -> float:
    """Exponential, at least what the registry asks for."""
    delay_s = min(_RETRY_S * 2.0 ** min(attempts - 1, 20), longest_s) * random.uniform(0.5, 1.0)
    if isinstance(error, TagMoved):
        delay_s = 0.0 if attempts < 3 else delay_s
    asked_s: float | None = getattr(error, "retry_after_s", None)
    return max(delay_s, asked_s or 0.0)


def _is_valid(entry: JournalEntry) -> bool:
    """Whether an entry of another node may name content here."""
    try:
        check_repository(entry.repository)
        if entry.tag:
            check_tag(entry.tag)
        if entry.op != "untag":
            Digest.parse(entry.digest)
        if entry.subject:
            Digest.parse(entry.subject)
    except (InvalidReference, InvalidDigest) as error:
        _log.warning("ignored an entry of the journal: %s", error.message)
        return False
    return True


def _digest(entry: JournalEntry) -> Digest:
    return Digest.parse(entry.digest)


def _root(entry: JournalEntry, source: Remote) -> Descriptor:
    if entry.media_type in media.NAMED and entry.size:
        return Descriptor(entry.media_type, _digest(entry), entry.size)
    return source.resolve(entry.digest)


def _delete(target: Remote, reference: str) -> None:
    """Delete, unless it is gone; registries that cannot delete tags keep them."""
    try:
        target.delete(reference)
    except NotFound:
        return
    except ShiplineError as error:
        if getattr(error, "status", 0) != 405:
            raise
        _log.warning("%s cannot be deleted: %s", reference, error.message)


def open_replications(
    client: Client,
    node: str,
    repositories: StoredRepositories,
    sections: Iterable[ReplicationSection],
    spans: ServerSpans | None = None,
) -> Iterator[JournalReplication]:
    """The replications of a node, which is `node` for the others; see `server.Replicate`."""
    for section in sections:
        host, prefix = section.remote

        def there(name: str, host: str = host, prefix: str = prefix) -> Remote:
            return client.repository(Reference(host, prefix + name))

        remote = RemoteJournal(client.impatient, host, prefix, f"{node}/{section.name}")
        here, storage = repositories.open, repositories.storage
        ends = (
            Ends(there, here, remote, partial(_known_here, storage), LocalJournal(storage).snapshot)
            if section.from_
            else Ends(
                here,
                there,
                LocalJournal(storage),
                partial(_known_there, remote),
                partial(_held_there, remote),
            )
        )
        yield JournalReplication(section, ends, Backlog(storage.records, section.name), spans=spans)


def _known_here(storage: Storage) -> Known:
    def known(entry: JournalEntry) -> bool:
        if entry.op == "refer":
            return storage.records.get(("manifest", entry.repository, entry.digest)) is not None
        record = storage.records.get(("tag", entry.repository, entry.tag))
        return record is not None and json.loads(record)["digest"] == entry.digest

    return known


def _known_there(journal: RemoteJournal) -> Known:
    """What another shipline node has, in few requests; nothing of any other registry."""
    found = {(one.repository, one.tag, one.digest) for one in _held_there(journal)}
    return lambda entry: (entry.repository, entry.tag, entry.digest) in found


def _held_there(journal: RemoteJournal) -> Iterator[JournalEntry]:
    with suppress(RegistryError, AuthError):
        yield from journal.snapshot()
