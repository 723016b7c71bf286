"""Telemetry of runs: what arrives, and what becomes of it while a receiver is away."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from urllib.parse import SplitResult

import pytest
from opentelemetry.proto.trace.v1.trace_pb2 import Span

from receivers import Receiver, loki, otlp_over_grpc, otlp_over_http
from shipline.errors import Cancelled, ConfigError, GateRefused, RegistryError
from shipline.events import Event, Finished, Progress, Started, Stream
from shipline.propagation import SpanContext, Trace
from shipline.telemetry import begin_trace, delivery, open_telemetry
from shipline.telemetry.conventions import TracedRun
from shipline.telemetry.delivery import open_source, replay
from shipline.telemetry.otlp_messages import span
from shipline.telemetry.receiver import ExportFailed, OtlpReceiver, ReceiverSettings
from shipline.telemetry.spool import SpooledRun, SpoolWriter, prune, spooled_runs
from shipline.telemetry.variables import ignored, is_sampled

LONG_S = 60.0
PARENT = SpanContext("4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7")


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with otlp_over_http() as made:
        yield made


class Runs:
    """Runs of a process with an environment and a state directory."""

    def __init__(self, home: Path, set_variable: Callable[[str, str], None]) -> None:
        self.home = home
        self.spool = home / "telemetry"
        self.warnings: list[str] = []
        self._set = set_variable
        self.environ: dict[str, str] = {}

    def use(self, environ: Mapping[str, str]) -> None:
        """The environment of the next runs, which their processes inherit."""
        self.environ = dict(environ)
        for name, text in environ.items():
            self._set(name, text)

    def run(self, work: Callable[[Stream], None], trace: Trace | None = None) -> float:
        """Run `work` inside of a run; the seconds until its stream was closed."""
        trace = trace or begin_trace(self.environ)
        sinks = open_telemetry(
            self.environ,
            trace,
            directory=self.home,
            run="r1",
            kind="build",
            pipeline="shop",
            warn=lambda message, hint: self.warnings.append(f"{message} ({hint})"),
        )
        with Stream(*sinks, trace=trace) as stream:
            work(stream)
            started = time.monotonic()
        return time.monotonic() - started

    def left(self) -> list[tuple[str, ...]]:
        return [spooled.targets() for spooled in spooled_runs(self.spool)]

    def replay(self) -> int:
        """The number of records; a thread of this process may still hold a target for a while."""
        sent, end = 0, time.monotonic() + 30
        while self.left() and time.monotonic() < end:
            sent += sum(records for _, _, records in replay(self.spool, self.environ))
            time.sleep(0.05)
        return sent


def set_patience(monkeypatch: pytest.MonkeyPatch, close_s: float, doubtful_s: float) -> None:
    """How long a run waits for its receivers, and where they were away before."""
    monkeypatch.setattr(delivery, "_CLOSE_S", close_s)
    monkeypatch.setattr(delivery, "_DOUBTFUL_CLOSE_S", doubtful_s)


@pytest.fixture
def runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Runs:
    """Runs that wait until all is delivered, also where other tests take the processors."""
    set_patience(monkeypatch, LONG_S, LONG_S)
    return Runs(tmp_path / "home", monkeypatch.setenv)


@pytest.fixture
def hasty(runs: Runs, monkeypatch: pytest.MonkeyPatch) -> Runs:
    """Runs that wait for a second."""
    set_patience(monkeypatch, 1, 1)
    return runs


def small_build(stream: Stream) -> None:
    with stream.step("build", commit="c0ffee", branch="main", source="https://u:p@git.x/a") as root:
        with root.step("RUN make", kind="run", platform="linux/amd64") as step:
            step.output(b"one\ntw")
            step.output(b"o\nthree")
            step.warn("old syntax", "use the new one")
        with root.step("push x/y", kind="push", host="x") as step:
            step.cached()
        root.note(digest="sha256:" + "a" * 64, names="x/y:1")


@pytest.mark.parametrize("protocol", ["http/protobuf", "grpc"])
def test_a_run_is_a_tree_of_spans_with_its_output(runs: Runs, protocol: str) -> None:
    opened = otlp_over_grpc if protocol == "grpc" else otlp_over_http
    with opened() as receiver:
        runs.use({**receiver.environ(protocol), "OTEL_RESOURCE_ATTRIBUTES": "team=web"})
        runs.run(small_build)
        assert runs.warnings == [] and runs.left() == []
    assert {"cicd.pipeline.run.duration", "shipline.run.duration"} <= {*receiver.metrics}
    root = receiver.span("BUILD shop")
    assert root.kind == "server" and root.parent == "" and not root.failed
    assert root.resource["service.name"] == "shipline" and root.resource["team"] == "web"
    assert root.attributes["vcs.ref.head.revision"] == "c0ffee"
    assert root.attributes["vcs.repository.url.full"] == "https://git.x/a", "without a login"
    assert root.attributes["oci.manifest.digest"] == "sha256:" + "a" * 64
    assert root.attributes["cicd.pipeline.result"] == "success"
    step, push = receiver.span("RUN make"), receiver.span("push x/y")
    assert step.parent == push.parent == root.id and push.kind == "client"
    assert push.attributes["server.address"] == "x" and push.attributes["shipline.cached"]
    assert step.events == ("warning",) and step.start < step.end
    lines = [(one.text, one.severity) for one in receiver.logs]
    said = ("old syntax (use the new one)", "WARN")
    assert lines == [("one", "INFO"), ("two", "INFO"), said, ("three", "INFO")]
    assert {(one.trace, one.span) for one in receiver.logs} == {(root.trace, step.id)}
    assert receiver.logs[0].attributes["cicd.pipeline.task.name"] == "RUN make"


@pytest.mark.parametrize(
    ("failure", "expected"),
    [
        (GateRefused("too many"), "failure"),
        (RegistryError("away", host="x"), "error"),
        (Cancelled(), "cancellation"),
        (TimeoutError("late"), "timeout"),
    ],
)
def test_the_result_tells_refusals_from_failures_of_systems(
    runs: Runs, receiver: Receiver, failure: BaseException, expected: str
) -> None:
    def fail(stream: Stream) -> None:
        with pytest.raises(type(failure)), stream.step("build") as root, root.step("gates"):
            raise failure

    runs.use(receiver.environ())
    runs.run(fail)
    root, step = receiver.span("BUILD"), receiver.span("gates")
    assert root.attributes["cicd.pipeline.result"] == expected and root.failed
    assert step.attributes["cicd.pipeline.task.run.result"] == expected
    assert [one.severity for one in receiver.logs] == ["ERROR"], "once"


def test_steps_that_were_skipped_are_spans_without_time(runs: Runs, receiver: Receiver) -> None:
    def skip(stream: Stream) -> None:
        with stream.step("ship") as root:
            root.note(skipped="lint sign")

    runs.use(receiver.environ())
    runs.run(skip)
    root, skipped = receiver.span("BUILD"), [receiver.span("lint"), receiver.span("sign")]
    assert {(one.parent, one.start) for one in skipped} == {(root.id, root.end)}
    results = {one.attributes["cicd.pipeline.task.run.result"] for one in skipped}
    assert results == {"skip"} and len({one.id for one in receiver.spans}) == 3


def test_the_root_continues_what_the_environment_names(runs: Runs, receiver: Receiver) -> None:
    runs.use(receiver.environ())
    runs.run(small_build, Trace.begin(PARENT))
    root = receiver.span("BUILD shop")
    assert (root.trace, root.parent) == (PARENT.trace_id, PARENT.span_id)


@pytest.mark.parametrize(
    "variables",
    [
        {"OTEL_SDK_DISABLED": "true"},
        {f"OTEL_{name}_EXPORTER": "none" for name in ("TRACES", "LOGS", "METRICS")},
    ],
)
def test_nothing_is_sent_or_kept_unless_asked_for(
    runs: Runs, receiver: Receiver, variables: dict[str, str]
) -> None:
    runs.use({**receiver.environ(), **variables})
    runs.run(small_build)
    assert receiver.headers == [] and runs.left() == []


def test_a_sampler_that_takes_no_trace_leaves_the_logs(runs: Runs, receiver: Receiver) -> None:
    runs.use({**receiver.environ(), "OTEL_TRACES_SAMPLER": "always_off"})
    runs.run(small_build)
    assert receiver.spans == [] and len(receiver.logs) == 4


@pytest.mark.parametrize("protocol", ["http/protobuf", "grpc"])
def test_headers_of_the_environment_are_sent(runs: Runs, protocol: str) -> None:
    opened = otlp_over_grpc if protocol == "grpc" else otlp_over_http
    with opened() as receiver:
        said = {"OTEL_EXPORTER_OTLP_HEADERS": "API-Key=s3%20cret,b=2"}
        runs.use({**receiver.environ(protocol), **said})
        runs.run(small_build)
    assert {one["api-key"] for one in receiver.headers} == {"s3 cret"}


@pytest.mark.parametrize(
    ("variables", "endpoint"),
    [
        ({}, "http://localhost:4318/v1/traces"),
        ({"ENDPOINT": "https://c/otlp/"}, "https://c/otlp/v1/traces"),
        ({"ENDPOINT": "https://c", "TRACES_ENDPOINT": "https://d/in"}, "https://d/in"),
        ({"PROTOCOL": "grpc"}, "http://localhost:4317"),
        ({"PROTOCOL": "grpc", "ENDPOINT": "c:4317"}, "https://c:4317"),
        ({"PROTOCOL": "grpc", "ENDPOINT": "c:4317", "INSECURE": "true"}, "http://c:4317"),
        ({"TRACES_PROTOCOL": "grpc", "ENDPOINT": "http://c:4317"}, "http://c:4317"),
    ],
)
def test_the_endpoint_is_the_one_that_the_specification_says(
    variables: dict[str, str], endpoint: str
) -> None:
    environ = {f"OTEL_EXPORTER_OTLP_{name}": text for name, text in variables.items()}
    assert ReceiverSettings.read("traces", environ).endpoint == endpoint


def test_variables_of_a_signal_come_before_those_of_all() -> None:
    prefix = "OTEL_EXPORTER_OTLP_"
    common = {"TIMEOUT": "2000", "COMPRESSION": "gzip", "CERTIFICATE": "ca.pem", "HEADERS": "a=1"}
    own = {"LOGS_TIMEOUT": "500", "LOGS_HEADERS": "b=2"}
    environ = {prefix + name: text for name, text in {**common, **own}.items()}
    found = ReceiverSettings.read("logs", environ)
    assert (found.timeout_s, found.compressed, found.ca) == (0.5, True, "ca.pem")
    assert found.headers == {"b": "2"}


def test_an_endpoint_that_is_no_server_is_told_without_its_login() -> None:
    with pytest.raises(ConfigError, match="OTEL_") as caught:
        OtlpReceiver("traces", {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://me:s3cret@c"})
    assert "s3cret" not in str(caught.value) and caught.value.code == "telemetry-exporter"


@pytest.mark.parametrize(
    ("variables", "spans"),
    [
        ({"OTEL_TRACES_EXPORTER": "console"}, 0),
        ({"OTEL_TRACES_EXPORTER": "otlp,zipkin", "OTEL_EXPORTER_OTLP_PROTOCOL": "http/json"}, 3),
        ({"OTEL_TRACES_SAMPLER": "traceidratio", "OTEL_TRACES_SAMPLER_ARG": "nan"}, 3),
    ],
)
def test_what_is_not_known_is_ignored_with_one_warning(
    runs: Runs, receiver: Receiver, variables: dict[str, str], spans: int
) -> None:
    runs.use({**receiver.environ(), **variables})
    runs.run(small_build)
    (warning,) = runs.warnings
    assert all(name in warning for name in variables if name != "OTEL_TRACES_SAMPLER")
    assert (len(receiver.spans), len(receiver.logs), runs.left()) == (spans, 4, [])


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("OTEL_SDK_DISABLED", "1"),
        ("OTEL_TRACES_SAMPLER", "xray"),
        ("OTEL_EXPORTER_OTLP_COMPRESSION", "zstd"),
        ("OTEL_EXPORTER_OTLP_LOGS_TIMEOUT", "9" * 5000),
        ("OTEL_EXPORTER_OTLP_TIMEOUT", "10s"),
        ("OTEL_EXPORTER_OTLP_INSECURE", "yes"),
        ("OTEL_EXPORTER_OTLP_HEADERS", "key s3cret"),
        ("OTEL_EXPORTER_OTLP_HEADERS", "a=s3cret%0d%0ab: c"),
        ("OTEL_EXPORTER_OTLP_HEADERS", "%20=s3cret"),
        ("OTEL_EXPORTER_OTLP_HEADERS", "content-encoding=s3cret"),
        ("OTEL_EXPORTER_OTLP_HEADERS", "a=s3cret%E2%82%AC"),
    ],
)
def test_what_is_ignored_is_named_without_secrets(name: str, value: str) -> None:
    environ = {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://c", name: value}
    (problem,) = ignored(environ)
    assert name in problem and "s3cret" not in problem
    found = ReceiverSettings.read("logs", environ)
    assert (found.headers, found.timeout_s, found.compressed) == ({}, 10, False)


def test_what_is_known_is_not_ignored() -> None:
    environ = {
        "OTEL_SDK_DISABLED": "false",
        "OTEL_TRACES_EXPORTER": "otlp, none",
        "OTEL_TRACES_SAMPLER": "parentbased_traceidratio",
        "OTEL_TRACES_SAMPLER_ARG": "1e-3",
        "OTEL_EXPORTER_OTLP_HEADERS": "authorization=Basic%20YQ==, b=",
        "OTEL_EXPORTER_OTLP_TRACES_PROTOCOL": "grpc",
    }
    assert [*ignored(environ)] == []


def test_a_sampler_that_is_not_known_is_the_default_that_asks_the_parent() -> None:
    unsampled = Trace.begin(SpanContext(PARENT.trace_id, PARENT.span_id, False))
    assert not is_sampled(unsampled, {"OTEL_TRACES_SAMPLER": "xray"})
    assert is_sampled(unsampled, {"OTEL_TRACES_SAMPLER": "ALWAYS_ON"})


def test_a_job_address_of_any_bytes_fails_no_run(runs: Runs, receiver: Receiver) -> None:
    runs.use({**receiver.environ(), "BUILD_URL": "http://ci/\udce9"})
    runs.run(small_build)
    assert receiver.span("BUILD").attributes["cicd.pipeline.run.url.full"] == "http://ci/?"


def unreachable() -> str:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{probe.getsockname()[1]}"


def test_a_run_waits_for_a_receiver_that_is_away_and_the_next_one_hardly(
    hasty: Runs, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was not delivered comes with `replay`, once."""
    away = {**receiver.environ(), "OTEL_EXPORTER_OTLP_ENDPOINT": unreachable()}
    hasty.use(away)
    assert hasty.run(small_build) < LONG_S
    set_patience(monkeypatch, LONG_S, 0)
    assert hasty.run(small_build) < LONG_S, "it was away the last time"
    assert hasty.left() == [("traces", "logs", "metrics")] * 2
    assert len(hasty.warnings) == 2, "one for each run"
    assert all("traces, logs, metrics" in one and "replay" in one for one in hasty.warnings)
    hasty.use(receiver.environ())
    assert hasty.replay() == 2 * (3 + 4 + 1)
    assert len(receiver.spans) == 6 and len(receiver.logs) == 8 and hasty.left() == []
    assert hasty.replay() == 0


@pytest.mark.parametrize("status", [500, 503, 401, 307])
def test_what_a_receiver_refuses_is_kept(
    hasty: Runs, receiver: Receiver, status: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    receiver.status = status
    hasty.use(receiver.environ())
    assert hasty.run(small_build) < LONG_S
    assert hasty.left() == [("traces", "logs", "metrics")] and receiver.spans == []
    receiver.status = 200
    set_patience(monkeypatch, LONG_S, LONG_S)
    hasty.run(small_build)
    hasty.replay()  # what the next run did not wait for
    # a request of the first run may have been under way when its process ended
    assert len({one.id for one in receiver.spans}) == 6
    assert len({(one.trace, one.span, one.text) for one in receiver.logs}) == 8


def long_log(stream: Stream) -> None:
    with stream.step("build") as root:
        for number in range(200):
            root.output(b"%d " % number + b"x" * (30 << 10) + b"\n")


def test_requests_of_a_batch_that_arrived_are_not_repeated(runs: Runs, receiver: Receiver) -> None:
    others = {f"OTEL_{name}_EXPORTER": "none" for name in ("TRACES", "METRICS")}
    receiver.statuses = [200, 404]
    runs.use({**receiver.environ(), **others})
    runs.run(long_log)
    assert 0 < len(receiver.logs) < 200
    assert runs.replay() == 200 - len({one.text for one in receiver.logs}) or not runs.left()
    assert len(receiver.logs) == 200, "each line once"


def test_what_a_receiver_never_takes_holds_up_nothing(runs: Runs, receiver: Receiver) -> None:
    receiver.status = 400
    runs.use(receiver.environ())
    runs.run(small_build)
    assert runs.left() == [] and receiver.spans == []


def test_a_target_that_another_process_finished_meanwhile_is_left_alone(tmp_path: Path) -> None:
    writer = SpoolWriter.create(tmp_path, TracedRun("r1", "build", "shop"), ["traces"])
    spooled = writer.spooled
    with spooled.hold("traces") as held:
        assert held is not None
        spooled.finish("traces")
        with spooled.hold("traces") as other:
            assert other is None
    writer.close()


@pytest.mark.parametrize(("preference", "temporality"), [("", 2), ("Delta", 1), ("lowmemory", 1)])
def test_each_run_is_an_instance_whose_metrics_begin_with_it(
    receiver: Receiver, preference: str, temporality: int
) -> None:
    name = "OTEL_EXPORTER_OTLP_METRICS_TEMPORALITY_PREFERENCE"
    run = TracedRun("r1", "build", "shop")
    source = open_source("metrics", run, {**receiver.environ(), name: preference})
    events: list[Event] = [Started(1, 5.0, "build"), Finished(1, 9.0)]
    records = [record for event in events for record in source.take(event)]
    assert sum(source.send(records)) == len(records) == 1
    source.close()
    (data,) = receiver.data
    facts = {one.key: one.value.string_value for one in data.resource.attributes}
    assert facts["service.instance.id"] == "r1"
    (duration,) = [
        one for one in data.scope_metrics[0].metrics if one.name == "shipline.run.duration"
    ]
    assert duration.histogram.aggregation_temporality == temporality
    (point,) = duration.histogram.data_points
    assert point.start_time_unix_nano == 5_000_000_000 < point.time_unix_nano


def test_a_root_without_a_parent_has_no_remote_parent() -> None:
    def flags(parent: SpanContext | None) -> int:
        return int(Span.FromString(span("x", PARENT, parent, (1, 2), {}, remote=True)).flags)

    assert (flags(None), flags(PARENT)) == (0x101, 0x301)


def test_the_port_of_grpc_is_that_of_its_scheme(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int | None] = []

    def refuse(where: SplitResult, *others: object) -> None:
        asked.append(where.port)
        raise OSError("\x1b[31mno")

    monkeypatch.setattr("shipline.buildkit.connecting.open_socket", refuse)
    for endpoint in ("http://c", "https://c", "https://[::1]", "c:4317"):
        environ = {"OTEL_EXPORTER_OTLP_ENDPOINT": endpoint, "OTEL_EXPORTER_OTLP_PROTOCOL": "grpc"}
        with pytest.raises(ExportFailed) as caught:
            [*OtlpReceiver("traces", environ).send([b"x"])]
        assert "\x1b" not in str(caught.value)
    assert asked == [80, 443, 443, 4317]


def test_a_run_that_another_process_delivers_meanwhile_is_no_failure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gone = SpooledRun(tmp_path / "1796000000000-00000000")
    monkeypatch.setattr("shipline.telemetry.spool.spooled_runs", lambda directory: [gone])
    prune(tmp_path)


def test_a_receiver_that_never_answers_does_not_hold_up_a_run(
    hasty: Runs, receiver: Receiver
) -> None:
    receiver.delay_s = 2 * LONG_S
    hasty.use(receiver.environ())
    assert hasty.run(small_build) < LONG_S
    assert hasty.left() == [("traces", "logs", "metrics")]


def test_a_connection_that_is_half_open_does_not_hold_up_a_run(hasty: Runs) -> None:
    with socket.create_server(("127.0.0.1", 0)) as deaf:
        where = f"http://127.0.0.1:{deaf.getsockname()[1]}"
        hasty.use({"OTEL_EXPORTER_OTLP_ENDPOINT": where, "SHIPLINE_LOKI": where})
        assert hasty.run(small_build) < LONG_S
    assert hasty.left() == [("traces", "logs", "metrics", "loki")]


def test_a_killed_run_is_delivered_later_without_the_records_that_arrived(
    runs: Runs, receiver: Receiver
) -> None:
    """Its last state is that of a run whose events end anywhere."""
    runs.use({**receiver.environ(), "OTEL_EXPORTER_OTLP_ENDPOINT": unreachable()})
    runs.run(small_build)
    (spooled,) = spooled_runs(runs.spool)
    events = spooled.directory / "events"
    events.write_bytes(events.read_bytes()[:-3])
    (spooled.directory / "logs").write_text("3")
    runs.use(receiver.environ())
    assert runs.replay() == 3
    assert [one.text for one in receiver.logs] == ["three"]
    assert [one.name for one in receiver.spans] == ["RUN make", "push x/y"]


def test_large_output_arrives_whole_and_in_order(runs: Runs, receiver: Receiver) -> None:
    lines = [f"line {number}" for number in range(5000)]

    def print_much(stream: Stream) -> None:
        with stream.step("build") as root, root.step("RUN", kind="run") as step:
            for line in lines:
                step.output(f"{line}\n".encode())

    runs.use({**receiver.environ(), "OTEL_EXPORTER_OTLP_COMPRESSION": "gzip"})
    runs.run(print_much)
    receiver.wait(lambda found: len(found.logs) == len(lines) or runs.replay() > 0)
    assert [one.text for one in receiver.logs] == lines


def test_loki_gets_few_labels_and_the_rest_as_metadata(
    runs: Runs, capsys: pytest.CaptureFixture[str]
) -> None:
    with loki() as server:
        where = server.url.replace("://", "://me:pass%20word@")
        runs.use({"SHIPLINE_LOKI": where, "SHIPLINE_LOKI_TENANT": "web"})
        runs.run(small_build)
        assert runs.left() == [] and runs.warnings == []
    assert {(*labels,) for labels, *_ in server.entries} == {("service_name", "kind", "level")}
    lines = sorted((at, line, facts) for _, at, line, facts in server.entries)
    assert [line for _, line, _ in lines][:2] == ["one", "two"] and lines[0][0] < lines[1][0]
    assert lines[0][2]["step"] == "RUN make" and lines[0][2]["pipeline"] == "shop"
    assert server.headers[0]["authorization"] == "Basic bWU6cGFzcyB3b3Jk"
    assert server.headers[0]["x-scope-orgid"] == "web"


def test_what_loki_will_never_take_is_not_kept(runs: Runs) -> None:
    with loki() as server:
        server.status = 400
        runs.use({"SHIPLINE_LOKI": server.url})
        runs.run(small_build)
        assert runs.left() == []
        server.status = 429
        runs.run(small_build)
        assert runs.left() == [("loki",)]


def test_a_wrong_address_is_told_without_its_password(runs: Runs) -> None:
    runs.use({"SHIPLINE_LOKI": "ftp://me:s3cret@loki"})
    runs.run(small_build)
    assert "SHIPLINE_LOKI is not the URL" in runs.warnings[0] and "s3cret" not in runs.warnings[0]


def test_a_spool_that_cannot_be_written_is_one_warning(runs: Runs, receiver: Receiver) -> None:
    runs.home.mkdir()
    runs.spool.write_text("a file")
    runs.use(receiver.environ())
    runs.run(small_build)
    assert len(runs.warnings) == 1 and "no telemetry" in runs.warnings[0]


def test_the_spool_keeps_all_events_but_progress(tmp_path: Path) -> None:
    writer = SpoolWriter.create(tmp_path, TracedRun("r1", "build", "shop"), ("logs",))
    seen: list[Event] = []
    with Stream(seen.append, writer) as stream:
        small_build(stream)
        with stream.step("upload") as step:
            step.progress(1, 2)
    kept = [event for some, _ in writer.spooled.events() for event in some]
    assert kept == [one for one in seen if not isinstance(one, Progress)]
