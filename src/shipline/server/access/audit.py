"""The audit log: who did what, when, from where and how it ended, as lines of JSON.

    DIR/access/audit.jsonl      the newest lines
    DIR/access/audit.jsonl.1    the ones before, up to `files` files in all

A line is appended with one write(2), so that several processes may write; it never holds a secret,
because no event does. Lines are dated in UTC.
"""

from __future__ import annotations

import json
import os
import threading
from collections import deque
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from shipline.server.journal import Event

_TEXT = 1000  # characters of one member, which a client may have chosen


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

    def note(self, event: Event) -> None:
        if event.kind == "pull" and not self._pulls:
            return
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


def _line(event: Event) -> dict[str, Any]:
    at = datetime.fromtimestamp(event.at, UTC).isoformat(timespec="milliseconds")
    facts = {key: value for key, value in asdict(event).items() if value and key != "at"}
    return {"at": at.replace("+00:00", "Z"), **{key: _short(facts[key]) for key in facts}}


def _short(value: object) -> object:
    return value[:_TEXT] if isinstance(value, str) else value
