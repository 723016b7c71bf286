"""The text that scrapers read."""

from __future__ import annotations

import shutil
import subprocess

import pytest

from shipline.server.http import Request, Response
from shipline.server.instruments import Counter, Gauge, render
from shipline.server.metrics import Metrics
from shipline.server.tally import Requests


def test_counter_adds_by_labels() -> None:
    counter = Counter("c_total", "Text.", ("rule",))
    counter.add("a")
    counter.add("a", by=2)
    counter.add('b"\n\\')
    assert render([counter]).splitlines()[2:] == [
        'c_total{rule="a"} 3',
        'c_total{rule="b\\"\\n\\\\"} 1',
    ]


def test_counter_without_labels_begins_at_zero() -> None:
    assert render([Counter("c_total", "Text.", ())]).endswith("\nc_total 0\n")


def test_buckets_of_a_histogram_add_up() -> None:
    requests = Requests("p_")
    for method, seconds in (("GET", 0.0005), ("GET", 0.25), ("PUT", 0.25), ("PUT", 100)):
        requests.add("blobs", method, 200, seconds, 10, 1)
    lines = list(requests.lines())
    name = "p_request_duration_seconds"
    assert f'{name}_bucket{{route="blobs",le="0.001"}} 1' in lines
    assert f'{name}_bucket{{route="blobs",le="0.1"}} 1' in lines
    assert f'{name}_bucket{{route="blobs",le="0.25"}} 3' in lines
    assert f'{name}_bucket{{route="blobs",le="60.0"}} 3' in lines
    assert f'{name}_bucket{{route="blobs",le="+Inf"}} 4' in lines
    assert f'{name}_count{{route="blobs"}} 4' in lines
    assert f'{name}_sum{{route="blobs"}} 100.5005' in lines
    assert 'p_requests_total{route="blobs",method="PUT",status="200"} 2' in lines
    assert "p_received_bytes_total 40" in lines


def test_gauge_is_read_when_it_is_scraped() -> None:
    values: dict[tuple[str, ...], float] = {("x",): 1.5}
    gauge = Gauge("g", "Text.", ("kind",), lambda: values)
    values["y",] = 2
    assert render([gauge]).splitlines()[2:] == ['g{kind="x"} 1.5', 'g{kind="y"} 2']


def test_unknown_methods_make_no_series() -> None:
    metrics = Metrics()
    for method in ("GET", "EVIL1", "EVIL2"):
        request = Request(method, "/")
        metrics.answered(request, Response.of(200), 0.1)
    text = metrics.render()
    assert "EVIL" not in text
    assert 'route="other",method="other",status="200"} 2' in text


@pytest.mark.skipif(shutil.which("promtool") is None, reason="needs the Debian package prometheus")
def test_promtool_finds_nothing_to_criticise() -> None:
    metrics = Metrics()
    metrics.verdicts.add("allowed")
    metrics.answered(Request("GET", "/"), Response.of(200, (), b"x"), 0.01)
    found = subprocess.run(
        ["promtool", "check", "metrics"], input=metrics.render(), text=True, capture_output=True
    )
    assert (found.returncode, found.stdout, found.stderr) == (0, "", "")
