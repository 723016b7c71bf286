"""The time that a build writes into images: the wall clock, or SOURCE_DATE_EPOCH."""

from __future__ import annotations

import time
from dataclasses import dataclass
from datetime import UTC, datetime

_SECOND = 1_000_000_000  # nanoseconds


@dataclass(frozen=True, slots=True)
class Clock:
    """`epoch` is Unix time in seconds, None for the wall clock; `clamp` lets it bound file times.

    See reproducible-builds.org/specs/source-date-epoch.
    """

    epoch: int | None = None
    clamp: bool = False

    def now_ns(self) -> int:
        return time.time_ns() if self.epoch is None else self.epoch * _SECOND

    def now(self) -> str:
        """RFC 3339 with nanoseconds, in UTC."""
        return rfc3339(self.now_ns())

    @property
    def variant(self) -> str:
        """What sets layers apart whose files have bounded times; empty where they have not."""
        return f"until {self.epoch}" if self.clamp and self.epoch is not None else ""

    def clamp_ns(self, time_ns: int) -> int:
        """The time of a file: at most the epoch where that was asked for."""
        if not self.clamp or self.epoch is None:
            return time_ns
        return min(time_ns, self.epoch * _SECOND)


def rfc3339(time_ns: int) -> str:
    seconds, fraction = divmod(time_ns, _SECOND)
    text = datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%S")
    return f"{text}.{fraction:09d}".rstrip("0").rstrip(".") + "Z"
