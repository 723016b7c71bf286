"""Records of runs on disk, in `runs/` of the state directory.

    runs/<id>/run.json    what happened, replaced as a whole at each step
    runs/<id>/logs/       what each step wrote
    runs/<id>/reports/    what scanners reported
    runs/<id>/lock        locked while the run lives: a record that says `running` without a lock
                          is that of a run whose process died

Identifiers are UTC time and a random word, so their order is that of the runs.
"""

from __future__ import annotations

import fcntl
import json
import os
import re
import secrets
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from itertools import groupby
from operator import attrgetter
from pathlib import Path

from shipline.errors import NotFound, ShiplineError, UsageError
from shipline.ship.record import Run, State

_ID = re.compile(r"[0-9]{8}-[0-9]{6}-[0-9a-f]{6}\Z")
_SECOND = len("20261126-112100")
_NAME = re.compile(r"[^A-Za-z0-9._-]")


class Runs:
    """All runs of a state directory."""

    def __init__(self, home: Path, clock: Callable[[], float] = time.time) -> None:
        self.root = home / "runs"
        self.clock = clock

    def new_id(self) -> str:
        moment = time.strftime("%Y%m%d-%H%M%S", time.gmtime(self.clock()))
        return f"{moment}-{secrets.token_hex(3)}"

    def ids(self) -> list[str]:
        """The newest first."""
        with suppress(FileNotFoundError):
            found = (one.name for one in self.root.iterdir() if _ID.match(one.name))
            return sorted(found, reverse=True)
        return []

    def directory(self, run: str) -> Path:
        """Where a run keeps its files. Raises UsageError for what is no identifier."""
        if not _ID.match(run):
            raise UsageError(f"{run!r} is not a run", hint="`shipline runs` lists them")
        return self.root / run

    def resolve(self, text: str, root: str) -> str:
        """The run that `text` is, or the beginning or end of; `latest` is the newest of the project
        at `root`.

        Raises UsageError for none, and for several.
        """
        if text == "latest":
            return self.latest(root).id
        found = self.ids()
        matching = [one for one in found if one.startswith(text) or one.endswith(text)]
        if len(matching) == 1:
            return matching[0]
        if len(matching) > 1:
            raise UsageError(f"{text!r} fits {len(matching)} runs", hint=", ".join(matching[:5]))
        raise UsageError(f"there is no run {text!r}", hint="`shipline runs` lists them")

    def read(self, run: str) -> Run:
        """The record, interrupted where its process is gone. Raises UsageError for none, NotFound
        for a damaged one.
        """
        directory = self.directory(run)
        try:
            text = (directory / "run.json").read_text()
        except FileNotFoundError:
            raise UsageError(f"there is no run {run}", hint="`shipline runs` lists them") from None
        try:
            found = Run.from_json(json.loads(text))
        except ValueError:
            raise NotFound(
                f"the record of {run} is damaged", hint="shipline runs rm " + run
            ) from None
        return found if self.alive(run) else found.interrupted()

    def all(self) -> Iterator[Run]:
        """Every readable record, the newest first."""
        for _, same_second in groupby(self.ids(), key=lambda run: run[:_SECOND]):
            found = []
            for run in same_second:
                with suppress(ShiplineError):
                    found.append(self.read(run))
            yield from sorted(found, key=attrgetter("started"), reverse=True)

    def alive(self, run: str) -> bool:
        """Whether a process works on it now."""
        try:
            descriptor = os.open(self.directory(run) / "lock", os.O_RDWR)
        except FileNotFoundError:
            return False
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        finally:
            os.close(descriptor)
        return False

    @contextmanager
    def hold(self, run: str) -> Iterator[Recorder]:
        """Work on a run: nobody else does at the same time. Raises UsageError where one does."""
        directory = self.directory(run)
        for inner in ("logs", "reports"):
            (directory / inner).mkdir(mode=0o700, parents=True, exist_ok=True)
        with self._locked(run):
            yield Recorder(directory)

    @contextmanager
    def _locked(self, run: str) -> Iterator[None]:
        """Raises UsageError where another process has the run, or has just removed it."""
        path = self.directory(run) / "lock"
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
        try:
            _lock(descriptor, run)
            if not path.exists() or not os.path.samestat(os.stat(path), os.fstat(descriptor)):
                raise UsageError(f"{run} was removed", hint="run `shipline ship` without --resume")
            yield
        finally:
            os.close(descriptor)

    def log(self, run: str, step: str) -> Path:
        """Where what a step wrote is kept."""
        return log_path(self.directory(run), step)

    def remove(self, run: str) -> None:
        """Forget a run, also one whose record is damaged. Raises UsageError while it is running."""
        if not self.directory(run).is_dir():
            return
        with self._locked(run):
            gone = self.root / f".{run}.{os.getpid()}"  # so that no other finds half of it
            self.directory(run).rename(gone)
        shutil.rmtree(gone, ignore_errors=True)

    def prune(self, keep: int, root: str, spare: str = "") -> None:
        """Forget the oldest runs of the project at `root`, so that `keep` stay; never `spare`, and
        none that is running or taken up again meanwhile.
        """
        mine = [
            run
            for run in self.all()
            if run.root == root and run.state is not State.RUNNING and run.id != spare
        ]
        for run in mine[max(keep - bool(spare), 0) :]:
            with suppress(ShiplineError):
                self.remove(run.id)

    def latest(self, root: str) -> Run:
        """The newest run of the project at `root`. Raises UsageError for none."""
        for run in self.all():
            if run.root == root:
                return run
        raise UsageError(
            f"no run of {root} is kept", hint="`shipline runs` lists those of all projects"
        )


class Recorder:
    """The files of one run that this process works on. Safe to use from any thread."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self._lock = threading.Lock()
        self._run: Run | None = None

    @property
    def run(self) -> Run:
        assert self._run is not None
        return self._run

    def begin(self, run: Run) -> None:
        self.change(lambda _: run)

    def change(self, function: Callable[[Run], Run]) -> None:
        """Replace the record; on the disk when this returns."""
        with self._lock:
            self._run = function(self._run)  # type: ignore[arg-type]
            self._write(self._run)

    def _write(self, run: Run) -> None:
        part = self.directory / f".run.json.{os.getpid()}"
        with part.open("w") as file:
            json.dump(run.to_json(), file, indent=1)
            file.flush()
            os.fsync(file.fileno())
        part.replace(self.directory / "run.json")

    def log(self, step: str) -> Path:
        """Where what a step wrote is kept."""
        return log_path(self.directory, step)

    def report(self, step: str, what: str) -> Path:
        """Where the report of a scanner is kept."""
        return self.directory / "reports" / f"{_NAME.sub('_', step)}-{_NAME.sub('-', what)}"


def _lock(descriptor: int, run: str) -> None:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise UsageError(
            f"{run} is running in another process", hint="interrupt it first, or wait for its end"
        ) from None


def log_path(directory: Path, step: str) -> Path:
    """The log of a step below the directory of its run."""
    return directory / "logs" / f"{_NAME.sub('_', step)}.log"
