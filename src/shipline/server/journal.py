"""The journal of a data directory: its changes of tags in order, for those who replicate it.

  journaling             the directory keeps a journal: its id, and the number of the newest entry
                         that was deleted
  journal     <number>   an entry: op, repository, tag, digest, mediaType, size, subject, at, run,
                         and traceparent if what made it was traced

An entry is written in the transaction of its change, whatever made the change: push, deletion,
retention, garbage collection, repair. Numbers grow, with gaps where a transaction failed. An entry
is shown once all with smaller numbers are written or failed, so a reader that goes on from the
newest it saw misses none.

A cursor is a number and a token of the process that wrote that entry (of the journal, for 0): the
journal of a directory that was restored from a backup or recreated does not have the entries that
its readers saw, and must not look as if it had.
"""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Literal, Self

from msgspec import Struct

from shipline.metadata import Key, Records, walk
from shipline.propagation import traceparent
from shipline.server.entries import Changes, pack
from shipline.server.http import GrowingNumber

_ENABLED: Key = ("journaling",)
_DIGITS = 20
_BATCH = 1000  # entries
Op = Literal["tag", "untag", "refer", "delete"]


class JournalEntry(Struct, frozen=True):
    """A change of a repository; `at` in Unix time of the node that made it.

    `tag`: a tag points to `digest` now. `untag`: it pointed there, and is gone. `refer`: the
    manifest `digest` was pushed, which refers to `subject`. `delete`: the manifest is gone.
    """

    seq: int
    op: Op
    repository: str
    digest: str
    tag: str = ""
    media_type: str = ""
    size: int = 0
    subject: str = ""
    at: float = 0.0
    trace: str = ""

    def to_json(self) -> dict[str, Any]:
        """The form in records and responses."""
        return {
            "seq": self.seq,
            "op": self.op,
            "repository": self.repository,
            "tag": self.tag,
            "digest": self.digest,
            "mediaType": self.media_type,
            "size": self.size,
            "subject": self.subject,
            "time": self.at,
            **({"traceparent": self.trace} if self.trace else {}),
        }

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Self:
        """Raises KeyError, TypeError or ValueError for anything else."""
        if value["op"] not in ("tag", "untag", "refer", "delete"):
            raise ValueError(f"unknown operation {value['op']!r}")
        return cls(
            int(value["seq"]),
            value["op"],
            str(value["repository"]),
            str(value["digest"]),
            str(value.get("tag", "")),
            str(value.get("mediaType", "")),
            int(value.get("size", 0)),
            str(value.get("subject", "")),
            float(value["time"]),
            str(value.get("traceparent", "")),
        )


class JournalPage(Struct, frozen=True):
    """Entries in order, the cursor after them, and whether that is the end for now."""

    entries: tuple[JournalEntry, ...]
    cursor: str
    last: int


class Journal:
    """Safe to use from any thread."""

    def __init__(self, records: Records, clock: Callable[[], float]) -> None:
        self._records = records
        self._clock = clock
        self._lock = threading.Lock()
        self._run = os.urandom(4).hex()
        self._writing: set[int] = set()
        self.progress = GrowingNumber()  # the number up to which entries are shown
        # the answer that all who waited get
        self._latest: tuple[tuple[str, int, int], JournalPage | None] = ("", 0, 0), None
        state = self._state()
        self._enabled = state is not None
        self._last = max(self._newest(), 0 if state is None else state["cut"])
        self.progress.advance(self._last)

    @property
    def enabled(self) -> bool:
        return self._enabled

    def enable(self) -> None:
        """Keep a journal from now on, also in programs that open the directory later."""
        if not self._enabled:
            self._delete()
            self._latest = ("", 0, 0), None
            self._records.write({_ENABLED: pack(id=os.urandom(4).hex(), cut=0)})
            self._enabled, self._last = True, 0

    def disable(self) -> None:
        """Delete the journal: without all changes it would be wrong."""
        if self._enabled:
            self._enabled = False
            self._records.write({_ENABLED: None})
            self._delete()

    @contextmanager
    def writing(self, changes: Mapping[Key, bytes | None]) -> Iterator[Changes]:
        """The records of the entries for `changes`, to be written with them inside the block."""
        entries = list(self._entries(changes)) if self._enabled else []
        if not entries:
            yield {}
            return
        with self._lock:
            numbers = range(self._last + 1, self._last + 1 + len(entries))
            self._last = numbers[-1]
            self._writing.update(numbers)
        try:
            yield {
                _key(number): pack(**entry, seq=number, run=self._run)
                for number, entry in zip(numbers, entries, strict=True)
            }
        finally:
            with self._lock:
                self._writing.difference_update(numbers)
                shown = min(self._writing) - 1 if self._writing else self._last
                if shown > self.progress.value:
                    self.progress.advance(shown)

    def last(self) -> int:
        """The number up to which entries are shown."""
        return self.progress.value

    def head(self) -> str:
        """The cursor after the newest entry."""
        last, window = self.last(), _BATCH
        while True:
            start = max(last - window, 0)
            page = self._records.scan(("journal",), after=(_digits(start),), limit=window)
            shown = [value for (key,), value in page if int(key) <= last]
            if shown:
                return _cursor(json.loads(shown[-1]))
            if not start:
                return self._origin()
            window *= 2

    def after(self, cursor: str, limit: int = _BATCH) -> JournalPage | None:
        """The entries after `cursor`; None if the journal does not reach back to it, or is another
        one.
        """
        last = self.last()
        question, found = self._latest
        if question == (cursor, limit, last):
            return found
        number = self._position(cursor)
        if number is None:
            return None
        page = self._records.scan(("journal",), after=(_digits(number),), limit=limit)
        values = [json.loads(value) for (key,), value in page if int(key) <= last]
        entries = tuple(map(JournalEntry.from_json, values))
        answer = JournalPage(entries, _cursor(values[-1]) if values else cursor, last)
        self._latest = (cursor, limit, last), answer
        return answer

    def time_after(self, number: int) -> float:
        """When the first entry after `number` was made, in Unix time; 0 without one."""
        page = self._records.scan(("journal",), after=(_digits(number),), limit=1)
        return float(json.loads(page[0][1])["time"]) if page else 0.0

    def trim(self, entries: int, age_s: float) -> int:
        """Delete the oldest, beyond `entries` or older than `age_s`, but never the newest: readers
        go on from it. Returns how many.
        """
        deleted, oldest = 0, self._clock() - age_s
        while self._enabled and (page := self._records.scan(("journal",), limit=_BATCH)):
            last = self.last()
            gone = [
                int(key)
                for (key,), value in page
                if int(key) < last
                and (int(key) <= last - entries or json.loads(value)["time"] < oldest)
            ]
            if gone:
                state = pack(**{**(self._state() or {}), "cut": gone[-1]})
                changes: Changes = {_key(number): None for number in gone}
                self._records.write({**changes, _ENABLED: state})
                deleted += len(gone)
            if len(gone) < len(page) or not gone:
                break
        return deleted

    def _delete(self) -> None:
        while page := self._records.scan(("journal",), limit=_BATCH):
            self._records.write({("journal", *key): None for key, _ in page}, durable=False)

    def _entries(self, changes: Mapping[Key, bytes | None]) -> Iterator[dict[str, Any]]:
        for key, value in changes.items():
            match key, value:
                case ("tag", name, tag), bytes():
                    digest = json.loads(value)["digest"]
                    yield self._entry("tag", name, digest, changes, tag=tag)
                case ("tagged", name, digest, tag), None if (
                    changes.get(("tag", name, tag), b"") is None
                ):
                    yield self._entry("untag", name, digest, changes, tag=tag)
                case ("manifest", name, digest), bytes() if "subject" in (
                    record := json.loads(value)
                ):
                    subject = record["subject"]
                    yield self._entry("refer", name, digest, changes, subject=subject)
                case ("manifest", name, digest), None:
                    yield self._entry("delete", name, digest, changes)

    def _entry(
        self, op: Op, name: str, digest: str, changes: Mapping[Key, bytes | None], **more: str
    ) -> dict[str, Any]:
        key = ("manifest", name, digest)
        record = json.loads(changes.get(key) or self._records.get(key) or b"{}")
        return {
            "op": op,
            "repository": name,
            "digest": digest,
            "mediaType": record.get("mediaType", ""),
            "size": record.get("size", 0),
            "time": self._clock(),
            **({"traceparent": span} if (span := traceparent()) else {}),
            **more,
        }

    def _position(self, cursor: str) -> int | None:
        """The number of a cursor, None if it is not of this journal or was cut off."""
        digits, _, _ = cursor.partition("-")
        if not digits.isascii() or not digits.isdecimal() or len(digits) > _DIGITS:
            return None
        number = int(digits)
        if not number:
            state = self._state()
            return 0 if state and not state["cut"] and cursor == self._origin() else None
        value = self._records.get(_key(number)) if number <= self.last() else None
        return number if value is not None and _cursor(json.loads(value)) == cursor else None

    def _origin(self) -> str:
        state = self._state()
        return f"0-{state['id']}" if state else ""

    def _state(self) -> dict[str, Any] | None:
        value = self._records.get(_ENABLED)
        return None if value is None else json.loads(value)

    def _newest(self) -> int:
        """The number of the newest entry, by bisection: records are read forwards only."""
        low, high = 0, 1
        while self._records.scan(("journal",), after=(_digits(high),), limit=1):
            low, high = high, high * 2
        while low < high:
            middle = (low + high) // 2
            if self._records.scan(("journal",), after=(_digits(middle),), limit=1):
                low = middle + 1
            else:
                high = middle
        return low


def snapshot(records: Records, after: Key = ()) -> Iterator[tuple[Key, JournalEntry]]:
    """What all repositories hold now, as entries without a number: each tag and each referrer, with
    the key to go on after. Not atomic: read the journal from a cursor that was taken before.
    """
    first = after[:1]
    if first and records.get(("repository", *first)) is not None:
        yield from _held(records, first[0], after[1:])
    for (name,), _ in walk(records, ("repository",), first):
        yield from _held(records, name, ())


def _held(records: Records, name: str, after: Key) -> Iterator[tuple[Key, JournalEntry]]:
    if after[:1] != ("referrer",):
        for (tag,), value in walk(records, ("tag", name), after[1:]):
            record = json.loads(value)
            stored = json.loads(records.get(("manifest", name, record["digest"])) or b"{}")
            kind, size = stored.get("mediaType", ""), stored.get("size", 0)
            entry = JournalEntry(0, "tag", name, record["digest"], tag, kind, size, at=record["at"])
            yield (name, "tag", tag), entry
        after = ()
    for key, value in walk(records, ("referrer", name), after[1:]):
        found, (subject, digest) = json.loads(value), key
        kind, size = found["mediaType"], found["size"]
        yield (
            (name, "referrer", *key),
            JournalEntry(0, "refer", name, digest, "", kind, size, subject),
        )


def _key(number: int) -> Key:
    return "journal", _digits(number)


def _digits(number: int) -> str:
    return f"{number:0{_DIGITS}}"


def _cursor(value: Mapping[str, Any]) -> str:
    return f"{value['seq']}-{value['run']}"
