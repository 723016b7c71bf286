"""One trace from the commit through build, push, node and replication to the rollout."""

from __future__ import annotations

import re
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from commands import Forked
from gitops import KUSTOMIZATION, new_gitops
from nodes import Node
from receivers import ReceivedSpan, Receiver, loki, otlp_over_grpc, otlp_over_http
from shipline.cli import main
from ships import Project, new_project

PIPELINE = """\
image: {image}
steps: {test: "env | grep ^TRACEPARENT > ../span; echo tested"}
build: {platforms: [linux/amd64]}
environments:
  dev: {gitops: {repository: ../deploy.git, updates: [{kustomization: dev}]}, checks: {smoke: {run: env | grep ^TRACEPARENT > ../checked}}}
"""  # noqa: E501
REPLICATION = """\
version: 1
registry:
  role: edge
  replication: [{name: main, from: "ORIGIN"}]
"""
RUNS = r"RUN (127\.0\.0\.1:\d+/team/app|dev)"
PARENT = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"


@contextmanager
def serving(place: Path, environ: dict[str, str], configuration: str) -> Iterator[Node]:
    """A node of the command line with an environment of its own."""
    place.mkdir()
    (place / "shipline.yaml").write_text(configuration)
    log, data = place / "log", place / "data"
    log.touch()
    words = ["registry", "serve", "--data", str(data), "--listen", "127.0.0.1:0"]
    own = {"SHIPLINE_HOME": str(place / "home"), "DOCKER_CONFIG": str(place), **environ}
    process = Forked(main, words, cwd=place, environ={"PATH": "/usr/bin:/bin", **own}, stderr=log)
    try:
        end = time.monotonic() + 120
        while not (found := re.search(r" on (http://\S+)\n", log.read_text())):
            assert process.poll() is None and time.monotonic() < end, log.read_text()
            time.sleep(0.02)
        yield Node(found[1], data, log, process)
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(60)


@pytest.fixture(scope="module", params=["http/protobuf", "grpc"])
def traced(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Receiver, Project]]:
    """What was received of a project that was shipped to a node with an edge."""
    place = tmp_path_factory.mktemp("traced")
    with (otlp_over_grpc if request.param == "grpc" else otlp_over_http)() as receiver:
        environ = {**receiver.environ(request.param), "OTEL_LOGS_EXPORTER": "otlp"}
        node = {**environ, "OTEL_SERVICE_NAME": "primary"}
        with serving(place / "node", node, "version: 1\nregistry: {role: primary}\n") as primary:
            edges = {**environ, "OTEL_SERVICE_NAME": "edge"}
            configuration = REPLICATION.replace("ORIGIN", primary.address)
            with serving(place / "edge", edges, configuration):
                project = new_project(place / "project", primary, PIPELINE)
                files = {"dev/kustomization.yaml": KUSTOMIZATION.format(image=project.image)}
                new_gitops(place / "project" / "deploy.git", project.environ(), files)
                project.ship(**environ, TRACEPARENT=PARENT).ok()
                receiver.wait(lambda found: any(one.name.startswith("SYNC") for one in found.spans))
                project.run("check", "--env", "dev", **environ).ok()
        yield receiver, project


def test_the_run_continues_the_trace_of_its_caller(traced: tuple[Receiver, Project]) -> None:
    receiver, project = traced
    root = receiver.span("RUN ", shipline__kind="ship")
    assert (root.trace, root.parent, root.kind) == (PARENT[3:35], PARENT[36:52], "server")
    assert root.attributes["vcs.ref.head.revision"] == project.git("rev-parse", "HEAD")
    assert root.attributes["vcs.ref.head.name"] == "main"
    assert root.attributes["cicd.pipeline.run.id"] == project.record()["id"]
    assert root.attributes["cicd.pipeline.result"] == "success"


def test_all_spans_of_the_run_are_below_its_root(traced: tuple[Receiver, Project]) -> None:
    receiver, _ = traced
    ids = {one.id: one for one in receiver.spans}
    assert len(ids) == len(receiver.spans), "no identifier stands for two spans"
    for one in receiver.spans:
        if (
            one.resource["service.name"] == "shipline"
            and one.parent in ids
            and one.name != "RUN dev"
        ):
            above = ids[one.parent]
            assert above.start <= one.start and one.end <= above.end, (one.name, above.name)
            assert re.fullmatch(RUNS, receiver.chain(one)[-1])


def test_requests_of_the_node_are_below_the_step_that_made_them(
    traced: tuple[Receiver, Project],
) -> None:
    receiver, _ = traced
    pushed = [one for one in on_node(receiver) if one.name == "PUT manifests"]
    tags = [one for one in pushed if "sha256:" not in one.attributes["url.path"]]
    assert tags and all(one.kind == "server" for one in pushed)
    for one in tags:
        chain = receiver.chain(one)
        assert "publish the tags" in chain and re.fullmatch(RUNS, chain[-1]), chain
    uploads = [one for one in on_node(receiver) if one.name == "POST blobs"]
    assert uploads and all("build the image" in receiver.chain(one) for one in uploads)
    assert all(one.attributes["oci.manifest.digest"].startswith("sha256:") for one in pushed)


def test_the_edge_goes_on_with_the_trace_of_the_push(traced: tuple[Receiver, Project]) -> None:
    receiver, _ = traced
    replicated = [one for one in receiver.spans if one.name.startswith("SYNC team/app:")]
    assert replicated
    for one in replicated:
        assert one.resource["service.name"] == "edge"
        chain = receiver.chain(one)
        assert chain[1] == "PUT manifests" and re.fullmatch(RUNS, chain[-1]), chain
    names = {one.id for one in replicated}
    fetched = [one for one in on_node(receiver) if one.parent in names]
    assert {one.name for one in fetched} >= {"GET manifests", "GET blobs"}


def test_the_commit_of_the_rollout_names_the_trace_and_its_checks_go_on_with_it(
    traced: tuple[Receiver, Project],
) -> None:
    receiver, project = traced
    message = project.git(
        "--git-dir", str(project.root.parent / "deploy.git"), "log", "-1", "--format=%B", "main"
    )
    found = re.search(r"^Shipline-Trace: 00-(\w{32})-(\w{16})-01$", message, re.MULTILINE)
    assert found and found[1] == PARENT[3:35], message
    checked = receiver.span("RUN dev", shipline__kind="check")
    assert checked.trace == found[1]
    deployed = [one for one in receiver.spans if one.id == checked.parent]
    assert deployed and deployed[0].attributes["shipline.stage"] == "deploy-dev"
    smoke = (project.root.parent / "checked").read_text()
    assert any(f"-{one.id}-" in smoke for one in receiver.spans if one.trace == checked.trace)


def test_steps_get_their_span_and_their_output_has_it(traced: tuple[Receiver, Project]) -> None:
    receiver, project = traced
    step = receiver.span("env | grep", shipline__stage="test")
    given = (project.root.parent / "span").read_text().strip()
    assert given == f"TRACEPARENT=00-{step.trace}-{step.id}-01"
    (line,) = [one for one in receiver.logs if one.text == "tested"]
    assert (line.trace, line.span) == (step.trace, step.id)


def test_images_do_not_depend_on_the_trace(tmp_path: Path) -> None:
    """Steps of images get no variable of the trace, which would be in their caches."""
    (tmp_path / "Dockerfile").write_text("FROM scratch\nCOPY Dockerfile /\n")
    found = []
    for number in range(2):
        environ = {"SHIPLINE_HOME": str(tmp_path / f"home{number}"), "PATH": "/usr/bin:/bin"}
        environ["SOURCE_DATE_EPOCH"] = "1"
        environ["TRACEPARENT"] = f"00-{str(number + 1) * 32}-{str(number + 1) * 16}-01"
        words = ["build", "--iidfile", str(tmp_path / "id"), "-o", "type=oci,dest=-", str(tmp_path)]
        out = tmp_path / f"out{number}"
        assert Forked(main, words, environ=environ, stdout=out).wait(120) == 0
        found.append((tmp_path / "id").read_text())
    assert found[0] == found[1]


def test_a_build_is_not_failed_by_a_receiver_that_refuses_and_is_replayed(tmp_path: Path) -> None:
    (tmp_path / "Dockerfile").write_text("FROM scratch\nCOPY Dockerfile /\n")
    home, err = tmp_path / "home", tmp_path / "err"

    def run(*words: str) -> str:
        err.write_bytes(b"")
        variables = {"SHIPLINE_HOME": str(home), "PATH": "/usr/bin:/bin", **environ}
        assert Forked(main, [*words], environ=variables, stdout=err, stderr=err).wait(120) == 0
        return err.read_text()

    with otlp_over_http() as receiver, loki() as logs:
        environ = {**receiver.environ(), "SHIPLINE_LOKI": logs.url, "OTEL_METRICS_EXPORTER": "none"}
        receiver.status, logs.status = 503, 503
        said = run("build", "--progress", "plain", str(tmp_path))
        (warning,) = (line for line in said.splitlines() if "telemetry: " in line)
        assert all(name in warning for name in ("traces", "logs", "loki", "replay")), said
        assert "opentelemetry" not in said
        assert "waiting: traces, logs, loki" in run("telemetry", "status")
        receiver.status, logs.status = 200, 204
        assert "of 1 run" in run("telemetry", "replay")
        assert run("telemetry", "status").splitlines() == ["sent: traces, logs, loki"]
    assert receiver.span(f"BUILD {tmp_path.name}")


def on_node(receiver: Receiver) -> list[ReceivedSpan]:
    return [one for one in receiver.spans if one.resource["service.name"] == "primary"]
