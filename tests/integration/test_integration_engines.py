"""Images in container engines: by their sockets, without their commands."""

from __future__ import annotations

import json
import os
import socket
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from builds import PLATFORMS, Shipline, context, document, leftovers, tags
from commands import run_shipline
from peers import Containerd, Docker, Podman, Registry

pytestmark = [pytest.mark.peers, pytest.mark.root]

DOCKERFILE = """
FROM busybox
COPY page.html /srv/
RUN --network=none echo made > /srv/made && rm /bin/wc
CMD ["cat", "/srv/page.html"]
"""
NAME = "docker.io/library/engines:1"


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return context(tmp_path / "context", DOCKERFILE, page__html="hello\n")


@pytest.fixture
def shipline(tmp_path: Path, base_images: Registry) -> Shipline:
    return Shipline(tmp_path / "home", base_images.address)


@pytest.fixture(scope="module")
def no_commands(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """A PATH with the programs of this machine, but those of engines."""
    place = tmp_path_factory.mktemp("programs")
    found = {one.name: one for part in ("sbin", "bin") for one in Path("/usr", part).iterdir()}
    for name in found.keys() - {"docker", "podman", "ctr", "nerdctl"}:
        (place / name).symlink_to(found[name])
    return {"PATH": str(place)}


@pytest.fixture
def store(image_store: Containerd) -> Iterator[Containerd]:
    """containerd without images: what they kept is collected."""
    yield image_store
    for name in image_store.images():
        image_store.ctr("images", "rm", "--sync", name)


def using(shipline: Shipline, *environments: Mapping[str, str]) -> Shipline:
    """The command with these variables."""
    merged = {key: text for one in environments for key, text in one.items()}
    return Shipline(shipline.home, shipline.mirror, merged)


def at(store: Containerd) -> dict[str, str]:
    return {"CONTAINERD_ADDRESS": str(store.socket), "CONTAINERD_NAMESPACE": store.namespace}


def collect(store: Containerd) -> None:
    """Let its garbage collector run to the end."""
    store.ctr("leases", "create", "--id", "brief")
    assert store.ctr("leases", "rm", "--sync", "brief").returncode == 0


def test_containerd_keeps_and_unpacks_what_is_loaded(
    shipline: Shipline, store: Containerd, source: Path, no_commands: dict[str, str]
) -> None:
    using(shipline, at(store), no_commands).build("-t", "engines:1", "--load", source).ok()
    collect(store)
    assert store.images() == [NAME]
    checked = store.ctr("images", "check").stdout
    assert "complete" in checked and "true" in checked, checked
    done = store.ctr("run", "--rm", "--net-host", NAME, "one", "cat", "/srv/page.html", "/srv/made")
    assert (done.returncode, done.stdout) == (0, "hello\nmade\n")
    assert store.ctr("run", "--rm", NAME, "two", "wc").returncode != 0
    assert store.ctr("leases", "ls", "-q").stdout == ""
    using(shipline, at(store)).build("-t", "engines:1", "--load", "--label", "a=b", source).ok()
    assert store.images() == [NAME]  # and now another image


def test_containerd_keeps_all_platforms(
    shipline: Shipline, store: Containerd, source: Path
) -> None:
    words = ("-t", "engines:1", "--load", "--platform", PLATFORMS)
    using(shipline, at(store)).build(*words, source).ok()
    collect(store)
    listed = store.ctr("images", "ls").stdout
    assert "linux/amd64,linux/arm64" in listed, listed
    checked = store.ctr("images", "check").stdout
    assert "complete" in checked and "incomplete" not in checked, checked


def test_store_names_an_image_as_it_is_told(
    shipline: Shipline,
    store: Containerd,
    base_images: Registry,
    source: Path,
    no_commands: dict[str, str],
) -> None:
    name = f"{base_images.address}/engines/stored:1"
    facts = source.with_name("facts.json")
    output = f"type=image,name={name},push=true,store=true,name-canonical=true"
    words = ("--metadata-file", facts)
    using(shipline, at(store), no_commands).build("-o", output, *words, source).ok()
    digest = json.loads(facts.read_text())["containerimage.digest"]
    assert sorted(store.images()) == [name, f"{name}@{digest}"]
    assert store.document(digest) == document(base_images, "engines/stored", "1")
    assert "overlayfs" not in store.ctr("content", "ls").stdout  # no snapshots
    using(shipline, at(store)).build(
        "-o", "type=image, unpack=true, dangling-name-prefix=none", source
    ).ok()
    assert any(one.startswith("none@sha256:") for one in store.images())
    assert "gc.ref.snapshot.overlayfs" in store.ctr("content", "ls").stdout


def test_a_dangling_image_is_pushed_by_its_digest(
    shipline: Shipline, base_images: Registry, source: Path
) -> None:
    place = f"{base_images.address}/engines/dangling"
    facts = source.with_name("facts.json")
    output = f"type=image,push=true,dangling-name-prefix={place}"
    shipline.build("-o", output, "--metadata-file", facts, source).ok()
    digest = json.loads(facts.read_text())["containerimage.digest"]
    assert document(base_images, "engines/dangling", digest)["layers"]
    assert tags(base_images, "engines/dangling") == []


def test_store_without_containerd_fails_before_the_build(
    shipline: Shipline, source: Path, tmp_path: Path
) -> None:
    words = ("-o", "type=image,name=x,store=true", source)
    said = using(shipline, {"CONTAINERD_ADDRESS": str(tmp_path / "none")}).build(*words).failed(13)
    assert "nothing listens there" in said and "start it (`systemctl start containerd`" in said
    assert "COPY" not in said


def test_docker_is_loaded_without_its_command(
    shipline: Shipline, classic: Docker, docker: Docker, source: Path, no_commands: dict[str, str]
) -> None:
    for engine in (classic, docker):
        words = ("-t", "engines/api:1", "--load", source)
        using(shipline, {"DOCKER_HOST": engine.host}, no_commands).build(*words).ok()
        done = engine.run("run", "--rm", "--network=none", "--pull=never", "engines/api:1")
        assert (done.returncode, done.stdout) == (0, "hello\n")
        engine.run("rmi", "--force", "engines/api:1")


def test_the_classic_store_refuses_several_platforms_before_the_build(
    shipline: Shipline, classic: Docker, source: Path
) -> None:
    words = ("-t", "x", "--load", "--platform", PLATFORMS, source)
    said = using(shipline, {"DOCKER_HOST": classic.host}).build(*words).failed(2)
    assert "containerd image store" in said and "COPY" not in said


def test_contexts_of_docker_name_the_engine(
    shipline: Shipline, docker: Docker, classic: Docker, source: Path, tmp_path: Path
) -> None:
    config = tmp_path / "config"
    for name, engine in (("one", docker), ("two", classic)):
        words = ("context", "create", name, "--docker", f"host={engine.host}")
        made = Docker(engine.host, config, programs=engine.programs).run("--config", config, *words)
        assert made.returncode == 0, made.stdout
    settings = {"DOCKER_CONFIG": str(config)}
    cases: list[tuple[Docker, str, dict[str, str]]] = [
        (docker, "type=docker,context=one", {}),
        (classic, "type=docker", {"DOCKER_CONTEXT": "two"}),
    ]
    for number, (engine, output, chosen) in enumerate(cases):
        name = f"engines/context:{number}"
        using(shipline, settings, chosen).build("-t", name, "-o", output, source).ok()
        assert engine.run("image", "inspect", name).returncode == 0
        engine.run("rmi", "--force", name)
    said = using(shipline, settings).build("-o", "type=docker,context=none", source).failed(13)
    assert "'none'" in said and "docker context ls" in said
    (config / "config.json").write_text('{"currentContext": "two"}')
    using(shipline, settings).build("-t", "engines/context:3", "--load", source).ok()
    assert classic.run("image", "inspect", "engines/context:3").returncode == 0


def test_podman_is_loaded_by_its_service_and_by_its_command(
    shipline: Shipline, pod: Podman, source: Path
) -> None:
    using(shipline, {"CONTAINER_HOST": pod.url}).build("-t", "engines/pod:1", "--load", source).ok()
    if not any(Path(name).exists() for name in ("/run/podman/podman.sock", "/run/docker.sock")):
        using(shipline, pod.environment).build("-t", "engines/pod:2", "--load", source).ok()
        assert pod.run("image", "exists", "docker.io/engines/pod:2").returncode == 0
    done = pod.run("image", "inspect", "--format", "{{.Config.Cmd}}", "docker.io/engines/pod:1")
    assert done.stdout.splitlines()[-1] == "[cat /srv/page.html]"
    words = ("-t", "x", "--load", "--platform", PLATFORMS, source)
    assert "several platforms" in using(shipline, {"CONTAINER_HOST": pod.url}).build(*words).failed(
        2
    )


def test_what_does_not_answer_as_an_engine_is_named(
    shipline: Shipline, source: Path, tmp_path: Path
) -> None:
    path = tmp_path / "socket"
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(path))
        server.listen()

        def answer() -> None:
            for _ in range(2):
                connection, _address = server.accept()
                with connection:
                    connection.recv(1 << 16)
                    connection.sendall(b"no engine\r\n\r\n")

        thread = threading.Thread(target=answer)
        thread.start()
        said = using(shipline, {"DOCKER_HOST": f"unix://{path}"}).build("--load", source).failed(13)
        assert f"no engine answers at unix://{path}" in said
        output = ("-o", "type=image,name=x,store=true")
        said = using(shipline, {"CONTAINERD_ADDRESS": str(path)}).build(*output, source).failed(13)
        assert str(path) in said and "systemctl start containerd" in said
        thread.join()
    said = (
        using(shipline, {"DOCKER_HOST": "npipe:////./pipe/docker"})
        .build("--load", source)
        .failed(13)
    )
    assert "unix://SOCKET" in said
    nowhere = {"DOCKER_HOST": "tcp://127.0.0.1:1"}
    assert "nothing listens there" in using(shipline, nowhere).build("--load", source).failed(13)
    assert leftovers(shipline.home) == []
    assert os.listdir(tmp_path)


@pytest.mark.parametrize("kind", ["classic", "newest"])
def test_images_are_copied_from_and_to_an_engine(
    kind: str, request: pytest.FixtureRequest, shipline: Shipline, base_images: Registry
) -> None:
    """With the containerd image store they stay as they are; else layers are compressed."""
    engine: Docker = request.getfixturevalue("classic" if kind == "classic" else "docker")
    insecure = {"SHIPLINE_INSECURE": base_images.address}
    environ = using(shipline, engine.environment, insecure).environ()

    def copy(source: str, target: str, status: int = 0) -> str:
        done = run_shipline("copy", source, target, environ=environ)
        assert done.returncode == status, done.stderr
        return done.stderr

    busybox, copied = f"{base_images.address}/library/busybox", f"engines/copied-{kind}"
    copy(f"{busybox}:latest", f"docker-daemon:{copied}:1")
    assert engine.run("image", "inspect", f"{copied}:1").returncode == 0
    copy(f"docker-daemon:{copied}:1", f"{base_images.address}/{copied}:2")
    before = document(base_images, "library/busybox", "latest")
    after = document(base_images, copied, "2")
    if kind == "newest":
        assert before == after
    else:
        assert {one["mediaType"].rpartition("+")[2] for one in after["layers"]} == {"gzip"}
    missing = copy("docker-daemon:engines/none:1", f"{base_images.address}/x:1", status=8)
    assert "engines/none:1 is not in the engine" in missing


def test_the_id_is_that_of_the_engine(
    shipline: Shipline, docker: Docker, classic: Docker, source: Path, tmp_path: Path
) -> None:
    for engine in (docker, classic):
        file = tmp_path / "id"
        words = ("--load", "--iidfile", file, source)
        for more in (("--quiet",), ("--progress=plain", "-t", "engines/id:1")):
            made = using(shipline, {"DOCKER_HOST": engine.host}).build(*more, *words).ok()
            identity = file.read_text()
            if "--quiet" in more:
                assert made.out.strip() == identity
            else:
                assert (f" writing image {identity} " in made.err) is (engine is classic)
            shown = engine.run("image", "inspect", "--format", "{{.Id}}", identity)
            assert shown.stdout.strip() == identity
        named = engine.run("image", "inspect", "--format", "{{.Id}}", "engines/id:1")
        assert named.stdout.strip() == identity
        engine.run("rmi", "engines/id:1")
