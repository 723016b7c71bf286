"""What is pushed is what every other program reads and runs."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from builds import PLATFORMS, Shipline, config, context, document, leftovers, manifests
from nodes import node
from peers import Docker, Registry, can_run_arm64, push_base_images

pytestmark = [pytest.mark.peers, pytest.mark.root]

HELLO = """
FROM --platform=$BUILDPLATFORM busybox AS greeting
RUN echo "made once on $(uname -m)" > /greeting

FROM busybox
WORKDIR /srv
COPY page.html /srv/site/
COPY --from=greeting /greeting /srv/
ARG TARGETPLATFORM
RUN echo "ran as $(uname -m) for $TARGETPLATFORM" > /srv/machine
LABEL org.opencontainers.image.title=hello
CMD ["cat", "/srv/greeting", "/srv/machine", "/srv/site/page.html"]
"""
MACHINES = {"amd64": "x86_64", "arm64": "aarch64"}


@pytest.fixture(scope="module")
def own_node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Registry]:
    """Our registry, with busybox in it."""
    data = tmp_path_factory.mktemp("node") / "data"
    with node(data) as running:
        host, _, port = running.address.partition(":")
        as_peer = Registry(host, int(port), running.log, data)
        push_base_images(as_peer, "busybox")
        yield as_peer


@pytest.fixture(params=["node", "docker-registry"])
def target(request: pytest.FixtureRequest) -> Registry:
    """Our node, then Debian's registry."""
    name = "own_node" if request.param == "node" else "base_images"
    found: Registry = request.getfixturevalue(name)
    return found


@pytest.fixture
def hello(tmp_path: Path) -> Path:
    return context(tmp_path / "hello", HELLO, page__html="<h1>hello</h1>")


def run(*words: str | Path) -> str:
    done = subprocess.run([str(word) for word in words], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_both_architectures_run_their_steps(target: Registry, hello: Path, tmp_path: Path) -> None:
    shipline = Shipline(tmp_path / "home", target.address)
    shipline.push(hello, f"{target.address}/demo/hello:1.0")
    out = tmp_path / "out"
    run(
        *("skopeo", "copy", "--all", "--src-tls-verify=false"),
        *(f"docker://{target.address}/demo/hello:1.0", f"dir:{out}"),
    )
    assert leftovers(shipline.home) == []
    for architecture, machine in MACHINES.items():
        name = f"docker://{target.address}/demo/hello:1.0"
        seen = json.loads(
            run(
                *("skopeo", "--override-os=linux", f"--override-arch={architecture}"),
                *("inspect", "--tls-verify=false", name),
            )
        )
        assert seen["Architecture"] == architecture
        assert seen["Labels"] == {"org.opencontainers.image.title": "hello"}
        place = tmp_path / architecture
        shipline.build(
            *("--platform", f"linux/{architecture}", "-o", place),
            context(tmp_path / "read", f"FROM {target.address}/demo/hello:1.0\n"),
        ).ok()
        said = (place / "srv/machine").read_text()
        assert said == f"ran as {machine} for linux/{architecture}\n"


def test_second_build_is_cached_and_has_the_same_digest(
    target: Registry, hello: Path, tmp_path: Path
) -> None:
    shipline = Shipline(tmp_path / "home", target.address)
    first = shipline.push(hello, f"{target.address}/demo/again:1")
    before = document(target, "demo/again", "1")
    second = shipline.push(hello, f"{target.address}/demo/again:1")
    assert document(target, "demo/again", "1") == before
    steps = {line.split(" ", 1)[0] for line in first.err.splitlines() if " RUN " in line}
    assert steps
    shown = [
        line for line in second.err.splitlines() if re.search(r"\] (FROM|RUN|COPY|WORKDIR)", line)
    ]
    cached = [line for line in second.err.splitlines() if line.endswith("CACHED")]
    assert len(cached) == len({line.split(" ", 1)[0] for line in shown}), second.err


def test_docker_pulls_and_runs_every_platform(
    docker: Docker, target: Registry, hello: Path, tmp_path: Path
) -> None:
    can_run_arm64()
    name = f"{target.address}/demo/run:1"
    Shipline(tmp_path / "home", target.address).push(hello, name)
    shown = docker.run("buildx", "imagetools", "inspect", name)
    assert shown.returncode == 0, shown.stdout
    assert all(platform in shown.stdout for platform in PLATFORMS.split(","))
    for architecture, machine in MACHINES.items():
        platform = f"linux/{architecture}"
        pulled = docker.run("pull", "--platform", platform, name)
        assert pulled.returncode == 0, pulled.stdout
        done = docker.run("run", "--rm", "--network=none", "--platform", platform, name)
        assert done.returncode == 0, done.stdout
        assert f"ran as {machine} for {platform}\n<h1>hello</h1>" in done.stdout
    assert docker.run("rmi", "--force", name).returncode == 0


def test_several_tags_and_two_registries_get_one_digest(
    own_node: Registry, base_images: Registry, hello: Path, tmp_path: Path
) -> None:
    names = [
        *(f"{own_node.address}/demo/many:{tag}" for tag in ("1", "1.2")),
        f"{base_images.address}/demo/many:1",
        f"{base_images.address}/other/many",
    ]
    Shipline(tmp_path / "home", base_images.address).push(hello, *names)
    found = [
        document(own_node, "demo/many", "1"),
        document(own_node, "demo/many", "1.2"),
        document(base_images, "demo/many", "1"),
        document(base_images, "other/many", "latest"),
    ]
    assert all(one == found[0] for one in found)


def test_equal_files_are_one_layer_for_all_platforms(
    own_node: Registry, hello: Path, tmp_path: Path
) -> None:
    Shipline(tmp_path / "home", own_node.address).push(hello, f"{own_node.address}/demo/one")
    found = manifests(own_node, "demo/one", "latest")
    amd64, arm64 = ([layer["digest"] for layer in found[a]["layers"]] for a in MACHINES)
    shared = set(amd64) & set(arm64)
    assert len(shared) == 3  # WORKDIR and both COPY; not the base, not RUN
    assert {config(own_node, "demo/one", found[a])["architecture"] for a in MACHINES} == {*MACHINES}
