"""Builds as BuildKit's daemon reports them: events as messages of Status, failures as gRPC errors.

The counterpart of `buildkit.progress`, for clients of another machine.
"""

from __future__ import annotations

import base64
import json
import queue
import threading
from collections.abc import Iterator
from typing import Any

from shipline.buildkit.messages import Any as Detail
from shipline.buildkit.messages import (
    Status,
    StatusResponse,
    Timestamp,
    Vertex,
    VertexLog,
    VertexStatus,
    VertexWarning,
)
from shipline.buildkit.progress import DETAILS, EXIT, HINT, SOURCE, VERTEX
from shipline.errors import ShiplineError, Span, StepFailed
from shipline.events import Event, Finished, Logged, Progress, Started, Warned
from shipline.grpc.connection import Code, RpcError
from shipline.grpc.protobuf import encode
from shipline.observe.board import Activity, Board, VertexState


class StatusReporter:
    """The status of one build: a sink of its events, read by those who ask for it, once."""

    def __init__(self) -> None:
        self._board = Board()
        self._queue: queue.SimpleQueue[StatusResponse | None] = queue.SimpleQueue()
        self.failed = ""  # the vertex that failed last
        self.asked = threading.Event()

    def __call__(self, event: Event) -> None:
        if (status := self._status(event)) is not None:
            self._queue.put(status)

    def end(self) -> None:
        """Nothing follows."""
        self._queue.put(None)

    def responses(self) -> Iterator[StatusResponse]:
        """What happens, until the build has ended."""
        while (response := self._queue.get()) is not None:
            yield response

    def _status(self, event: Event) -> StatusResponse | None:
        if isinstance(event, Started):
            started = self._board.start(event)
            return None if started is None else StatusResponse(vertexes=[_vertex(started)])
        vertex = self._board.vertex(event.span)
        if vertex is None and isinstance(event, Warned):
            return StatusResponse(warnings=[_warning("", event)])
        if vertex is None:
            return None
        if isinstance(event, Logged):
            at = _time(event.at)
            log = VertexLog(_digest(vertex), at, event.stream, event.data)
            return StatusResponse(logs=[log])
        if isinstance(event, Warned):
            return StatusResponse(warnings=[_warning(_digest(vertex), event)])
        return self._change(vertex, event)

    def _change(self, vertex: VertexState, event: Progress | Finished) -> StatusResponse | None:
        board = self._board
        activity = board.finish(event) if isinstance(event, Finished) else board.progress(event)
        if isinstance(event, Finished) and activity is vertex:
            if vertex.error:
                self.failed = _digest(vertex)
            return StatusResponse(vertexes=[_vertex(vertex)])
        if activity is None:
            return None
        return StatusResponse(statuses=[_part(vertex, activity, event.at)])


def rpc_error(error: ShiplineError, failed: str) -> RpcError:
    """A failure of a build, whose vertex `failed`, with what `buildkit.progress` reads of it."""
    details: list[tuple[str, dict[str, Any]]] = []
    if isinstance(error, StepFailed):
        details += [(VERTEX, {"digest": failed}), (EXIT, {"Code": error.status})]
    if error.span is not None:
        details.append((SOURCE, _source(error.span)))
    if error.hint:
        details.append((HINT, {"hint": error.hint}))
    code = Code.UNAVAILABLE if error.retriable else Code.UNKNOWN
    encoded = [Detail(DETAILS + kind, json.dumps(value).encode()) for kind, value in details]
    return RpcError(code, error.message, encode(Status(code, error.message, encoded)))


def _source(span: Span) -> dict[str, Any]:
    """errdefs.Source, as JSON."""
    data = base64.b64encode((span.source or span.text).encode()).decode()
    place = {"start": {"line": span.line}, "end": {"line": span.end}}
    return {"info": {"filename": span.file, "data": data}, "ranges": [place]}


def _digest(vertex: VertexState) -> str:
    """Names a vertex within its build."""
    return f"sha256:{vertex.span:064x}"


def _vertex(vertex: VertexState) -> Vertex:
    return Vertex(
        _digest(vertex),
        name=vertex.name,
        cached=vertex.cached,
        started=_time(vertex.started),
        completed=None if vertex.finished is None else _time(vertex.finished),
        error=vertex.error,
    )


def _part(vertex: VertexState, activity: Activity, at: float) -> VertexStatus:
    return VertexStatus(
        activity.name,
        _digest(vertex),
        activity.name,
        activity.current,
        activity.total,
        _time(at),
        _time(activity.started),
        None if activity.finished is None else _time(activity.finished),
    )


def _warning(vertex: str, event: Warned) -> VertexWarning:
    return VertexWarning(
        vertex, 1, event.message.encode(), [event.hint.encode()], str(event.more.get("url", ""))
    )


def _time(at: float) -> Timestamp:
    seconds, rest = divmod(at, 1)
    return Timestamp(int(seconds), int(rest * 1e9))
