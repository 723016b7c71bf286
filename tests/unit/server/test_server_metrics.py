"""The metrics in text format."""

from __future__ import annotations

import shutil
import subprocess

import pytest

from shipline.server.http import Request, Response
from shipline.server.metrics import Metrics

P = "shipline_registry_"


def answer(metrics: Metrics, method: str, seconds: float, status: int = 200) -> None:
    request = Request(method, "/")
    request.received = 10
    metrics.record(request, Response.of(status, (), b"x"), seconds)


def lines(metrics: Metrics) -> list[str]:
    return metrics.render().decode().splitlines()


def test_counters_add_up_by_labels() -> None:
    metrics = Metrics()
    for rule in ("a", "a", 'b"\n\\'):
        metrics.refusals.labels(rule).inc()
    shown = [line for line in lines(metrics) if line.startswith(P + "policy_refusals")]
    assert [line for line in shown if not line.endswith(" 0.0")] == [
        f'{P}policy_refusals_total{{rule="a"}} 2.0',
        f'{P}policy_refusals_total{{rule="b\\"\\n\\\\"}} 1.0',
    ]


def test_counters_without_labels_begin_at_zero() -> None:
    assert f"{P}gc_freed_bytes_total 0.0" in lines(Metrics())


def test_requests_are_counted_with_their_durations_and_bytes() -> None:
    metrics = Metrics()
    for method, seconds in (("GET", 0.0005), ("HEAD", 0.25), ("PUT", 0.25), ("PUT", 100)):
        answer(metrics, method, seconds)
    found = lines(metrics)
    name = f"{P}request_duration_seconds"
    assert f'{name}_bucket{{le="0.001",route="other"}} 1.0' in found
    assert f'{name}_bucket{{le="0.1",route="other"}} 1.0' in found
    assert f'{name}_bucket{{le="0.25",route="other"}} 3.0' in found
    assert f'{name}_bucket{{le="60.0",route="other"}} 3.0' in found
    assert f'{name}_bucket{{le="+Inf",route="other"}} 4.0' in found
    assert f'{name}_count{{route="other"}} 4.0' in found
    assert f'{name}_sum{{route="other"}} 100.5005' in found
    assert f'{P}requests_total{{method="PUT",route="other",status="200"}} 2.0' in found
    assert f"{P}received_bytes_total 40.0" in found
    assert f"{P}sent_bytes_total 3.0" in found


def test_gauges_are_read_when_they_are_scraped() -> None:
    metrics = Metrics()
    values: dict[tuple[str, ...], float] = {("x",): 1.5}
    metrics.gauge("g", "Text.", lambda: values, "kind")
    values["y",] = 2
    assert lines(metrics)[-2:] == [f'{P}g{{kind="x"}} 1.5', f'{P}g{{kind="y"}} 2.0']


def test_numbers_of_bytes_are_exact() -> None:
    metrics = Metrics()
    metrics.gc_freed.inc((1 << 53) - 1)
    (line,) = (line for line in lines(metrics) if line.startswith(f"{P}gc_freed_bytes_total "))
    assert int(float(line.split()[1])) == (1 << 53) - 1


def test_unknown_methods_make_no_series() -> None:
    metrics = Metrics()
    for method in ("GET", "EVIL1", "EVIL2"):
        answer(metrics, method, 0.1)
    text = metrics.render().decode()
    assert "EVIL" not in text
    assert '{method="other",route="other",status="200"} 2.0' in text


def test_nodes_of_one_process_count_apart() -> None:
    one, other = Metrics(), Metrics()
    one.gc_freed.inc(5)
    assert f"{P}gc_freed_bytes_total 0.0" in lines(other)


def test_every_name_that_dashboards_use_is_there() -> None:
    metrics = Metrics()
    answer(metrics, "GET", 0.01)
    families = {line.split()[2] for line in lines(metrics) if line.startswith("# TYPE")}
    process = "cpu_seconds_total resident_memory_bytes virtual_memory_bytes open_fds max_fds"
    assert families == {
        *(f"process_{name}" for name in (*process.split(), "start_time_seconds")),
        *(
            P + name
            for name in (
                "requests_total", "request_duration_seconds", "received_bytes_total",
                "sent_bytes_total", "signature_verdicts_total", "policy_refusals_total",
                "logins_total", "gc_runs_total", "gc_freed_bytes_total",
                "webhook_deliveries_total", "uploads_in_flight", "build_info",
            )
        ),
    }  # fmt: skip


@pytest.mark.skipif(shutil.which("promtool") is None, reason="needs the Debian package prometheus")
def test_promtool_finds_nothing_to_criticise() -> None:
    metrics = Metrics()
    metrics.verdicts.labels("allowed").inc()
    answer(metrics, "GET", 0.01)
    found = subprocess.run(
        ["promtool", "check", "metrics"], input=metrics.render(), capture_output=True
    )
    assert (found.returncode, found.stdout, found.stderr) == (0, b"", b"")
