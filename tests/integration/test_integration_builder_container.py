"""The driver docker-container: made by shipline or by buildx, used by both."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from builds import Shipline
from commands import run_shipline
from peers import Docker, Registry
from peers.buildkit_container import push_buildkit_image
from peers.buildkit_relay import relay
from peers.registry import certificate

pytestmark = [pytest.mark.peers, pytest.mark.root]

IMAGE = "moby/buildkit:buildx-stable-1"
NO_NETWORK = ("--network=none",)


@pytest.fixture(scope="module")
def port(
    docker: Docker, base_images: Registry, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[int]:
    """Where the engine answers as buildkitd; its image is there under buildx's name."""
    push_buildkit_image(tmp_path_factory.mktemp("image") / "context", docker, base_images, IMAGE)
    with relay(docker.host.removeprefix("unix://")) as found:
        yield found


class Builders:
    """shipline and buildx with the same files of builders."""

    def __init__(self, shipline: Shipline, docker: Docker, environ: dict[str, str]) -> None:
        self.shipline, self.docker, self.environ = shipline, docker, environ

    def run(self, *words: str | Path, code: int = 0) -> str:
        done = run_shipline("builder", *words, environ=self.environ, stdin=b"", timeout_s=90)
        assert done.returncode == code, done.stderr
        return done.stdout if code == 0 else done.stderr

    def buildx(self, *words: str | Path) -> str:
        done = self.docker.run("buildx", *words)
        assert done.returncode == 0, done.stdout
        return done.stdout

    def container(self, name: str) -> dict[str, object]:
        (found,) = json.loads(self.docker.run("inspect", name).stdout)
        assert isinstance(found, dict)
        return found

    def names(self) -> str:
        kinds = (("ps", "-a", "--format={{.Names}}"), ("volume", "ls", "--format={{.Name}}"))
        return "".join(self.docker.run(*words).stdout for words in kinds)


@pytest.fixture
def builders(
    tmp_path: Path, docker: Docker, base_images: Registry, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Builders]:
    monkeypatch.setenv("BUILDX_CONFIG", str(tmp_path / "buildx"))
    shipline = Shipline(tmp_path / "home", base_images.address, {"DOCKER_HOST": docker.host})
    environ = shipline.environ() | {"BUILDX_CONFIG": str(tmp_path / "buildx")}
    placed = Shipline(shipline.home, shipline.mirror, environ)
    yield Builders(placed, docker, environ)
    stored = tmp_path / "buildx/instances"
    if names := [path.name for path in stored.iterdir()] if stored.exists() else []:
        run_shipline("builder", "rm", "-f", *names, environ=environ, stdin=b"", timeout_s=90)


@pytest.fixture
def context(tmp_path: Path) -> Path:
    place = tmp_path / "context"
    place.mkdir()
    (place / "Dockerfile").write_text("FROM busybox\nCOPY file /\n")
    (place / "file").write_text("content")
    return place


def compared(shown: str) -> list[str]:
    """The lines of a builder; options and files have any order in buildx."""
    lines = (line.rstrip() for line in shown.splitlines())
    return sorted(line for line in lines if not line.startswith("Driver Options:"))


def options(port: int) -> list[str]:
    return ["--driver-opt", f"network=host,env.RELAY={port}"]


def test_a_container_lives_as_its_builder(
    builders: Builders, port: int, context: Path, tmp_path: Path
) -> None:
    authority, _ = certificate(tmp_path, "authority")
    configuration = tmp_path / "buildkitd.toml"
    configuration.write_text(
        f'debug = true\n[registry."a.example:5000"]\nca = ["{authority.name}"]\n'
    )
    limits = ("--driver-opt", "memory=64m,cpu-shares=512", "--driver-opt", "restart-policy=no")
    builders.run(
        *("create", "--name=box", *options(port), *limits, f"--buildkitd-config={configuration}"),
        *("--buildkitd-flags=--oci-worker-net 'a b'", "--bootstrap"),
    )
    name = "buildx_buildkit_box0"
    found = builders.container(name)
    host, config = found["HostConfig"], found["Config"]
    assert isinstance(host, dict) and isinstance(config, dict)
    assert host["Privileged"] and host["Init"] and host["NetworkMode"] == "host"
    assert (host["Memory"], host["CpuShares"]) == (64 << 20, 512)
    assert host["RestartPolicy"]["Name"] == "no" and config["Image"] == IMAGE
    assert config["Cmd"] == [
        *("--config", "/etc/buildkit/buildkitd.toml"),
        *("--oci-worker-net", "a b", "--allow-insecure-entitlement=network.host"),
    ]
    copied = f"/etc/buildkit/certs/a.example_5000/{authority.name}"
    inside = builders.docker.run("exec", name, "cat", copied, "/etc/buildkit/buildkitd.toml").stdout
    assert inside.startswith(authority.read_text()) and f'ca = ["{copied}"]' in inside

    assert "running" in next(line for line in builders.buildx("ls").splitlines() if "box0" in line)
    builders.shipline.build("--builder=box", *NO_NETWORK, "-o", tmp_path / "ours", context).ok()
    theirs = f"--output={tmp_path}/theirs"
    builders.buildx("build", "--builder=box", *NO_NETWORK, theirs, context)
    for place in ("ours", "theirs"):
        assert (tmp_path / place / "file").read_text() == "content"
    shown = builders.run("inspect", "box")
    assert compared(shown) == compared(builders.buildx("inspect", "box"))
    assert "Last Activity:" in shown

    builders.run("create", "--name=named", f"docker-container://{name}", "--use", "--bootstrap")
    assert "running" in builders.run("inspect")
    builders.run("rm", "named")

    builders.run("stop", "box")
    assert "stopped" in builders.run("ls")
    builders.shipline.build("--builder=box", *NO_NETWORK, "-o", tmp_path / "again", context).ok()
    starts = builders.docker.run("exec", name, "cat", "/var/lib/buildkit/starts").stdout
    assert len(starts.splitlines()) == 2

    builders.run("rm", "box", "--keep-state")
    assert (
        name not in builders.docker.run("ps", "-a").stdout and f"{name}_state" in builders.names()
    )
    builders.run("create", "--name=box", *options(port), "--bootstrap")
    starts = builders.docker.run("exec", name, "cat", "/var/lib/buildkit/starts").stdout
    assert len(starts.splitlines()) == 3
    builders.run("rm", "box", "--keep-daemon")
    assert name in builders.docker.run("ps").stdout
    builders.run("create", "--name=box", *options(port))
    builders.run("rm", "box")
    assert name not in builders.names()


def test_a_builder_of_buildx_is_used_and_removed(
    builders: Builders, port: int, context: Path, tmp_path: Path
) -> None:
    builders.buildx("create", "--name=theirs", "--driver=docker-container", *options(port))
    assert "inactive" in builders.run("ls")
    out = tmp_path / "out"
    builders.shipline.build("--builder=theirs", *NO_NETWORK, "-o", out, context).ok()
    assert (out / "file").read_text() == "content"
    assert "running" in builders.run("inspect", "theirs")
    builders.buildx("stop", "theirs")
    builders.run("create", "--name=other", *options(port))
    builders.run("inspect", "other", "--bootstrap")
    removed = builders.run("rm", "--all-inactive", "--force")
    assert removed == "" and "theirs" not in builders.buildx("ls")
    assert "other0" in builders.buildx("ls") and "theirs" not in builders.names()


def test_results_are_loaded_into_the_engine(
    builders: Builders, port: int, context: Path, base_images: Registry
) -> None:
    loading = ("--driver-opt=default-load=true",)
    builders.run("create", "--name=load", *options(port), *loading, "--use", "--bootstrap")
    (context / "Dockerfile").write_text("FROM scratch\nCOPY file /\n")
    both = "--platform=linux/amd64,linux/arm64"
    builders.shipline.build("-t", "container-default:1", context).ok()
    builders.shipline.build("--load", "-t", "container-both:1", both, context).ok()
    builders.shipline.build("--load", "-t", "container-stated:1", "--provenance=true", context).ok()
    for name in ("container-default:1", "container-both:1", "container-stated:1"):
        assert builders.docker.run("image", "inspect", name).returncode == 0
    pushed = f"{base_images.address}/container-both:1"
    for words in (("tag", "container-both:1", pushed), ("push", pushed)):
        assert builders.docker.run(*words).returncode == 0
    said = builders.docker.run("buildx", "imagetools", "inspect", "--raw", pushed).stdout
    assert {one["platform"]["architecture"] for one in json.loads(said)["manifests"]} >= {"arm64"}


def test_a_daemon_that_does_not_start_leaves_nothing(builders: Builders, port: int) -> None:
    words = ("create", "--name=broken", *options(port), "--driver-opt=env.FAIL=no such worker")
    said = builders.run(*words, "--driver-opt=restart-policy=no", "--bootstrap", code=14)
    assert "does not answer" in said and "no such worker" in said
    assert "broken" not in builders.names() and "broken" not in builders.run("ls")
    words = ("create", "--name=missing", "--driver-opt=image=nowhere.invalid/buildkit:1")
    said = builders.run(*words, "--bootstrap", code=14)
    assert "nowhere.invalid/buildkit:1 cannot be pulled" in said
    assert "missing" not in builders.names()


def test_an_engine_that_is_gone_is_named(builders: Builders, port: int, tmp_path: Path) -> None:
    builders.run("create", "--name=gone", f"unix://{tmp_path}/no.sock", "--driver=docker-container")
    assert "inactive" in builders.run("ls")
    said = builders.run("inspect", "gone", "--bootstrap", code=14)
    assert "nothing listens there" in said and f"{tmp_path}/no.sock" in said
    assert "may be left" in builders.run("rm", "gone", code=14)
    assert "gone" not in builders.run("ls")
