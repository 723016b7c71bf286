"""One upstream: what is asked of it, when it is left alone, and what its errors are to clients."""

from __future__ import annotations

import logging
import math
import threading
from collections.abc import Callable, Iterator
from typing import Literal, Protocol, TypeVar

from shipline.content import Fetcher, Resolver
from shipline.errors import (
    AuthError,
    ContentError,
    DigestMismatch,
    NotFound,
    RegistryError,
    ShiplineError,
)
from shipline.oci import Descriptor, Digest
from shipline.server.http import Headers
from shipline.server.metrics import Metrics
from shipline.server.problems import Problem, blob_unknown, manifest_unknown, problem_of
from shipline.server.upstreams.section import UpstreamSection
from shipline.units import Duration

_log = logging.getLogger(__name__)
T = TypeVar("T")
Kind = Literal["manifests", "blobs"]
_FAILURES = 5  # in a row, before an upstream is left alone
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 5.0, 60.0
_LONGEST_RETRY_AFTER_S = 900.0
_RETRY_AFTER_S = 5.0  # what clients are told without a better number


class OriginRepository(Resolver, Fetcher, Protocol):
    """A repository of an upstream. Methods block; they raise NotFound, AuthError, RegistryError."""

    def digest_of(self, tag: str) -> Digest | None:
        """The digest of a tag, without its manifest; None if the registry does not tell."""

    def blob_size(self, digest: Digest) -> int:
        """The size of a blob in bytes."""

    def tags(self) -> Iterator[str]:
        """All tags."""

    def referrers(self, target: Descriptor) -> tuple[Descriptor, ...]:
        """The manifests whose subject is `target`."""


Connect = Callable[[UpstreamSection], Callable[[str], OriginRepository]]
"""Gives the repositories of an upstream, by their names there."""


class Counters:
    """What the metrics of a node with upstreams count; labelled by the `match` of an upstream."""

    def __init__(self, metrics: Metrics) -> None:
        self.cache = metrics.counter(
            "cache_requests_total", "Requests for content of upstreams.", "kind", "result"
        )
        self.requests = metrics.counter(
            "upstream_requests_total", "Requests to upstreams.", "upstream", "code"
        )
        self.mismatches = metrics.counter(
            "upstream_verify_failures_total", "Content with a wrong digest.", "upstream"
        )
        self.evicted = metrics.counter(
            "cache_evicted_bytes_total", "Bytes of cached content evicted.", "upstream"
        )


class Breaker:
    """Leaves an upstream alone after failures in a row, and as long as its Retry-After says; then
    lets one request through to try. Safe to use from any thread.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._failures = 0
        self._until = 0.0

    def wait_s(self) -> float:
        """Seconds until it is asked again, 0 for now."""
        return min(max(0.0, self._until - self._clock()), _LONGEST_RETRY_AFTER_S)

    def enter(self) -> None:
        """Raises Problem 503 while the upstream is left alone."""
        with self._lock:
            wait = self.wait_s()
            if wait:
                raise _try_again(503, "UNKNOWN", "the upstream registry does not answer", wait)
            if self._failures >= _FAILURES:  # others wait for the outcome of this try
                self._until = self._clock() + _FIRST_PAUSE_S

    def leave(self, error: BaseException | None) -> None:
        """Count the outcome of a request."""
        with self._lock:
            if not isinstance(error, RegistryError) or not outage(error):
                self._failures, self._until = 0, 0.0
                return
            asked = error.retry_after_s
            if error.status == 429 or asked is not None:
                pause = _FIRST_PAUSE_S if asked is None else asked
                self._until = self._clock() + min(pause, _LONGEST_RETRY_AFTER_S)
                return
            self._failures += 1
            if self._failures >= _FAILURES:
                pause = _FIRST_PAUSE_S * 2 ** min(self._failures - _FAILURES, 8)
                self._until = self._clock() + min(pause, _LONGEST_PAUSE_S)


class Upstream:
    """Requests to one upstream, counted. Safe to use from any thread."""

    def __init__(
        self,
        section: UpstreamSection,
        open_origin: Callable[[str], OriginRepository],
        counters: Counters,
        clock: Callable[[], float],
    ) -> None:
        self.section = section
        self._open = open_origin
        self._counters = counters
        self._breakers: dict[Kind, Breaker] = {"manifests": Breaker(clock), "blobs": Breaker(clock)}

    @property
    def registry(self) -> str:
        return self.section.registry

    def origin(self, name: str) -> OriginRepository:
        """The upstream's repository for one of this node."""
        return self._open(self.section.origin_name(name))

    def wait_s(self) -> float:
        """Seconds in which it is left alone, 0 if it is asked."""
        return max(breaker.wait_s() for breaker in self._breakers.values())

    def call(self, kind: Kind, work: Callable[[], T]) -> T:
        """What `work` returns, which asks the upstream once.

        Raises what it raises, and Problem 503 while the upstream is left alone.
        """
        breaker = self._breakers[kind]
        breaker.enter()
        try:
            result = work()
        except BaseException as error:
            breaker.leave(error)
            if isinstance(error, ShiplineError):  # else this node failed
                self._count(error)
                if not isinstance(error, NotFound):
                    _log.warning("upstream %s: %s", self.registry, error.message)
            raise
        breaker.leave(None)
        self._count(None)
        return result

    def _count(self, error: BaseException | None) -> None:
        code = "200" if error is None else "error"
        if isinstance(error, NotFound):
            code = "404"
        elif isinstance(error, RegistryError | AuthError) and error.status:
            code = str(error.status)
        self._counters.requests.labels(self.section.match, code).inc()
        if isinstance(error, DigestMismatch):
            self._counters.mismatches.labels(self.section.match).inc()

    def problem(self, error: BaseException, kind: Kind, reference: object) -> Problem:
        """What a client is told, as a new exception; the upstream's own words stay in the log."""
        registry = self.registry
        match error:
            case Problem():
                return Problem(error.status, error.reason, error.message, headers=error.headers)
            case NotFound():
                return (blob_unknown if kind == "blobs" else manifest_unknown)(reference)
            case AuthError():
                message = f"{registry} does not let this node pull {reference}"
                return Problem(403, "DENIED", message)
            case RegistryError() if error.status == 429:
                wait = error.retry_after_s or _RETRY_AFTER_S
                message = f"{registry} limits the requests of this node"
                return _try_again(429, "TOOMANYREQUESTS", message, wait)
            case RegistryError():
                told = f"answers {error.status}" if error.status else "cannot be reached"
                return _try_again(502, "UNKNOWN", f"{registry} {told}", _RETRY_AFTER_S)
            case ContentError():
                message = f"{registry} sent something else than {reference}"
                return _try_again(502, "UNKNOWN", message, _RETRY_AFTER_S)
            case Exception():
                return problem_of(error)
        return Problem(503, "UNKNOWN", "the node is shutting down")

    def stale(self, age_s: float) -> Headers:
        """The headers of content that could not be checked (distribution specification,
        "Warnings"; RFC 9111, 5.1).
        """
        last = Duration(max(1, int(age_s)) * 1000)
        text = f"stale: {self.registry} does not answer; last checked {last} ago"
        return [("Warning", f'299 - "{text}"'), ("Age", str(int(age_s)))]


def outage(error: BaseException) -> bool:
    """Whether the upstream failed, rather than answered."""
    if isinstance(error, Problem):
        return error.status == 503
    answered = isinstance(error, RegistryError) and 400 <= error.status < 500
    return isinstance(error, RegistryError) and (not answered or error.status in (408, 429))


def _try_again(status: int, reason: str, message: str, wait_s: float) -> Problem:
    return Problem(
        status, reason, message, headers=(("Retry-After", str(max(1, math.ceil(wait_s)))),)
    )
