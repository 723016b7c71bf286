"""How much a host is asked at once: less after it refused requests, nothing until the time that it
named, and never more than what is left of its rate limit.
"""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Callable
from typing import Self

from msgspec import Struct

from shipline.tasks import Limiter, sleep

MAX_RETRY_AFTER_S = 60.0  # a longer Retry-After is an error
_REFUSING = frozenset({429, 503})
_NUMBER = re.compile(r"\s*([0-9]{1,12})(?:\s*;\s*w=([0-9]{1,9}))?")
_WINDOWS = ((86400, "day"), (3600, "hour"), (60, "minute"), (1, "second"))


class RateLimit(Struct, frozen=True):
    """The `RateLimit-*` headers of a response: requests allowed in a window of seconds, those left,
    and the seconds until more are; 0 for what is unknown. Docker Hub's have `;w=` in their values
    (draft-polli-ratelimit-headers).
    """

    limit: int
    remaining: int
    window_s: int
    reset_s: int

    @classmethod
    def read(cls, header: Callable[[str], str]) -> Self | None:
        """None if the headers tell no limit."""
        limit = _NUMBER.match(header("RateLimit-Limit"))
        if limit is None:
            return None
        remaining = _NUMBER.match(header("RateLimit-Remaining"))
        if remaining is None:
            return None
        reset = _NUMBER.match(header("RateLimit-Reset"))
        window = limit[2] or remaining[2] or 0
        return cls(int(limit[1]), int(remaining[1]), int(window), int(reset[1]) if reset else 0)

    def __str__(self) -> str:
        text = f"{self.limit} requests"
        for seconds, unit in _WINDOWS:
            if self.window_s and self.window_s % seconds == 0:
                count = self.window_s // seconds
                text += f" per {unit}" if count == 1 else f" in {count} {unit}s"
                break
        return f"{text}, {self.remaining} left"


class HostLimits:
    """Concurrent requests per host; JSON does not queue behind blobs.

    Blob reads and writes are counted separately, so that a copy within one host cannot deadlock: a
    writer may hold a reader, never the reverse. Each count is halved when the host refuses requests
    (429, 503), and grows again by one for each round of responses that succeed.
    """

    def __init__(self, at_once: int) -> None:
        self.small = Limiter(at_once)
        self.read = Limiter(at_once)
        self.write = Limiter(at_once)
        self._most = at_once
        self._now = float(at_once)
        self._lock = threading.Lock()
        self._cut = self._open = 0.0  # of the monotonic clock

    @property
    def at_once(self) -> int:
        """How many requests of each kind are sent at once now."""
        return int(self._now)

    def wait(self) -> None:
        """Return when the host takes requests again; interruptible."""
        while (left := self._open - time.monotonic()) > 0:
            sleep(left)

    def note(
        self, status: int, began: float, rate: RateLimit | None, retry_after_s: float | None
    ) -> None:
        """Note the response to a request that was sent at `began`, of the monotonic clock."""
        if status < 400 and rate is None and self._now == self._most:
            return
        now = time.monotonic()
        with self._lock:
            if status in _REFUSING:
                if began >= self._cut:  # else it was sent before the others were refused
                    self._now, self._cut = max(1.0, self._now / 2), now
                if retry_after_s is not None and retry_after_s <= MAX_RETRY_AFTER_S:
                    self._open = max(self._open, now + retry_after_s)
            elif status < 400:
                self._now = min(self._most, self._now + 1 / self._now)
            if rate is not None:
                self._now = min(self._now, max(1.0, float(rate.remaining)))
                if not rate.remaining and 0 < rate.reset_s <= MAX_RETRY_AFTER_S:
                    self._open = max(self._open, now + rate.reset_s)
            for limiter in (self.small, self.read, self.write):
                limiter.resize(int(self._now))
