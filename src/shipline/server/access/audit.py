"""The audit log: who did what, when, from where and how it ended, as lines of JSON.

    DIR/access/audit.jsonl      the newest lines
    DIR/access/audit.jsonl.1    the ones before, up to `files` files in all

A line is appended with one write(2), so that several processes may write; it never holds a secret,
because no event does. Lines are dated in UTC. Refusals are sampled: who is refused without end,
which any stranger can be, shall not push what was done out of the log.
"""

from __future__ import annotations

import json
import os
import threading
from collections import Counter, deque
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import asdict, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from shipline.server.journal import NodeEvent
from shipline.server.limits import neighbourhood

_TEXT = 1000  # characters of one member, which a client may have chosen
_REFUSED_TEXT = 250  # of a refusal
_WINDOW_S = 60.0
_WRITTEN = 10  # refusals of one account, or of all strangers together, within a window
_FROM_ONE = 5  # of them from one address
_PLACES = 100  # addresses that are told apart within a window
_NAMED = 3  # addresses in a summary


class Sampler:
    """Lets the first refusals of a minute pass and sums up the others. Safe to use from any thread.

    Strangers share one sample, since they have any number of names; each account has its own.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._began = 0.0
        self._seen: dict[tuple[str, str], Counter[str]] = {}

    def take(self, event: NodeEvent) -> list[NodeEvent]:
        """What is to be written now: the summaries of a minute that ended, and the event, unless
        it is one refusal of too many.
        """
        with self._lock:
            passed = [] if 0 <= event.at - self._began < _WINDOW_S else self._ended(event.at)
            if _is_refusal(event) and not self._counted(event):
                return passed
        return [*passed, event]

    def _counted(self, event: NodeEvent) -> bool:
        """Whether the refusal is one of the first."""
        seen = self._seen.setdefault(_key(event), Counter())
        place = neighbourhood(event.address)
        place = place if place in seen or len(seen) < _PLACES else "elsewhere"
        seen[place] += 1
        written = sum(min(number, _FROM_ONE) for number in seen.values())
        return seen[place] <= _FROM_ONE and written <= _WRITTEN

    def _ended(self, now: float) -> list[NodeEvent]:
        """Summaries; a new window begins."""
        seen, self._seen, self._began = self._seen, {}, now
        return [found for key, places in seen.items() if (found := _summary(*key, places, now))]


def _is_refusal(event: NodeEvent) -> bool:
    return event.kind == "refused" or (event.kind == "login" and event.message != "ok")


def _key(event: NodeEvent) -> tuple[str, str]:
    """The name in a login that failed is anybody's."""
    return event.kind, "anonymous" if event.kind == "login" else event.actor


def _summary(kind: str, actor: str, places: Counter[str], now: float) -> NodeEvent | None:
    more = places.total() - min(_WRITTEN, sum(min(one, _FROM_ONE) for one in places.values()))
    if more <= 0:
        return None
    most = ", ".join(f"{place} ({number})" for place, number in places.most_common(_NAMED))
    message = f"{more} more within a minute, not written one by one; most from {most}"
    event = NodeEvent("login" if kind == "login" else "refused", actor=actor, message=message)
    return replace(event, at=now)


class Audit:
    """A Listener that writes the log of a data directory."""

    def __init__(
        self, data: Path, *, size: int = 16 << 20, files: int = 10, pulls: bool = False
    ) -> None:
        """`size` in bytes, after which a new file begins; `pulls` are many."""
        self._path = _path(data)
        self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._size, self._files, self._pulls = size, files, pulls
        self._lock = threading.Lock()
        self._sampler = Sampler()

    def note(self, event: NodeEvent) -> None:
        if event.kind == "pull" and not self._pulls:
            return
        for one in self._sampler.take(event):
            self._write(one)

    def _write(self, event: NodeEvent) -> None:
        line = json.dumps(_line(event), ensure_ascii=True, separators=(",", ":")) + "\n"
        with self._lock:
            fd = os.open(self._path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
            try:
                os.write(fd, line.encode())
                full = os.fstat(fd).st_size > self._size
            finally:
                os.close(fd)
            if full:
                self._rotate()

    def _rotate(self) -> None:
        """The oldest file is replaced by the one before it, and so on."""
        places = [self._path, *(_numbered(self._path, n) for n in range(1, self._files))]
        if len(places) == 1:
            self._path.unlink()
        for older, newer in zip(reversed(places[1:]), reversed(places[:-1]), strict=True):
            with suppress(FileNotFoundError):
                newer.replace(older)


def read_audit(data: Path, *, last: int = 0) -> Iterator[dict[str, Any]]:
    """The lines of the log, oldest first; only the `last` ones where that is not 0."""
    lines: Iterator[str] = _lines(_path(data))
    if last:
        lines = iter(deque(lines, last))
    for line in lines:
        with suppress(ValueError):  # a line that a crash cut
            yield json.loads(line)


def _lines(path: Path) -> Iterator[str]:
    numbers = sorted(int(file.suffix[1:]) for file in path.parent.glob(path.name + ".*"))
    for place in (*(_numbered(path, n) for n in reversed(numbers)), path):
        with suppress(FileNotFoundError), place.open(errors="replace") as file:
            yield from file


def _path(data: Path) -> Path:
    return data / "access" / "audit.jsonl"


def _numbered(path: Path, number: int) -> Path:
    return path.with_name(f"{path.name}.{number}")


def _line(event: NodeEvent) -> dict[str, Any]:
    at = datetime.fromtimestamp(event.at, UTC).isoformat(timespec="milliseconds")
    facts = {key: value for key, value in asdict(event).items() if value and key != "at"}
    longest = _REFUSED_TEXT if _is_refusal(event) else _TEXT
    short = {key: one[:longest] if isinstance(one, str) else one for key, one in facts.items()}
    return {"at": at.replace("+00:00", "Z"), **short}
