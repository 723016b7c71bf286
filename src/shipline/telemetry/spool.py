"""Events of runs on disk until their telemetry is delivered, in the state directory.

  telemetry/<started>-<random>/run       what the telemetry says of the run (TracedRun), in msgpack
                             /events     its events, each with its length before it in 4 bytes
                             /<target>   of traces, logs, metrics, loki: how many records arrived;
                                         removed when all are

Records follow from the events in the same order with the same identifiers, so that whoever goes on
sends no record twice. `events` is locked while its run lasts, a target while it is delivered. The
oldest runs go when all are larger than 256 MB or older than a week.
"""

from __future__ import annotations

import fcntl
import os
import re
import shutil
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO, Self

import msgspec

from shipline.events import Event, Logged, Progress
from shipline.history import framed, read_events
from shipline.tasks import is_locked
from shipline.telemetry.conventions import TracedRun

TARGETS = ("traces", "logs", "metrics", "loki")
_RUN_LIMIT, _LIMIT = 64 << 20, 256 << 20  # bytes of one run, without output after that; of all
_AGE_S = 7 * 86400.0
_FLUSH_S = 0.2
_READ = 1 << 20  # bytes
_NAME = re.compile("[0-9]{13}-[0-9a-f]{8}")


class SpooledRun:
    """A run in the spool. Its methods raise OSError."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory

    @property
    def run(self) -> TracedRun:
        """Raises ValueError for what another version has written."""
        return msgspec.msgpack.decode((self.directory / "run").read_bytes(), type=TracedRun)

    @property
    def started(self) -> float:
        return int(self.directory.name.partition("-")[0]) / 1000

    @property
    def size(self) -> int:
        return (self.directory / "events").stat().st_size

    @property
    def is_live(self) -> bool:
        """Whether the process of the run has not ended."""
        return is_locked(self.directory / "events")

    def targets(self) -> tuple[str, ...]:
        """Those to which something is not delivered."""
        return tuple(name for name in TARGETS if (self.directory / name).exists())

    def delivered(self, target: str) -> int:
        """The number of records that a target has, 0 once it has all."""
        try:
            return int((self.directory / target).read_bytes() or 0)
        except FileNotFoundError:
            return 0

    def events(
        self, position: int = 0, *, output: bool = True
    ) -> Iterator[tuple[list[Event], int]]:
        """The whole events from `position` on, as far as they are written, with the next one;
        without the output of steps if that is not wanted.
        """
        with (self.directory / "events").open("rb") as file:
            file.seek(position)
            rest = b""
            while data := file.read(_READ):
                found, used = read_events(rest + data, output=output)
                position += used
                rest = (rest + data)[used:]
                yield found, position

    @contextmanager
    def hold(self, target: str) -> Iterator[DeliveredCount | None]:
        """The progress of a target, while no other process has it; None if one has, or if there is
        nothing left to do.
        """
        try:
            file = (self.directory / target).open("r+b")
        except FileNotFoundError:
            yield None
            return
        with file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                yield None
                return
            is_left = (self.directory / target).exists()  # else who held it has just finished it
            yield DeliveredCount(file) if is_left else None

    def finish(self, target: str) -> None:
        """Everything is delivered to `target`, which the caller holds; the last one removes the
        run.
        """
        (self.directory / target).unlink(missing_ok=True)
        if not self.targets():
            shutil.rmtree(self.directory, ignore_errors=True)


class DeliveredCount:
    """How many records of a run were delivered to a target, on disk."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self.records = int(file.read(20) or 0)

    def add(self, records: int) -> None:
        self.records += records
        self._file.seek(0)
        self._file.write(b"%d" % self.records)
        self._file.flush()


class SpoolWriter:
    """The sink that writes a run to the spool."""

    def __init__(self, spooled: SpooledRun) -> None:
        self.spooled = spooled
        self._encoder = msgspec.msgpack.Encoder()
        self._file = (spooled.directory / "events").open("wb", buffering=1 << 16)
        fcntl.flock(self._file, fcntl.LOCK_EX)
        self._written, self._flushed = 0, 0.0

    @classmethod
    def create(cls, directory: Path, run: TracedRun, targets: Iterable[str]) -> Self:
        """Begin a run. Raises OSError."""
        name = f"{int(time.time() * 1000)}-{os.urandom(4).hex()}"
        made = directory / name
        made.mkdir(mode=0o700, parents=True)
        (made / "run").write_bytes(msgspec.msgpack.encode(run))
        for target in targets:
            (made / target).write_bytes(b"0")
        return cls(SpooledRun(made))

    def __call__(self, event: Event) -> None:
        if isinstance(event, Progress) or (
            isinstance(event, Logged) and self._written > _RUN_LIMIT
        ):
            return
        data = framed(self._encoder.encode(event))
        self._file.write(data)
        self._written += len(data)
        if event.at - self._flushed > _FLUSH_S:
            self._file.flush()
            self._flushed = event.at

    def flush(self) -> None:
        self._file.flush()

    def close(self) -> None:
        self._file.close()


def spooled_runs(directory: Path) -> list[SpooledRun]:
    """All runs in the spool, the oldest first."""
    with suppress(FileNotFoundError):
        names = sorted(os.listdir(directory))
        return [SpooledRun(directory / name) for name in names if _NAME.fullmatch(name)]
    return []


def prune(directory: Path) -> None:
    """Remove the oldest runs beyond the limits, and what is damaged. Other processes may do so at
    the same time.
    """
    total, now = 0, time.time()
    for spooled in reversed(spooled_runs(directory)):
        try:
            total += spooled.size
            old = now - spooled.started > _AGE_S
            if not (old or total > _LIMIT) or spooled.is_live:
                continue
        except (OSError, ValueError):
            with suppress(FileNotFoundError):
                if now - spooled.directory.stat().st_mtime < 60:
                    continue  # another process is making it
        shutil.rmtree(spooled.directory, ignore_errors=True)
