"""Repositories of upstreams on this node: names, how fresh a tag is, manifests, blobs, listings.

A tag is served without asking while it is fresh, then at once while it is checked, then after it
was checked, and with a Warning if the upstream does not answer (RFC 5861). Content with a digest is
asked for once. Requests wait for an upstream without a thread.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Iterable
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import Any, Generic, TypeVar

from shipline.content import fetch_all
from shipline.errors import ContentError, DigestMismatch, NotFound
from shipline.lru import Lru
from shipline.oci import MANIFEST_LIMIT, Descriptor, Digest, media, parse_manifest
from shipline.server.entries import needs
from shipline.server.events import NodeEvent, Publish
from shipline.server.http import DISK, Coro, Growing, Headers
from shipline.server.manifests import Manifests
from shipline.server.metrics import Metrics, Readings
from shipline.server.problems import Problem, name_unknown
from shipline.server.reachability import needed_by
from shipline.server.storage import Storage
from shipline.server.upstreams.cached import CachedContent
from shipline.server.upstreams.fills import Fill, Flight, Flights
from shipline.server.upstreams.section import UpstreamSection, namespace, registry_name
from shipline.server.upstreams.upstream import (
    Connect,
    Counters,
    Kind,
    OriginRepository,
    Upstream,
    outage,
)
from shipline.supply import DEFAULT_LIMITS
from shipline.tasks import TaskGroup
from shipline.trust import statement_subject

T = TypeVar("T")
_THREADS = 32  # requests to upstreams at once, of manifests and of blobs
_WRONG_S = 30.0  # in which content that was not what its digest says is not fetched again
_LISTED_S = 60.0  # in which a blob is taken to be in a repository without looking again
_REMEMBERED, _LISTINGS = 10_000, 200  # entries
_HOLDERS = 1000  # repositories to search for a blob
_BYTES = "application/octet-stream"


@dataclass(frozen=True, slots=True)
class ProxiedRepository:
    """A repository of this node, and its upstream."""

    name: str
    upstream: Upstream


class _Memory(Generic[T]):
    """The latest values, each with its time. Safe to use from any thread."""

    def __init__(self, clock: Callable[[], float], limit: int = _REMEMBERED) -> None:
        self._clock = clock
        self._values: Lru[Hashable, tuple[float, T]] = Lru(limit, math.inf)
        self.drop = self._values.drop

    def put(self, key: Hashable, value: T) -> None:
        self._values.put(key, (self._clock(), value))

    def get(self, key: Hashable, age_s: float) -> tuple[float, T] | None:
        """The age and value, unless it is older than `age_s`, or the clock went back."""
        known = self._values.get(key)
        age = -1.0 if known is None else self._clock() - known[0]
        return (age, known[1]) if known is not None and 0 <= age <= age_s else None


class PullThrough:
    """The upstreams of a node. Safe to use from any thread."""

    def __init__(
        self,
        sections: Iterable[UpstreamSection],
        connect: Connect,
        storage: Storage,
        manifests: Manifests,
        metrics: Metrics,
        on_statement: Publish | None = None,
        check_room: Callable[[int], None] = lambda size: None,
    ) -> None:
        """With `on_statement` what the upstream has about an image, signatures above all, is
        fetched with the image; it gets an event for each. `check_room` raises Problem if a blob of
        so many bytes is too large. Raises ConfigError for a missing password.
        """
        clock = storage.clock
        self._storage, self._manifests = storage, manifests
        self._counters = counters = Counters(metrics)
        self._upstreams = tuple(
            Upstream(section, connect(section), counters, clock) for section in sections
        )
        self._find = lru_cache(_REMEMBERED)(self._match)
        self.cached = CachedContent(storage, manifests, self._cap, self._count_eviction)
        self._documents, self._fills = Flights(_THREADS), Flights(_THREADS)
        self._on_statement, self._check_room = on_statement, check_room
        self._examined: _Memory[None] = _Memory(clock)
        self._checked: _Memory[None] = _Memory(clock)
        self._absent: _Memory[None] = _Memory(clock)
        self._listed: _Memory[int] = _Memory(clock)
        self._wrong: _Memory[None] = _Memory(clock)
        self._listings: _Memory[Any] = _Memory(clock, _LISTINGS)
        metrics.gauge(
            "upstream_retry_seconds", "Until an upstream is asked again.", self._pauses, "upstream"
        )
        metrics.gauge("cache_fills", "Blobs being fetched.", lambda: float(self.arriving))
        metrics.gauge("cache_bytes", "Bytes of cached content.", self._sizes, "upstream")

    @property
    def arriving(self) -> int:
        """The number of blobs that are being fetched."""
        return len(self._fills)

    def start(self, group: TaskGroup) -> None:
        """Start the background work; it, and requests to upstreams, end with the group's scope."""

        def maintain() -> None:
            self._documents.attach()
            self._fills.attach()
            self.cached.maintain()

        group.start(maintain)

    def close(self) -> None:
        """Wait for the requests to upstreams."""
        self._documents.close()
        self._fills.close()

    def source(self, name: str) -> ProxiedRepository | None:
        """The upstream of a repository, None if it is this node's own."""
        upstream = self._find(name)
        return None if upstream is None else ProxiedRepository(name, upstream)

    def local_name(self, name: str, ns: str | None) -> str:
        """The repository that a client means by `name`, and by `ns`, the registry that it would ask
        without this node (distribution specification, "Registry Proxying").

        Raises Problem 404 if this node has content of another registry there.
        """
        local = f"{namespace(ns)}/{name}" if ns else name
        upstream = self._find(local)
        if ns and (upstream is None or not upstream.section.host_prefix):
            local, upstream = name, self._find(name)
            if upstream is not None and upstream.registry != registry_name(ns):
                raise name_unknown(f"{name} of {ns}")
        if upstream is None:
            return name
        return upstream.section.host_prefix + upstream.section.origin_name(local)

    def refuse_push(self, name: str) -> None:
        """Raises Problem 405 for a repository of an upstream."""
        if (source := self.source(name)) is not None:
            raise Problem(
                405,
                "UNSUPPORTED",
                f"{name} is fetched from {source.upstream.registry}; push it there",
                headers=(("Allow", "GET, HEAD"),),
            )

    def manifest(self, source: ProxiedRepository, reference: Digest | str) -> Coro[Headers]:
        """Bring a manifest into the repository; returns headers for the response.

        Raises Problem.
        """
        headers: Headers = []
        if isinstance(reference, str):
            headers = yield from self._tag(source, reference)
        elif self._touch(source.name, reference):
            self._count("manifests", "hit")
        else:
            headers = yield from self._wait(source, str(reference), self._by_digest, None)
        if self._on_statement is not None:
            yield from self._examine(source, reference)
        return headers

    def blob(self, source: ProxiedRepository, digest: Digest) -> Coro[Growing]:
        """A blob that the repository does not have, as it arrives. Raises Problem."""
        target = Descriptor(_BYTES, digest, (yield from self.blob_size(source, digest)))
        key = (source.upstream, target)  # with the size, which a manifest may state wrongly
        fill, joined = self._fills.join(key, partial(self._new_fill, source, target))
        fill.add_to(source.name)
        self._count("blobs", "coalesced" if joined else "miss")
        if (error := (yield from fill.wait(beyond=0))) is not None:
            raise source.upstream.problem(error, "blobs", digest)
        return fill.part()

    def blob_size(self, source: ProxiedRepository, digest: Digest) -> Coro[int]:
        """The size of a blob, from a manifest of the repository, else from the upstream, so that
        the repository has it. Raises Problem.
        """
        yield DISK
        self._check_known(source, "blobs", str(digest))
        if known := self._listed.get((source.name, digest), _LISTED_S):
            return known[1]
        if (size := self._listed_size(source.name, digest)) is not None:
            return self._remember_size(source, digest, size)
        work = partial(self._head_blob, source, digest)
        flight, _ = self._documents.join((source.name, digest, "size"), lambda: Flight(work))
        if (error := (yield from flight.wait())) is not None:
            raise source.upstream.problem(error, "blobs", digest)
        return int(flight.result)

    def tags(self, source: ProxiedRepository) -> Coro[tuple[list[str], Headers]]:
        """All tags in byte order, and headers for the response. Raises Problem."""
        return (
            yield from self._list(
                source, f"the tags of {source.name}", lambda origin: sorted(origin.tags())
            )
        )

    def referrers(
        self, source: ProxiedRepository, subject: Digest
    ) -> Coro[tuple[list[dict[str, Any]], Headers]]:
        """The descriptors of the manifests with this subject, by digest. Raises Problem."""

        def read(origin: OriginRepository) -> list[dict[str, Any]]:
            found = origin.referrers(Descriptor(media.OCI_MANIFEST, subject, 0))
            return [one.to_json() for one in sorted(found, key=lambda one: str(one.digest))]

        return (yield from self._list(source, f"the referrers of {subject}", read))

    def use_blob(self, source: ProxiedRepository, digest: Digest) -> None:
        """A blob that the repository has is about to be sent."""
        self._count("blobs", "hit")
        self.cached.touch(source.name, digest)

    def _tag(self, source: ProxiedRepository, tag: str) -> Coro[Headers]:
        key, section = (source.name, tag), source.upstream.section
        fresh_s = section.fresh.seconds
        if self._checked.get(key, fresh_s) and self._touch(*key):
            self._count("manifests", "hit")
            return []
        yield DISK
        checked = self.cached.checked(*key)
        if checked is None or not self._touch(*key):
            return (yield from self._wait(source, tag, self._by_tag, None))
        age = self._storage.clock() - checked
        if 0 <= age <= fresh_s:  # after a restart
            self._count("manifests", "hit")
            return []
        meanwhile = section.stale_while_revalidate
        if meanwhile is not None and 0 <= age <= fresh_s + meanwhile.seconds:
            work = partial(self._by_tag, source, tag)
            self._documents.join(key, lambda: Flight(work))
            self._count("manifests", "stale")
            return [("Age", str(int(age)))]
        return (yield from self._wait(source, tag, self._by_tag, max(age, 0.0)))

    def _wait(
        self,
        source: ProxiedRepository,
        reference: str,
        work: Callable[[ProxiedRepository, str], None],
        age: float | None,
    ) -> Coro[Headers]:
        """Wait for `work`; what was checked `age` seconds ago may do if the upstream fails."""
        key, upstream = (source.name, reference), source.upstream
        self._check_known(source, "manifests", reference)
        flight, joined = self._documents.join(key, lambda: Flight(partial(work, source, reference)))
        error = yield from flight.wait()
        if error is None:
            known = "miss" if age is None else "revalidated"
            self._count("manifests", "coalesced" if joined else known)
            return []
        longest = upstream.section.stale_if_error
        if age is not None and outage(error) and longest is not None and age <= longest.seconds:
            self._count("manifests", "stale")
            return upstream.stale(age)
        self._count("manifests", "failed")
        raise upstream.problem(error, "manifests", reference)

    def _by_tag(self, source: ProxiedRepository, tag: str) -> None:
        """Check a tag with the upstream: HEAD, and GET if it moved."""
        name, origin = source.name, source.upstream.origin(source.name)
        try:
            known = self._manifests.get(name, tag)
            head = partial(origin.digest_of, tag)
            now = None if known is None else self._call(source, "manifests", tag, head)
            if known is not None and now == known.digest:
                self.cached.mark_checked(name, tag)
            else:
                stored = None if now is None else self._manifests.get(name, now)
                if stored is not None:
                    target = Descriptor(stored.media_type, stored.digest, len(stored.raw))
                    content = target, stored.raw
                else:
                    content = self._call(source, "manifests", tag, partial(_read, origin, tag))
                self.cached.add_manifest(name, *content, (tag,))
        except NotFound:
            self.cached.drop_tag(name, tag)
            raise
        self._checked.put((name, tag), None)

    def _by_digest(self, source: ProxiedRepository, digest: str) -> None:
        if self._manifests.get(source.name, Digest.parse(digest)) is None:  # else just completed
            origin = source.upstream.origin(source.name)
            content = self._call(source, "manifests", digest, partial(_read, origin, digest))
            self.cached.add_manifest(source.name, *content)

    def _examine(self, source: ProxiedRepository, reference: Digest | str) -> Coro[None]:
        """Bring the statements about an image; without an answer, those that are here must do."""
        yield DISK
        stored = self._manifests.get(source.name, reference)
        fresh_s = source.upstream.section.fresh.seconds
        if stored is None or self._examined.get((source.name, stored.digest), fresh_s):
            return
        subject = parse_manifest(stored.raw, stored.media_type).subject
        if subject is None and not (isinstance(reference, str) and statement_subject(reference)):
            work = partial(self._bring_statements, source, stored.digest)
            key = (source.name, stored.digest, "statements")
            yield from self._documents.join(key, lambda: Flight(work))[0].wait()

    def _bring_statements(self, source: ProxiedRepository, image: Digest) -> None:
        """Those that refer to it, and those in cosign's tags, as far as they are verified."""
        origin, limit = source.upstream.origin(source.name), DEFAULT_LIMITS.statements
        subject = Descriptor(media.OCI_MANIFEST, image, 0)
        found = self._call(source, "manifests", str(image), lambda: origin.referrers(subject))
        for target in found[:limit]:
            self._by_digest(source, str(target.digest))
            self._bring_parts(source, target.digest)
        for kind in ("sig", "att", "sbom"):
            tag = f"{image.algorithm}-{image.hex}.{kind}"
            with suppress(NotFound):
                self._by_tag(source, tag)
                self._bring_parts(source, tag)
        self._examined.put((source.name, image), None)

    def _bring_parts(self, source: ProxiedRepository, reference: Digest | str) -> None:
        name = source.name
        stored = self._manifests.get(name, reference)
        if stored is None or self._on_statement is None:
            return
        for need in needs(parse_manifest(stored.raw, stored.media_type)):
            if need.media_type not in media.NAMED and need.size <= DEFAULT_LIMITS.total:
                fill = self._new_fill(source, Descriptor(_BYTES, need.digest, need.size))
                fill.run()
                if fill.progress.error is not None:
                    raise fill.progress.error
        tags = (reference,) if isinstance(reference, str) else ()
        digest, kind = str(stored.digest), stored.media_type
        self._on_statement(NodeEvent("push", name, digest=digest, tags=tags, media_type=kind))

    def _new_fill(self, source: ProxiedRepository, target: Descriptor) -> Fill:
        call = partial(self._call, source, "blobs", str(target.digest))
        origin = source.upstream.origin(source.name)
        exists = partial(self._is_here, source, target.digest)
        return Fill(self.cached, source.name, target, origin, call, exists, self._check_room)

    def _is_here(self, source: ProxiedRepository, digest: Digest) -> int | None:
        """The size of the blob if the repository has it, perhaps from another one of the same
        upstream, which says that this one has it, too.
        """
        name = source.name
        if (size := self._storage.find_blob(name, digest)) is not None:
            return size
        if (size := self._stored_size(source, digest)) is None:
            return None
        if self._listed_size(name, digest) is None:
            self._head_blob(source, digest)

        def same(other: str) -> bool:
            return self._find(other) is source.upstream

        return size if self.cached.mount_blob(name, digest, same) else None

    def _stored_size(self, source: ProxiedRepository, digest: Digest) -> int | None:
        """The size of the blob if a repository of the same upstream has it."""
        holders = self._storage.records.scan(("holder", str(digest)), limit=_HOLDERS)
        same = (
            other
            for (other, kind), _ in holders
            if kind == "blob" and self._find(other) is source.upstream
        )
        return next((self._storage.blob_size(other, digest) for other in same), None)

    def _head_blob(self, source: ProxiedRepository, digest: Digest) -> int:
        origin = source.upstream.origin(source.name)
        size = self._call(source, "blobs", str(digest), lambda: origin.blob_size(digest))
        return self._remember_size(source, digest, size)

    def _remember_size(self, source: ProxiedRepository, digest: Digest, said: int) -> int:
        """The size; what is stored knows better than the upstream."""
        stored = self._stored_size(source, digest)
        size = said if stored is None else stored
        self._listed.put((source.name, digest), size)
        return size

    def _listed_size(self, name: str, digest: Digest) -> int | None:
        """The size of a blob that a manifest of the repository refers to."""
        for user in needed_by(self._storage, name, str(digest)):
            stored = self._manifests.get(name, Digest.parse(user))
            if stored is not None:
                listed = needs(parse_manifest(stored.raw, stored.media_type))
                return next((need.size for need in listed if need.digest == digest), None)
        return None

    def _list(
        self, source: ProxiedRepository, what: str, read: Callable[[OriginRepository], list[T]]
    ) -> Coro[tuple[list[T], Headers]]:
        upstream, key = source.upstream, (source.name, what)
        section = upstream.section
        if known := self._listings.get(key, section.fresh.seconds):
            self._count("listings", "hit")
            return known[1], []

        def ask() -> None:
            origin = upstream.origin(source.name)
            self._listings.put(key, upstream.call("manifests", lambda: read(origin)))

        flight, joined = self._documents.join((*key, "list"), lambda: Flight(ask))
        error = yield from flight.wait()
        longest = section.stale_if_error
        if error is None or (longest is not None and outage(error)):
            known = self._listings.get(key, longest.seconds if error and longest else float("inf"))
        if known is None:
            self._count("listings", "failed")
            if isinstance(error, NotFound):
                raise name_unknown(source.name)
            raise upstream.problem(
                error or ContentError("", code="image-unsupported"), "manifests", what
            )
        if error is not None:
            self._count("listings", "stale")
            return known[1], upstream.stale(known[0])
        self._count("listings", "coalesced" if joined else "miss")
        return known[1], []

    def _call(
        self, source: ProxiedRepository, kind: Kind, reference: str, work: Callable[[], T]
    ) -> T:
        """See `Upstream.call`; remembers what does not exist, or not what its digest says."""
        try:
            return source.upstream.call(kind, work)
        except NotFound:
            self._absent.put((source.name, reference), None)
            raise
        except DigestMismatch:
            self._wrong.put((source.name, reference), None)
            raise

    def _check_known(self, source: ProxiedRepository, kind: Kind, reference: str) -> None:
        """Raises Problem for what was not there, or wrong, a moment ago."""
        key, upstream = (source.name, reference), source.upstream
        if self._wrong.get(key, _WRONG_S):
            raise upstream.problem(ContentError("", code="image-unsupported"), kind, reference)
        if self._absent.get(key, upstream.section.negative.seconds):
            self._count(kind, "negative")
            raise upstream.problem(NotFound("", code="content-gone"), kind, reference)

    def _touch(self, name: str, reference: Digest | str) -> bool:
        """Whether the repository has the manifest, which is used now."""
        stored = self._manifests.get(name, reference)
        if stored is None:
            return False
        self.cached.touch(name, stored.digest)
        return True

    def _match(self, name: str) -> Upstream | None:
        matching = (one for one in self._upstreams if one.section.pattern.matches(name))
        return next(matching, None)

    def _cap(self, name: str) -> tuple[str, int | None] | None:
        upstream = self._find(name)
        if upstream is None:
            return None
        size = upstream.section.cache_size
        return upstream.section.match, None if size is None else size.bytes

    def _count(self, kind: str, result: str) -> None:
        self._counters.cache.labels(kind, result).inc()

    def _count_eviction(self, upstream: str, size: int) -> None:
        self._counters.evicted.labels(upstream).inc(size)

    def _pauses(self) -> Readings:
        return {(one.section.match,): one.wait_s() for one in self._upstreams}

    def _sizes(self) -> Readings:
        empty = dict.fromkeys((one.section.match for one in self._upstreams), 0)
        return {(match,): float(size) for match, size in (empty | self.cached.sizes()).items()}


def _read(origin: OriginRepository, reference: str) -> tuple[Descriptor, bytes]:
    """A manifest of the upstream, verified. Raises ContentError for another kind of document."""
    target = origin.resolve(reference)
    if target.media_type not in media.NAMED:
        raise ContentError(
            f"{reference} is of an unsupported type, {target.media_type}", code="image-unsupported"
        )
    return target, fetch_all(origin, target, MANIFEST_LIMIT)
