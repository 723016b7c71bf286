"""The history of real builds: kept, replayed, compared, and exchanged with buildx."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest

from builds import Shipline, context
from commands import run_shipline
from peers import Docker, Registry

pytestmark = [pytest.mark.peers, pytest.mark.root]

DOCKERFILE = """\
FROM busybox AS build
ARG MODE=fast
COPY src /src
RUN --network=none cat /src/a && echo "mode $MODE" && echo warned >&2
FROM busybox
COPY --from=build /src /out
"""
SECRET = "hunter2-not-for-the-record"


def command(shipline: Shipline, *words: str | Path, status: int = 0) -> str:
    done = run_shipline(*words, environ=shipline.environ())
    assert done.returncode == status, done.stderr
    return done.stdout + done.stderr if status else done.stdout


def roots(shipline: Shipline, *words: str) -> dict[str, list[str]]:
    found = json.loads(command(shipline, "why", "--json", *words))
    return {one["name"]: one["roots"] for one in found["steps"] if not one["cached"]}


@pytest.fixture
def source(tmp_path: Path) -> Path:
    place = context(tmp_path / "app", DOCKERFILE)
    (place / "src").mkdir()
    (place / "src" / "a").write_text("one\n")
    (place / "src" / "b").write_text("two\n")
    return place


@pytest.fixture
def shipline(base_images: Registry, tmp_path: Path) -> Shipline:
    return Shipline(tmp_path / "home", base_images.address)


def test_what_changed_is_named_down_to_the_file_and_the_variable(
    shipline: Shipline, source: Path
) -> None:
    words = ("-o", "type=cacheonly", source)
    shipline.build(*words).ok()
    shipline.build(*words).ok()
    assert roots(shipline) == {}
    (source / "src" / "a").write_text("changed\n")
    (source / "src" / "b").chmod(0o600)
    (source / "src" / "c").touch()
    shipline.build(*words).ok()
    why = command(shipline, "why")
    one = command(shipline, "why", "^0", "COPY")
    assert one.splitlines()[0] == why.splitlines()[0], "the first line is about the whole run"
    for line in ("src/a changed", "src/c was added", "src/b has the mode 0600, before 0644"):
        assert line in why
    assert roots(shipline) == {
        "COPY src /src": ["src/a changed"],
        'RUN --network=none cat /src/a && echo "mode $MODE" && echo warned >&2': ["src/a changed"],
        "COPY --from=build /src /out": ["src/a changed"],
    }
    shipline.build("--build-arg", f"MODE={SECRET}", *words).ok()
    (only,) = roots(shipline).values()
    assert only == ["the variable MODE changed"]
    text = (source / "Dockerfile").read_text().replace("echo warned", "echo warning")
    (source / "Dockerfile").write_text(text)
    shipline.build("--build-arg", f"MODE={SECRET}", *words).ok()
    (only,) = roots(shipline).values()
    assert only[0].startswith("the instruction changed; before: RUN --network=none cat /src/a")
    shipline.build("--no-cache", *words).ok()
    assert {tuple(one) for one in roots(shipline).values()} == {("--no-cache was given",)}
    kept = b"".join(
        path.read_bytes() for path in (shipline.home / "runs").rglob("*") if path.is_file()
    )
    exported = source.with_name("all.dockerbuild")
    command(shipline, "history", "export", "--all", "-o", exported)
    plain = subprocess.run(["gzip", "-dc", exported], capture_output=True, check=True).stdout
    for data in (kept, plain):  # it is there where the command itself wrote it
        assert data.count(SECRET.encode()) == data.count(f"mode {SECRET}\n".encode())


def test_a_failed_and_a_killed_build_are_listed_as_such(shipline: Shipline, source: Path) -> None:
    (source / "Dockerfile").write_text("FROM busybox\nRUN echo to the log && exit 3\n")
    assert shipline.build(source).status == 5
    (source / "Dockerfile").write_text("FROM busybox\nRUN echo begun && sleep 60\n")
    with shipline.start("--progress", "plain", source) as running:
        assert running.stderr is not None
        while b"begun" not in running.stderr.readline():
            pass
        (row,) = json_rows(shipline, "--filter", "status=running")
        while "begun" not in command(shipline, "history", "logs", row["ref"]):
            assert running.poll() is None
        running.send_signal(signal.SIGKILL)
    ended = time.monotonic()  # but processes that it started may live for a moment
    while not (rows := json_rows(shipline, "--filter", "status=interrupted")):
        assert time.monotonic() - ended < 60
    assert rows[0]["ref"] == row["ref"]
    assert "begun" in command(shipline, "history", "logs", row["ref"])
    found = json.loads(command(shipline, "history", "inspect", "--format", "json", "^1"))
    assert found["Status"] == "failed"
    assert found["Error"]["Name"] == "RUN echo to the log && exit 3"
    assert found["Error"]["Logs"] == ["to the log"]
    assert found["Error"]["Place"].endswith("Dockerfile:2")
    assert "shipline explain step-exit" in command(shipline, "history", "inspect", "^1")
    said = command(shipline, "history", "ls", "--filter", "status=passed", status=2)
    assert "states are waiting, running, completed, " in said


def json_rows(shipline: Shipline, *words: str) -> list[dict[str, Any]]:
    text = command(shipline, "history", "ls", "--format", "json", *words)
    return [json.loads(line) for line in text.splitlines()]


def test_a_build_has_the_reference_that_its_metadata_has(shipline: Shipline, source: Path) -> None:
    facts = source.with_name("facts")
    shipline.build("-o", "type=cacheonly", "--metadata-file", facts, source).ok()
    reference = json.loads(facts.read_text())["buildx.build.ref"]
    name = reference.rpartition("/")[2]
    (row,) = json_rows(shipline, "--filter", f"ref={name}")
    assert row["ref"] == reference
    for asked in (reference, name):
        found = json.loads(command(shipline, "history", "inspect", "--format", "json", asked))
        assert found["Ref"] == name


def test_lists_and_records_are_those_of_buildx(
    shipline: Shipline, docker: Docker, source: Path
) -> None:
    def theirs(*words: str | Path) -> str:
        done = docker.run("buildx", "history", *words)
        assert done.returncode == 0, done.stdout
        return done.stdout

    built = docker.run("buildx", "build", source)
    assert built.returncode == 0, built.stdout
    shipline.build("--platform", "linux/amd64", source).ok()
    there = json.loads(theirs("ls", "--format", "json").splitlines()[0])
    (here,) = json_rows(shipline)
    assert there.keys() <= here.keys()
    assert (here["name"], here["status"]) == (there["name"], there["status"])
    titles = theirs("ls").splitlines()[0].split()
    assert command(shipline, "history", "ls").splitlines()[0].split() == titles
    inspected = json.loads(theirs("inspect", "--format", "json"))
    ours = json.loads(command(shipline, "history", "inspect", "--format", "json"))
    assert inspected.keys() - ours.keys() <= {"Config", "Labels", "BuildArgs"}
    for name in ("Name", "Dockerfile", "Status"):
        assert ours[name] == inspected[name]
    bundle = source.with_name("theirs.dockerbuild")
    theirs("export", "-o", bundle)
    run = command(shipline, "history", "import", "-f", bundle).strip()
    (imported,) = json_rows(shipline, "--filter", f"ref={run}")
    assert imported["name"] == there["name"]
    assert "mode fast" in command(shipline, "history", "logs", run)
    detail = json.loads(command(shipline, "history", "inspect", "--format", "json", run))
    assert detail["Attachments"]
    mine = source.with_name("ours.dockerbuild")
    command(shipline, "history", "export", "-o", mine, here["ref"])
    record, other = (config_of(path) for path in (mine, bundle))
    assert other.keys() - record.keys() <= {
        "Generation",
        "Exporters",
        "trace",
        "stateGroup",
        "externalError",
    }
    assert record["logs"].keys() == other["logs"].keys()
    assert record["Result"].keys() <= {*other["Result"].keys(), "Attestations", "Results"}


def config_of(bundle: Path) -> dict[str, Any]:
    """The record in a bundle."""

    def read(name: str) -> Any:
        done = subprocess.run(["tar", "xzOf", bundle, name], capture_output=True, check=True)
        return json.loads(done.stdout)

    def blob(descriptor: dict[str, Any]) -> Any:
        return read("blobs/sha256/" + descriptor["digest"].removeprefix("sha256:"))

    (top,) = read("index.json")["manifests"]
    found: dict[str, Any] = blob(blob(top)["config"])
    return found


def test_a_bundle_of_ours_comes_back_whole(
    shipline: Shipline, source: Path, tmp_path: Path
) -> None:
    shipline.build("-o", f"type=oci,dest={tmp_path / 'image.tar'}", source).ok()
    bundle = tmp_path / "run.dockerbuild"
    command(shipline, "history", "export", "-o", bundle)
    other = Shipline(tmp_path / "other")
    command(other, "history", "import", "-f", bundle)
    for words in (("inspect", "--format", "json"), ("logs",), ("trace",)):
        assert command(other, "history", *words) == command(shipline, "history", *words)
    manifest = command(other, "history", "inspect", "attachment", "--type", "manifest")
    assert json.loads(manifest)["layers"]


def test_the_oldest_runs_go_and_ship_is_not_asked(shipline: Shipline, source: Path) -> None:
    (source / "Dockerfile").write_text("FROM scratch\nCOPY src /\n")
    for _ in range(4):
        shipline.build("-o", "type=cacheonly", source, SHIPLINE_HISTORY="2").ok()
    assert len(json_rows(shipline)) == 2
    shipline.build("-o", "type=cacheonly", source, SHIPLINE_HISTORY="off").ok()
    assert len(json_rows(shipline)) == 2
    assert command(shipline, "du", "--filter", "type=internal").count("\n") > 2
    command(shipline, "prune", "-f")
    assert len(json_rows(shipline)) == 2
    command(shipline, "prune", "-a", "-f")
    assert json_rows(shipline) == []


def test_a_history_that_cannot_be_written_is_a_warning(shipline: Shipline, source: Path) -> None:
    shipline.home.mkdir()
    (shipline.home / "runs").write_text("in the way")
    done = shipline.build("-o", "type=cacheonly", source)
    assert done.status == 0
    assert done.err.count("warning: the run cannot be kept in the history") == 1
    assert os.path.isfile(shipline.home / "runs")
