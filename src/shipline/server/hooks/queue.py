"""Events that wait for their receivers: records, so that a restart loses none.

hook       <receiver> <number>   an event, its identity; numbers grow, so the order is kept
hook-dead  <receiver> <number>   the same with the reason why it was given up
"""

from __future__ import annotations

import json
import threading
import time
import uuid
from collections.abc import Callable
from dataclasses import asdict, dataclass

from shipline.metadata import Records, walk
from shipline.server.journal import Event

_DIGITS = 20  # of a number; enough for nanoseconds of Unix time


@dataclass(frozen=True, slots=True)
class Waiting:
    """An event on its way to one receiver."""

    number: str
    identity: str
    event: Event


class Queue:
    """Safe to use from any thread. What `put` returned from is on the disk."""

    def __init__(self, records: Records, *, clock_ns: Callable[[], int] = time.time_ns) -> None:
        self._records = records
        self._clock_ns = clock_ns
        self._lock = threading.Lock()
        self._last = 0

    def put(self, receivers: list[str], event: Event) -> None:
        """Let an event wait for each receiver. Raises OSError where the disk refuses."""
        value = json.dumps({"id": str(uuid.uuid4()), "event": asdict(event)}).encode()
        with self._lock:  # numbers are given and written in one order
            self._last = max(self._last + 1, self._clock_ns())
            number = f"{self._last:0{_DIGITS}}"
            self._records.write({("hook", name, number): value for name in receivers})

    def first(self, receiver: str) -> Waiting | None:
        """What the receiver is to be told next."""
        page = self._records.scan(("hook", receiver), limit=1)
        if not page:
            return None
        ((number,), value), *_ = page
        return _waiting(number, value)

    def done(self, receiver: str, waiting: Waiting) -> None:
        self._records.write({("hook", receiver, waiting.number): None})

    def give_up(self, receiver: str, waiting: Waiting, reason: str) -> None:
        """Put the event aside, where `dead` finds it."""
        value = {"id": waiting.identity, "event": asdict(waiting.event), "reason": reason}
        self._records.write(
            {
                ("hook", receiver, waiting.number): None,
                ("hook-dead", receiver, waiting.number): json.dumps(value).encode(),
            }
        )

    def redeliver(self, receiver: str) -> int:
        """Let what was given up wait again, with a new term; returns the number of events."""
        dead = list(walk(self._records, ("hook-dead", receiver)))
        for (number,), value in dead:
            waiting = _waiting(number, value)
            event = {**asdict(waiting.event), "at": self._clock_ns() / 1e9}
            again = json.dumps({"id": waiting.identity, "event": event}).encode()
            self._records.write(
                {("hook-dead", receiver, number): None, ("hook", receiver, number): again}
            )
        return len(dead)

    def depth(self, receiver: str) -> int:
        """How many events wait."""
        return sum(1 for _ in walk(self._records, ("hook", receiver)))

    def dead(self, receiver: str) -> list[tuple[Waiting, str]]:
        """What was given up, and why."""
        found = walk(self._records, ("hook-dead", receiver))
        return [(_waiting(key[0], value), json.loads(value)["reason"]) for key, value in found]


def _waiting(number: str, value: bytes) -> Waiting:
    found = json.loads(value)
    fields = found["event"] | {"tags": tuple(found["event"]["tags"])}
    return Waiting(number, found["id"], Event(**fields))
