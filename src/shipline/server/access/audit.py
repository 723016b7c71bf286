"""The audit log as JSON lines: who did what, when, from where, and how it ended.

  DIR/access/audit.jsonl      the current file
  DIR/access/audit.jsonl.1    older ones, up to `files` in all

Each line is appended with one write(2), so that several processes may write. No event holds a
secret. Times are UTC. Refusals are sampled, so that clients without credentials cannot rotate the
log away.
"""

from __future__ import annotations

import json
import os
import threading
from collections import Counter, deque
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

from shipline.server.events import NodeEvent
from shipline.server.limits import client_network
from shipline.units import rfc3339
from shipline.values import replace

_TEXT = 1000  # characters per field: clients choose some
_REFUSED_TEXT = 250  # of a refusal
_WINDOW_S = 60.0
_PER_ACCOUNT = 10  # refusals per window of one account, or of all anonymous clients
_PER_NETWORK = 5  # of these from one network
_MAX_NETWORKS = 100  # networks counted separately per window
_NAMED_NETWORKS = 3  # networks in a summary
_BLOCK = 64 << 10  # bytes


class Sampler:
    """Passes the first refusals of each minute and summarizes the rest. Safe to use from any
    thread.

    Each account has its own sample; anonymous clients share one, since they can make up names.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._began = 0.0
        self._seen: dict[tuple[str, str], Counter[str]] = {}

    def sample(self, event: NodeEvent) -> list[NodeEvent]:
        """The events to write now: summaries of an ended minute, and the event unless it is
        suppressed.
        """
        with self._lock:
            summaries = [] if 0 <= event.at - self._began < _WINDOW_S else self._summaries(event.at)
            if _is_refusal(event) and not self._is_within_limit(event):
                return summaries
        return [*summaries, event]

    def _is_within_limit(self, event: NodeEvent) -> bool:
        """Whether the refusal is among those to write."""
        seen = self._seen.setdefault(_key(event), Counter())
        network = client_network(event.address)
        network = network if network in seen or len(seen) < _MAX_NETWORKS else "elsewhere"
        seen[network] += 1
        written = sum(min(number, _PER_NETWORK) for number in seen.values())
        return seen[network] <= _PER_NETWORK and written <= _PER_ACCOUNT

    def _summaries(self, now: float) -> list[NodeEvent]:
        """Start a new window; returns the summaries of the last one."""
        seen, self._seen, self._began = self._seen, {}, now
        return [summary for key, counts in seen.items() if (summary := _summary(*key, counts, now))]


def _is_refusal(event: NodeEvent) -> bool:
    return event.kind == "refused" or (event.kind == "login" and event.message != "ok")


def _key(event: NodeEvent) -> tuple[str, str]:
    """The name in a failed login proves nothing."""
    return event.kind, "anonymous" if event.kind == "login" else event.actor


def _summary(kind: str, actor: str, counts: Counter[str], now: float) -> NodeEvent | None:
    more = counts.total() - min(
        _PER_ACCOUNT, sum(min(count, _PER_NETWORK) for count in counts.values())
    )
    if more <= 0:
        return None
    most = ", ".join(
        f"{network} ({number})" for network, number in counts.most_common(_NAMED_NETWORKS)
    )
    message = f"{more} more within a minute, not logged individually; most from {most}"
    event = NodeEvent("login" if kind == "login" else "refused", actor=actor, message=message)
    return replace(event, at=now)


class Audit:
    """A Listener that writes the audit log of a data directory."""

    def __init__(
        self, data: Path, *, size: int = 16 << 20, files: int = 10, pulls: bool = False
    ) -> None:
        """`size` in bytes of one file; `pulls` is whether to log pulls."""
        self._path = _path(data)
        self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._size, self._files, self._pulls = size, files, pulls
        self._lock = threading.Lock()
        self._sampler = Sampler()

    def on_event(self, event: NodeEvent) -> None:
        if event.kind == "pull" and not self._pulls:
            return
        for sampled in self._sampler.sample(event):
            self._write(sampled)

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
        """Rename each file to the next number; the oldest is overwritten."""
        paths = [self._path, *(_numbered(self._path, n) for n in range(1, self._files))]
        if len(paths) == 1:
            self._path.unlink()
        for older, newer in zip(reversed(paths[1:]), reversed(paths[:-1]), strict=True):
            with suppress(FileNotFoundError):
                newer.replace(older)


def read_audit(data: Path, *, last: int = 0) -> Iterator[dict[str, Any]]:
    """The events in the log, oldest first; only the `last` ones unless 0."""
    lines: Iterator[str] = _lines(_path(data))
    if last:
        lines = iter(deque(lines, last))
    for line in lines:
        with suppress(ValueError):  # a line truncated by a crash
            yield json.loads(line)


def recent_audit(data: Path) -> Iterator[dict[str, Any]]:
    """The events in the log, newest first; reads only as far back as it is asked."""
    path = _path(data)
    for file in (path, *(_numbered(path, number) for number in _numbers(path))):
        with suppress(FileNotFoundError):
            for line in _lines_backwards(file):
                with suppress(ValueError):  # a line truncated by a crash
                    yield json.loads(line)


def _lines_backwards(path: Path) -> Iterator[bytes]:
    with path.open("rb") as file:
        position, rest = file.seek(0, os.SEEK_END), b""
        while position:
            start = max(0, position - _BLOCK)
            file.seek(start)
            first, *lines = (file.read(position - start) + rest).split(b"\n")
            yield from reversed(lines)
            position, rest = start, first
        yield rest


def _lines(path: Path) -> Iterator[str]:
    for network in (*(_numbered(path, n) for n in reversed(_numbers(path))), path):
        with suppress(FileNotFoundError), network.open(errors="replace") as file:
            yield from file


def _numbers(path: Path) -> list[int]:
    """Of the older files, the newest first."""
    return sorted(int(file.suffix[1:]) for file in path.parent.glob(path.name + ".*"))


def _path(data: Path) -> Path:
    return data / "access" / "audit.jsonl"


def _numbered(path: Path, number: int) -> Path:
    return path.with_name(f"{path.name}.{number}")


def _line(event: NodeEvent) -> dict[str, Any]:
    facts = {key: value for key, value in asdict(event).items() if value and key != "at"}
    longest = _REFUSED_TEXT if _is_refusal(event) else _TEXT
    short = {key: fact[:longest] if isinstance(fact, str) else fact for key, fact in facts.items()}
    return {"at": rfc3339(event.at, "milliseconds"), **short}
