"""Delivers what is in the spool: while a run lasts from threads beside it, later what is left.

A run writes events to the spool and nothing else. One thread for each target reads them, turns them
into records and sends these; at the end of the run it has a few seconds to catch up. A target that
fails is left alone for the rest of the run, and gets what it missed from the spool: in a quiet
moment of the next run, or by `shipline telemetry replay`.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from shipline.errors import ShiplineError
from shipline.events import Event
from shipline.telemetry.conventions import TracedRun
from shipline.telemetry.sdk import check_installed
from shipline.telemetry.spool import SpooledRun, SpoolWriter, prune, spooled_runs
from shipline.telemetry.variables import wanted

BATCH = 512  # records, as OTEL_BSP_MAX_EXPORT_BATCH_SIZE is by default
_POLL_S = 0.5
_LONGEST_WAIT_S = 2.0  # of records for others to be sent with
_CLOSE_S = 3.0
_DOUBTFUL_CLOSE_S = 0.5  # where nothing was delivered in this run, and older runs are left


class RecordSource(Protocol):
    """Records of one run for one target."""

    def take(self, event: Event) -> Iterable[Any]:
        """The records that an event completes."""

    def send(self, records: Sequence[Any]) -> None:
        """Deliver records. Raises ShiplineError or OSError."""

    def close(self) -> None:
        """Release connections; interrupts a `send` that tries again."""


def open_source(target: str, run: TracedRun, environ: Mapping[str, str]) -> RecordSource:
    """Raises ConfigError if `environ` is wrong, or a package is missing."""
    if target == "loki":
        from shipline.telemetry.loki import LokiSource

        return LokiSource(run, environ)
    check_installed()
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
        doubtful = {name for left in spooled_runs(directory) for name in left.targets()}
        self._writer = SpoolWriter.create(directory, run, targets)
        self._warn = warn
        self._failure: OSError | None = None
        self._followers = [
            TargetDelivery(
                directory, self._writer.spooled, name, environ, doubtful=name in doubtful
            )
            for name in targets
        ]

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
        started = time.monotonic()
        for follower in self._followers:
            follower.end()
        for follower in self._followers:
            follower.wait(started)
        self._writer.close()
        if self._failure is not None:
            self._warn(f"telemetry is incomplete: {self._failure}", "")
        for follower in self._followers:
            if problem := follower.problem:
                self._warn(
                    f"{follower.target} were not delivered: {_text(problem)}",
                    getattr(problem, "hint", "") or "shipline telemetry replay",
                )


class TargetDelivery:
    """A thread that delivers a run to a target while the run lasts."""

    def __init__(
        self,
        directory: Path,
        spooled: SpooledRun,
        target: str,
        environ: Mapping[str, str],
        *,
        doubtful: bool = False,
    ) -> None:
        self.target = target
        self._directory = directory
        self._spooled = spooled
        self._environ = environ
        self._doubtful = doubtful
        self._delivered = False
        self._failure: Exception | None = None
        self._source: RecordSource | None = None
        self._ending = threading.Event()
        self._abandoned = threading.Event()
        self._done = threading.Event()
        # a daemon: what it waits for when the process ends is delivered by the next one
        threading.Thread(target=self._run, name=f"telemetry {target}", daemon=True).start()

    @property
    def problem(self) -> Exception | None:
        """Why not everything was delivered."""
        if self._failure is None and not self._done.is_set():
            return TimeoutError("no answer in time")
        return self._failure

    def end(self) -> None:
        """The run has ended, all events are written."""
        self._ending.set()

    def wait(self, ended: float) -> None:
        """Wait until all is delivered, or for a while since `ended` (time.monotonic)."""
        patience_s = _DOUBTFUL_CLOSE_S if self._doubtful and not self._delivered else _CLOSE_S
        if not self._done.wait(max(ended + patience_s - time.monotonic(), 0.0)):
            self._abandoned.set()
            if self._source is not None:
                self._source.close()  # ends its retries

    def _run(self) -> None:
        try:
            with self._spooled.hold(self.target) as delivered:
                assert delivered is not None  # this process has just made it
                self._source = open_source(self.target, self._spooled.run, self._environ)
                older = self._older()
                for records in batches(self._source, self._events(older), delivered.records):
                    if self._abandoned.is_set():
                        return
                    self._source.send(records)
                    delivered.add(len(records))
                    self._delivered = True
            self._spooled.finish(self.target)
            self._done.set()
            for _ in older:  # as long as the process lives
                if self._abandoned.is_set():
                    return
        except Exception as failure:  # shown at the end; telemetry fails no run
            self._failure = failure
            self._done.set()
        finally:
            if self._source is not None:
                self._source.close()

    def _events(self, older: Iterator[object]) -> Iterator[Sequence[Event]]:
        """The events of the run as they come, some time apart; none when it is time to send."""
        position, waited = 0, time.monotonic()
        while True:
            last = self._ending.is_set()
            for found, after in self._spooled.events(position):
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
            events = (found for found, _ in spooled.events())
            for records in batches(source, events, delivered.records):
                try:
                    source.send(records)
                except ShiplineError as error:
                    error.name_part(f"{target} of {run.kind} {run.pipeline}")
                    raise
                delivered.add(len(records))
                yield len(records)
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
