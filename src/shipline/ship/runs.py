"""Records of runs on disk, in `runs/` of the state directory.

    runs/<id>/run.json    what happened, replaced as a whole at each step
    runs/<id>/logs/       what each step wrote
    runs/<id>/reports/    what scanners reported
    runs/<id>/lock        locked while the run lives: a record that says `running` without a lock
                          is that of a run whose process died

Identifiers begin with the time in UTC, so that their order is that of the runs.
"""

from __future__ import annotations

import fcntl
import json
import os
import re
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import TextIO

from shipline.errors import ContentError, NotFound, ShiplineError, UsageError
from shipline.events import Event, Sink, Started
from shipline.history import (
    RunState,
    delete_set_aside,
    is_run_id,
    new_run_id,
    run_directory,
    set_aside,
)
from shipline.observe import LinesSink
from shipline.ship.record import RunRecord
from shipline.ship.steps import decode
from shipline.tasks import exclusively, is_locked, sleep

_NAME = re.compile(r"[^A-Za-z0-9._-]")
_LIST_HINT = "`shipline runs` lists them"
_ASKING_S = 0.001  # about as long as others hold the lock to ask whether a run is alive


class Runs:
    """All runs of a state directory."""

    def __init__(self, home: Path, clock: Callable[[], float] = time.time) -> None:
        self.root = home / "runs"
        self.clock = clock

    def new_id(self) -> str:
        return new_run_id(self.clock())

    def ids(self) -> list[str]:
        """Those of `shipline ship`, the newest first; the history has builds there, too."""
        with suppress(FileNotFoundError):
            names = filter(is_run_id, os.listdir(self.root))
            shipped = (name for name in names if (self.root / name / "run.json").exists())
            return sorted(shipped, reverse=True)
        return []

    def directory(self, run: str) -> Path:
        """The directory of a run. Raises UsageError for an invalid identifier."""
        return run_directory(self.root, run, _LIST_HINT)

    def resolve(self, text: str, root: str) -> str:
        """The run whose identifier is `text`, or begins or ends with it; `latest` is the newest of
        the project at `root`. Raises UsageError if there is none, or several.
        """
        if text == "latest":
            return self.latest(root).id
        ids = self.ids()
        matching = [name for name in ids if name.startswith(text) or name.endswith(text)]
        if len(matching) == 1:
            return matching[0]
        if len(matching) > 1:
            raise UsageError(
                f"{text!r} matches {len(matching)} runs",
                code="run-ambiguous",
                hint=", ".join(matching[:5]),
            )
        raise UsageError(f"there is no run {text!r}", code="run-unknown", hint=_LIST_HINT)

    def read(self, run: str) -> RunRecord:
        """The record; `interrupted` if its process died. Raises UsageError if there is none,
        NotFound if it cannot be read.
        """
        try:
            text = (self.directory(run) / "run.json").read_text()
        except FileNotFoundError:
            raise UsageError(
                f"there is no run {run}", code="run-unknown", hint=_LIST_HINT
            ) from None
        try:
            record = RunRecord.from_json(json.loads(text), decode)
        except (ValueError, ContentError) as error:
            why = error.message if isinstance(error, ContentError) else "the record is damaged"
            raise NotFound(
                f"{run}: {why}", code="run-unreadable", hint=f"shipline runs rm {run}"
            ) from None
        return record if self.alive(run) else record.interrupted()

    def all(self) -> Iterator[RunRecord]:
        """Every readable record, the newest first."""
        for run in self.ids():
            with suppress(ShiplineError):
                yield self.read(run)

    def has(self, root: str) -> bool:
        """Whether there is a run of the project at `root`."""
        return any(run.root == root for run in self.all())

    def latest(self, root: str) -> RunRecord:
        """The newest run of the project at `root`. Raises UsageError if there is none."""
        for run in self.all():
            if run.root == root:
                return run
        raise UsageError(
            f"there is no run of {root}",
            code="run-unknown",
            hint="`shipline runs` lists those of all projects",
        )

    def alive(self, run: str) -> bool:
        """Whether a process is working on the run."""
        return is_locked(self.directory(run) / "lock")

    @contextmanager
    def hold(self, run: str) -> Iterator[Recorder]:
        """Lock a run for this process. Raises UsageError if another one has it."""
        directory = self.directory(run)
        for inner in ("logs", "reports"):
            (directory / inner).mkdir(mode=0o700, parents=True, exist_ok=True)
        with self._locked(run):
            yield Recorder(directory)

    @contextmanager
    def _locked(self, run: str) -> Iterator[None]:
        """Raises UsageError if another process has the run, or has just removed it."""
        path = self.directory(run) / "lock"
        removed = UsageError(
            f"{run} was removed", code="run-unknown", hint="run `shipline ship` without --resume"
        )
        try:
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
        except FileNotFoundError:
            raise removed from None
        try:
            _lock(descriptor, run)
            if not _names(path, descriptor):
                raise removed
            yield
        finally:
            os.close(descriptor)

    def log(self, run: str, step: str) -> Path:
        """The log file of a step."""
        return _log_path(self.directory(run), step)

    def remove(self, run: str) -> None:
        """Delete a run, even with a damaged record. Raises UsageError while it is running."""
        if not self.directory(run).is_dir():
            return
        with self._locked(run):
            set_aside(self.directory(run))
        delete_set_aside(self.root)

    def prune(self, keep: int, root: str, spare: str = "") -> None:
        """Delete the oldest runs of the project at `root` and keep `keep` of them; never `spare`,
        nor one that is running or was resumed meanwhile.
        """
        mine = [
            run
            for run in self.all()
            if run.root == root and run.state is not RunState.RUNNING and run.id != spare
        ]
        for run in mine[max(keep - bool(spare), 0) :]:
            with suppress(ShiplineError):
                self.remove(run.id)


class Recorder:
    """The files of the run of this process. Safe to use from any thread."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self._lock = threading.Lock()
        self._run: RunRecord | None = None

    @property
    def run(self) -> RunRecord:
        assert self._run is not None  # `begin` comes first
        return self._run

    def begin(self, run: RunRecord) -> None:
        with self._lock:
            self._write(run)

    def change(self, function: Callable[[RunRecord], RunRecord]) -> None:
        """Replace the record; durable on return."""
        with self._lock:
            self._write(function(self.run))

    def _write(self, run: RunRecord) -> None:
        self._run = run
        part = self.directory / f".run.json.{os.getpid()}"
        with part.open("w") as file:
            json.dump(run.to_json(), file, indent=1)
            file.flush()
            os.fsync(file.fileno())
        part.replace(self.directory / "run.json")

    def log(self, step: str) -> Path:
        """The log file of a step."""
        return _log_path(self.directory, step)

    def report(self, step: str, target: str, what: str) -> Path:
        """The file for a report about the image of a target."""
        place = self.directory / "reports" / target
        place.mkdir(exist_ok=True)
        return place / f"{_NAME.sub('_', step)}-{_NAME.sub('-', what)}"


class StepLogs:
    """A sink that writes the events of each span with an attribute `log`, and of the spans below
    it, as lines to that file.
    """

    def __init__(self) -> None:
        self._files = ExitStack()
        self._sinks: dict[int, Sink] = {}  # by span

    def __call__(self, event: Event) -> None:
        if isinstance(event, Started):
            if path := event.attributes.get("log"):
                self._sinks[event.span] = LinesSink(self._files.enter_context(_text(str(path))))
            elif event.parent in self._sinks:
                self._sinks[event.span] = self._sinks[event.parent]
        if sink := self._sinks.get(event.span):
            sink(event)

    def close(self) -> None:
        self._files.close()


def _text(path: str) -> TextIO:
    return open(path, "w", encoding="utf-8", errors="replace")


def _names(path: Path, descriptor: int) -> bool:
    with suppress(FileNotFoundError):
        return os.path.samestat(os.stat(path), os.fstat(descriptor))
    return False


def _lock(descriptor: int, run: str) -> None:
    while True:
        try:
            return exclusively(descriptor)
        except BlockingIOError:
            pass
        try:  # shares the lock with those that only ask whether the run is alive
            fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UsageError(
                f"{run} is running in another process",
                code="run-in-use",
                hint="interrupt it, or wait until it ends",
            ) from None
        fcntl.flock(descriptor, fcntl.LOCK_UN)
        sleep(_ASKING_S)


def _log_path(directory: Path, step: str) -> Path:
    return directory / "logs" / f"{_NAME.sub('_', step)}.log"
