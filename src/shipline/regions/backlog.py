"""The entries that a replication has read and not applied yet: durable, one per tag.

replica-todo  <replication> <repository> <kind> <tag or digest>   the newest entry for it
replica       <replication>                                       cursor, and what it was for
"""

from __future__ import annotations

import heapq
import json
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable
from copy import copy
from dataclasses import dataclass
from itertools import count
from typing import Any

from shipline.metadata import Key, Records, walk
from shipline.server.entries import subject_of_tag
from shipline.server.journal import JournalEntry
from shipline.tasks import check, on_cancel

_TAGS = "tag"


@dataclass(slots=True)
class _Item:
    entry: JournalEntry
    since: float  # when the first of the entries that this one stands for was made
    ready_at: float = 0.0
    attempts: int = 0
    taken: int = 0  # when, of all that were taken, if it is being applied
    beside: frozenset[int] | None = None  # copies of images that may undo it


class Backlog:
    """A newer entry for a tag replaces an older one, so that it takes as many as there are tags.
    Entries are in the records before the cursor is after them: what was read is applied once, also
    if the process is killed. Safe to use from any thread.
    """

    def __init__(
        self, records: Records, name: str, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._records = records
        self._name = name
        self._clock = clock
        self._changed = threading.Condition()
        self._items: dict[Key, _Item] = {}
        self._heap: list[tuple[float, int, Key]] = []
        self._order = count(1)
        self._tags: Counter[str] = Counter()  # waiting entries of tags, by repository
        self._copies: dict[str, set[int]] = {}  # those being applied
        with self._changed:
            for key, value in sorted(walk(records, ("replica-todo", name)), key=_number):
                self._put(key, JournalEntry.from_json(json.loads(value)))

    def __len__(self) -> int:
        return len(self._items)

    @property
    def oldest(self) -> float:
        """When the oldest entry was made, in Unix time of the node that made it; 0 without one."""
        with self._changed:
            return next(iter(self._items.values())).since if self._items else 0.0

    def cursor(self, purpose: str) -> str:
        """The cursor after the entries that were added, empty if it was for another purpose."""
        value = json.loads(self._records.get(("replica", self._name)) or b"{}")
        return str(value["cursor"]) if value.get("purpose") == purpose else ""

    def add(self, entries: Iterable[JournalEntry], cursor: str, purpose: str) -> None:
        """Add entries in order, and set the cursor after them: durable, both or neither."""
        newest = {_key(entry): entry for entry in entries}
        state = json.dumps({"cursor": cursor, "purpose": purpose}).encode()
        with self._changed:
            records = self._records_of(newest.values())
            self._records.write({("replica", self._name): state, **records})
            for key, entry in newest.items():
                self._put(key, entry)
            self._changed.notify_all()

    def take(self, timeout_s: float) -> JournalEntry | None:
        """An entry that is due, which nobody else gets until it is `done` or put `back`; None if
        none is within the time.
        """
        deadline = self._clock() + timeout_s
        with on_cancel(self._wake), self._changed:
            while True:
                check()
                now = self._clock()
                if (entry := self._due(now)) is not None:
                    return entry
                if now >= deadline:
                    return None
                wake = min(deadline, self._heap[0][0]) if self._heap else deadline
                self._changed.wait(max(wake - now, 0.001))

    def done(self, entry: JournalEntry) -> None:
        """The entry was applied, or need not be."""
        key = _key(entry)
        with self._changed:
            item = self._items[key]
            if item.entry is not entry:
                self._release(key, item, 0.0)
                return
            self._records.write({("replica-todo", self._name, *key): None}, durable=False)
            self._end(key, item)
            del self._items[key]
            self._tags[entry.repository] -= key[1] == _TAGS

    def back(self, entry: JournalEntry, delay_s: Callable[[int], float]) -> None:
        """Try the entry again after `delay_s` of the number of attempts."""
        key = _key(entry)
        with self._changed:
            item = self._items[key]
            item.attempts += 1
            self._release(key, item, delay_s(item.attempts) if item.entry is entry else 0.0)

    def again(self, entries: Iterable[JournalEntry]) -> None:
        """Apply tags once more, by the entries that wait or are being applied, else by these."""
        with self._changed:
            found = {key: entry for entry in entries if not self._waits(key := _key(entry))}
            now = {
                key: copy(self._items[key].entry) if key in self._items else entry
                for key, entry in found.items()
            }
            self._records.write(self._records_of(now.values()))
            for key, entry in now.items():
                self._put(key, entry)

    def may_be_undone(self, entry: JournalEntry) -> bool:
        """Whether a copy of an image in the repository goes on that began before this entry, of
        something else and being applied, was applied first: it may write what it read before.
        """
        key = _key(entry)
        if key[1] == _TAGS:
            return False
        with self._changed:
            item = self._items[key]
            running = frozenset(self._copies.get(entry.repository, ()))
            item.beside = running if item.beside is None else item.beside & running
            return bool(item.beside)

    def has_tags(self, repository: str) -> bool:
        """Whether entries for tags of images in the repository wait, or are being applied."""
        with self._changed:
            return self._tags[repository] > 0

    def tags(self) -> dict[str, set[str]]:
        """The tags by repository that wait, or are being applied."""
        tags: dict[str, set[str]] = {}
        with self._changed:
            for item in self._items.values():
                if item.entry.tag:
                    tags.setdefault(item.entry.repository, set()).add(item.entry.tag)
        return tags

    def _waits(self, key: Key) -> bool:
        item = self._items.get(key)
        return item is not None and not item.taken

    def _records_of(self, entries: Iterable[JournalEntry]) -> dict[Key, bytes | None]:
        return {
            ("replica-todo", self._name, *_key(entry)): json.dumps(entry.to_json()).encode()
            for entry in entries
        }

    def _due(self, now: float) -> JournalEntry | None:
        while self._heap and self._heap[0][0] <= now:
            ready_at, _, key = heapq.heappop(self._heap)
            item = self._items.get(key)
            if item is not None and not item.taken and item.ready_at == ready_at:
                item.taken = next(self._order)
                if key[1] == _TAGS:
                    self._copies.setdefault(key[0], set()).add(item.taken)
                return item.entry
        return None

    def _put(self, key: Key, entry: JournalEntry) -> None:
        item = self._items.get(key)
        if item is None:
            item = self._items[key] = _Item(entry, entry.at)
            self._tags[entry.repository] += key[1] == _TAGS
        item.entry, item.attempts, item.beside = entry, 0, None
        if not item.taken:
            self._release(key, item, 0.0)

    def _release(self, key: Key, item: _Item, delay_s: float) -> None:
        self._end(key, item)
        item.ready_at = self._clock() + delay_s
        heapq.heappush(self._heap, (item.ready_at, next(self._order), key))
        self._changed.notify()

    def _end(self, key: Key, item: _Item) -> None:
        """It is not being applied any more."""
        if item.taken and key[1] == _TAGS:
            copies = self._copies[key[0]]
            copies.remove(item.taken)
            if not copies:
                del self._copies[key[0]]
        item.taken = 0

    def _wake(self) -> None:
        with self._changed:
            self._changed.notify_all()


def _key(entry: JournalEntry) -> Key:
    if entry.tag:
        kind = _TAGS if subject_of_tag(entry.tag) is None else "statement"
        return entry.repository, kind, entry.tag
    return entry.repository, "manifest", entry.digest


def _number(record: tuple[Key, bytes]) -> Any:
    return json.loads(record[1])["seq"]
