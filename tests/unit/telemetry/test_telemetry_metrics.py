"""Metrics of runs: out of events, into samples, added to what is there."""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from serving import ReceivedRequest, Reply, serving
from shipline.errors import (
    Cancelled,
    ConfigError,
    GateRefused,
    RegistryError,
    StepFailed,
    UsageError,
    Waiting,
)
from shipline.events import Step, Stream
from shipline.telemetry.metrics import (
    IMAGE_SIZE,
    LAST_STEP,
    RUN,
    RUN_LAST,
    TAGS,
    MetricValues,
    RunMetrics,
)
from shipline.telemetry.prometheus import Pushgateway, Sample, merge, parse, render, samples_of
from shipline.telemetry.sending import open_metrics


def measured(*, raised: BaseException | None = None) -> MetricValues:
    """The metrics of a run with one of everything, which ends with this error."""
    found: list[MetricValues] = []
    with Stream(RunMetrics("app", found.append)) as stream:
        try:
            with stream.step("ship") as run:
                _work(run)
                if raised is not None:
                    raise raised
        except BaseException as error:
            if error is not raised:
                raise
    assert stream.failures == ()
    return found[0]


def _work(run: Step) -> None:
    with run.step("run tests", kind="run", stage="test", vertex="sha256:1", waited=0.25):
        pass
    with run.step("build", kind="run", stage="build") as build:
        for number, cached in (("1/2", True), ("2/2", False)):
            place = {"platform": "linux/amd64", "stage": "base", "number": number}
            with build.step("RUN make", kind="run", vertex="sha256:0", **place) as step:
                if cached:
                    step.cached()
        with build.step("upload", kind="upload", size=10) as upload:
            upload.progress(7, 10)
        with build.step("pull", kind="pull") as pull:
            pull.note(size=5)
        with build.step("tag", kind="tag"):
            pass
        build.note(**{"image.size|web|linux/amd64": 1000})
    with run.step("gates", kind="run", stage="gates") as gates:
        gates.note(**{"gate.unit": "pass"}, **{"vulnerabilities.high.yes": 3}, tags=2)


def lines(values: MetricValues) -> dict[str, float]:
    text = render(samples_of(values)).decode()
    found = (line.rpartition(" ") for line in text.splitlines() if line[0] != "#")
    return {name.removeprefix("shipline_"): float(value) for name, _, value in found}


def test_events_become_counters_gauges_and_histograms() -> None:
    found = lines(measured())
    at = '{pipeline="app",platform="linux/amd64"'
    expected = {
        'run_duration_seconds_count{kind="ship",pipeline="app",result="success"}': 1,
        'stage_duration_seconds_count{pipeline="app",result="success",stage="test"}': 1,
        'stage_duration_seconds_count{pipeline="app",result="success",stage="build"}': 1,
        'step_wait_seconds_sum{pipeline="app",stage="test"}': 0.25,
        'step_wait_seconds_bucket{le="0.1",pipeline="app",stage="test"}': 0,
        'step_wait_seconds_bucket{le="0.5",pipeline="app",stage="test"}': 1,
        'build_steps_total{cache="hit",pipeline="app",platform="linux/amd64"}': 1,
        'build_steps_total{cache="miss",pipeline="app",platform="linux/amd64"}': 1,
        'build_duration_seconds_count{cache="partial",pipeline="app",platform="linux/amd64"}': 1,
        f'build_step_duration_seconds_count{at},stage="base"}}': 1,
        f'image_size_bytes{at},target="web"}}': 1000,
        'transferred_bytes_total{direction="upload",pipeline="app"}': 7,
        'transferred_bytes_total{direction="download",pipeline="app"}': 5,
        'published_tags_total{pipeline="app"}': 3,
        'gate_results_total{gate="unit",pipeline="app",result="pass"}': 1,
        'vulnerabilities{fixable="yes",pipeline="app",severity="high"}': 3,
    }
    assert {name: found.get(name) for name in expected} == expected
    assert f'build_last_step_seconds{at},stage="base",step="2/2 RUN"}}' in found
    assert not [name for name in found if name.startswith("run_errors")]


@pytest.mark.parametrize(
    ("name", "labels"),
    [
        ("[linux/arm64 base 2/3] RUN make all", ("linux/arm64", "base", "2/3 RUN")),
        ("[2/3] COPY . /app", ("", "", "2/3 COPY")),
        ("[build  9/12] RUN make", ("", "build", "9/12 RUN")),
        ("[internal] load build definition from Dockerfile", None),
    ],
)
def test_steps_of_buildkit_are_known_by_their_names(
    name: str, labels: tuple[str, str, str] | None
) -> None:
    found: list[MetricValues] = []
    with (
        Stream(RunMetrics("app", found.append)) as stream,
        stream.step("build") as run,
        run.step(name, vertex="sha256:0"),
    ):
        pass
    steps = {one.labels[1:] for one in found[0].numbers if one.metric is LAST_STEP}
    assert steps == ({labels} if labels else set())


@pytest.mark.parametrize(
    ("error", "result", "reason"),
    [
        (StepFailed("x", status=1), "failure", "command"),
        (GateRefused("x", verdicts=()), "failure", "policy"),
        (RegistryError("x", host="r.example"), "error", "infrastructure"),
        (UsageError("x"), "error", "configuration"),
        (ZeroDivisionError("x"), "error", "bug"),
        (Waiting("x"), "success", ""),
        (Cancelled(), "cancellation", ""),
    ],
)
def test_why_a_run_failed_is_a_label(error: BaseException, result: str, reason: str) -> None:
    found = lines(measured(raised=error))
    name = f'run_duration_seconds_count{{kind="ship",pipeline="app",result="{result}"}}'
    assert found[name] == 1
    reasons = [name for name in found if name.startswith("run_errors_total")]
    assert len(reasons) == bool(reason)
    assert not reason or f'reason="{reason}"' in reasons[0]


def total(values: Mapping[Sample, float], name: str) -> float:
    return sum(value for (sample, _), value in values.items() if sample == name)


def test_counters_and_histograms_grow_over_runs_and_survive_text() -> None:
    text = ""
    for _ in range(3):
        text = render(merge(samples_of(measured()), parse(text))).decode()
    found = parse(text)
    assert total(found[RUN], f"{RUN.name}_count") == 3
    assert total(found[TAGS], TAGS.name) == 9
    assert total(found[IMAGE_SIZE], IMAGE_SIZE.name) == 1000
    assert render(found).decode() == text


def test_what_is_known_of_another_image_is_replaced_and_other_results_stay() -> None:
    before, after, other = MetricValues(), MetricValues(), MetricValues()
    for platform in ("linux/amd64", "linux/arm64"):
        before.set(IMAGE_SIZE, "app", "", platform, to=5)
    before.set(RUN_LAST, "app", "ship", "success", to=100)
    other.set(IMAGE_SIZE, "other", "", "linux/arm64", to=7)
    after.set(IMAGE_SIZE, "app", "", "linux/amd64", to=6)
    after.set(RUN_LAST, "app", "ship", "failure", to=200)
    found = merge(samples_of(other), samples_of(before))
    found = merge(samples_of(after), found)
    assert {labels: value for (_, labels), value in found[IMAGE_SIZE].items()} == {
        ("app", "", "linux/amd64"): 6,
        ("other", "", "linux/arm64"): 7,
    }
    assert set(found[RUN_LAST].values()) == {100, 200}


def test_bounds_are_numbers_however_they_are_written() -> None:
    text = render(samples_of(measured())).decode()
    assert parse(text.replace('le="1.0"', 'le="1"').replace('le="0.5"', 'le="5e-1"')) == parse(text)


def test_what_another_version_wrote_is_left_out() -> None:
    text = render(samples_of(measured())).decode()
    other = text.replace('le="0.1"', 'le="0.2"') + "# TYPE node_x gauge\nnode_x 1\n"
    found = parse(other)
    assert RUN not in found and total(found[TAGS], TAGS.name) == 3


def deliver(environ: Mapping[str, str], directory: Path) -> list[str]:
    """Send the metrics of a run; the warnings."""
    warnings: list[str] = []
    sinks = open_metrics(
        environ,
        directory=directory,
        pipeline="registry.example/team/app, registry.example/team/other",
        warn=lambda message, hint: warnings.append(message),
    )
    with Stream(*sinks) as stream, stream.step("ship") as run:
        _work(run)
    assert stream.failures == ()
    return warnings


def test_a_file_takes_the_runs_of_many_processes(tmp_path: Path) -> None:
    file = tmp_path / "shipline.prom"
    environ = {"SHIPLINE_METRICS_FILE": str(file)}
    with ThreadPoolExecutor(4) as pool:
        warned = [*pool.map(lambda _: deliver(environ, tmp_path / "home"), range(8))]
    assert warned == [[]] * 8
    assert total(parse(file.read_text())[TAGS], TAGS.name) == 24
    assert [path.name for path in tmp_path.iterdir() if path.is_file()] == ["shipline.prom"]


class Gateway:
    """What a Pushgateway does of what we need, to fail when told."""

    def __init__(self) -> None:
        self.status, self.groups = 200, dict[str, str]()
        self.seen: list[ReceivedRequest] = []
        self.lock = threading.Lock()

    def __call__(self, request: ReceivedRequest) -> Reply:
        body = request.all()
        with self.lock:
            self.seen.append(request)
            if request.method == "PUT" and self.status == 200:
                self.groups[request.path] = body.decode().replace(
                    "{", '{job="shipline",instance="",'
                )
            content = "".join(self.groups.values()).encode()
        return self.status, {}, content if request.method == "GET" else b""


def test_a_place_that_cannot_be_written_is_one_warning(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    environ = {"SHIPLINE_METRICS_FILE": str(tmp_path / "file/x.prom")}
    [warning] = deliver(environ, tmp_path)
    assert "file/x.prom cannot be written" in warning


def test_what_a_gateway_did_not_take_is_sent_with_the_next_run(tmp_path: Path) -> None:
    gateway = Gateway()
    with serving(gateway) as served:
        environ = {"SHIPLINE_PUSHGATEWAY": f"http://me:pa%40ss@{served.host}"}
        assert deliver(environ, tmp_path) == []
        gateway.status = 500
        for _ in range(2):
            [warning] = deliver(environ, tmp_path)
            assert "500" in warning and "pa@ss" not in warning and "pa%40ss" not in warning
        gateway.status = 200
        assert deliver(environ, tmp_path) == []
    [(path, text)] = gateway.groups.items()
    assert path == "/metrics/job/shipline/pipeline/app"
    assert total(parse(text)[TAGS], TAGS.name) == 12
    assert {one.headers["authorization"] for one in gateway.seen} == {"Basic bWU6cGFAc3M="}
    assert not [*(tmp_path / "telemetry").glob("*.prom")]


def test_a_gateway_that_does_not_answer_costs_seconds_and_no_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("shipline.telemetry.sending._LIMIT_S", 0.3)
    ended = threading.Event()

    def silent(request: ReceivedRequest) -> Reply:
        ended.wait(20)
        return 200, {}, b""

    with serving(silent) as served:
        began = time.monotonic()
        [warning] = deliver({"SHIPLINE_PUSHGATEWAY": served.url}, tmp_path)
        took = time.monotonic() - began
        ended.set()
    assert took < 10
    assert "metrics were not sent" in warning
    (kept,) = (tmp_path / "telemetry").glob("*.prom")
    assert total(parse(kept.read_text())[TAGS], TAGS.name) == 3


@pytest.mark.parametrize(
    ("address", "url", "labels"),
    [
        ("http://g.example:9091", "http://g.example:9091/metrics/job/shipline/pipeline@base64/YS9i",
         {"job": "shipline", "pipeline": "a/b"}),
        ("https://g.example/push/", "https://g.example/push/metrics/job/shipline/pipeline@base64/YS9i",
         {"job": "shipline", "pipeline": "a/b"}),
        ("http://g.example/metrics/job/ci/runner/one%20two", "http://g.example/metrics/job/ci/runner/one%20two",
         {"job": "ci", "runner": "one two"}),
        ("http://g.example/metrics/job@base64/YS9i", "http://g.example/metrics/job@base64/YS9i",
         {"job": "a/b"}),
    ],
)  # fmt: skip
def test_the_group_is_that_of_the_pipeline_or_of_the_address(
    address: str, url: str, labels: dict[str, str]
) -> None:
    found = Pushgateway.parse(address, "a/b")
    assert (str(found.url), found.labels) == (url, labels)
    assert str(found.all_metrics) == url.partition("/job")[0]


@pytest.mark.parametrize("address", ["gateway:9091", "http://", "http://g/metrics/job", "ftp://g"])
def test_what_is_no_address_of_a_gateway_is_said(address: str) -> None:
    with pytest.raises(ConfigError, match="SHIPLINE_PUSHGATEWAY"):
        Pushgateway.parse(address, "app")


def test_a_wrong_address_of_a_gateway_shows_no_part_of_a_password() -> None:
    with pytest.raises(ConfigError) as raised:
        Pushgateway.parse("http://eve:pass/word@gateway:9091", "app")
    shown = f"{raised.value.message} {raised.value.hint}"
    assert "pass" not in shown and "word" not in shown and "%2F" in shown


def test_nothing_is_sent_where_nothing_is_asked_for() -> None:
    environ = {"SHIPLINE_METRICS_FILE": "", "PATH": "/bin", "OTEL_METRICS_EXPORTER": "none"}
    asked = open_metrics(environ, directory=Path("/nowhere"), pipeline="app", warn=print)
    assert asked == ()
