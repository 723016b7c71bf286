"""Mirrors: which endpoint of a host is asked first, by what was measured while they were used.

An endpoint is measured by the requests that a command sends anyway: the time to the first byte, and
the bytes per second of its blobs. Only what is not known is probed, with GET /v2/ of all unknown
ones at once. Measurements are kept in a file for other commands; new ones count for more the older
the known ones are.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

import msgspec
from msgspec import Struct

from shipline.errors import AuthError, Cancelled, DigestMismatch, NotFound, ShiplineError
from shipline.files import read_bounded, write_whole
from shipline.registry.hosts import Endpoint
from shipline.tasks import Limiter, TaskGroup, directory_lock, sleep
from shipline.values import replace

REMEMBERED_S = 3600.0  # what was measured is known for that long
_FORGOTTEN_S = 30 * 86400.0
_ASIDE_S = 600.0  # a failed mirror is not asked again for that long by one process
_FIRST_PENALTY_S = 60.0  # for that long it comes last; doubled by each further failure
_MAX_DOUBLINGS = 6
_TYPICAL = 16 << 20  # bytes, by which latency and throughput are weighed
_LEAST = 256 << 10  # bytes that say something about throughput
_GRACE_S = 0.05  # how long the first answer to a probe waits for others, at least
_SAVE_S = 60.0
_LIMIT = 1 << 20  # bytes of the file


class Measurement(Struct, frozen=True, omit_defaults=True):
    """What is known of an endpoint: seconds to the first byte and bytes per second, 0 for unknown,
    and when they were measured; the failures since the last content that came from it, and the last
    of them. Times are Unix times in seconds.
    """

    latency_s: float = 0.0
    measured: float = 0.0
    bytes_per_s: float = 0.0
    transferred: float = 0.0
    failures: int = 0
    failed: float = 0.0
    reason: str = ""

    def penalized(self, now: float) -> bool:
        """Whether it comes last because of failures."""
        penalty_s = _FIRST_PENALTY_S * 2 ** min(self.failures - 1, _MAX_DOUBLINGS)
        return self.failures > 0 and 0 <= now - self.failed < penalty_s

    def known(self, now: float) -> bool:
        """Whether the latency was measured recently."""
        return self.latency_s > 0 and 0 <= now - self.measured < REMEMBERED_S

    def rate(self, now: float) -> float:
        """The bytes per second, if they were measured recently, else 0."""
        return self.bytes_per_s if 0 <= now - self.transferred < REMEMBERED_S else 0.0

    def with_latency(self, now: float, seconds: float) -> Measurement:
        """With a new sample of the latency."""
        latency_s = _mixed(self.latency_s, seconds, now - self.measured)
        return replace(self, latency_s=latency_s, measured=now)

    def with_rate(self, now: float, bytes_per_s: float) -> Measurement:
        """With a new sample of the throughput."""
        rate = _mixed(self.bytes_per_s, bytes_per_s, now - self.transferred)
        return replace(self, bytes_per_s=rate, transferred=now)


def _mixed(before: float, sample: float, age_s: float) -> float:
    """A mean in which the sample counts for more the older the value before is."""
    weight = 0.3 + 0.7 * min(1.0, max(0.0, age_s) / REMEMBERED_S)
    return before + weight * (sample - before) if before else sample


class _File(Struct, frozen=True):
    """The file: measurements by the base URLs of endpoints."""

    endpoints: dict[str, Measurement]
    version: int = 1


class _Transfer:
    """Blobs that are being read from one endpoint: bytes, and the seconds with any read waiting."""

    def __init__(self) -> None:
        self.reads = 0
        self.began = 0.0
        self.busy_s = 0.0
        self.bytes = 0


Probe = Callable[[Endpoint], float]
"""The seconds to the first byte of GET /v2/. Raises RegistryError, AuthError."""


class Mirrors:
    """What is known of the endpoints of mirrored hosts. Safe to use from any thread."""

    def __init__(self, path: Path | None = None, clock: Callable[[], float] = time.time) -> None:
        self._path = path
        self._clock = clock
        self._lock = threading.Lock()
        self._known: dict[str, Measurement] | None = None
        self._changed: set[str] = set()
        self._saved = clock()
        self._aside: dict[str, float] = {}
        self._probed: set[str] = set()
        self._probing = Limiter(1)
        self._transfers: dict[str, _Transfer] = {}

    def measurement(self, endpoint: Endpoint) -> Measurement:
        """What is known of an endpoint."""
        with self._lock:
            return self._load().get(endpoint.base, Measurement())

    def usable(self, endpoint: Endpoint) -> bool:
        """Whether a mirror may be asked: it has not failed in this process lately."""
        with self._lock:
            return self._clock() >= self._aside.get(endpoint.base, 0.0)

    def nearest_first(self, mirrors: Sequence[Endpoint], probe: Probe) -> tuple[Endpoint, ...]:
        """The usable mirrors by the expected time of a blob; those that failed lately come last.

        Makes no request unless there are several, of which one was not measured.
        """
        if len(mirrors) > 1:
            self.probe_unknown(mirrors, probe)
        found = {one: self.measurement(one) for one in mirrors if self.usable(one)}
        now = self._clock()
        best = max((one.rate(now) for one in found.values()), default=0.0)

        def cost(endpoint: Endpoint) -> tuple[int, bool, float]:
            one = found[endpoint]
            rate = one.rate(now) or best  # unknown ones get the chance to be measured
            seconds = one.latency_s + (_TYPICAL / rate if rate else 0.0)
            return one.failures * one.penalized(now), not one.latency_s, seconds

        return tuple(sorted(found, key=cost))

    def answered(self, endpoint: Endpoint, latency_s: float) -> None:
        """An endpoint sent the first byte of a response."""
        self._change(endpoint, lambda one, now: one.with_latency(now, latency_s))

    def delivered(self, endpoint: Endpoint) -> None:
        """Content from an endpoint was verified."""
        if self.measurement(endpoint).failures:
            self._change(endpoint, lambda one, now: replace(one, failures=0, failed=0.0, reason=""))

    def failed(self, endpoint: Endpoint, error: ShiplineError) -> None:
        """An endpoint failed: a mirror is not asked again by this process for a while.

        Absent content and refused credentials are no failures of a mirror.
        """
        if isinstance(error, (NotFound, AuthError)):
            return
        steps = _MAX_DOUBLINGS + 1 if isinstance(error, DigestMismatch) else 1
        self._change(
            endpoint,
            lambda one, now: replace(
                one, failures=one.failures + steps, failed=now, reason=error.message
            ),
        )
        with self._lock:
            self._aside[endpoint.base] = self._clock() + _ASIDE_S

    def read(self, endpoint: Endpoint, read: Callable[[int], bytes], size: int) -> bytes:
        """Bytes of a blob, from `read`: its time counts, shared with what is read meanwhile."""
        with self._lock:
            transfer = self._transfers.setdefault(endpoint.base, _Transfer())
            if not transfer.reads:
                transfer.began = time.monotonic()
            transfer.reads += 1
        data = b""
        try:
            data = read(size)
        finally:
            with self._lock:
                transfer.reads -= 1
                transfer.bytes += len(data)
                if not transfer.reads:
                    transfer.busy_s += time.monotonic() - transfer.began
        return data

    def closed(self, endpoint: Endpoint, *, waited: bool) -> None:
        """A blob was read. What was not `waited` for says nothing of the endpoint: its reader was
        the slower one.
        """
        with self._lock:
            transfer = self._transfers.get(endpoint.base)
            if transfer is None or transfer.reads or (waited and transfer.bytes < _LEAST):
                return
            del self._transfers[endpoint.base]
        if waited and transfer.busy_s:
            rate = transfer.bytes / transfer.busy_s
            self._change(endpoint, lambda one, now: one.with_rate(now, rate))

    def save(self) -> None:
        """Write what was measured, with what other processes wrote meanwhile."""
        with self._lock:
            if self._path is None or not self._changed:
                return
            ours = {url: self._load()[url] for url in self._changed}
            self._changed.clear()
            self._saved = now = self._clock()
            with suppress(OSError):  # it can be measured again
                self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
                with directory_lock(self._path.parent):
                    both = {**_read(self._path), **ours}
                    recent = {
                        url: one
                        for url, one in both.items()
                        if now - max(one.measured, one.failed) < _FORGOTTEN_S
                    }
                    write_whole(self._path, msgspec.json.encode(_File(recent)))

    def probe_unknown(self, mirrors: Iterable[Endpoint], probe: Probe) -> None:
        """Measure, once in this process, the latency of those that were not measured lately."""
        with self._probing:
            now = self._clock()
            unknown = [
                one
                for one in mirrors
                if one.base not in self._probed
                and self.usable(one)
                and not self.measurement(one).known(now)
            ]
            self._probed.update(one.base for one in unknown)
            if unknown:
                self._race(unknown, probe)

    def _race(self, endpoints: Sequence[Endpoint], probe: Probe) -> None:
        """Probe all at once, and leave those alone that take three times as long as the first."""
        began, left = time.monotonic(), len(endpoints)

        def ask(endpoint: Endpoint) -> None:
            nonlocal left
            answered = False
            try:
                latency_s = probe(endpoint)
                answered = True
            except Cancelled:
                latency_s = time.monotonic() - began  # or more
            except ShiplineError as error:
                latency_s = 0.0
                self.failed(endpoint, error)
            if latency_s:
                self.answered(endpoint, latency_s)
            with self._lock:
                left -= 1
                last = not left
            if answered and not last:
                with suppress(Cancelled):
                    sleep(max(_GRACE_S, 2 * latency_s))
            if answered or last:
                group.scope.cancel()

        with TaskGroup() as group:
            for endpoint in endpoints:
                group.start(ask, endpoint)

    def _load(self) -> dict[str, Measurement]:
        if self._known is None:
            self._known = dict(_read(self._path)) if self._path else {}
        return self._known

    def _change(
        self, endpoint: Endpoint, change: Callable[[Measurement, float], Measurement]
    ) -> None:
        with self._lock:
            known, now = self._load(), self._clock()
            known[endpoint.base] = change(known.get(endpoint.base, Measurement()), now)
            self._changed.add(endpoint.base)
            due = now - self._saved >= _SAVE_S
        if due:
            self.save()


def _read(path: Path) -> Mapping[str, Measurement]:
    """The measurements in a file; none of one that is missing or damaged."""
    try:
        found = msgspec.json.decode(read_bounded(path, _LIMIT), type=_File)
    except (OSError, msgspec.DecodeError):
        return {}
    return found.endpoints if found.version == 1 else {}
