"""Long work of a node that operators start and ask about later: collections, retention."""

from __future__ import annotations

import json
import logging
import threading
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from typing import Any

from shipline.errors import Cancelled
from shipline.server.admission.protocol import Admission
from shipline.server.admission.retention import retain
from shipline.server.admission.section import AdmissionSection
from shipline.server.gc import GcOptions, collect
from shipline.server.http import Request, Response, Route, route
from shipline.server.journal import Tell
from shipline.server.manifests import Manifests
from shipline.server.problems import Problem
from shipline.server.storage import Storage
from shipline.tasks import TaskGroup
from shipline.units import Duration

_log = logging.getLogger(__name__)
_LIMIT = 4096  # bytes of a wish
_KINDS: dict[str, type] = {"dry_run": bool, "untagged": bool, "grace": str}
Wish = dict[str, Any]
Work = Callable[[Wish, str], Any]
"""Does what somebody, by name, wished for and returns the result as JSON has it."""


@dataclass(frozen=True, slots=True)
class JobState:
    """A chore as it was begun last; times in Unix seconds, 0 for never, `error` empty for none."""

    running: bool = False
    began: float = 0.0
    ended: float = 0.0
    result: Any = None
    error: str = ""


class Job:
    """One piece of work, on a thread of its own, once at a time."""

    def __init__(self, work: Work, clock: Callable[[], float] = time.time) -> None:
        self._work = work
        self._clock = clock
        self._lock = threading.Lock()
        self._group: TaskGroup | None = None
        self._state = JobState()

    @property
    def state(self) -> JobState:
        return self._state

    def start(self, group: TaskGroup) -> None:
        """From now on it may begin; what runs ends with the group's scope."""
        self._group = group

    def begin(self, wish: Wish, actor: str) -> JobState:
        """Raises Problem 409 while it runs, 503 before the node has started."""
        with self._lock:
            if self._state.running:
                raise Problem(409, "DENIED", "it is running already; wait until it has ended")
            if self._group is None or self._group.scope.cancelled:
                raise Problem(503, "UNKNOWN", "the node is not ready for this, or is stopping")
            self._state = JobState(running=True, began=self._clock())
            self._group.start(self._run, wish, actor)
            return self._state

    def _run(self, wish: Wish, actor: str) -> None:
        try:
            ended = replace(self._state, result=self._work(wish, actor))
        except Cancelled:
            ended = replace(self._state, error="the node was stopped")
        except Exception as error:  # the node goes on
            _log.exception("what an operator began has failed")
            ended = replace(self._state, error=str(error))
        self._state = replace(ended, running=False, ended=self._clock())


def collection(
    storage: Storage, options: GcOptions, told: Callable[[Any], None], tell: Tell
) -> Job:
    """Collects as `options` say, where a wish says nothing else."""

    def work(wish: Wish, actor: str) -> dict[str, object]:
        wanted = replace(options, untagged=wish.get("untagged", options.untagged))
        if "grace" in wish:
            wanted = replace(wanted, grace=_span(wish["grace"]))
        dry_run = wish.get("dry_run", False)
        report = collect(storage, wanted, dry_run=dry_run, actor=actor, tell=tell)
        if not report.dry_run:
            told(report)
        return report.to_json()

    return Job(work, storage.clock)


def retention(
    storage: Storage, manifests: Manifests, section: AdmissionSection, door: Admission, tell: Tell
) -> Job:
    """Removes the tags that no rule keeps."""

    def work(wish: Wish, actor: str) -> list[dict[str, Any]]:
        dry_run = wish.get("dry_run", False)
        rules = section.retention
        done = retain(storage, manifests, rules, door=door, dry_run=dry_run, actor=actor, tell=tell)
        return [one.to_json() for one in done]

    return Job(work, storage.clock)


def chore_routes(path: str, chore: Job, *wishes: str) -> tuple[Route, ...]:
    """POST begins it (202), with an object of `wishes`; GET tells how it went."""

    def show(request: Request) -> Response:
        return _answer(200, chore.state)

    def begin(request: Request) -> Response:
        return _answer(202, chore.begin(_wish(request, wishes), request.identity.actor))

    return (route(path, need="operator", GET=show, POST=begin),)


def _wish(request: Request, known: tuple[str, ...]) -> Wish:
    """Only as application/json: a form on a stranger's page cannot send that."""
    if request.content_type != "application/json":
        raise _bad("send application/json, {} for nothing special")
    try:
        found = json.loads(request.read(_LIMIT))
    except (ValueError, RecursionError):
        raise _bad("the body is not JSON") from None
    if not isinstance(found, dict):
        raise _bad("the body is not a JSON object")
    for name, value in found.items():
        if name not in known:
            raise _bad(f"{name[:50]} is not known here; known: {', '.join(known)}")
        if not isinstance(value, _KINDS[name]):
            raise _bad(f"{name} is not of type {_KINDS[name].__name__}")
    if "grace" in found:
        _span(found["grace"])
    return found


def _span(text: str) -> Duration:
    try:
        return Duration(0) if text == "0" else Duration.parse(text)
    except ValueError as error:
        raise _bad(f"grace: {error}") from None


def _answer(status: int, state: JobState) -> Response:
    headers = [("Content-Type", "application/json"), ("Cache-Control", "no-store")]
    return Response.of(status, headers, json.dumps(asdict(state)).encode())


def _bad(message: str) -> Problem:
    return Problem(400, "UNSUPPORTED", message)
