"""What a canary's measurements say: numbers of Prometheus, Loki and Tempo, and verdicts on them."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving import ReceivedRequest, Reply, serving
from shipline.deliver.canary.analysis import CanaryVerdict, MetricResult, measure, watch
from shipline.deliver.canary.queries import (
    NoData,
    QueryClient,
    QueryFailed,
    filled_in,
    query_client,
)
from shipline.deliver.canary.section import VARIABLES, Analysis, Metric, MetricServer
from shipline.errors import ConfigError
from shipline.registry.credentials import NoKeychain
from shipline.registry.hosts import HostSettings
from shipline.registry.http import HttpClient
from shipline.units import Duration

PASS, FAIL = CanaryVerdict.PASS, CanaryVerdict.FAIL
NO_DATA, ERROR = CanaryVerdict.NO_DATA, CanaryVerdict.ERROR
SAMPLE = {"metric": {}, "value": [1.0, "0.25"]}


def vector(*samples: object, **more: object) -> dict[str, object]:
    return {"status": "success", "data": {"resultType": "vector", "result": list(samples)}, **more}


@contextmanager
def asked(answer: object, status: int = 200, **server: str) -> Iterator[tuple[QueryClient, Any]]:
    """A client of a server that gives one answer, or one by the query."""

    def respond(request: ReceivedRequest) -> Reply:
        found = answer(request) if callable(answer) else answer
        content = found if isinstance(found, bytes) else json.dumps(found).encode()
        return status, {"Content-Type": "application/json"}, content

    with serving(respond) as served:
        http = HttpClient(HostSettings(connect_s=1), NoKeychain())
        section = MetricServer(url=f"{served.url}/base/", **server)
        environ = {"TOKEN": "secret", "NAME": "me", "WORD": "pass"}
        yield query_client(http, section, environ, 1.0), served
        http.close()


@pytest.mark.parametrize(
    ("language", "answer", "number"),
    [
        ("promql", vector(SAMPLE), 0.25),
        ("promql", {"status": "success", "data": {"resultType": "scalar", "result": [1, "3"]}}, 3),
        ("promql", vector(SAMPLE, infos=["may be no counter"]), 0.25),
        ("promql", vector(SAMPLE, warnings=["PromQL info: may be no counter"]), 0.25),
        ("logql", vector(SAMPLE), 0.25),
        ("traceql", {"series": [{"labels": [], "value": 0.5}], "metrics": {}}, 0.5),
        ("traceql", {"series": [{"labels": []}], "status": "COMPLETE"}, 0),
    ],
)
def test_one_number_is_read(language: str, answer: object, number: float) -> None:
    with asked(answer) as (client, _):
        assert client.ask(language, "q", "1m") == number


def nan(text: str) -> dict[str, object]:
    return vector({"metric": {}, "value": [1.0, text]})


@pytest.mark.parametrize(
    ("language", "status", "answer", "problem"),
    [
        ("promql", 200, vector(), NoData),
        ("promql", 200, nan("NaN"), NoData),
        ("promql", 200, nan("+Inf"), NoData),
        ("promql", 200, nan("-Inf"), NoData),
        ("promql", 200, vector(SAMPLE, warnings=["a store did not answer"]), NoData),
        ("promql", 200, vector(SAMPLE, warnings=["PromQL info: x", "PromQL warning: y"]), NoData),
        ("promql", 200, vector(SAMPLE, warnings="a store did not answer"), NoData),
        ("logql", 200, vector(SAMPLE, warnings=["a part failed"]), NoData),
        ("traceql", 200, {"series": []}, NoData),
        ("traceql", 200, {}, NoData),
        ("traceql", 200, {"series": [{"value": "NaN"}]}, NoData),
        ("traceql", 200, {"series": [{"value": 1}], "status": "PARTIAL", "message": "x"}, NoData),
        ("promql", 200, vector(SAMPLE, SAMPLE), QueryFailed),
        ("promql", 200, vector({"metric": {}, "histogram": [1, {}]}), QueryFailed),
        ("promql", 200, nan("many"), QueryFailed),
        ("promql", 200, nan("1_0"), QueryFailed),
        ("promql", 200, {"status": "success", "data": {"resultType": "matrix"}}, QueryFailed),
        ("logql", 200, {"status": "success", "data": {"resultType": "streams"}}, QueryFailed),
        ("promql", 200, {"status": "error", "error": "no"}, QueryFailed),
        ("promql", 200, [], QueryFailed),
        ("promql", 200, b"<html>", QueryFailed),
        ("promql", 200, b"[" * 200_000, QueryFailed),
        ("promql", 400, b"[" * 200_000, QueryFailed),
        ("promql", 200, vector({"metric": {}, "value": [1.0, 10**400]}), NoData),
        ("promql", 200, {"status": "success", "data": None}, QueryFailed),
        ("promql", 400, {"status": "error", "error": "parse error"}, QueryFailed),
        ("promql", 401, b"no", QueryFailed),
        ("promql", 302, b"", QueryFailed),
        ("promql", 404, b"none", QueryFailed),
        ("logql", 429, b"too many", QueryFailed),
        ("promql", 503, {"status": "error", "error": "query timed out"}, QueryFailed),
        ("traceql", 200, {"series": [{"value": True}]}, QueryFailed),
        ("traceql", 200, {"series": "x"}, QueryFailed),
    ],
)
def test_what_is_no_number_is_none(
    language: str, status: int, answer: object, problem: type[Exception]
) -> None:
    with asked(answer, status) as (client, served), pytest.raises(problem):
        client.ask(language, "q", "1m")
    assert len(served.requests) == 1


def test_a_server_that_is_silent_or_gone_is_an_error() -> None:
    left = threading.Event()

    def silent(_: ReceivedRequest) -> bytes:
        left.wait(60)
        return b""

    with asked(silent) as (client, _):
        with pytest.raises(QueryFailed, match="no answer within 1 seconds"):
            client.ask("promql", "q", "1m")
        left.set()
    with pytest.raises(QueryFailed):
        client.ask("promql", "q", "1m")


@pytest.mark.parametrize(
    ("server", "headers"),
    [
        ({"token": "TOKEN"}, {"authorization": "Bearer secret"}),
        ({"user": "NAME", "password": "WORD"}, {"authorization": "Basic bWU6cGFzcw=="}),
        ({"tenant": "team"}, {"x-scope-orgid": "team"}),
    ],
)
def test_credentials_come_from_variables(
    server: dict[str, Any], headers: Mapping[str, str]
) -> None:
    with asked(vector(SAMPLE), **server) as (client, served):
        client.ask("promql", 'a{b="c"} > 1', "1m")
        assert not any(text in repr(client) for text in headers.values())
    (request,) = served.requests
    assert request.path == "/base/api/v1/query" and request.query == {"query": ['a{b="c"} > 1']}
    assert headers.items() <= request.headers.items()


def test_a_variable_that_is_not_set_is_an_error_before_anything_is_asked() -> None:
    http = HttpClient(HostSettings(), NoKeychain())
    with pytest.raises(ConfigError, match="the variable NONE is not set"):
        query_client(http, MetricServer(url="https://p.example", token="NONE"), {}, 1)


def test_tempo_is_asked_about_the_window() -> None:
    with asked({"series": [{"value": 1}]}) as (client, served):
        client.ask("traceql", "{} | rate()", "5m")
    assert served.requests[0].path == "/base/api/metrics/query"
    assert served.requests[0].query == {"q": ["{} | rate()"], "since": ["5m"]}


VALUES = dict.fromkeys(VARIABLES, "x") | {"canary": "app-canary", "window": "1m30s"}


def test_variables_are_filled_in_and_templates_of_logql_stay() -> None:
    query = 'rate({app="{{canary}}"} | line_format "{{.msg}} {{ __x__ }}" [{{ window }}])'
    assert filled_in(query, VALUES) == (
        'rate({app="app-canary"} | line_format "{{.msg}} {{ __x__ }}" [1m30s])'
    )


@given(st.text(min_size=1))
def test_no_value_ends_a_string(text: str) -> None:
    try:
        query = filled_in('up{app="{{canary}}"}', {**VALUES, "canary": text})
    except ConfigError:
        return
    assert query == f'up{{app="{text}"}}'
    assert not set(text) & set("\"'`\\{}()[]|,=~ \n")


def metric(**more: Any) -> Metric:
    return Metric(name="m", promql='v{v="{{canary}}"}', **more)


def judged(one: Metric, answers: Mapping[str, object]) -> CanaryVerdict:
    """The verdict, where queries have these results: a number, or none."""

    def answer(request: ReceivedRequest) -> object:
        found = answers[request.query["query"][0]]
        return vector() if found is None else nan(str(found))

    with asked(answer) as (client, _):
        ours, theirs = VALUES | {"canary": "new"}, VALUES | {"canary": "old"}
        return measure(one, client, ours, theirs).verdict


NEW, OLD = 'v{v="new"}', 'v{v="old"}'


@pytest.mark.parametrize(
    ("limits", "answers", "verdict"),
    [
        ({"max": 0.1}, {NEW: 0.1}, PASS),
        ({"max": 0.1}, {NEW: 0.11}, FAIL),
        ({"max": 0}, {NEW: 0}, PASS),
        ({"min": 0.9}, {NEW: 0.8}, FAIL),
        ({"max": 0.1}, {NEW: None}, NO_DATA),
        ({"max_ratio": 1.5}, {NEW: 3, OLD: 2}, PASS),
        ({"max_ratio": 1.5}, {NEW: 3.1, OLD: 2}, FAIL),
        ({"max_ratio": 1.5}, {NEW: 0, OLD: 0}, PASS),
        ({"max_ratio": 1.5}, {NEW: 1, OLD: None}, NO_DATA),
        ({"max_increase": 0.5}, {NEW: 2.5, OLD: 2}, PASS),
        ({"max_increase": 0.5}, {NEW: 2.6, OLD: 2}, FAIL),
        ({"max": 9, "max_ratio": 2}, {NEW: 8, OLD: 2}, FAIL),
        ({"max_ratio": 2, "baseline": "b"}, {NEW: 8, "b": 4}, PASS),
        ({"max": 1, "samples": "n", "min_samples": 9}, {"n": 8, NEW: 0}, NO_DATA),
        ({"max": 1, "samples": "n", "min_samples": 9}, {"n": 9, NEW: 0}, PASS),
        ({"max": 1, "samples": "n", "min_samples": 9}, {"n": None, NEW: 0}, NO_DATA),
        ({"max": 1, "samples": "n", "min_samples": 9}, {"n": "NaN", NEW: 0}, NO_DATA),
    ],
)
def test_a_measurement_is_compared_with_its_limits(
    limits: dict[str, Any], answers: Mapping[str, object], verdict: CanaryVerdict
) -> None:
    assert judged(metric(**limits), answers) is verdict


def test_the_stable_version_needs_samples_too() -> None:
    one = metric(max_ratio=2, samples='n{v="{{canary}}"}', min_samples=5)
    answers = {'n{v="new"}': 9, 'n{v="old"}': 1, NEW: 1, OLD: 1}
    assert judged(one, answers) is NO_DATA


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"name": "m", "max": 1}, "one of promql, logql, traceql"),
        ({"name": "m", "promql": "a", "logql": "b", "max": 1}, "one of promql, logql, traceql"),
        ({"name": "m", "promql": "a"}, "needs one of max, min"),
        ({"name": "m", "promql": "{{canray}}", "max": 1}, "there is no variable {{canray}}"),
        ({"name": "m", "promql": "a", "max_ratio": 1}, "need {{canary}} in the query"),
    ],
)
def test_a_metric_without_query_or_limit_is_an_error(wrong: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Metric(**wrong)


def analysis(**more: Any) -> Analysis:
    return Analysis(
        prometheus=MetricServer(url="http://p.example"),
        metrics=(metric(max=1),),
        interval=Duration(1000),
        **more,
    )


def watched(
    verdicts: Sequence[CanaryVerdict], hold_s: float, *, paused_s: float = 0, **more: Any
) -> tuple[str, float]:
    """The verdict on a step with these measurements, one a second, and when it came; the last one
    is repeated. It is paused until `paused_s`.
    """
    now, left = [0.0], list(verdicts)

    def pause(seconds: float) -> None:
        now[0] += seconds
        if now[0] > 1000:
            raise TimeoutError

    def measurements() -> list[MetricResult]:
        return [MetricResult("m", left.pop(0) if len(left) > 1 else left[0], "")]

    try:
        found = watch(
            analysis(**more),
            measurements,
            hold_s=hold_s,
            paused=lambda: now[0] < paused_s,
            clock=lambda: now[0],
            pause=pause,
        )
    except TimeoutError:
        return "held", now[0]
    return found.verdict, now[0]


TEN = {"deadline": Duration(10_000)}


@pytest.mark.parametrize(
    ("verdicts", "hold_s", "more", "result"),
    [
        ([PASS], 5, {}, ("pass", 5)),
        ([PASS], 0, {"count": 3}, ("pass", 3)),
        ([PASS, FAIL], 5, {}, ("fail", 2)),
        ([PASS, FAIL, PASS], 5, {"failure_limit": 1}, ("pass", 5)),
        ([FAIL, PASS, FAIL], 5, {"failure_limit": 1}, ("fail", 3)),
        ([FAIL], 5, {"failure_limit": 8}, ("fail", 9)),
        ([NO_DATA], 5, {}, ("held", 1001)),
        ([NO_DATA], 5, TEN, ("no_data", 15)),
        ([NO_DATA] * 7 + [PASS], 5, TEN, ("pass", 8)),
        ([PASS, NO_DATA], 5, TEN, ("no_data", 15)),
        ([ERROR], 5, {}, ("held", 1001)),
        ([ERROR], 5, TEN, ("error", 15)),
        ([ERROR], 5, {"error_limit": 3}, ("error", 4)),
        ([ERROR, ERROR, NO_DATA, ERROR, ERROR, PASS], 3, {"error_limit": 2}, ("pass", 6)),
        ([NO_DATA, PASS], 0, {"count": 2}, ("pass", 3)),
        ([PASS], 5, {"paused_s": 100}, ("pass", 100)),
        ([PASS, FAIL], 5, {"paused_s": 100}, ("fail", 2)),
        ([PASS] * 9 + [NO_DATA], 5, {"paused_s": 100, **TEN}, ("no_data", 109)),
    ],
)
def test_a_step_passes_with_enough_measurements_and_holds_without_data(
    verdicts: Sequence[CanaryVerdict],
    hold_s: float,
    more: dict[str, Any],
    result: tuple[str, float],
) -> None:
    assert watched(verdicts, hold_s, **more) == result


@given(
    st.lists(st.sampled_from(CanaryVerdict), min_size=1, max_size=30),
    st.integers(0, 10),
    st.integers(1, 5),
)
def test_a_step_without_a_pass_never_passes(
    verdicts: list[CanaryVerdict], hold_s: int, count: int
) -> None:
    result, _ = watched([*verdicts, NO_DATA], hold_s, count=count, deadline=Duration(60_000))
    passes = [one for one in verdicts if one is PASS]
    if result == "pass":
        assert len(passes) >= count and FAIL not in verdicts[: verdicts.index(PASS) + count]
