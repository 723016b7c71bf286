"""Delivers what is in the spool: while a run lasts from threads beside it, later what is left.

A run writes events to the spool and nothing else. In another process one thread for each target
reads them, turns them into records and sends these; at the end it has a few seconds to catch up. A
target that fails is left alone for the rest of the run, and gets what it missed from the spool: in
a quiet moment of the next run, or by `shipline telemetry replay`.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from shipline.errors import ShiplineError
from shipline.events import Event
from shipline.processes import python_command
from shipline.telemetry.conventions import TracedRun
from shipline.telemetry.spool import SpooledRun, SpoolWriter, prune, spooled_runs
from shipline.telemetry.variables import wanted

BATCH = 512  # records, as OTEL_BSP_MAX_EXPORT_BATCH_SIZE is by default
_POLL_S = 0.5
_LONGEST_WAIT_S = 2.0  # of records for others to be sent with
_CLOSE_S = 3.0
_NICE = 19
_WITH_OUTPUT = ("logs", "loki")
_DOUBTFUL_CLOSE_S = 1.0  # where nothing was delivered in this run, and older runs are left


class RecordSource(Protocol):
    """Records of one run for one target."""

    def take(self, event: Event) -> Iterable[Any]:
        """The records that an event completes."""

    def send(self, records: Sequence[Any]) -> Iterator[int]:
        """Deliver records; yields how many more are done. Raises ShiplineError or OSError."""

    def close(self) -> None:
        """Release connections; interrupts a `send` that tries again."""


def open_source(target: str, run: TracedRun, environ: Mapping[str, str]) -> RecordSource:
    """Raises ConfigError if `environ` is wrong."""
    if target == "loki":
        from shipline.telemetry.loki import LokiSource

        return LokiSource(run, environ)
    if target == "metrics":
        from shipline.telemetry.otlp_metrics import MetricSource

        return MetricSource(run, environ)
    from shipline.telemetry.otlp import LogSource, TraceSource

    return TraceSource(run, environ) if target == "traces" else LogSource(run, environ)


class TelemetrySink:
    """A sink that gives the events of a run to all targets. It never raises; what was not
    delivered is told to `warn` when it is closed.
    """

    def __init__(
        self,
        directory: Path,
        run: TracedRun,
        targets: Iterable[str],
        environ: Mapping[str, str],
        warn: Callable[[str, str], object],
    ) -> None:
        """Raises OSError if the spool cannot be written."""
        prune(directory)
        self._doubtful = {name for left in spooled_runs(directory) for name in left.targets()}
        self._writer = SpoolWriter.create(directory, run, targets)
        self._warn = warn
        self._failure: OSError | None = None
        place = f"{str(directory)!r}, {self._writer.spooled.directory.name!r}"
        self._process = subprocess.Popen(
            python_command(f"from shipline.telemetry.delivery import follow; follow({place})"),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**os.environ, **environ},
            start_new_session=True,  # an interruption is for the run
        )

    def __call__(self, event: Event) -> None:
        if self._failure is None:
            try:
                self._writer(event)
            except OSError as failure:
                self._failure = failure

    def close(self) -> None:
        try:
            self._writer.flush()
        except OSError as failure:
            self._failure = self._failure or failure
        told = self._ended()
        left = self._writer.spooled.targets()
        self._writer.close()
        if self._failure is not None:
            self._warn(f"telemetry is incomplete: {self._failure}", "")
        reasons: dict[tuple[str, str], list[str]] = {}
        for target in left:
            reasons.setdefault(told.get(target, ("no answer in time", "")), []).append(target)
        if reasons:
            kept = "; ".join(f"{', '.join(names)}: {why}" for (why, _), names in reasons.items())
            hints = dict.fromkeys(hint for _, hint in reasons if hint)
            later = "the next run sends it, or `shipline telemetry replay`"
            self._warn(f"not delivered yet: {kept}", "; ".join([*hints, later]))

    def _ended(self) -> dict[str, tuple[str, str]]:
        """Let the other process catch up for a while; what it said of targets that failed."""
        spooled = self._writer.spooled
        doubtful = self._doubtful and all(
            name in self._doubtful and spooled.delivered(name) == 0 for name in spooled.targets()
        )
        try:
            out, _ = self._process.communicate(timeout=_DOUBTFUL_CLOSE_S if doubtful else _CLOSE_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            out, _ = self._process.communicate()
        try:
            return {str(name): (why, hint) for name, why, hint in json.loads(out or b"[]")}
        except ValueError:
            return {}


def follow(directory: str, name: str) -> None:
    """Deliver a run while it lasts: the process ends some time after its standard input does.

    It is one of its own, and nice: threads that make records would have all others of a build wait
    for the interpreter's lock.
    """
    os.nice(_NICE)
    spooled = SpooledRun(Path(directory) / name)
    targets = [
        TargetDelivery(Path(directory), spooled, target, os.environ) for target in spooled.targets()
    ]
    sys.stdin.buffer.read()
    for target in targets:
        target.end()
    failures = [(target.target, *failure) for target in targets if (failure := target.failure())]
    sys.stdout.write(json.dumps(failures))
    sys.stdout.close()
    for target in targets:
        target.join()


class TargetDelivery:
    """A thread that delivers a run to a target while the run lasts, and then older runs."""

    def __init__(
        self, directory: Path, spooled: SpooledRun, target: str, environ: Mapping[str, str]
    ) -> None:
        self.target = target
        self._directory = directory
        self._spooled = spooled
        self._environ = environ
        self._delivered = False
        self._failure: Exception | None = None
        self._ending = threading.Event()
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._run, name=f"telemetry {target}", daemon=True)
        self._thread.start()

    def end(self) -> None:
        """The run has ended, all events are written."""
        self._ending.set()

    def failure(self) -> tuple[str, str] | None:
        """Wait until everything is delivered, or why it was not, and what to do."""
        self._done.wait()
        error = self._failure
        return None if error is None else (_text(error), getattr(error, "hint", ""))

    def join(self) -> None:
        """Wait for older runs, too."""
        self._thread.join()

    def _run(self) -> None:
        try:
            older = self._older()
            with self._spooled.hold(self.target) as delivered:
                assert delivered is not None  # this run has just made it
                source = open_source(self.target, self._spooled.run, self._environ)
                try:
                    for records in batches(source, self._events(older), delivered.records):
                        for sent in source.send(records):
                            delivered.add(sent)
                            self._delivered = True
                finally:
                    source.close()
                self._spooled.finish(self.target)
            self._done.set()
            for _ in older:
                pass
        except Exception as failure:  # told at the end; telemetry fails no run
            if not self._done.is_set():
                self._failure = failure
        finally:
            self._done.set()

    def _events(self, older: Iterator[object]) -> Iterator[Sequence[Event]]:
        """The events of the run as they come, some time apart; none when it is time to send."""
        position, waited = 0, time.monotonic()
        while True:
            last = self._ending.is_set()
            for found, after in self._spooled.events(position, output=self.target in _WITH_OUTPUT):
                position = after
                yield found
            if last:
                return
            if time.monotonic() - waited > _LONGEST_WAIT_S:
                yield ()
                waited = time.monotonic()
                if self._delivered:
                    next(older, None)
            self._ending.wait(_POLL_S)

    def _older(self) -> Iterator[object]:
        """Deliver what older runs left, a batch at a time."""
        for spooled in spooled_runs(self._directory):
            if spooled.directory != self._spooled.directory:
                yield from deliver(spooled, self.target, self._environ)


def batches(
    source: RecordSource, events: Iterable[Sequence[Event]], skipped: int
) -> Iterator[Sequence[Any]]:
    """The records of events, without the first ones, in batches; an empty sequence of events has
    those sent that are there.
    """
    pending: list[Any] = []
    for some in events:
        for event in some:
            pending += source.take(event)
        if skipped:
            gone = min(skipped, len(pending))
            skipped, pending = skipped - gone, pending[gone:]
        while len(pending) >= BATCH or (pending and not some):
            yield pending[:BATCH]
            pending = pending[BATCH:]
    if pending:
        yield pending


def deliver(spooled: SpooledRun, target: str, environ: Mapping[str, str]) -> Iterator[int]:
    """Deliver what is left of a run, and yield the number of records of each batch. Nothing is done
    if its process lives, or another one delivers it. Raises what `RecordSource.send` raises.
    """
    try:
        if spooled.is_live:
            return
        run = spooled.run
    except (OSError, ValueError):
        return  # gone, or of another version
    with spooled.hold(target) as delivered:
        if delivered is None:
            return
        source = open_source(target, run, environ)
        try:
            events = (found for found, _ in spooled.events(output=target in _WITH_OUTPUT))
            for records in batches(source, events, delivered.records):
                try:
                    for sent in source.send(records):
                        delivered.add(sent)
                        yield sent
                except ShiplineError as error:
                    error.name_part(f"{target} of {run.kind} {run.pipeline}")
                    raise
        finally:
            source.close()
        spooled.finish(target)


def replay(directory: Path, environ: Mapping[str, str]) -> Iterator[tuple[SpooledRun, str, int]]:
    """Deliver what all runs left to the targets that `environ` asks for; yields the number of
    records for each. Raises what `RecordSource.send` raises.
    """
    prune(directory)
    for spooled in spooled_runs(directory):
        for target in spooled.targets():
            if target in wanted(environ):
                yield spooled, target, sum(deliver(spooled, target, environ))


def _text(error: Exception) -> str:
    return error.message if isinstance(error, ShiplineError) else str(error) or repr(error)
