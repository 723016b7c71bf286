"""Runs and their steps in the words of OpenTelemetry's semantic conventions for CI/CD.

https://opentelemetry.io/docs/specs/semconv/cicd/cicd-spans/ and
https://opentelemetry.io/docs/specs/semconv/registry/attributes/cicd/ (also vcs, artifact, oci);
attributes that no convention has begin with `shipline.`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from msgspec import Struct

from shipline.events import Attribute, Event, Finished, Logged, Started, Warned
from shipline.net import without_logins
from shipline.propagation import SpanContext, Trace

ACTIONS = {
    **dict.fromkeys(("build", "bake"), "BUILD"),
    **dict.fromkeys(("copy", "mirror", "deploy", "promote", "rollback", "replicate"), "SYNC"),
}
_REQUESTS = frozenset({"pull", "push", "upload", "tag", "resolve", "http", "git"})
"""Kinds of steps whose work is done by a server: client spans."""
_REFUSED = frozenset({2, 3, 4, 5, 9, 15, 16, 17})
"""Exit codes of what is wrong with the project; the others are those of systems (errors.py)."""
_CANCELLED = 130
_LINE_LIMIT = 32 << 10  # bytes
_INFO, _WARN, _ERROR = 9, 13, 17
SEVERITIES = {_INFO: "INFO", _WARN: "WARN", _ERROR: "ERROR"}
Attributes = dict[str, Attribute]


class TracedRun(Struct, frozen=True):
    """A run as its telemetry names it; `pipeline` is what was built or shipped. `parent` is the
    span that all of it belongs to where no trace is recorded.
    """

    run: str
    kind: str
    pipeline: str
    url: str = ""
    trace: Trace | None = None
    parent: SpanContext | None = None

    def span(self, number: int) -> SpanContext | None:
        """The span of a step."""
        return self.trace.span(number) if self.trace else self.parent


class LogEntry(Struct, frozen=True):
    """A line of a step's output, a warning or an error; `at` in nanoseconds of Unix time."""

    span: int
    at: int
    text: str
    severity: int = _INFO
    stream: str = ""
    step: str = ""


def job_url(environ: Mapping[str, str]) -> str:
    """The page of the CI job that this process is part of: GitHub, GitLab, Jenkins."""
    if environ.get("GITHUB_RUN_ID"):
        place = (environ.get(f"GITHUB_{name}", "") for name in ("SERVER_URL", "REPOSITORY"))
        found = f"{'/'.join(place)}/actions/runs/{environ['GITHUB_RUN_ID']}"
    else:
        found = environ.get("CI_JOB_URL") or environ.get("BUILD_URL") or ""
    return found.encode(errors="replace").decode()  # variables may hold any bytes


def run_name(run: TracedRun) -> str:
    """The name of the span of a run: its action and its pipeline."""
    return f"{ACTIONS.get(run.kind, 'RUN')} {run.pipeline or run.kind}"


def run_attributes(run: TracedRun, facts: Mapping[str, Attribute]) -> Attributes:
    """The attributes of the span of a run, from those of the root of its events."""
    found: dict[str, Attribute] = {
        "cicd.pipeline.name": run.pipeline or run.kind,
        "cicd.pipeline.run.id": run.run,
        "cicd.pipeline.run.url.full": run.url,
        "cicd.pipeline.action.name": ACTIONS.get(run.kind, "RUN"),
        "shipline.kind": run.kind,
        **_revision(facts),
        **_image(facts),
    }
    for name in ("platforms", "target", "dockerfile", "dirty", "version"):
        if name in facts:
            found[f"shipline.{name}"] = facts[name]
    return {name: value for name, value in found.items() if value != ""}


def step_attributes(event: Started) -> Attributes:
    """The attributes of the span of a step."""
    found: Attributes = {
        "cicd.pipeline.task.name": event.name,
        "cicd.pipeline.task.run.id": str(event.attributes.get("vertex") or event.span),
    }
    for name, value in event.attributes.items():
        if name == "host":
            found["server.address"] = value
        elif name not in ("log", "inputs", "vertex"):
            found[f"shipline.{name}"] = value
    return found


def end_attributes(event: Finished, *, root: bool) -> Attributes:
    """What the end of a step, or of the run, adds."""
    name = "cicd.pipeline.result" if root else "cicd.pipeline.task.run.result"
    found: Attributes = {name: result(event)}
    if event.error:
        found["error.type"] = event.code or "error"
    if event.cached:
        found["shipline.cached"] = True
    if root:
        return {**found, **_revision(event.attributes), **_image(event.attributes)}
    return {**found, **{f"shipline.{key}": value for key, value in event.attributes.items()}}


def result(event: Finished) -> str:
    """`failure` is for what is wrong with the project, `error` for systems that failed."""
    if not event.error:
        return "success"
    if event.exit_code == _CANCELLED:
        return "cancellation"
    if event.code == "TimeoutError":
        return "timeout"
    return "failure" if event.exit_code in _REFUSED else "error"


def skipped_steps(event: Finished) -> list[tuple[str, Attributes]]:
    """The steps of a run that were skipped, which have no events of their own."""
    names = str(event.attributes.get("skipped", "")).split()
    return [
        (name, {"cicd.pipeline.task.name": name, "cicd.pipeline.task.run.result": "skip"})
        for name in names
    ]


def is_request(event: Started) -> bool:
    """Whether the work of a step is that of a server."""
    return event.attributes.get("kind") in _REQUESTS


def _revision(facts: Mapping[str, Attribute]) -> Attributes:
    branch, tag = facts.get("branch", ""), facts.get("tag", "")
    found: Attributes = {
        "vcs.ref.head.revision": facts.get("commit", ""),
        "vcs.ref.head.name": branch or tag,
        "vcs.ref.head.type": "branch" if branch else "tag" if tag else "",
        "vcs.repository.url.full": without_logins(str(facts.get("source", ""))),
    }
    return {name: value for name, value in found.items() if value}


def _image(facts: Mapping[str, Attribute]) -> Attributes:
    digest, names = str(facts.get("digest", "")), str(facts.get("names", "")).split()
    found: Attributes = {}
    if digest:
        found = {"oci.manifest.digest": digest, "artifact.hash": digest}
    if names:
        found["artifact.filename"] = names[0]
        found["shipline.names"] = " ".join(names)
    return found


class RunLog:
    """The log of a run: an entry for each line that its steps write, whole, for warnings, and for
    the error that ends a step first.
    """

    def __init__(self) -> None:
        self._names: dict[int, str] = {}
        self._open: dict[tuple[int, int], tuple[int, bytes]] = {}
        self._errors: set[str] = set()

    def entries(self, event: Event) -> Iterator[LogEntry]:
        """The entries that an event completes."""
        if isinstance(event, Started):
            self._names[event.span] = event.name
        elif isinstance(event, Logged):
            yield from self._lines(event)
        elif isinstance(event, Warned):
            text = f"{event.message} ({event.hint})" if event.hint else event.message
            yield self._entry(event.span, _nanoseconds(event.at), text, _WARN)
        elif isinstance(event, Finished):
            for stream in (1, 2):
                at, rest = self._open.pop((event.span, stream), (0, b""))
                if rest:
                    yield self._entry(event.span, at, rest, _INFO, stream)
            if event.error and event.error not in self._errors:
                self._errors.add(event.error)
                yield self._entry(event.span, _nanoseconds(event.at), event.error, _ERROR)
            self._names.pop(event.span, None)

    def _lines(self, event: Logged) -> Iterator[LogEntry]:
        key = (event.span, event.stream)
        at, before = self._open.pop(key, (0, b""))
        *lines, rest = (before + event.data).split(b"\n")
        at = at or _nanoseconds(event.at)
        while len(rest) > _LINE_LIMIT:
            lines.append(rest[:_LINE_LIMIT])
            rest = rest[_LINE_LIMIT:]
        for line in lines:
            yield self._entry(event.span, at, line, _INFO, event.stream)
            at = max(at + 1, _nanoseconds(event.at))  # keeps their order where times are sorted
        if rest:
            self._open[key] = (at, rest)

    def _entry(
        self, span: int, at: int, text: str | bytes, severity: int, stream: int = 0
    ) -> LogEntry:
        if isinstance(text, bytes):
            text = text.decode(errors="replace").rstrip("\r")
        kind = {1: "stdout", 2: "stderr"}.get(stream, "")
        return LogEntry(span, at, text, severity, kind, self._names.get(span, ""))


def _nanoseconds(seconds: float) -> int:
    return int(seconds * 1_000_000) * 1000
