"""Long-running jobs that operators start over the API: garbage collection, retention."""

from __future__ import annotations

import json
import logging
import threading
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

from shipline.errors import Cancelled
from shipline.server.admission.protocol import Admission
from shipline.server.admission.retention import retain
from shipline.server.admission.section import AdmissionSection
from shipline.server.events import Publish
from shipline.server.gc import GcOptions, GcReport, collect
from shipline.server.http import Request, Response, Route, route
from shipline.server.manifests import Manifests
from shipline.server.problems import Problem
from shipline.server.storage import Storage
from shipline.tasks import TaskGroup
from shipline.units import Duration
from shipline.values import replace

_log = logging.getLogger(__name__)
_LIMIT = 4096  # bytes of a request
_KINDS: dict[str, type] = {"dry_run": bool, "untagged": bool, "grace": str}
JobOptions = dict[str, Any]
Work = Callable[[JobOptions, str], Any]
"""Runs with the options for an actor; returns the result as JSON."""


@dataclass(frozen=True, slots=True)
class JobState:
    """The last run of a job; times in Unix seconds (0: never), `error` empty for none."""

    running: bool = False
    began: float = 0.0
    ended: float = 0.0
    result: Any = None
    error: str = ""


class Job:
    """A job that runs on its own thread, one run at a time."""

    def __init__(self, work: Work, clock: Callable[[], float] = time.time) -> None:
        self._work = work
        self._clock = clock
        self._lock = threading.Lock()
        self._group: TaskGroup | None = None
        self._state = JobState()

    @property
    def state(self) -> JobState:
        """The state of the current or the last run."""
        return self._state

    def start(self, group: TaskGroup) -> None:
        """Allow runs; they end with the group's scope."""
        self._group = group

    def begin(self, options: JobOptions, actor: str) -> JobState:
        """Start a run. Raises Problem 409 while one is running, 503 before start-up or during
        shutdown.
        """
        with self._lock:
            if self._state.running:
                raise Problem(409, "DENIED", "already running; wait until it ends")
            if self._group is None or self._group.scope.cancelled:
                raise Problem(503, "UNKNOWN", "the node is starting or shutting down")
            self._state = JobState(running=True, began=self._clock())
            self._group.start(self._run, options, actor)
            return self._state

    def _run(self, options: JobOptions, actor: str) -> None:
        try:
            ended = replace(self._state, result=self._work(options, actor))
        except Cancelled:
            ended = replace(self._state, error="the node was shut down")
        except Exception as error:  # keep the node running
            _log.exception("job failed")
            ended = replace(self._state, error=str(error))
        self._state = replace(ended, running=False, ended=self._clock())


def collection(
    storage: Storage,
    defaults: GcOptions,
    on_report: Callable[[GcReport | None], object],
    publish: Publish,
) -> Job:
    """Garbage collection with `defaults`, overridden by the request. `on_report` gets the report
    unless it was a dry run, None for a failed run.
    """

    def work(options: JobOptions, actor: str) -> dict[str, object]:
        gc_options = replace(defaults, untagged=options.get("untagged", defaults.untagged))
        if "grace" in options:
            gc_options = replace(gc_options, grace=_parse_grace(options["grace"]))
        dry_run = options.get("dry_run", False)
        try:
            report = collect(storage, gc_options, dry_run=dry_run, actor=actor, publish=publish)
        except OSError:
            on_report(None)
            raise
        if not report.dry_run:
            on_report(report)
        return report.to_json()

    return Job(work, storage.clock)


def retention(
    storage: Storage,
    manifests: Manifests,
    section: AdmissionSection,
    admission: Admission,
    publish: Publish,
) -> Job:
    """Removes the tags that no rule keeps."""

    def work(options: JobOptions, actor: str) -> list[dict[str, Any]]:
        dry_run = options.get("dry_run", False)
        rules = section.retention
        done = retain(
            storage,
            manifests,
            rules,
            admission=admission,
            dry_run=dry_run,
            actor=actor,
            publish=publish,
        )
        return [run.to_json() for run in done]

    return Job(work, storage.clock)


def job_routes(path: str, job: Job, *known: str) -> tuple[Route, ...]:
    """POST starts a run (202) with a JSON object of the `known` options; GET returns its state."""

    def show(request: Request) -> Response:
        return _response(200, job.state)

    def begin(request: Request) -> Response:
        return _response(202, job.begin(_read_options(request, known), request.principal.actor))

    return (route(path, requires="operator", GET=show, POST=begin),)


def _read_options(request: Request, known: tuple[str, ...]) -> JobOptions:
    """Only application/json: a cross-site form cannot send that."""
    if request.content_type != "application/json":
        raise _bad_request("send application/json; {} for the defaults")
    try:
        document = json.loads(request.read(_LIMIT))
    except (ValueError, RecursionError):
        raise _bad_request("the body is not JSON") from None
    if not isinstance(document, dict):
        raise _bad_request("the body is not a JSON object")
    for name, value in document.items():
        if name not in known:
            raise _bad_request(f"unknown option {name[:50]}; known: {', '.join(known)}")
        if not isinstance(value, _KINDS[name]):
            raise _bad_request(f"{name} is not of type {_KINDS[name].__name__}")
    if "grace" in document:
        _parse_grace(document["grace"])
    return document


def _parse_grace(text: str) -> Duration:
    try:
        return Duration(0) if text == "0" else Duration.parse(text)
    except ValueError as error:
        raise _bad_request(f"grace: {error}") from None


def _response(status: int, state: JobState) -> Response:
    headers = [("Content-Type", "application/json"), ("Cache-Control", "no-store")]
    return Response.of(status, headers, json.dumps(asdict(state)).encode())


def _bad_request(message: str) -> Problem:
    return Problem(400, "UNSUPPORTED", message)
