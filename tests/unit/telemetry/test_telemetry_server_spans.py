"""Spans of a node: which requests have one, and what becomes of those that do not fit."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from receivers import Receiver, otlp_over_http
from regions import Region, image
from shipline.content import MemoryStore
from shipline.propagation import SpanContext, within
from shipline.telemetry.server_spans import ServerSpan, ServerSpans, open_server_spans

PARENT = SpanContext("4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7")


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with otlp_over_http() as made:
        yield made


@pytest.fixture
def spans(receiver: Receiver, monkeypatch: pytest.MonkeyPatch) -> ServerSpans:
    environ = {**receiver.environ(), "OTEL_BSP_MAX_QUEUE_SIZE": "8"}
    for name, text in environ.items():
        monkeypatch.setenv(name, text)
    made = open_server_spans(environ)
    assert made is not None
    return made


def record(spans: ServerSpans, parent: SpanContext | None) -> bool:
    """Whether a request with this parent has a span."""
    own = spans.begin(parent)
    if own is not None:
        spans.end(ServerSpan(own, parent, "GET manifests", 1.0, 0.5, {"a": 1}))
    return own is not None


def test_there_are_none_unless_the_environment_asks() -> None:
    assert open_server_spans({}) is None
    assert open_server_spans({"OTEL_TRACES_EXPORTER": "none"}) is None


@pytest.mark.parametrize(
    "variables",
    [
        {"OTEL_TRACES_EXPORTER": "console"},
        {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://me:s3cret@c"},
        {"OTEL_EXPORTER_OTLP_TIMEOUT": "9" * 5000, "OTEL_BSP_SCHEDULE_DELAY": "9" * 20},
        {"OTEL_TRACES_SAMPLER": "traceidratio", "OTEL_TRACES_SAMPLER_ARG": "nan"},
    ],
)
def test_a_node_starts_with_any_value_and_logs_what_is_wrong(
    variables: dict[str, str], caplog: pytest.LogCaptureFixture
) -> None:
    spans = open_server_spans({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://c", **variables})
    assert spans is None or spans.begin(None) is not None
    assert caplog.messages and "s3cret" not in caplog.text


def test_a_span_is_below_that_of_its_client(spans: ServerSpans, receiver: Receiver) -> None:
    assert record(spans, PARENT)
    spans.flush()
    (span,) = receiver.spans
    assert (span.trace, span.parent, span.kind) == (PARENT.trace_id, PARENT.span_id, "server")
    assert (span.start, span.end) == (1_000_000_000, 1_500_000_000)
    assert span.resource["service.name"] == "shipline-registry"


def test_a_client_that_is_not_sampled_has_no_span(spans: ServerSpans) -> None:
    assert not record(spans, SpanContext(PARENT.trace_id, PARENT.span_id, False))


def test_requests_without_a_trace_get_a_fourth_of_the_queue(
    spans: ServerSpans, receiver: Receiver
) -> None:
    assert [record(spans, None) for _ in range(4)] == [True, True, False, False]
    assert [record(spans, PARENT) for _ in range(8)] == [True] * 6 + [False] * 2
    spans.flush()
    assert len(receiver.spans) == 8 and record(spans, None)


def test_what_the_receiver_refuses_is_dropped(
    spans: ServerSpans, receiver: Receiver, caplog: pytest.LogCaptureFixture
) -> None:
    receiver.status = 400
    for _ in range(2):
        record(spans, PARENT)
        spans.flush()
    dropped = [one for one in caplog.messages if "are dropped" in one]
    assert len(dropped) == 1, "one line for an outage"
    receiver.status = 200
    record(spans, PARENT)
    spans.flush()
    assert len(receiver.spans) == 1


def test_the_journal_names_the_span_that_made_an_entry(tmp_path: Path) -> None:
    region, store = Region(tmp_path / "data"), MemoryStore()
    journal = region.app.storage.journal
    before = journal.head()
    with within(PARENT):
        region.push("team/app", "v1", image(store, "one"), store)
    region.push("team/app", "v2", image(store, "two"), store)
    page = journal.after(before)
    region.close()
    assert page is not None
    assert [(one.tag, one.trace) for one in page.entries] == [
        ("v1", PARENT.traceparent),
        ("v2", ""),
    ]
