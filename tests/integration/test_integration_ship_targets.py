"""Several images in one run: one verdict, one version, and no tag of any before all passed."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from builds import config, document, tags
from nodes import Node, node
from peers import Docker
from proxy import Answer, FaultProxy
from ships import Project, coverage, new_project

TARGETS = """\
steps:
  test: {run: mkdir -p out && cp coverage.xml out/, reports: {coverage: out/coverage.xml}}
  look:
    needs: [build]
    run: echo "$SHIPLINE_TARGETS $SHIPLINE_WEB_IMAGE $SHIPLINE_WORKER_IMAGE_LINUX_ARM64" > out/seen
build: {platforms: {platforms}, args: {WORD: shared}}
targets:
  base: {target: base}
  web: {image: {image}-web, target: web, labels: {kind: web}, copies: [{image}-copy]}
  worker: {image: {image}-worker, file: worker.Dockerfile, contexts: {base: target:base}}
sign: {key: team.key}
gates:
  coverage: {min: 80}
  image: {ports: []}
"""
DOCKERFILE = """\
FROM scratch AS base
ARG WORD
ENV WORD=$WORD
COPY app /app
FROM base AS web
COPY web /web
"""
FILES = {
    "Dockerfile": DOCKERFILE,
    "worker__Dockerfile": "FROM base\nCOPY worker /worker\n",
    "web": "web\n",
    "worker": "worker\n",
    "coverage__xml": coverage(9),
    "__gitignore": "out\nteam.*\n",
}
IMAGES = ("web", "worker", "copy")


@pytest.fixture(scope="module")
def shared_node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Node]:
    with node(tmp_path_factory.mktemp("targets") / "data") as running:
        yield running


@pytest.fixture
def project(tmp_path: Path, shared_node: Node) -> Project:
    """Images of its own in the registry that all tests share."""
    text = TARGETS.replace("{image}", f"{{image}}-{tmp_path.name.replace('_', '-')}")
    project = new_project(tmp_path, shared_node, text, **FILES)
    project.run("key", "generate", "-o", "team", SHIPLINE_KEY_PASSWORD="x").ok()
    return project


def repository(project: Project, image: str) -> str:
    return f"team/app-{project.root.parent.name.replace('_', '-')}-{image}"


def all_tags(project: Project) -> dict[str, list[str]]:
    """The tags of each image, without those of signatures."""
    return {
        image: [
            tag for tag in tags(project.node, repository(project, image)) if tag[:7] != "sha256-"
        ]
        for image in IMAGES
    }


NONE: dict[str, list[str]] = {image: [] for image in IMAGES}
ALL = {image: ["v0.1.0"] for image in IMAGES}


def test_all_images_get_one_version_signatures_and_copies(project: Project) -> None:
    done = project.ship(SHIPLINE_KEY_PASSWORD="x").ok()
    assert all_tags(project) == ALL
    record = project.record()
    built = next(step["results"]["targets"] for step in record["steps"] if step["name"] == "build")
    assert set(built) == {"web", "worker"}
    lines = done.out.split()
    assert len(lines) == 3 and len({line.partition("@")[2] for line in lines}) == 2
    for name in ("web", "worker"):
        image = f"{project.node.address}/{repository(project, name)}"
        assert f"{image}:v0.1.0@{built[name]['digest']}" in lines
        project.run("verify", "--key", "team.pub", f"{image}:v0.1.0").ok()
    seen = (project.root / "out/seen").read_text().split()
    worker = built["worker"]["platforms"]["linux/arm64"]
    assert seen[0] == "web,worker" and seen[1].endswith(built["web"]["digest"])
    assert seen[2].endswith(worker)
    web = document(
        project.node, repository(project, "web"), built["web"]["platforms"]["linux/amd64"]
    )
    made = config(project.node, repository(project, "web"), web)["config"]
    assert made["Labels"]["kind"] == "web" and "WORD=shared" in made["Env"]
    manifest = document(project.node, repository(project, "worker"), worker)
    found = config(project.node, repository(project, "worker"), manifest)["config"]
    assert "WORD=shared" in found["Env"] and "kind" not in found["Labels"]
    shown = project.run("runs", "show").ok().out
    assert all(f"{built[name]['digest']}" in shown for name in ("web", "worker"))
    again = project.ship(SHIPLINE_KEY_PASSWORD="x", SHIPLINE_HOME=str(project.home / "else")).ok()
    assert again.out == done.out and "load build definition" not in again.err


def test_an_image_that_a_gate_refuses_keeps_the_others_back(project: Project) -> None:
    text = FILES["worker__Dockerfile"] + "EXPOSE 80\n"
    project.commit("feat: open a port", worker__Dockerfile=text)
    said = project.ship(SHIPLINE_KEY_PASSWORD="x").failed(9)
    assert "the gate image (worker) refused: " in said and "image (web) refused" not in said
    assert all_tags(project) == NONE
    assert "refs/tags" not in project.git("ls-remote", "--tags", "origin")
    for name in ("web", "worker"):
        assert f"{repository(project, name)}@sha256:" in said
    project.commit(
        "fix: less tests", worker__Dockerfile=FILES["worker__Dockerfile"], coverage__xml=coverage(7)
    )
    assert "the gate coverage refused: " in project.ship(SHIPLINE_KEY_PASSWORD="x").failed(9)
    assert all_tags(project) == NONE


def test_a_plan_shows_each_image(project: Project) -> None:
    shown = project.ship("--plan").ok().out
    for words in ("(web)", "(worker)", "--target web", "--file worker.Dockerfile", "v0.1.0"):
        assert words in shown
    plan = json.loads(project.ship("--plan", "--json").ok().out)
    assert set(plan["images"]) == {"web", "worker"}
    (publish,) = [step for step in plan["steps"] if step["name"] == "publish"]
    assert all(f"{repository(project, image)}:v0.1.0" in publish["command"] for image in IMAGES)


def test_a_killed_run_is_resumed_where_it_was(project: Project) -> None:
    text = (project.root / "shipline.yaml").read_text()
    text = text.replace("steps:\n", "steps:\n  wait: {needs: [build], run: sleep 60}\n")
    project.commit("feat: wait", shipline__yaml=text)
    process = project.start("ship", "--progress=plain", SHIPLINE_KEY_PASSWORD="x")
    assert process.stderr is not None
    said = b""
    while b"sleep 60" not in said:
        line = process.stderr.readline()
        assert line, said.decode()
        said += line
    os.kill(process.pid, signal.SIGKILL)
    process.communicate(timeout=60)
    assert all_tags(project) == NONE and project.states()["build"] == "passed"
    started = next(s["started"] for s in project.record()["steps"] if s["name"] == "build")
    project.write(".git/info/exclude", "shipline.yaml\n")
    project.git("update-index", "--assume-unchanged", "shipline.yaml")
    project.write("shipline.yaml", text.replace("sleep 60", "true"))
    project.ship("--resume", SHIPLINE_KEY_PASSWORD="x").ok()
    assert all_tags(project) == ALL
    record = project.record()
    assert record["resumed"] == 1
    assert started == next(s["started"] for s in record["steps"] if s["name"] == "build")


def test_machines_for_each_architecture_build_all_targets(project: Project) -> None:
    (project.root / "out").mkdir()
    for name in ("amd64", "arm64"):
        words = ("--only", "build", "--platform", f"linux/{name}", "--metadata-file", f"out/{name}")
        project.ship(*words).ok()
    built = ("--built", "out/amd64", "--built", "out/arm64")
    project.ship(*built, SHIPLINE_KEY_PASSWORD="x").ok()
    assert all_tags(project) == ALL
    index = document(project.node, repository(project, "worker"), "v0.1.0")
    assert {one["platform"]["architecture"] for one in index["manifests"]} == {"amd64", "arm64"}


def test_a_builder_of_buildkit_builds_what_is_shipped(project: Project, docker: Docker) -> None:
    text = (project.root / "shipline.yaml").read_text()
    project.commit("feat: elsewhere", shipline__yaml=f"builder: docker\n{text}")
    done = project.ship(SHIPLINE_KEY_PASSWORD="x", DOCKER_HOST=docker.host).ok()
    assert all_tags(project) == ALL
    assert "load build definition" in done.err  # as BuildKit names it
    index = document(project.node, repository(project, "worker"), "v0.1.0")
    platforms = {one["platform"]["architecture"] for one in index["manifests"]}
    assert platforms >= {"amd64", "arm64"}
    manifest = next(one for one in index["manifests"] if one["platform"]["architecture"] == "arm64")
    made = document(project.node, repository(project, "worker"), manifest["digest"])
    assert (
        "WORD=shared" in config(project.node, repository(project, "worker"), made)["config"]["Env"]
    )


def test_copies_that_are_left_out_get_no_tags(project: Project) -> None:
    project.ship("--skip", "copy", SHIPLINE_KEY_PASSWORD="x").ok()
    assert all_tags(project) == {**ALL, "copy": []}


def test_a_registry_that_refuses_one_image_keeps_no_other_from_its_tags(project: Project) -> None:
    with FaultProxy(int(project.node.address.rpartition(":")[2])) as proxy:
        file = project.root / "shipline.yaml"
        through = f"127.0.0.1:{proxy.port}"
        place = f"{project.node.address}/{repository(project, 'web')}"
        text = file.read_text().replace(
            f"image: {place}", f"image: {through}/{repository(project, 'web')}"
        )
        assert through in text
        project.commit("fix: another way", shipline__yaml=text)
        proxy.break_next(Answer(403), method="PUT", target="manifests/v", times=9)
        said = project.ship(SHIPLINE_KEY_PASSWORD="x").failed(7)
        assert all_tags(project) == {**ALL, "web": []}
        for image in ("worker", "copy"):
            assert f"tagged: {project.node.address}/{repository(project, image)}:v0.1.0@" in said
        proxy.forget()
        project.ship("--resume", SHIPLINE_KEY_PASSWORD="x").ok()
        assert all_tags(project) == ALL
