"""Events that wait for their receivers: records, so that a restart loses none.

hook       <receiver> <number>   an event, its identity; numbers grow, so the order is kept
hook-dead  <receiver> <number>   the same with the reason why it was given up
"""

from __future__ import annotations

import json
import logging
import threading
import time
import uuid
from collections.abc import Callable
from dataclasses import asdict, dataclass

from shipline.metadata import Key, Records, walk
from shipline.server.journal import NodeEvent

_log = logging.getLogger(__name__)
_DIGITS = 20  # of a number; enough for nanoseconds of Unix time
_MOST = 100_000  # events that wait for one receiver, and as many that were given up: about 50 MB


@dataclass(frozen=True, slots=True)
class PendingDelivery:
    """An event on its way to one receiver."""

    number: str
    identity: str
    event: NodeEvent


class Queue:
    """Safe to use from any thread. What `put` returned from is on the disk."""

    def __init__(
        self, records: Records, *, clock_ns: Callable[[], int] = time.time_ns, most: int = _MOST
    ) -> None:
        """`most` events of each kind are kept for a receiver: everybody who may pull makes events,
        and a receiver that is away shall not fill the disk with them.
        """
        self._records = records
        self._most = most
        self._full: set[str] = set()
        self._counts: dict[tuple[str, str], int] = {}
        self._clock_ns = clock_ns
        self._lock = threading.Lock()
        self._last = 0

    def put(self, receivers: list[str], event: NodeEvent) -> None:
        """Let an event wait for each receiver that has not too many already. Raises OSError where
        the disk refuses.
        """
        value = json.dumps({"id": str(uuid.uuid4()), "event": asdict(event)}).encode()
        with self._lock:  # numbers are given and written in one order
            self._last = max(self._last + 1, self._clock_ns())
            number = f"{self._last:0{_DIGITS}}"
            taking = [name for name in receivers if self._has_room(name)]
            if taking:
                self._records.write({("hook", name, number): value for name in taking})
            for name in taking:
                self._count("hook", name, 1)

    def first(self, receiver: str) -> PendingDelivery | None:
        """What the receiver is to be told next."""
        page = self._records.scan(("hook", receiver), limit=1)
        if not page:
            return None
        ((number,), value), *_ = page
        return _waiting(number, value)

    def done(self, receiver: str, waiting: PendingDelivery) -> None:
        with self._lock:
            self._records.write({("hook", receiver, waiting.number): None})
            self._count("hook", receiver, -1)

    def give_up(self, receiver: str, waiting: PendingDelivery, reason: str) -> None:
        """Put the event aside, where `dead` finds it; the oldest goes where there are too many."""
        value = {"id": waiting.identity, "event": asdict(waiting.event), "reason": reason}
        changes: dict[Key, bytes | None] = {
            ("hook", receiver, waiting.number): None,
            ("hook-dead", receiver, waiting.number): json.dumps(value).encode(),
        }
        with self._lock:
            full = self._count("hook-dead", receiver, 0) >= self._most
            oldest = self._records.scan(("hook-dead", receiver), limit=1) if full else []
            changes |= {("hook-dead", receiver, *key): None for key, _ in oldest}
            self._records.write(changes)
            self._count("hook", receiver, -1)
            self._count("hook-dead", receiver, 1 - len(oldest))

    def redeliver(self, receiver: str) -> int:
        """Let what was given up wait again, with a new term; returns the number of events."""
        dead = list(walk(self._records, ("hook-dead", receiver)))
        for (number,), value in dead:
            waiting = _waiting(number, value)
            event = {**asdict(waiting.event), "at": self._clock_ns() / 1e9}
            again = json.dumps({"id": waiting.identity, "event": event}).encode()
            with self._lock:
                self._records.write(
                    {("hook-dead", receiver, number): None, ("hook", receiver, number): again}
                )
                self._count("hook-dead", receiver, -1)
                self._count("hook", receiver, 1)
        return len(dead)

    def depth(self, receiver: str) -> int:
        """How many events wait."""
        with self._lock:
            return self._count("hook", receiver, 0)

    def dead(self, receiver: str) -> list[tuple[PendingDelivery, str]]:
        """What was given up, and why."""
        found = walk(self._records, ("hook-dead", receiver))
        return [(_waiting(key[0], value), json.loads(value)["reason"]) for key, value in found]

    def _has_room(self, receiver: str) -> bool:
        """Inside the lock; tells once that there is none."""
        room = self._count("hook", receiver, 0) < self._most
        if room:
            self._full.discard(receiver)
        elif receiver not in self._full:
            self._full.add(receiver)
            _log.error("%s: %d events wait, newer ones are lost", receiver, self._most)
        return room

    def _count(self, kind: str, receiver: str, more: int) -> int:
        """The number of records, after `more` were written; inside the lock."""
        known = self._counts.get((kind, receiver))
        if known is None:
            known, more = sum(1 for _ in walk(self._records, (kind, receiver))), 0
        self._counts[kind, receiver] = known + more
        return known + more


def _waiting(number: str, value: bytes) -> PendingDelivery:
    found = json.loads(value)
    fields = found["event"] | {"tags": tuple(found["event"]["tags"])}
    return PendingDelivery(number, found["id"], NodeEvent(**fields))
