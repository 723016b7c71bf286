"""Builds on images that only a container engine of this machine has."""

from __future__ import annotations

import json
import socket
import tarfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from builds import Done, Shipline, context, document, leftovers
from commands import run_shipline
from peers import Containerd, Docker, Podman, Registry

pytestmark = [pytest.mark.peers, pytest.mark.root]

BASE = """FROM busybox
RUN --network=none echo {word} > /base && head -c 3000000 /dev/urandom > /large
LABEL word={word}
"""
APP = (
    "FROM {name}\nCOPY --from={name} /base /copied\nRUN --network=none cat /base /copied > /both\n"
)


class Engine:
    """An engine by its environment, and `shipline` with that."""

    def __init__(self, kind: str, environment: Mapping[str, str], shipline: Shipline) -> None:
        self.kind = kind
        self.shipline = Shipline(shipline.home, shipline.mirror, environment)

    def load(self, place: Path, name: str, word: str, *more: str) -> None:
        source = context(place / f"base-{word}", BASE.format(word=word))
        self.shipline.build("--load", "-t", name, *more, source).ok()

    def build(self, place: Path, name: str, *words: str | Path, home: Path | None = None) -> Done:
        source = context(place / "app", APP.format(name=name))
        shipline = self.shipline
        used = Shipline(home or shipline.home, shipline.mirror, shipline.environment)
        return used.build("--progress=plain", *words, source)


@pytest.fixture
def shipline(tmp_path: Path, base_images: Registry) -> Shipline:
    return Shipline(tmp_path / "home", base_images.address)


@pytest.fixture(params=["classic", "newest", "podman", "containerd"])
def engine(request: pytest.FixtureRequest, shipline: Shipline) -> Iterator[Engine]:
    kind = request.param
    if kind == "podman":
        pod: Podman = request.getfixturevalue("pod")
        yield Engine(kind, {"CONTAINER_HOST": pod.url}, shipline)
    elif kind == "containerd":
        store: Containerd = request.getfixturevalue("image_store")
        yield Engine(kind, {"CONTAINERD_ADDRESS": str(store.socket)}, shipline)
        for name in store.images():
            store.ctr("images", "rm", "--sync", name)
    else:
        docker: Docker = request.getfixturevalue("classic" if kind == "classic" else "docker")
        yield Engine(kind, {"DOCKER_HOST": docker.host}, shipline)


@pytest.fixture
def docker_engine(classic: Docker, shipline: Shipline) -> Engine:
    return Engine("classic", {"DOCKER_HOST": classic.host}, shipline)


def bases(registry: Registry, repository: str, tag: str) -> list[dict[str, Any]]:
    """The layers below those of the build."""
    found = document(registry, repository, tag)
    if "manifests" in found:
        found = document(registry, repository, found["manifests"][0]["digest"])
    layers: list[dict[str, Any]] = found["layers"][:-2]
    return layers


def test_a_build_is_based_on_what_was_loaded(
    engine: Engine, base_images: Registry, tmp_path: Path
) -> None:
    """The registry answers that it has no such image."""
    name = f"{base_images.address}/bases/{engine.kind}:1"
    pushed, facts, out = f"bases/app-{engine.kind}", tmp_path / "facts.json", tmp_path / "out"
    engine.load(tmp_path, name, "first")

    def build(tag: str, home: Path | None = None) -> str:
        words = ("-o", f"type=image,name={base_images.address}/{pushed}:{tag},push=true")
        more = ("-o", f"type=local,dest={out}", "--metadata-file", facts)
        return engine.build(tmp_path, name, *words, *more, home=home).ok().err

    said = build("1")
    assert f"no registry gives {name}: it is in the engine at" in said
    assert f"read {name} from the engine at" in said and "may be old" not in said
    assert (out / "both").read_text() == "first\nfirst\n"
    provenance = json.loads(facts.read_text())["buildx.build.provenance"]
    (material,) = provenance["materials"]
    assert material["uri"].startswith(f"pkg:docker/{name.replace(':1', '@1')}?platform=linux%2F")
    assert len(material["digest"]["sha256"]) == 64

    said = build("2")
    assert f"read {name}" not in said and "3 steps, 3 cached" in said
    build("3", tmp_path / "other")
    layers = bases(base_images, pushed, "1")
    assert len(layers) == 2 and {one["mediaType"].rpartition("+")[2] for one in layers} == {"gzip"}
    assert bases(base_images, pushed, "2") == bases(base_images, pushed, "3") == layers

    pruned = run_shipline("prune", "--all", "--force", environ=engine.shipline.environ())
    assert pruned.returncode == 0, pruned.stderr
    assert f"read {name}" in build("4")
    assert bases(base_images, pushed, "4") == layers

    engine.load(tmp_path, name, "second")
    said = build("5")
    assert f"read {name}" in said and (out / "both").read_text() == "second\nsecond\n"
    assert bases(base_images, pushed, "5") != layers
    assert leftovers(engine.shipline.home) == []


def test_an_unreachable_registry_is_warned_of(docker_engine: Engine, tmp_path: Path) -> None:
    name = "127.0.0.1:1/bases/unreachable"
    docker_engine.load(tmp_path, name, "first")
    out = tmp_path / "out"
    said = docker_engine.build(tmp_path, name, "-o", out).ok().err
    assert "may be old: 127.0.0.1:1: connection refused" in said and "--pull" in said
    assert (out / "both").read_text() == "first\nfirst\n"
    said = docker_engine.build(tmp_path, name, "--pull").failed(6)
    assert "connection refused" in said and "engine" not in said


def test_only_what_has_the_name_the_platform_and_the_digest_is_used(
    engine: Engine, base_images: Registry, tmp_path: Path
) -> None:
    repository = f"{base_images.address}/bases/exact"
    name, facts = f"{repository}:{engine.kind}", tmp_path / "facts.json"
    engine.load(tmp_path, name, "first", "--metadata-file", str(facts))
    loaded = json.loads(facts.read_text())

    def build(name: str, *words: str | Path) -> Done:
        return engine.build(tmp_path, name, *words)

    assert "was not found" in build(f"{repository}:other").failed(8)
    assert "was not found" in build(name, "--pull").failed(8)
    said = build(name, "--platform=linux/arm64").failed(8)
    assert "in the engine at" in said and "is not available for linux/arm64" in said
    assert "it offers linux/amd64" in said
    digest = loaded["containerimage.digest"]
    if engine.kind in ("classic", "podman"):  # which have no manifests as they were pushed
        image = loaded["containerimage.config.digest"]
        assert "was not found" in build(f"{repository}@{image}").failed(8)
        assert "was not found" in build(f"{repository}@{digest}").failed(8)
    else:
        if engine.kind == "newest":
            build(f"{repository}@{digest}").ok()
        build(name, "--metadata-file", facts).ok()
        provenance = json.loads(facts.read_text())["buildx.build.provenance"]
        (material,) = provenance["materials"]
        assert f"sha256:{material['digest']['sha256']}" == digest


def test_an_index_of_which_the_engine_has_one_platform(
    docker: Docker, shipline: Shipline, base_images: Registry, tmp_path: Path
) -> None:
    """The containerd image store keeps the index of what it pulled, and its digest."""
    engine = Engine("newest", {"DOCKER_HOST": docker.host}, shipline)
    pulled, name = f"{base_images.address}/library/busybox:latest", "127.0.0.1:1/bases/part:1"
    assert docker.run("pull", pulled).returncode == 0
    assert docker.run("tag", pulled, name).returncode == 0
    facts = tmp_path / "facts.json"
    source = context(tmp_path / "app", f"FROM {name}\nCOPY Dockerfile /\n")
    for word in ("read", "known"):
        words = ("--progress=plain", "--metadata-file", facts, source)
        said = engine.shipline.build(*words).ok().err
        assert ("read 127.0.0.1:1/" in said) == (word == "read")
        provenance = json.loads(facts.read_text())["buildx.build.provenance"]
        (material,) = provenance["materials"]
        index = docker.run("image", "inspect", "--format", "{{.Id}}", pulled).stdout.strip()
        assert f"sha256:{material['digest']['sha256']}" == index
    assert "it offers linux/amd64" in engine.shipline.build(
        "--platform=linux/riscv64", source
    ).failed(8)


def test_named_contexts_checks_and_bake_find_the_image(
    docker_engine: Engine, base_images: Registry, tmp_path: Path
) -> None:
    name = f"{base_images.address}/bases/named:1"
    docker_engine.load(tmp_path, name, "first")
    words = ("--build-context", f"named=docker-image://{name}")
    docker_engine.build(tmp_path, "named", *words).ok()
    assert "no warnings" in docker_engine.build(tmp_path, name, "--check").ok().out
    bake = {"target": {"default": {"context": "app"}}}
    (tmp_path / "docker-bake.json").write_text(json.dumps(bake))
    context(tmp_path / "app", APP.format(name=name))
    file = tmp_path / "docker-bake.json"
    environ = docker_engine.shipline.environ()
    done = run_shipline("bake", "-f", file, "--progress=plain", environ=environ, cwd=tmp_path)
    assert done.returncode == 0 and f"no registry gives {name}" in done.stderr, done.stderr


def test_a_name_without_host_is_podmans_own(
    pod: Podman, shipline: Shipline, tmp_path: Path
) -> None:
    engine = Engine("podman", {"CONTAINER_HOST": pod.url}, shipline)
    with tarfile.open(tmp_path / "root.tar", "w") as tar:
        (tmp_path / "base").write_text("own\n")
        tar.add(tmp_path / "base", arcname="base")
    assert pod.run("import", str(tmp_path / "root.tar"), "own-base:1").returncode == 0
    out = tmp_path / "out"
    source = context(tmp_path / "copying", "FROM scratch\nCOPY --from=own-base:1 /base /\n")
    engine.shipline.build("-o", out, source).ok()
    assert (out / "base").read_text() == "own\n"
    if not any(Path(name).exists() for name in ("/run/podman/podman.sock", "/run/docker.sock")):
        command = Shipline(tmp_path / "other", shipline.mirror, pod.environment)
        assert "from the engine at podman" in command.build("--progress=plain", source).ok().err
    written = context(tmp_path / "written", "FROM docker.io/library/own-base:1\n")
    assert engine.shipline.build(written).status in (6, 7, 8)


def test_an_engine_that_fails_leaves_the_error_of_the_registry(
    shipline: Shipline, base_images: Registry, tmp_path: Path
) -> None:
    name = f"{base_images.address}/bases/none:1"
    nowhere = Engine("none", {"DOCKER_HOST": "tcp://127.0.0.1:1"}, shipline)
    said = nowhere.build(tmp_path, name).failed(8)
    assert f"base image {name} was not found" in said
    assert "a container engine of this machine was asked, too: cannot reach the engine" in said
    with socket.create_server(("127.0.0.1", 0)) as silent:
        host = f"tcp://127.0.0.1:{silent.getsockname()[1]}"
        said = Engine("silent", {"DOCKER_HOST": host}, shipline).build(tmp_path, name).failed(8)
    assert "no answer within 10 seconds" in said
    assert leftovers(shipline.home) == []


def test_why_names_the_base_image_that_moved(
    docker_engine: Engine, base_images: Registry, tmp_path: Path
) -> None:
    name = f"{base_images.address}/bases/why:1"
    for word in ("first", "second"):
        docker_engine.load(tmp_path, name, word)
        docker_engine.build(tmp_path, name).ok()
    done = run_shipline("why", environ=docker_engine.shipline.environ())
    assert done.returncode == 0, done.stderr
    assert "base image" in done.stdout and name in done.stdout, done.stdout
