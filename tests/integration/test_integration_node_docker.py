"""Docker at our node: both image stores, attestations, caches, and its registry commands."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from nodes import Node
from nodes import node as open_node
from peers import Docker
from spec_client import INDEX, MANIFEST, Target

pytestmark = [pytest.mark.peers, pytest.mark.root]

DOCKER_MANIFEST = "application/vnd.docker.distribution.manifest.v2+json"
_PLATFORMS = "linux/amd64,linux/arm64"


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Node]:
    with open_node(tmp_path_factory.mktemp("docker") / "data") as running:
        yield running


@pytest.fixture
def context(tmp_path: Path) -> Path:
    (tmp_path / "Dockerfile").write_text("FROM scratch\nCOPY file /file\nLABEL a=b\n")
    (tmp_path / "file").write_text("content")
    return tmp_path


def run(docker: Docker, *words: str | Path) -> str:
    done = docker.run(*words)
    assert done.returncode == 0, done.stdout
    return done.stdout


def document(node: Node, name: str, reference: str) -> dict[str, Any]:
    accept = {"Accept": f"{INDEX}, {MANIFEST}, {DOCKER_MANIFEST}"}
    answer = Target(node.url, name).call("GET", f"manifests/{reference}", headers=accept)
    assert answer.status == 200
    found: dict[str, Any] = answer.json
    return found


@pytest.mark.parametrize("store", ["docker", "classic"])
def test_pushed_images_come_back(
    node: Node, context: Path, store: str, request: pytest.FixtureRequest
) -> None:
    docker: Docker = request.getfixturevalue(store)
    image = f"{node.address}/{store}/app:v1"
    run(docker, "build", "-t", image, context)
    assert "digest: sha256:" in run(docker, "push", image)
    again = f"{node.address}/{store}/again:v1"
    run(docker, "tag", image, again)
    run(docker, "push", again)  # its layers are mounted, or known
    run(docker, "rmi", image, again)
    run(docker, "pull", image)
    assert "sha256:" in run(docker, "pull", again)


def test_attestations_of_buildx_are_kept(node: Node, docker: Docker, context: Path) -> None:
    image = f"{node.address}/buildx/app"
    build = ("buildx", "build", "--push", "--platform", _PLATFORMS, "--provenance=mode=max")
    run(docker, *build, "-t", f"{image}:v1", "-t", f"{image}:v2", context)
    index = document(node, "buildx/app", "v2")
    kinds = [entry.get("annotations", {}) for entry in index["manifests"]]
    assert len(kinds) == 4
    assert sum("vnd.docker.reference.type" in kind for kind in kinds) == 2
    inspect = ("buildx", "imagetools", "inspect", f"{image}:v1", "--format")
    assert set(json.loads(run(docker, *inspect, "{{json .Provenance}}"))) == set(
        _PLATFORMS.split(",")
    )
    create = ("buildx", "imagetools", "create", "-t", f"{image}:v3", "-t", f"{image}:v4")
    run(docker, *create, f"{image}:v1")
    assert document(node, "buildx/app", "v4") == index


def test_cache_of_buildx_is_an_image_too(node: Node, docker: Docker, context: Path) -> None:
    cache = f"type=registry,ref={node.address}/buildx/cache:c,mode=max"
    build = ("buildx", "build", "--push", "-t", f"{node.address}/buildx/cached:v1")
    run(docker, *build, "--cache-to", cache, context)
    run(docker, "builder", "prune", "--all", "--force")
    assert "CACHED" in run(docker, *build, "--cache-from", cache, context)


def test_docker_makes_manifest_lists(node: Node, classic: Docker, context: Path) -> None:
    name = f"{node.address}/docker/list"
    for tag in ("one", "two"):
        run(classic, "build", "--label", f"tag={tag}", "-t", f"{name}:{tag}", context)
        run(classic, "push", f"{name}:{tag}")
    insecure = ("manifest", "create", "--insecure", f"{name}:both")
    run(classic, *insecure, f"{name}:one", f"{name}:two")
    run(classic, "manifest", "push", "--insecure", "--purge", f"{name}:both")
    accept = {"Accept": "application/vnd.docker.distribution.manifest.list.v2+json"}
    answer = Target(node.url, "docker/list").call("GET", "manifests/both", headers=accept)
    assert answer["Content-Type"] == accept["Accept"]
    assert len(answer.json["manifests"]) == 2
