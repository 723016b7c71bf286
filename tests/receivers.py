"""Receivers of telemetry: OTLP over HTTP and gRPC, with OpenTelemetry's own messages, and Loki."""

from __future__ import annotations

import gzip
import json
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import grpc
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import (
    ExportLogsServiceRequest,
    ExportLogsServiceResponse,
)
from opentelemetry.proto.collector.logs.v1.logs_service_pb2_grpc import (
    LogsServiceServicer,
    add_LogsServiceServicer_to_server,
)
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import (
    ExportMetricsServiceRequest,
    ExportMetricsServiceResponse,
)
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2_grpc import (
    MetricsServiceServicer,
    add_MetricsServiceServicer_to_server,
)
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)
from opentelemetry.proto.collector.trace.v1.trace_service_pb2_grpc import (
    TraceServiceServicer,
    add_TraceServiceServicer_to_server,
)

from serving import ReceivedRequest, Reply, json_reply, serving

_KINDS = {1: "internal", 2: "server", 3: "client"}
_WAIT_S = 30.0


@dataclass(frozen=True)
class ReceivedSpan:
    """A span as it arrived; identifiers in hexadecimal."""

    trace: str
    id: str
    parent: str
    name: str
    kind: str
    attributes: dict[str, Any]
    resource: dict[str, Any]
    start: int
    end: int
    failed: bool
    events: tuple[str, ...] = ()


@dataclass(frozen=True)
class ReceivedLog:
    """A log record as it arrived."""

    trace: str
    span: str
    text: str
    severity: str
    attributes: dict[str, Any]


@dataclass
class Receiver:
    """What arrived, and how the next requests are answered: `status` other than 200 refuses them,
    `statuses` are those of the next ones; `delay_s` is how long each takes. `data` are metrics.
    """

    url: str = ""
    spans: list[ReceivedSpan] = field(default_factory=list)
    logs: list[ReceivedLog] = field(default_factory=list)
    metrics: list[str] = field(default_factory=list)
    headers: list[dict[str, str]] = field(default_factory=list)
    status: int = 200
    statuses: list[int] = field(default_factory=list)
    data: list[Any] = field(default_factory=list)
    delay_s: float = 0.0
    ended: threading.Event = field(default_factory=threading.Event)

    def environ(self, protocol: str = "http/protobuf") -> dict[str, str]:
        return {
            "OTEL_EXPORTER_OTLP_ENDPOINT": self.url,
            "OTEL_EXPORTER_OTLP_PROTOCOL": protocol,
            "OTEL_EXPORTER_OTLP_TIMEOUT": "10000",
        }

    def span(self, name: str, **attributes: Any) -> ReceivedSpan:
        """The only span whose name begins so, with these attributes (`__` for a dot)."""
        wanted = {key.replace("__", "."): value for key, value in attributes.items()}
        found = [
            one
            for one in self.spans
            if one.name.startswith(name) and wanted.items() <= one.attributes.items()
        ]
        assert len(found) == 1, (name, wanted, [one.name for one in self.spans])
        return found[0]

    def chain(self, span: ReceivedSpan) -> list[str]:
        """The names from a span up to the root that arrived."""
        by_id = {one.id: one for one in self.spans}
        names = [span.name]
        while (above := by_id.get(span.parent)) is not None:
            assert above.trace == span.trace
            names.append(above.name)
            span = above
        return names

    def wait(self, is_there: Callable[[Receiver], bool]) -> None:
        """Wait until what is exported in the background has arrived."""
        end = time.monotonic() + _WAIT_S
        while not is_there(self):
            assert time.monotonic() < end, [one.name for one in self.spans]
            time.sleep(0.05)

    def add_spans(self, request: ExportTraceServiceRequest) -> None:
        for resource in request.resource_spans:
            facts = _attributes(resource.resource.attributes)
            for scope in resource.scope_spans:
                self.spans += [_span(one, facts) for one in scope.spans]

    def add_logs(self, request: ExportLogsServiceRequest) -> None:
        for resource in request.resource_logs:
            for scope in resource.scope_logs:
                self.logs += [_log(one) for one in scope.log_records]

    def add_metrics(self, request: ExportMetricsServiceRequest) -> None:
        for resource in request.resource_metrics:
            for scope in resource.scope_metrics:
                self.metrics += [one.name for one in scope.metrics]
        self.data += request.resource_metrics


@contextmanager
def otlp_over_http() -> Iterator[Receiver]:
    """A running receiver."""
    made = Receiver()

    def respond(request: ReceivedRequest) -> Reply:
        made.headers.append(request.headers)
        body = request.all()
        if request.headers.get("content-encoding") == "gzip":
            body = gzip.decompress(body)
        made.ended.wait(made.delay_s)
        status = made.statuses.pop(0) if made.statuses else made.status
        if status != 200:
            return json_reply(status, {"message": "no"})
        protobuf = {"Content-Type": "application/x-protobuf"}
        if request.path == "/v1/traces":
            made.add_spans(ExportTraceServiceRequest.FromString(body))
            return 200, protobuf, ExportTraceServiceResponse().SerializeToString()
        if request.path == "/v1/logs":
            made.add_logs(ExportLogsServiceRequest.FromString(body))
            return 200, protobuf, ExportLogsServiceResponse().SerializeToString()
        if request.path == "/v1/metrics":
            made.add_metrics(ExportMetricsServiceRequest.FromString(body))
            return 200, protobuf, ExportMetricsServiceResponse().SerializeToString()
        return json_reply(404, {})

    with serving(respond) as served:
        made.url = served.url
        try:
            yield made
        finally:
            made.ended.set()


@contextmanager
def otlp_over_grpc() -> Iterator[Receiver]:
    """A running receiver."""
    made = Receiver()

    class Traces(TraceServiceServicer):
        def Export(self, request: Any, context: Any) -> Any:
            made.headers.append(dict(context.invocation_metadata()))
            made.add_spans(request)
            return ExportTraceServiceResponse()

    class Logs(LogsServiceServicer):
        def Export(self, request: Any, context: Any) -> Any:
            made.add_logs(request)
            return ExportLogsServiceResponse()

    class Metrics(MetricsServiceServicer):
        def Export(self, request: Any, context: Any) -> Any:
            made.add_metrics(request)
            return ExportMetricsServiceResponse()

    server = grpc.server(ThreadPoolExecutor(4))  # type: ignore[attr-defined]
    add_TraceServiceServicer_to_server(Traces(), server)  # type: ignore[no-untyped-call]
    add_LogsServiceServicer_to_server(Logs(), server)  # type: ignore[no-untyped-call]
    add_MetricsServiceServicer_to_server(Metrics(), server)  # type: ignore[no-untyped-call]
    made.url = f"http://127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
    server.start()
    try:
        yield made
    finally:
        server.stop(None)


@dataclass
class Loki:
    """What was pushed: labels, time, line, structured metadata."""

    url: str = ""
    entries: list[tuple[dict[str, str], int, str, dict[str, str]]] = field(default_factory=list)
    headers: list[dict[str, str]] = field(default_factory=list)
    status: int = 204


@contextmanager
def loki() -> Iterator[Loki]:
    """A running stub of Loki's push API."""
    made = Loki()

    def respond(request: ReceivedRequest) -> Reply:
        made.headers.append(request.headers)
        document = json.loads(gzip.decompress(request.all()))
        if request.path != "/loki/api/v1/push" or made.status != 204:
            return made.status if made.status != 204 else 404, {}, b""
        for stream in document["streams"]:
            for at, line, *more in stream["values"]:
                made.entries.append((stream["stream"], int(at), line, *(more or [{}])))
        return 204, {}, b""

    with serving(respond) as served:
        made.url = served.url
        yield made


def _span(span: Any, resource: dict[str, Any]) -> ReceivedSpan:
    return ReceivedSpan(
        span.trace_id.hex(),
        span.span_id.hex(),
        span.parent_span_id.hex(),
        span.name,
        _KINDS[span.kind],
        _attributes(span.attributes),
        resource,
        span.start_time_unix_nano,
        span.end_time_unix_nano,
        span.status.code == 2,
        tuple(event.name for event in span.events),
    )


def _log(record: Any) -> ReceivedLog:
    return ReceivedLog(
        record.trace_id.hex(),
        record.span_id.hex(),
        record.body.string_value,
        record.severity_text,
        _attributes(record.attributes),
    )


def _attributes(pairs: Any) -> dict[str, Any]:
    return {pair.key: getattr(pair.value, pair.value.WhichOneof("value")) for pair in pairs}
