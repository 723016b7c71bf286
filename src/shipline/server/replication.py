"""What a node shows to those who replicate it: its journal, a snapshot, and the state of the
regions. The section `registry.replication` of shipline.yaml.

  GET /_shipline/journal?since=CURSOR&wait=30s   entries after the cursor, at once or when there are
  GET /_shipline/snapshot?after=KEY              what all repositories hold, as entries, in pages
  GET /_shipline/regions                         how far the followers and replications are

A client of the first says who and how it is in `node`, `pending`, `oldest`, `bytes`, `errors` and
`verified`, so that the primary knows its edges. See docs/regions.md for the responses.
"""

from __future__ import annotations

import json
import math
import re
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from itertools import islice
from typing import Any, Literal, Protocol
from urllib.parse import quote

from shipline.errors import ConfigError, ShiplineError
from shipline.globs import Glob
from shipline.oci import Platform, Reference
from shipline.server.http import Beyond, Coro, Principal, Request, Response, Route, route
from shipline.server.journal import Journal, JournalEntry, snapshot
from shipline.server.metrics import Metrics, Readings
from shipline.server.problems import Problem
from shipline.server.repository import StoredRepositories
from shipline.server.storage import Storage
from shipline.tasks import TaskGroup
from shipline.units import ByteSize, Duration
from shipline.values import doc

_PAGE = 1000  # entries in a response
_LONGEST_WAIT_S = 60.0
_MOST_FOLLOWERS = 20_000
_FORGET_S = 7 * 86400.0  # followers that were not seen for longer
_MONTH = Duration(30 * 86_400_000)
_NAME = re.compile("[a-z0-9][a-z0-9-]{0,62}")
_WINDOW = re.compile(r"([01]\d|2[0-3]):([0-5]\d)-([01]\d|2[0-3]):([0-5]\d)")
_EVERYTHING = (Glob("**"),)


@dataclass(frozen=True, slots=True)
class JournalSection:
    """How long the journal is kept. An edge that was away for longer compares everything once."""

    entries: int = field(default=1_000_000, metadata=doc("entries to keep, about 400 MB"))
    age: Duration = field(default=_MONTH, metadata=doc("how long entries are kept"))

    def __post_init__(self) -> None:
        if self.entries < 1:
            raise ConfigError("entries: must be 1 or more")


@dataclass(frozen=True, slots=True)
class ReplicationSection:
    """Copies tags with their images and statements between this node and another registry."""

    name: str = field(metadata=doc("name in logs and metrics: a-z, 0-9 and -"))
    from_: str = field(
        default="", metadata=doc("pull what changes at this shipline node: HOST[:PORT][/PREFIX]")
    )
    to: str = field(
        default="", metadata=doc("push what changes here to this registry: HOST[:PORT][/PREFIX]")
    )
    repositories: tuple[Glob, ...] = field(
        default=_EVERYTHING, metadata=doc("only these repositories of this node")
    )
    tags: tuple[Glob, ...] = field(default=_EVERYTHING, metadata=doc("only these tags"))
    platforms: tuple[str, ...] = field(
        default=(),
        metadata=doc("only these platforms of an image; the index, and so its digest, is another"),
    )
    referrers: bool = field(
        default=True, metadata=doc("also signatures, attestations and other referrers")
    )
    deletes: bool = field(default=False, metadata=doc("also delete what is deleted there"))
    bandwidth: ByteSize | None = field(
        default=None, metadata=doc("bytes per second at most, of all transfers together")
    )
    windows: tuple[str, ...] = field(
        default=(), metadata=doc("only at these times of the day, in UTC: 22:00-06:00")
    )
    at_once: int = field(default=4, metadata=doc("images copied at a time"))
    max_lag: Duration | None = field(default=None, metadata=doc("lag beyond which /readyz fails"))

    def __post_init__(self) -> None:
        if not _NAME.fullmatch(self.name):
            raise ConfigError(f"name: {self.name!r} must consist of a-z, 0-9 and -")
        if bool(self.from_) is bool(self.to):
            raise ConfigError("a replication has either from or to")
        try:
            _ = self.remote, *map(Platform.parse, self.platforms)
        except ShiplineError as error:
            raise ConfigError(error.message, code=error.code, hint=error.hint) from None
        if not 1 <= self.at_once <= 64:
            raise ConfigError("at-once: must be 1 to 64")
        if self.bandwidth is not None and not self.bandwidth.bytes:
            raise ConfigError("bandwidth: must be more than 0")
        for window in self.windows:
            if not _WINDOW.fullmatch(window):
                raise ConfigError(f"windows: {window!r} is not like 22:00-06:00")

    @property
    def remote(self) -> tuple[str, str]:
        """The host of the other registry, and what precedes the names of this node there."""
        text = (self.from_ or self.to).removeprefix("https://").removeprefix("http://")
        reference = Reference.parse(f"{text.rstrip('/')}/x")
        return reference.host, reference.repository.removesuffix("x")

    def replaces(self, repository: str) -> bool:
        """Whether this repository of the node is a copy of the other registry's."""
        return bool(self.from_) and any(one.matches(repository) for one in self.repositories)

    def is_open(self, now: float) -> bool:
        """Whether `now`, in Unix time, is within a window."""
        minute = int(now // 60) % 1440
        return not self.windows or any(
            begin <= minute < end if begin < end else minute >= begin or minute < end
            for begin, end in map(_minutes, self.windows)
        )


def _minutes(window: str) -> tuple[int, int]:
    match = _WINDOW.fullmatch(window)
    assert match is not None
    first, second, third, fourth = map(int, match.groups())
    return first * 60 + second, third * 60 + fourth


@dataclass(frozen=True, slots=True)
class RegionState:
    """How far a copy is behind: `entries` that it has not applied, None if it never heard of any,
    the oldest of them `seconds` old by the clock of the node that made it; `bytes` are in flight.
    `errors` counts failed attempts since the start, `error` is the last one, empty once the entry
    was applied. `verified` is when it last had everything, `seen` when it was last in contact, 0
    for never, in Unix time.
    """

    name: str
    mode: Literal["follower", "pull", "push"]
    remote: str
    entries: int | None
    seconds: float
    bytes: int = 0
    errors: int = 0
    error: str = ""
    verified: float = 0.0
    seen: float = 0.0


class Replication(Protocol):
    """A copy that this node makes; see the package `regions`."""

    @property
    def section(self) -> ReplicationSection: ...

    def state(self) -> RegionState:
        """How far it is; must be quick."""

    def start(self, group: TaskGroup) -> None:
        """Work until the group's scope is cancelled."""


Replicate = Callable[[StoredRepositories, Iterable[ReplicationSection]], Iterable[Replication]]
"""Makes the replications of a node, whose repositories it is handed."""


@dataclass(frozen=True, slots=True)
class _Report:
    """What a follower said of itself in its last poll."""

    cursor: int
    pending: int
    oldest: float
    bytes: int
    errors: int
    verified: float
    address: str
    seen: float


class Followers:
    """The nodes that read the journal. Safe to use from any thread."""

    def __init__(self, journal: Journal, clock: Callable[[], float]) -> None:
        self._journal = journal
        self._clock = clock
        self._lock = threading.Lock()
        self._reports: dict[tuple[str, str], _Report] = {}

    def note(self, request: Request) -> None:
        """Keep what a follower says of itself."""
        now = self._clock()
        node = (request.parameter("node") or "")[:100]
        report = _Report(
            cursor=int((request.parameter("since") or "0").partition("-")[0] or 0),
            pending=int(_number(request, "pending")),
            oldest=_number(request, "oldest"),
            bytes=int(_number(request, "bytes")),
            errors=int(_number(request, "errors")),
            verified=_number(request, "verified"),
            address=request.address,
            seen=now,
        )
        with self._lock:
            self._reports.pop((request.principal.actor, node), None)
            self._reports[request.principal.actor, node] = report
            while len(self._reports) > _MOST_FOLLOWERS or (
                next(iter(self._reports.values())).seen < now - _FORGET_S
            ):
                del self._reports[next(iter(self._reports))]

    def states(self) -> list[RegionState]:
        """The followers, the most recent last."""
        with self._lock:
            reports = list(self._reports.items())
        return [self._state(*key, report) for key, report in reports]

    def _state(self, account: str, node: str, report: _Report) -> RegionState:
        waiting = self._journal.time_after(report.cursor)
        behind = max(self._journal.last() - report.cursor, 1) if waiting else 0
        oldest = min(filter(None, (waiting, report.oldest)), default=0.0)
        return RegionState(
            node or report.address,
            "follower",
            account,
            behind + report.pending,
            max(self._clock() - oldest, 0.0) if oldest else 0.0,
            report.bytes,
            report.errors,
            verified=report.verified,
            seen=report.seen,
        )


def region_states(followers: Followers, replications: Iterable[Replication]) -> list[RegionState]:
    """The copies that this node makes, and those that follow it."""
    return [*(replication.state() for replication in replications), *followers.states()]


def _number(request: Request, name: str) -> float:
    """A number that a follower reports; 0 for nonsense."""
    try:
        number = float(request.parameter(name) or 0)
    except ValueError:
        return 0.0
    return number if math.isfinite(number) and 0 <= number < 1e18 else 0.0


def replication_routes(
    storage: Storage,
    followers: Followers,
    replications: Iterable[Replication],
    is_stopping: Callable[[], bool],
) -> tuple[Route, ...]:
    """The routes above."""
    journal, replications = storage.journal, tuple(replications)

    def poll(request: Request) -> Coro[Response]:
        _require(journal)
        cursor = request.parameter("since") or ""
        deadline = time.monotonic() + _wait_s(request)
        while True:
            page = journal.after(cursor, _PAGE)
            if page is None:
                return _json({"cut": True, "cursor": journal.head(), "entries": []}, storage)
            followers.note(request)
            shown = _shown(page.entries, request.principal)
            left = deadline - time.monotonic()
            if shown or left <= 0 or is_stopping():
                return _json(
                    {"cut": False, "cursor": page.cursor, "last": page.last, "entries": shown},
                    storage,
                )
            cursor = page.cursor
            if not page.entries:
                yield Beyond(journal.progress, page.last, left)

    def show(request: Request) -> Response:
        _require(journal)
        after = request.parameter("after") or ""
        found = snapshot(storage.records, tuple(after.split("\0")) if after else ())
        page = list(islice(found, _PAGE))
        shown = _shown((entry for _, entry in page), request.principal)
        more = quote("\0".join(page[-1][0]), safe="") if len(page) == _PAGE else ""
        return _json({"entries": shown, "next": more}, storage)

    def regions(request: Request) -> Response:
        states = region_states(followers, replications)
        return _json({"regions": [asdict(state) for state in states]}, storage)

    return (
        route("/_shipline/journal", requires="replicator", GET=poll),
        route("/_shipline/snapshot", requires="replicator", GET=show),
        route("/_shipline/regions", requires="operator", GET=regions),
    )


def add_replication_gauges(
    metrics: Metrics, followers: Followers, replications: Iterable[Replication]
) -> None:
    """Lag, bytes in flight and errors, by name and mode."""
    replications = tuple(replications)

    def reading(name: str) -> Callable[[], Readings]:
        def read() -> Readings:
            return {
                (state.name, state.mode): float(value)
                for state in region_states(followers, replications)
                if (value := getattr(state, name)) is not None
            }

        return read

    for name, field_name, text in (
        ("replication_lag_seconds", "seconds", "Age of the oldest entry that was not applied."),
        ("replication_lag_entries", "entries", "Entries of the journal that were not applied."),
        ("replication_bytes_in_flight", "bytes", "Bytes of the blobs being transferred."),
        ("replication_errors", "errors", "Failed attempts since the start."),
        ("replication_seen_timestamp_seconds", "seen", "When it was last in contact, 0 for never."),
    ):
        metrics.gauge(name, text, reading(field_name), "region", "mode")


def lag_problems(replications: Iterable[Replication]) -> Iterator[str]:
    """Why the node is not ready: replications behind by more than their `max-lag`."""
    for replication in replications:
        bound, state = replication.section.max_lag, replication.state()
        if bound is not None and state.seconds > bound.seconds:
            yield f"{state.name} is {state.seconds:.0f} s behind {state.remote}, more than {bound}"


def _require(journal: Journal) -> None:
    if not journal.enabled:
        raise Problem(
            404, "UNSUPPORTED", "this node keeps no journal: serve it with --role primary"
        )


def _shown(entries: Iterable[JournalEntry], principal: Principal) -> list[dict[str, Any]]:
    """Those that the client may replicate."""
    return [
        entry.to_json()
        for entry in entries
        if principal.may("replicate", entry.repository, entry.tag)
    ]


def _wait_s(request: Request) -> float:
    text = request.parameter("wait")
    try:
        wanted = Duration.parse(text).seconds if text and text != "0" else 0.0
    except ValueError as error:
        raise Problem(400, "UNSUPPORTED", f"wait: {error}") from None
    return min(wanted, _LONGEST_WAIT_S)


def _json(document: Mapping[str, Any], storage: Storage) -> Response:
    """With the node's time, from which the others' clocks may differ."""
    headers = [("Content-Type", "application/json"), ("Cache-Control", "no-store")]
    body = json.dumps({"now": storage.clock(), **document}, separators=(",", ":")).encode()
    return Response.of(200, headers, body)
