"""Progress as JSON lines in the shape of BuildKit's SolveStatus, for other programs.

One object per line, with one of four lists; keys without a value are absent:

    vertexes  digest inputs name started completed cached error   (inputs are digests)
    statuses  id vertex name current total timestamp started completed            (bytes)
    logs      vertex stream data timestamp                                (data in base64)
    warnings  vertex level short detail                        (short, detail in base64)

A failed command ends with a line that BuildKit does not have:

    error     code exitCode message notes hint platform run trace exitStatus log
              location{filename start end}

Times are RFC 3339 in UTC. A vertex is sent when it starts and again, complete, when it ends.
"""

from __future__ import annotations

import base64
import hashlib
import json
from contextlib import suppress
from typing import Any, TextIO

from shipline.errors import ShiplineError, StepFailed
from shipline.events import Event, Finished, Logged, Progress, Started, Warned
from shipline.observe.board import Activity, Board, VertexState
from shipline.observe.text import clean
from shipline.units import rfc3339

_CANCELLED = "context canceled"
"""The error by which readers, docker compose among them, know a vertex that was cancelled."""


class JsonSink:
    """Writes one line for each event that belongs to a vertex. Never raises."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._board = Board()

    def __call__(self, event: Event) -> None:
        status = self._status(event)
        if status:
            with suppress(OSError, ValueError):
                self._stream.write(json.dumps(status, separators=(",", ":")) + "\n")
                self._stream.flush()

    def _status(self, event: Event) -> dict[str, Any]:
        if isinstance(event, Started):
            started = self._board.start(event)
            return {} if started is None else {"vertexes": [_vertex(started)]}
        vertex = self._board.vertex(event.span)
        if vertex is None:
            return {}
        if isinstance(event, Logged):
            return {"logs": [_log(vertex, event)]}
        if isinstance(event, Warned):
            return {"warnings": [_warning(vertex, event)]}
        return self._change(vertex, event)

    def _change(self, vertex: VertexState, event: Progress | Finished) -> dict[str, Any]:
        board = self._board
        activity = board.finish(event) if isinstance(event, Finished) else board.progress(event)
        if isinstance(event, Finished) and activity is vertex:
            return {"vertexes": [_vertex(vertex)]}
        if activity is None:
            return {}
        return {"statuses": [_status_entry(vertex, activity, event.at)]}


def failure_line(failure: BaseException, code: str, status: int) -> str:
    """The last line of a failed command, with the content of the error box."""
    span, log = getattr(failure, "span", None), getattr(failure, "log", ())
    value: dict[str, Any] = {"code": code, "exitCode": status, "message": str(failure)}
    if not isinstance(failure, ShiplineError) and code == "bug":
        import traceback  # 5 ms

        value["log"] = "".join(traceback.format_exception(failure)).splitlines()
    if isinstance(failure, StepFailed):
        value |= {"exitStatus": failure.status, "log": [clean(line) for line in log]}
    if span is not None:
        lines = {"start": {"line": span.line}, "end": {"line": span.end}}
        value["location"] = {"filename": span.file, **lines}
    for name, field in (
        ("others", [_other(one) for one in getattr(failure, "others", ())]),
        ("notes", list(getattr(failure, "__notes__", ()))),
        ("hint", getattr(failure, "hint", "")),
        ("platform", getattr(failure, "platform", "")),
        ("run", getattr(failure, "run", "")),
        ("trace", getattr(failure, "trace", "")),
    ):
        if field:
            value[name] = field
    return json.dumps({"error": value}, separators=(",", ":"))


def _other(error: ShiplineError) -> dict[str, str]:
    found = {"code": error.code, "message": error.message, "platform": error.platform}
    return {name: one for name, one in found.items() if one}


def _digest(vertex: VertexState) -> str:
    """The digest of a step; for other work one that identifies this run of it."""
    if vertex.digest:
        return f"sha256:{vertex.digest}"
    name = f"{vertex.span} {vertex.started} {vertex.name}"
    return "sha256:" + hashlib.sha256(name.encode()).hexdigest()


def _vertex(vertex: VertexState) -> dict[str, Any]:
    value: dict[str, Any] = {
        "digest": _digest(vertex),
        "inputs": [f"sha256:{one}" for one in vertex.inputs],
        "name": vertex.name,
        "started": rfc3339(vertex.started, "microseconds"),
    }
    if not vertex.inputs:
        del value["inputs"]
    if vertex.finished is not None:
        value["completed"] = rfc3339(vertex.finished, "microseconds")
    if vertex.cached:
        value["cached"] = True
    if vertex.error:
        value["error"] = _CANCELLED if vertex.cancelled else vertex.error
    return value


def _status_entry(vertex: VertexState, activity: Activity, at: float) -> dict[str, Any]:
    value: dict[str, Any] = {
        "id": activity.name,
        "vertex": _digest(vertex),
        "current": activity.current,
        "timestamp": rfc3339(at, "microseconds"),
        "started": rfc3339(activity.started, "microseconds"),
    }
    if activity.total:
        value["total"] = activity.total
    if activity.finished is not None:
        value["completed"] = rfc3339(activity.finished, "microseconds")
    return value


def _log(vertex: VertexState, event: Logged) -> dict[str, Any]:
    return {
        "vertex": _digest(vertex),
        "stream": event.stream,
        "data": _base64(event.data),
        "timestamp": rfc3339(event.at, "microseconds"),
    }


def _warning(vertex: VertexState, event: Warned) -> dict[str, Any]:
    return {"vertex": _digest(vertex), **warning_json(event)}


def warning_json(event: Warned) -> dict[str, Any]:
    """A warning with the fields of BuildKit's VertexWarning."""
    value: dict[str, Any] = {
        "level": 1,
        "short": _base64(event.message.encode(errors="backslashreplace")),
    }
    if event.hint and not event.more:
        value["detail"] = [_base64(event.hint.encode(errors="backslashreplace"))]
    return {**value, **event.more}


def _base64(data: bytes) -> str:
    return base64.b64encode(data).decode()
