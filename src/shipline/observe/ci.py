"""Progress and failures in the forms that CI systems fold and annotate.

Sources: "Workflow commands for GitHub Actions" (group, error, warning; a step shows 10 annotations
of each type, and a summary of 1 MiB; stop-commands), "GitLab CI/CD job logs" (custom collapsible
sections).
"""

from __future__ import annotations

import re
import secrets
from collections import Counter, deque
from collections.abc import Iterable, Iterator, Mapping
from typing import TextIO

from shipline.errors import (
    DockerfileError,
    GateError,
    ShiplineError,
)
from shipline.events import Event, Finished, Logged, Started, Warned
from shipline.observe.board import VertexState
from shipline.observe.lines import LinesSink, verdict
from shipline.observe.text import clean

SUMMARY_LIMIT = 1 << 20  # bytes of GITHUB_STEP_SUMMARY
_ANNOTATIONS = 10  # of each type
_MAX_LOG_LINES = 20_000  # per step
_OF_IMAGE = {"vertex", "number"}
"""Attributes of steps of a Dockerfile; those of a pipeline may give commands, as linters do."""
_PLACE = re.compile(r"(?P<file>[^\s:]+):(?P<line>[0-9]+)(?::(?P<col>[0-9]+))?: (?P<message>.+)")


class FoldedSink(LinesSink):
    """Announces each step, and shows its output, to be folded, when it ends. Never raises."""

    def __init__(self, stream: TextIO) -> None:
        super().__init__(stream)
        self._kept: dict[int, deque[str]] = {}
        self._starts: dict[int, Started] = {}

    def _lines(self, event: Event) -> list[str]:
        if isinstance(event, Started):
            started = self._board.start(event)
            self._starts[event.span] = event
            return [] if started is None else [f"#{started.number} {started.name} ..."]
        vertex = self._board.vertex(event.span)
        if isinstance(event, Warned):
            where = f"#{vertex.number} " if vertex else ""
            return self._warned(where + clean(event.message))
        if vertex is None:
            return []
        kept = self._kept.setdefault(vertex.span, deque(maxlen=_MAX_LOG_LINES))
        if isinstance(event, Logged):
            kept.extend(clean(line) for line in self._board.output(event))
        elif isinstance(event, Finished) and self._board.finish(event) is vertex:
            kept.extend(clean(line) for _, line in vertex.output.rest())
            title = f"#{vertex.number} {vertex.name} {verdict(vertex)}"
            log = list(self._kept.pop(vertex.span))
            lines = self._folded(vertex, title, log) if log else [title]
            return [*lines, *self._failed(vertex, self._starts[vertex.span])]
        return []

    def _warned(self, message: str) -> list[str]:
        return [f"WARN: {message}"]

    def _folded(self, vertex: VertexState, title: str, log: list[str]) -> list[str]:
        raise NotImplementedError

    def _failed(self, vertex: VertexState, start: Started) -> list[str]:
        """What follows the output of a step, if it failed."""
        return []


class GroupsSink(FoldedSink):
    """Groups and annotations of GitHub Actions. Never raises."""

    def __init__(self, stream: TextIO) -> None:
        super().__init__(stream)
        self._annotated: Counter[str] = Counter()

    def _warned(self, message: str) -> list[str]:
        self._annotated["warning"] += 1
        if self._annotated["warning"] > _ANNOTATIONS:
            return super()._warned(message)
        return [f"::warning::{_data(message)}"]

    def _folded(self, vertex: VertexState, title: str, log: list[str]) -> list[str]:
        shown = _inert(log) if self._starts[vertex.span].attributes.keys() & _OF_IMAGE else log
        return [f"::group::{_data(title)}", *shown, "::endgroup::"]

    def _failed(self, vertex: VertexState, start: Started) -> list[str]:
        at = start.attributes
        shown = vertex.error and not vertex.cancelled and at.get("kind") != "internal"
        if not shown or self._annotated["error"] == _ANNOTATIONS:
            return []
        self._annotated["error"] += 1
        place = {"file": at.get("file"), "line": at.get("line"), "endLine": at.get("end")}
        return [annotation("error", clean(vertex.error), **place, title=vertex.name)]


class SectionsSink(FoldedSink):
    """Collapsed sections of GitLab CI. Never raises."""

    def _folded(self, vertex: VertexState, title: str, log: list[str]) -> list[str]:
        name = f"step_{vertex.number}"
        start, end = int(vertex.started), int(vertex.finished or vertex.started)
        return [
            f"\x1b[0Ksection_start:{start}:{name}[collapsed=true]\r\x1b[0K{title}",
            *log,
            f"\x1b[0Ksection_end:{end}:{name}\r\x1b[0K",
        ]


def folding_sink(stream: TextIO, environ: Mapping[str, str]) -> FoldedSink | None:
    """The sink for the CI system whose variables are set, if it can fold."""
    if environ.get("GITHUB_ACTIONS") == "true":
        return GroupsSink(stream)
    return SectionsSink(stream) if environ.get("GITLAB_CI") == "true" else None


def annotate(error: ShiplineError, environ: Mapping[str, str]) -> list[str]:
    """The annotations of GitHub Actions for what no step has shown: errors of the Dockerfile and of
    the command line, and findings of gates that name a file. Empty elsewhere.
    """
    if environ.get("GITHUB_ACTIONS") != "true":
        return []
    if isinstance(error, DockerfileError) and (span := error.span):
        place = {"file": span.file, "line": span.line, "endLine": span.end}
        return [annotation("error", error.message, **place, title=error.code)]
    if isinstance(error, GateError):
        return list(_findings(error.code, (*error.verdicts, *getattr(error, "__notes__", ()))))
    return [] if error.run else [annotation("error", error.message, title=error.code)]


def _findings(code: str, lines: Iterable[str]) -> Iterator[str]:
    placed = [found for line in lines if (found := _PLACE.search(line))]
    for found in placed[:_ANNOTATIONS]:
        place = {name: found[name] for name in ("file", "line", "col")}
        yield annotation("error", found["message"], **place, title=code)


def _inert(log: list[str]) -> list[str]:
    """The output of a step, in which the runner does not look for commands: what builds an image
    has nothing to say to the job.
    """
    if not any(mark in line for line in log for mark in ("::", "##[")):
        return log
    token = secrets.token_hex(16)  # no step can guess how to go on with commands
    return [f"::stop-commands::{token}", *log, f"::{token}::"]


def annotation(kind: str, message: str, **properties: object) -> str:
    """A workflow command; properties without a value are left out."""
    given = [f"{name}={_property(str(one))}" for name, one in properties.items() if one]
    return f"::{' '.join(filter(None, (kind, ','.join(given))))}::{_data(message)}"


def _data(text: str) -> str:
    return text.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")


def _property(text: str) -> str:
    return _data(text).replace(":", "%3A").replace(",", "%2C")
