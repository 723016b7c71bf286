"""Traces in and out of processes and requests."""

from __future__ import annotations

import contextvars

import pytest

from shipline.deliver.commands import environment
from shipline.errors import GateRefused
from shipline.events import Event, Finished, Stream
from shipline.propagation import SpanContext, Trace, current, traceparent
from shipline.registry.request import ClientRequest, Url
from shipline.tasks import TaskGroup
from shipline.telemetry import begin_trace

PARENT = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
ASKED = {"OTEL_TRACES_EXPORTER": "otlp"}


def begun(follows: str = "", **environ: str) -> Trace | None:
    """The trace that a process with these variables begins."""
    return contextvars.copy_context().run(begin_trace, {**ASKED, **environ}, follows)


@pytest.mark.parametrize(
    "text",
    [
        *("", "x", PARENT[:-1], PARENT + "-more", PARENT.upper(), "ff" + PARENT[2:]),
        f"00-{'0' * 32}-00f067aa0ba902b7-01",
        f"00-{'1' * 32}-{'0' * 16}-01",
    ],
)
def test_what_is_no_traceparent_is_ignored(text: str) -> None:
    assert SpanContext.parse(text) is None


def test_a_later_version_is_read_as_far_as_it_is_known() -> None:
    found = SpanContext.parse("01" + PARENT[2:] + "-more")
    assert found is not None and found.traceparent == PARENT


def test_the_thread_of_a_step_and_those_that_it_starts_work_for_its_span() -> None:
    trace = Trace.begin()
    with Stream(trace=trace) as stream, stream.step("root") as root:
        with root.step("child") as child, TaskGroup() as group:
            found = group.start(traceparent).result()
        assert found == trace.span(child.span).traceparent
        assert current() == trace.span(root.span)
    assert current() is None


def test_a_trace_that_is_not_recorded_here_is_passed_on() -> None:
    def run() -> None:
        assert begin_trace({"TRACEPARENT": PARENT}) is None
        with Stream() as stream, stream.step("root"):
            assert traceparent() == PARENT
            assert environment({}, (), {})["TRACEPARENT"] == PARENT

    contextvars.copy_context().run(run)


def test_an_incoming_trace_is_continued_with_its_state_and_sampling() -> None:
    trace = begun(TRACEPARENT=PARENT[:-1] + "0", TRACESTATE="a=b")
    assert trace is not None and trace.parent is not None
    assert (trace.trace_id, trace.sampled) == (PARENT[3:35], False)
    assert trace.span(1).environment["TRACESTATE"] == "a=b"
    assert trace.span(1).span_id != trace.span(2).span_id != trace.parent.span_id


@pytest.mark.parametrize(
    ("sampler", "argument", "expected"),
    [("always_off", "", False), ("traceidratio", "0", False), ("parentbased_always_on", "", True)],
)
def test_the_sampler_decides_before_anything_is_sent(
    sampler: str, argument: str, expected: bool
) -> None:
    variables = {"OTEL_TRACES_SAMPLER": sampler, "OTEL_TRACES_SAMPLER_ARG": argument}
    trace = begun(**variables)
    assert trace is not None and trace.sampled is expected


def test_what_a_run_goes_on_with_gives_way_to_the_environment() -> None:
    other = f"00-{'a' * 32}-{'b' * 16}-01"
    for trace, expected in (
        (begun(follows=other), other),
        (begun(follows=other, TRACEPARENT=PARENT), PARENT),
    ):
        assert trace is not None and trace.parent is not None
        assert trace.parent.traceparent == expected


def test_a_run_inside_of_a_run_continues_its_trace() -> None:
    outer = Trace.begin()
    with Stream(trace=outer) as stream, stream.step("deploy") as step:
        inner = begun(TRACEPARENT=PARENT)
    assert inner is not None and inner.parent == outer.span(step.span)


def test_the_end_of_a_step_tells_the_code_of_its_error() -> None:
    events: list[Event] = []
    with pytest.raises(GateRefused), Stream(events.append) as stream, stream.step("gates"):
        raise GateRefused("no")
    end = events[-1]
    assert isinstance(end, Finished) and (end.code, end.exit_code) == ("gate", 9)


def test_the_name_of_the_trace_does_not_follow_a_redirect_to_another_host() -> None:
    request = ClientRequest("GET", Url.parse("https://a.example/v2/"), {"traceparent": PARENT})
    elsewhere = request.redirected(Url.parse("https://b.example/x"), keep_body=False)
    assert "traceparent" not in elsewhere.headers
    same = request.redirected(Url.parse("https://a.example/x"), keep_body=False)
    assert same.headers["traceparent"] == PARENT
