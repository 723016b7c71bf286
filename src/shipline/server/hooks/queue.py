"""A durable queue of events per receiver, kept as records.

hook       <receiver> <number>   an event and its delivery id, in the order of numbers
hook-dead  <receiver> <number>   the same, given up, with the reason
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
from shipline.server.events import NodeEvent

_log = logging.getLogger(__name__)
_DIGITS = 20  # digits, enough for nanoseconds of Unix time
_MAX_EVENTS = 100_000  # of each kind per receiver: about 50 MB


@dataclass(frozen=True, slots=True)
class PendingDelivery:
    """An event to be delivered to one receiver."""

    number: str
    delivery_id: str
    event: NodeEvent


class Queue:
    """Safe to use from any thread. `put` is durable."""

    def __init__(
        self,
        records: Records,
        *,
        clock_ns: Callable[[], int] = time.time_ns,
        max_events: int = _MAX_EVENTS,
    ) -> None:
        """At most `max_events` waiting and as many given-up events are kept per receiver, since
        every client that may pull causes events and an unreachable receiver must not fill the disk.
        """
        self._records = records
        self._max_events = max_events
        self._full: set[str] = set()
        self._counts: dict[tuple[str, str], int] = {}
        self._clock_ns = clock_ns
        self._lock = threading.Lock()
        self._last = 0

    def put(self, receivers: list[str], event: NodeEvent) -> None:
        """Queue an event for each receiver whose queue is not full. Raises OSError."""
        value = json.dumps({"id": str(uuid.uuid4()), "event": asdict(event)}).encode()
        with self._lock:  # allocate and write numbers in order
            self._last = max(self._last + 1, self._clock_ns())
            number = f"{self._last:0{_DIGITS}}"
            accepting = [name for name in receivers if self._has_room(name)]
            if accepting:
                self._records.write({("hook", name, number): value for name in accepting})
            for name in accepting:
                self._count("hook", name, 1)

    def first(self, receiver: str) -> PendingDelivery | None:
        """The next event for a receiver."""
        page = self._records.scan(("hook", receiver), limit=1)
        if not page:
            return None
        ((number,), value), *_ = page
        return _decode(number, value)

    def done(self, receiver: str, delivery: PendingDelivery) -> None:
        """Remove a delivered event."""
        with self._lock:
            self._records.write({("hook", receiver, delivery.number): None})
            self._count("hook", receiver, -1)

    def give_up(self, receiver: str, delivery: PendingDelivery, reason: str) -> None:
        """Move the event to the dead-letter queue, evicting the oldest if that is full."""
        value = {"id": delivery.delivery_id, "event": asdict(delivery.event), "reason": reason}
        changes: dict[Key, bytes | None] = {
            ("hook", receiver, delivery.number): None,
            ("hook-dead", receiver, delivery.number): json.dumps(value).encode(),
        }
        with self._lock:
            full = self._count("hook-dead", receiver, 0) >= self._max_events
            oldest = self._records.scan(("hook-dead", receiver), limit=1) if full else []
            changes |= {("hook-dead", receiver, *key): None for key, _ in oldest}
            self._records.write(changes)
            self._count("hook", receiver, -1)
            self._count("hook-dead", receiver, 1 - len(oldest))

    def redeliver(self, receiver: str) -> int:
        """Queue given-up events again, with a new deadline; returns their number."""
        dead = list(walk(self._records, ("hook-dead", receiver)))
        for (number,), value in dead:
            delivery = _decode(number, value)
            event = {**asdict(delivery.event), "at": self._clock_ns() / 1e9}
            again = json.dumps({"id": delivery.delivery_id, "event": event}).encode()
            with self._lock:
                self._records.write(
                    {("hook-dead", receiver, number): None, ("hook", receiver, number): again}
                )
                self._count("hook-dead", receiver, -1)
                self._count("hook", receiver, 1)
        return len(dead)

    def depth(self, receiver: str) -> int:
        """The number of waiting events."""
        with self._lock:
            return self._count("hook", receiver, 0)

    def dead(self, receiver: str) -> list[tuple[PendingDelivery, str]]:
        """Given-up events with the reasons."""
        records = walk(self._records, ("hook-dead", receiver))
        return [(_decode(key[0], value), json.loads(value)["reason"]) for key, value in records]

    def _has_room(self, receiver: str) -> bool:
        """Call with the lock held; logs once when the queue is full."""
        room = self._count("hook", receiver, 0) < self._max_events
        if room:
            self._full.discard(receiver)
        elif receiver not in self._full:
            self._full.add(receiver)
            _log.error(
                "%s: queue full with %d events, dropping newer ones", receiver, self._max_events
            )
        return room

    def _count(self, kind: str, receiver: str, more: int) -> int:
        """The number of records after `more` were written; call with the lock held."""
        known = self._counts.get((kind, receiver))
        if known is None:
            known, more = sum(1 for _ in walk(self._records, (kind, receiver))), 0
        self._counts[kind, receiver] = known + more
        return known + more


def _decode(number: str, value: bytes) -> PendingDelivery:
    document = json.loads(value)
    fields = document["event"] | {"tags": tuple(document["event"]["tags"])}
    return PendingDelivery(number, document["id"], NodeEvent(**fields))
