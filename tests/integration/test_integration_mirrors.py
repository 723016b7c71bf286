"""`shipline mirror`: what it measures, and its files, read by Docker, containerd and Podman."""

from __future__ import annotations

import json
import os
import shutil
import signal
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from builds import Shipline
from commands import run_shipline
from peers import Containerd, Docker, Registry
from peers.podman import podman
from proxy import Answer, Delay, FaultProxy

pytestmark = pytest.mark.peers
IMAGE = "docker.io/library/busybox:latest"


@dataclass
class Mirrored:
    """Two mirrors of Docker Hub; the first one listed is the slower one."""

    far: FaultProxy
    near: FaultProxy
    home: Path

    @property
    def urls(self) -> list[str]:
        return [f"http://127.0.0.1:{one.port}" for one in (self.far, self.near)]

    def run(self, *words: str | Path) -> str:
        environ = Shipline(self.home).environ() | {"SHIPLINE_MIRRORS": ",".join(self.urls)}
        self.home.mkdir(exist_ok=True)
        done = run_shipline("mirror", *words, environ=environ)
        assert not done.returncode, done.stderr
        return done.stdout

    def pulled(self) -> tuple[int, int]:
        """The blobs that were asked of each."""
        far, near = (len(one.seen("GET", "/blobs/")) for one in (self.far, self.near))
        return far, near


@pytest.fixture
def mirrors(base_images: Registry, tmp_path: Path) -> Iterator[Mirrored]:
    with FaultProxy(base_images.port) as far, FaultProxy(base_images.port) as near:
        far.break_next(Delay(3.0), times=1)
        far.break_next(Answer(500), target="/blobs/", times=99)
        yield Mirrored(far, near, tmp_path / "home")


def test_the_nearest_is_shown_first(mirrors: Mirrored) -> None:
    shown = json.loads(mirrors.run("ls", "--json"))
    far, near = mirrors.urls
    assert [one["endpoint"] for one in shown] == [near, far, "https://registry-1.docker.io"]
    assert [one["chosen"] for one in shown] == [True, False, False]
    assert shown[0]["latency_s"] < shown[1]["latency_s"]
    table = mirrors.run("ls").splitlines()
    assert table[1].split()[:2] == ["docker.io", near] and table[1].endswith("chosen")


@pytest.mark.parametrize("given", ["shipline.yaml", "--registry-mirror", "SHIPLINE_MIRRORS"])
def test_builds_and_copies_use_the_nearest(
    mirrors: Mirrored, registry: Registry, tmp_path: Path, given: str
) -> None:
    project = tmp_path / "project"
    project.mkdir()
    (project / "Dockerfile").write_text("FROM busybox\nRUN true\n")
    environ = Shipline(mirrors.home).environ()
    del environ["SHIPLINE_MIRRORS"]
    words = ["--registry-mirror", mirrors.urls[0], "--registry-mirror", mirrors.urls[1]]
    match given:
        case "shipline.yaml":
            (project / given).write_text(f"registry-mirrors: {json.dumps(mirrors.urls)}\n")
        case "SHIPLINE_MIRRORS":
            environ[given] = ",".join(mirrors.urls)
    flags = words if given == "--registry-mirror" else []
    target = f"{registry.address}/mirrored-{given.strip('-').lower()}:v1"
    for command in (
        ["build", *flags, "-o", f"type=oci,dest={tmp_path / 'image.tar'}", "."],
        ["imagetools", "create", *flags, "-t", target, IMAGE],
    ):
        done = run_shipline(*command, cwd=project, environ=environ, timeout_s=300)
        assert done.returncode == 0, done.stderr
        far, near = mirrors.pulled()
        assert far == 0 and near > 0
        mirrors.near.requests.clear()


def test_what_docker_needs_of_a_mirror_is_said(tmp_path: Path) -> None:
    mirror = ("--registry-mirror", "http://127.0.0.1:1/docker.io")
    words = ("mirror", "config", "--for", "docker", "--path", tmp_path / "daemon.json", *mirror)
    done = run_shipline(*words, cwd=tmp_path, environ={"SHIPLINE_HOME": str(tmp_path)})
    assert done.returncode == 2
    assert "without a path" in done.stderr and 'match: "*"' in done.stderr


def test_docker_reads_its_file(mirrors: Mirrored, docker: Docker) -> None:
    base = docker.config.parent
    file, pid = base / "daemon.json", int((base / "pid").read_text())
    before = file.read_text()
    far, near = mirrors.urls
    try:
        mirrors.run("config", "--for", "docker", "--write", "--path", file)
        assert json.loads(file.read_text())["features"] == json.loads(before)["features"]
        os.kill(pid, signal.SIGHUP)
        used = _docker_mirrors(docker, near)
        assert [one.rstrip("/") for one in used[:2]] == [near, far] and len(used) == 3
        docker.run("image", "rm", "--force", IMAGE)
        done = docker.run("pull", IMAGE)
        assert done.returncode == 0, done.stdout
        assert mirrors.near.seen("GET", "/manifests/") or mirrors.near.seen("HEAD", "/manifests/")
    finally:
        file.write_text(before)
        os.kill(pid, signal.SIGHUP)


def _docker_mirrors(docker: Docker, first: str) -> list[str]:
    """Once the engine has read its file again."""
    end = time.monotonic() + 30
    while True:
        done = docker.run("info", "--format", "{{json .RegistryConfig.Mirrors}}")
        found: list[str] = json.loads(done.stdout.strip().splitlines()[-1]) or []
        if (found and found[0].rstrip("/") == first) or time.monotonic() > end:
            return found
        time.sleep(0.05)


def test_containerd_reads_its_file(
    mirrors: Mirrored, image_store: Containerd, tmp_path: Path
) -> None:
    hosts = tmp_path / "certs.d"
    file = hosts / "docker.io" / "hosts.toml"
    file.parent.mkdir(parents=True)
    file.write_text('# kept\n[host."http://127.0.0.1:1"]\n  capabilities = ["pull"]\n')
    mirrors.run("config", "--for", "containerd", "--write", "--path", hosts)
    assert file.read_text().index(mirrors.urls[1]) < file.read_text().index('127.0.0.1:1"')
    done = image_store.ctr("images", "pull", "--hosts-dir", hosts, IMAGE)
    assert done.returncode == 0, done.stdout
    asked = mirrors.near.seen("HEAD", "/manifests/") + mirrors.near.seen("GET", "/v2/.")
    assert asked and mirrors.pulled()[0] == 0
    assert all("ns=docker.io" in one.target for one in asked)
    image_store.ctr("images", "rm", "--sync", IMAGE)


def test_podman_reads_its_file(mirrors: Mirrored, tmp_path: Path) -> None:
    if not shutil.which("podman") or os.geteuid():
        pytest.skip("needs podman and root")
    config = tmp_path / "user" / ".config" / "containers"
    drop_ins = config / "registries.conf.d"
    drop_ins.mkdir(parents=True)
    mirrors.run("config", "--for", "podman", "--write", "--path", drop_ins)
    with podman(tmp_path) as running:
        environment = {**running.environment, "HOME": str(tmp_path / "user")}
        user = type(running)(environment, running.url)
        shown = user.run("info", "--format", "{{json .Registries}}").stdout
        facts = json.loads(shown.splitlines()[-1])  # after warnings
        locations = [one["Location"] for one in facts["docker.io"]["Mirrors"]]
        assert [f"http://{one}" for one in locations] == [*reversed(mirrors.urls)]
        done = user.run("pull", "--quiet", IMAGE)
        assert done.returncode == 0, done.stdout
        far, near = mirrors.pulled()
        assert far == 0 and near > 0
