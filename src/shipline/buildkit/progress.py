"""What the daemon reports of a build, as our events, and its failures as our errors.

A vertex is a step; its output is the output of that step, and what it says of a part of its work
with a size, as of a layer that is pushed, is a step below it. Source: moby/buildkit,
client/graph.go, solver/errdefs, util/progress.
"""

from __future__ import annotations

import base64
import binascii
import json
import re
import threading
from collections import deque
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from typing import Any

from shipline.buildkit.control import Control
from shipline.buildkit.messages import (
    SolveRequest,
    SourcePosition,
    Status,
    StatusResponse,
    Vertex,
    VertexStatus,
    VertexWarning,
)
from shipline.errors import (
    AuthError,
    BuilderError,
    Cancelled,
    DockerfileError,
    GateRefused,
    RegistryError,
    ShiplineError,
    Span,
    StepFailed,
)
from shipline.events import Step
from shipline.grpc.connection import Code, RpcCall, RpcError
from shipline.grpc.protobuf import MalformedMessage, decode
from shipline.net import without_logins
from shipline.oci import InvalidReference, Reference
from shipline.tasks import TaskGroup, check, on_cancel

_LOG_LINES = 20  # of a step that failed
_STATUS_S = 5.0  # for the last words of a build that failed
_QUIET_S, _LOST_S = 15.0, 60.0  # without a byte from the daemon
_WATCH_S = 5.0
DETAILS = "github.com/moby/buildkit/"
SOURCE, VERTEX, EXIT, HINT = (
    "errdefs.Source+json",
    "errdefs.Vertex+json",
    "gatewayapi.ExitMessage+json",
    "shipline.Hint+json",
)
"""Types of the details of an error; the last one is our own."""

_OF_FILE = re.compile(
    "lint violation found|Dockerfile cannot be empty|file with no instructions"
    "|target stage .* could not be found|dockerfile parse error|failed to (read|parse) dockerfile"
)
_OF_STEP = re.compile("did not complete successfully: (?!exit code)")  # a RUN without a status
_OF_REGISTRY = re.compile(r"failed to (?:resolve source metadata for|push) ([^\s]+?):? ")
_OF_LOGIN = re.compile(r"authorization failed|insufficient_scope|401 Unauthorized|access denied")


class ProgressReader:
    """The steps of one build below `step`. Used by one thread."""

    def __init__(self, step: Step) -> None:
        self._step = step
        self._open: dict[str, tuple[Step, ExitStack]] = {}
        self._names: dict[str, str] = {}
        self._running: set[str] = set()
        self._done: set[str] = set()
        self._logs: dict[str, deque[bytes]] = {}

    def follow(self, responses: Iterable[StatusResponse]) -> None:
        """Report what happens, until the responses end."""
        try:
            for response in responses:
                self._report(response)
        finally:
            for _, stack in self._open.values():
                stack.close()
            self._open.clear()

    @property
    def has_begun(self) -> bool:
        return bool(self._names)

    def last_lines(self, digest: str) -> tuple[str, ...]:
        """The end of the output of a vertex."""
        text = b"".join(self._logs.get(digest, ())).decode(errors="replace")
        return tuple(text.splitlines()[-_LOG_LINES:])

    def name_of(self, digest: str) -> str:
        return self._names.get(digest, "")

    def _report(self, response: StatusResponse) -> None:
        for vertex in response.vertexes:
            self._take_vertex(vertex)
        for status in response.statuses:
            self._take_status(status)
        for log in response.logs:
            if (step := self._opened(log.vertex)) is not None:
                step.output(log.msg, 2 if log.stream == 2 else 1)
            self._logs.setdefault(log.vertex, deque(maxlen=200)).append(log.msg)
        for warning in response.warnings:
            short = warning.short.decode(errors="replace")
            self._step.warn(short, warning.url, more=_more(warning))

    def _take_vertex(self, vertex: Vertex) -> None:
        """A vertex may start again after it was completed, as when an image that was resolved is
        then pulled: that is another step only if there is something to say of it.
        """
        again = vertex.digest in self._done
        self._names[vertex.digest] = vertex.name
        if vertex.started and not vertex.completed:
            self._running.add(vertex.digest)
            if not again:
                self._start(vertex.digest, self._step, vertex.name, **_graph(vertex))
        elif vertex.completed:
            self._running.discard(vertex.digest)
            if again and not vertex.error and vertex.digest not in self._open:
                return
            step = self._start(vertex.digest, self._step, vertex.name, **_graph(vertex))
            if vertex.cached:
                step.cached()
            self._end(vertex.digest, vertex.error)
            self._done.add(vertex.digest)

    def _opened(self, digest: str) -> Step | None:
        """The step of a vertex that runs."""
        if digest in self._running:
            return self._start(digest, self._step, self._names[digest])
        return None

    def _take_status(self, status: VertexStatus) -> None:
        if not status.total or (parent := self._opened(status.vertex)) is None:
            return
        key = f"{status.vertex} {status.id}"
        part = self._start(key, parent, status.name or status.id)
        part.progress(status.current, status.total)
        if status.completed:
            self._end(key, "")

    def _start(self, key: str, parent: Step, name: str, **attributes: str) -> Step:
        if key not in self._open:
            stack = ExitStack()
            self._open[key] = stack.enter_context(parent.step(name, **attributes)), stack
        return self._open[key][0]

    def _end(self, key: str, error: str) -> None:
        for inner in [one for one in self._open if one.startswith(f"{key} ")]:
            self._end(inner, error)
        _, stack = self._open.pop(key)
        if error:
            failure = RpcError(Code.UNKNOWN, error)
            stack.__exit__(type(failure), failure, None)
        else:
            stack.close()


def run_build(control: Control, request: SolveRequest, step: Step) -> dict[str, str]:
    """Build, with its steps below `step`; what the exporters say of their results.

    Raises StepFailed, DockerfileError, BuilderError. Interrupted, the build ends there, too.
    """
    progress = ProgressReader(step)
    with watched(control), control.status(request.ref) as stream, TaskGroup() as group:
        group.start(progress.follow, _responses(stream))
        try:
            return control.solve(request)
        except RpcError as error:
            failure = error
            # a build that never began has no status, and the daemon waits for one
            late = threading.Timer(_STATUS_S if progress.has_begun else 0, stream.cancel)
            late.start()
    late.cancel()
    raise build_error(failure, progress)


def _graph(vertex: Vertex) -> dict[str, str]:
    """Attributes that say which vertex a step is, and whose results it uses."""
    plain = [one.removeprefix("sha256:") for one in (vertex.digest, *vertex.inputs)]
    found = {"vertex": plain[0], "inputs": " ".join(plain[1:])}
    return {key: value for key, value in found.items() if value}


def _more(warning: VertexWarning) -> dict[str, object]:
    """The fields of a warning besides its text, as in JSON."""
    more: dict[str, object] = {"vertex": warning.vertex} if warning.vertex else {}
    if warning.detail:
        more["detail"] = [base64.b64encode(one).decode() for one in warning.detail]
    if warning.url:
        more["url"] = warning.url
    if info := warning.info:
        shown = without_logins(info.data.decode(errors="surrogateescape"))
        data = base64.b64encode(shown.encode(errors="surrogateescape")).decode()
        found = {"filename": info.filename, "data": data, "language": info.language}
        more["sourceInfo"] = {key: value for key, value in found.items() if value}
    if warning.ranges:
        more["range"] = [
            {"start": _position(one.start), "end": _position(one.end)} for one in warning.ranges
        ]
    return more


def _position(position: SourcePosition | None) -> dict[str, int]:
    found = position or SourcePosition()
    return {
        key: value for key, value in (("line", found.line), ("character", found.character)) if value
    }


@contextmanager
def watched(control: Control) -> Iterator[None]:
    """Notice inside the block when the daemon is gone, though no connection was closed: one that
    says nothing for a while is asked something, and given up where no byte comes for a minute.
    """
    connection, ended = control.connection, threading.Event()

    def ask() -> None:
        with suppress(RpcError):
            control.version()

    def watch() -> None:
        asking = None
        while not ended.wait(_WATCH_S):
            if connection.silent_s > _LOST_S:
                connection.fail(f"nothing has come from it for {_LOST_S:g} seconds")
                return
            if connection.silent_s > _QUIET_S and (asking is None or asking.settled):
                asking = group.start(ask)

    with TaskGroup() as group, on_cancel(ended.set):
        group.start(watch)
        try:
            yield
        finally:
            ended.set()


def _responses(stream: RpcCall) -> Iterator[StatusResponse]:
    with suppress(RpcError):  # what failed is the answer of the build
        for message in stream:
            yield decode(StatusResponse, message)


def build_error(error: RpcError, progress: ProgressReader) -> ShiplineError:
    """The error that a failed build means: of a step, of the Dockerfile, or of the builder. Raises
    Cancelled for one that was interrupted.
    """
    details = _details(error.details)
    span = _span(details.get(SOURCE, ()))
    digest = next((str(one.get("digest", "")) for one in details.get(VERTEX, ())), "")
    status = next((one.get("Code", 0) for one in details.get(EXIT, ())), 0)
    hint = next((str(one.get("hint", "")) for one in details.get(HINT, ())), "")
    check()  # an interruption breaks the connection, too
    if error.code == Code.CANCELLED:
        raise Cancelled
    if status:
        name = progress.name_of(digest)
        message = f"{name}: the command exited with status {status}" if name else error.message
        return StepFailed(
            message, code="step-exit", status=status, span=span, log=progress.last_lines(digest)
        )
    found = _known_error(error.message)
    if found is None and span is not None:
        found = DockerfileError(error.message, span=span)
    if found is None:
        return BuilderError(
            error.message,
            code="builder-failed",
            hint=hint,
            retriable=error.code == Code.UNAVAILABLE,
        )
    found.span, found.hint = span, hint or found.hint
    return found


def _known_error(message: str) -> ShiplineError | None:
    """The error that a message of BuildKit means, None for others: it gives no codes."""
    if _OF_FILE.search(message):
        return DockerfileError(message)
    if _OF_STEP.search(message):
        return BuilderError(message, code="builder-failed")
    if "denied by policy" in message:
        return GateRefused(message, code="source-denied")
    if (found := _OF_REGISTRY.search(message)) is None:
        return None
    try:
        host = Reference.parse(found[1]).host
    except InvalidReference:
        return None
    if _OF_LOGIN.search(message):
        return AuthError(
            message, code="login-refused", host=host, hint=f"log in: shipline login {host}"
        )
    is_missing = message.endswith("not found") and "no match for platform" not in message
    hint = "check the name" if is_missing else ""
    return RegistryError(message, code="registry-refused", host=host, hint=hint)


def _details(encoded: bytes) -> dict[str, list[dict[str, Any]]]:
    """The details of an error by type, the last one first, without those that cannot be read."""
    try:
        status = decode(Status, encoded)
    except MalformedMessage:
        return {}
    found: dict[str, list[dict[str, Any]]] = {}
    for one in reversed(status.details):
        kind = one.type_url.rpartition("/")[2].removeprefix("github.com.moby.buildkit.")
        try:
            value = json.loads(one.value)
        except ValueError:
            continue
        if isinstance(value, dict):
            found.setdefault(kind, []).append(value)
    return found


def _span(sources: Iterable[dict[str, Any]]) -> Span | None:
    """The place in the Dockerfile that the last source of an error names."""
    for source in sources:
        info = source.get("info") or {}
        ranges = source.get("ranges") or [{}]
        try:
            text = base64.b64decode(info.get("data") or "").decode(errors="replace")
            first = ranges[0].get("start", {}).get("line", 0)
            last = ranges[-1].get("end", {}).get("line", 0)
        except (binascii.Error, ValueError, AttributeError, TypeError):
            continue
        lines = text.split("\n")
        if 0 < first <= len(lines):
            name = str(info.get("filename") or "Dockerfile")
            return Span(name, first, max(first, last), text=lines[first - 1], source=text)
    return None
