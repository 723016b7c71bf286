"""Builds by the BuildKit of an engine: with the flags of every build, for the same results."""

from __future__ import annotations

import json
import os
import socket
import stat
import subprocess
import sys
import tarfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from builds import Done, Shipline
from commands import run_shipline
from peers import Docker, Registry, buildkit_relay, dockerd
from peers.buildkit_relay import relay
from peers.registry import certificate
from shipline.buildkit.connecting import open_pipe, open_program

pytestmark = [pytest.mark.peers, pytest.mark.root]

DOCKERFILE = """\
FROM busybox AS made
ARG WORD=none
RUN --mount=type=secret,id=token wc -c < /run/secrets/token > /size && echo $WORD > /word
COPY --chmod=640 . /app
WORKDIR /work
FROM scratch
COPY --from=made /size /word /
COPY --from=made /app /app
LABEL a=b
ENV X=y
CMD ["/run"]
"""


@pytest.fixture
def shipline(tmp_path: Path, docker: Docker, base_images: Registry) -> Shipline:
    return Shipline(tmp_path / "home", base_images.address, {"DOCKER_HOST": docker.host})


@pytest.fixture
def context(tmp_path: Path) -> Path:
    place = tmp_path / "context"
    (place / "deep").mkdir(parents=True)
    (place / "Dockerfile").write_text(DOCKERFILE)
    (place / ".dockerignore").write_text("ignored\n")
    (place / "ignored").write_text("x")
    (place / "deep/file").write_text("x" * 100)
    (place / "link").symlink_to("deep/file")
    return place


FLAGS = ("--network=none", "--secret=id=token,env=TOKEN", "--build-arg=WORD=spoken")


def build(shipline: Shipline, *words: str | Path) -> Done:
    return shipline.build(*FLAGS, *words, TOKEN="hunter2")


def tree(place: Path) -> dict[str, tuple[str, str]]:
    found = {}
    for path in sorted(place.rglob("*")):
        content = os.readlink(path) if path.is_symlink() else ""
        if path.is_file() and not path.is_symlink():
            content = path.read_text()
        found[str(path.relative_to(place))] = (stat.filemode(path.lstat().st_mode), content)
    return found


def test_the_same_files_come_from_both(shipline: Shipline, context: Path, tmp_path: Path) -> None:
    build(shipline, "--builder=docker", "-o", tmp_path / "theirs", context).ok()
    build(shipline, "-o", tmp_path / "ours", context).ok()
    assert tree(tmp_path / "theirs") == tree(tmp_path / "ours")
    assert (tmp_path / "theirs/size").read_text() == "7\n"
    assert not (tmp_path / "theirs/app/ignored").exists()


def test_archives_images_and_metadata(
    shipline: Shipline, context: Path, tmp_path: Path, base_images: Registry
) -> None:
    name = f"{base_images.address}/builders/app:1"
    metadata = tmp_path / "metadata.json"
    done = build(
        shipline,
        *("--builder=docker", "--push", "-t", name, f"--metadata-file={metadata}"),
        *("--label=c=d", "--annotation=manifest:e=f", context),
    ).ok()
    facts = json.loads(metadata.read_text())
    assert facts["image.name"] == name
    assert facts["containerimage.descriptor"]["digest"] == facts["containerimage.digest"]
    assert f"pushed {name}@{facts['containerimage.digest']}" in done.err
    layout = tmp_path / "layout.tar"
    build(shipline, "--builder=docker", "-o", f"type=oci,dest={layout}", context).ok()
    with tarfile.open(layout) as found:
        assert {"index.json", "oci-layout"} <= {*found.getnames()}
    path = tmp_path / "image.tar"
    build(shipline, "--builder=docker", "-o", f"type=tar,dest={path}", context).ok()
    with tarfile.open(path) as found:
        assert "app/deep/file" in found.getnames()


def metadata(docker: Docker, shipline: Shipline, place: Path, *words: str | Path) -> list[Any]:
    """The metadata of a build by buildx, by shipline on the engine, and by shipline."""
    files = [place / name for name in ("buildx", "engine", "ours")]
    common = ("--network=none", "--annotation=manifest-descriptor:c=d", *words, place)
    environ = {"BUILDX_METADATA_WARNINGS": "1", "BUILDX_NO_DEFAULT_ATTESTATIONS": "1"}
    done = subprocess.run(
        ["docker", "buildx", "build", "--metadata-file", files[0], *common],
        env=docker.environment | environ,
        capture_output=True,
    )
    assert done.returncode == 0, done.stderr
    for builder, file in (("docker", files[1]), ("native", files[2])):
        options = (f"--builder={builder}", "--metadata-file", file)
        shipline.build(*options, *common, **environ).ok()  # type: ignore[arg-type]
    return [json.loads(file.read_text()) for file in files]


def warnings(metadata: dict[str, Any]) -> list[dict[str, Any]]:
    """In an order of their own: BuildKit sends them in any."""
    return sorted(metadata["buildx.build.warnings"], key=lambda warning: warning["short"])


@pytest.mark.parametrize("output", ["type=image,oci-mediatypes=true", "type=local", "type=oci"])
def test_metadata_is_that_of_buildx(
    shipline: Shipline, docker: Docker, tmp_path: Path, output: str
) -> None:
    (tmp_path / "Dockerfile").write_text("FROM scratch as base\nCOPY Dockerfile /\nCMD echo hi\n")
    wanted = output if "image" in output else f"{output},dest={tmp_path / 'out'}"
    tag = ("-t", "builders-metadata:1") if "image" in output else ()
    buildx, engine, ours = metadata(docker, shipline, tmp_path, "-o", wanted, *tag)
    assert list(buildx) == list(engine) == list(ours) == sorted(buildx)
    stated = [set(one["buildx.build.provenance"]) for one in (buildx, engine, ours)]
    assert stated[0] - {"materials"} == stated[1] - {"materials"} == stated[2]
    for key in ("mediaType", "platform"):
        descriptors = [one.get("containerimage.descriptor", {}) for one in (buildx, engine, ours)]
        assert len({json.dumps(one.get(key)) for one in descriptors}) == 1
    annotations = [[*one.get("annotations", {})] for one in descriptors]
    assert annotations[0] == annotations[1] == annotations[2]
    for one in (engine, ours):
        for mine, theirs in zip(warnings(one), warnings(buildx), strict=True):
            assert mine | {"vertex": ""} == theirs | {"vertex": ""}


def test_a_client_of_buildkit_is_connected_to_a_builder(
    docker: Docker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DOCKER_HOST", docker.host)
    monkeypatch.setenv("SHIPLINE_HOME", str(tmp_path))
    words = ["builder", "dial-stdio", "--builder", "docker"]
    with open_program([sys.executable, "-m", "shipline", *words]) as program:
        with open_pipe(nullcontext(program), "dial-stdio") as control:
            assert control.workers()
        assert program.said == b"builder: docker\n"
        program.close()
        assert program.wait(60) == 0


def test_an_image_is_loaded_into_the_engine(
    shipline: Shipline, context: Path, docker: Docker
) -> None:
    build(shipline, "--builder=docker", "--load", "-t", "builders-load:1", context).ok()
    assert docker.run("image", "inspect", "builders-load:1").returncode == 0


def test_images_of_the_engine_are_bases_there(
    shipline: Shipline, context: Path, tmp_path: Path
) -> None:
    build(shipline, "--builder=docker", "--load", "-t", "builders-base:1", context).ok()
    (context / "Dockerfile").write_text("FROM builders-base:1\nCOPY deep /more\n")
    build(shipline, "--builder=docker", "-o", tmp_path / "out", context).ok()
    assert (tmp_path / "out/word").exists() and (tmp_path / "out/more/file").exists()


def test_without_an_output_the_engine_keeps_the_image(
    shipline: Shipline, context: Path, docker: Docker
) -> None:
    done = build(shipline, "--builder=docker", "-q", context).ok()
    assert done.out.startswith("sha256:") and not done.err
    named = shipline.build(*FLAGS, "--builder=docker", "-t", "builders-default:1", context).ok()
    assert docker.run("image", "inspect", "builders-default:1").returncode == 0, named.err
    environment = {"TOKEN": "hunter2", "BUILDX_NO_DEFAULT_LOAD": "1"}
    done = shipline.build(*FLAGS, "--builder=docker", context, **environment).ok()  # type: ignore[arg-type]
    assert "No output specified with docker driver" in done.err


def test_platforms_that_the_daemon_does_not_name_are_its_decision(
    shipline: Shipline, tmp_path: Path
) -> None:
    (tmp_path / "Dockerfile").write_text("FROM scratch\nCOPY Dockerfile /\n")
    words = ("--builder=docker", "--platform=linux/riscv64", "-o", tmp_path / "out")
    shipline.build(*words, tmp_path).ok()
    assert (tmp_path / "out/Dockerfile").exists()


@pytest.mark.parametrize(
    "status, text, words",
    [
        (4, "", ()),
        (4, "FROM busybox\nRUNN true\n", ()),
        (4, "FROM busybox\n", ("--target=zz",)),
        (4, "# check=error=true\nFROM busybox\nMAINTAINER me\n", ()),
        (4, "FROM busybox\nCOPY missing /\n", ()),
        (5, "FROM busybox\nRUN exit 3\n", ()),
        (6, "FROM busybox:nope\n", ()),
        (6, "FROM scratch\nCOPY Dockerfile /\n", ("--push", "-t", "127.0.0.1:1/no:1")),
    ],
)
def test_errors_have_the_exit_codes_of_this_machine(
    shipline: Shipline, tmp_path: Path, status: int, text: str, words: tuple[str, ...]
) -> None:
    (tmp_path / "Dockerfile").write_text(text)
    for builder in ("--builder=docker", "--builder=native"):
        shipline.build(builder, "--network=none", *words, tmp_path).failed(status)


def test_a_source_policy_holds_there_too(shipline: Shipline, tmp_path: Path) -> None:
    (tmp_path / "Dockerfile").write_text("FROM busybox\n")
    rules = tmp_path / "policy.json"
    variable = "EXPERIMENTAL_BUILDKIT_SOURCE_POLICY"

    def judged(*rule: Mapping[str, object]) -> Done:
        rules.write_text(json.dumps({"rules": rule}))
        return shipline.build("--builder=docker", tmp_path, **{variable: str(rules)})  # type: ignore[arg-type]

    image = {"identifier": "docker-image://docker.io/library/busybox*"}
    said = judged({"action": "DENY", "selector": image}).failed(9)
    assert "denied by policy" in said
    judged({"action": "DENY", "selector": {**image, "match_type": "EXACT"}}).ok()
    converted = {"identifier": "docker-image://docker.io/library/none:1"}
    rule = {"action": "CONVERT", "selector": image, "updates": converted}
    assert "library/none" in judged(rule).failed(6)


def test_a_failure_is_shown_as_one_of_this_machine(shipline: Shipline, tmp_path: Path) -> None:
    (tmp_path / "Dockerfile").write_text("FROM busybox\nRUN echo oops; exit 3\n")
    for builder in ("--builder=docker", "--builder=native"):
        said = shipline.build(builder, "--network=none", tmp_path).failed(5)
        assert "oops" in said and "Dockerfile:2" in said
    (tmp_path / "Dockerfile").write_text("FROM busybox\nCOPY missing /\n")
    assert "missing" in shipline.build("--builder=docker", tmp_path).failed(4)


def test_what_a_builder_cannot_do_is_refused_with_one_that_can(
    shipline: Shipline, context: Path, tmp_path: Path
) -> None:
    said = build(shipline, "--builder=docker", "-m", "1g", context).failed(14)
    assert "--resource" in said and "drivers that can: native" in said


def test_builders_are_those_of_buildx(
    shipline: Shipline, docker: Docker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    environ = shipline.environ() | {"BUILDX_CONFIG": str(tmp_path / "buildx")}

    def run(*words: str) -> str:
        done = run_shipline("builder", *words, environ=environ, stdin=b"", timeout_s=60)
        assert done.returncode == 0, done.stderr
        return done.stdout

    socket = f"unix://{tmp_path}/no.sock"
    assert run("create", "--name", "farm", socket, "--platform", "linux/arm64") == "farm\n"
    run("create", "--name", "farm", "--append", "tcp://127.0.0.1:9", "--driver-opt", "servername=x")
    listed = run("ls")
    assert "farm0" in listed and "farm1" in listed and "inactive" in listed and "native*" in listed
    monkeypatch.setenv("BUILDX_CONFIG", environ["BUILDX_CONFIG"])
    shown = docker.run("buildx", "ls").stdout
    assert "farm0" in shown and "remote" in shown and socket in shown
    docker.run("buildx", "create", "--name", "theirs", "--driver=remote", "tcp://127.0.0.1:9")
    assert "theirs0" in run("ls")
    run("use", "theirs")
    assert "theirs*" in run("ls") and run("inspect").split()[1] == "theirs"
    run("create", "--name", "farm", "--leave", "--node", "farm0")
    assert "farm0" not in run("ls")
    run("rm", "farm", "theirs")
    assert "native*" in run("ls")


def test_a_daemon_is_reached_over_tls_by_whom_it_knows(
    shipline: Shipline, context: Path, docker: Docker, tmp_path: Path
) -> None:
    theirs, ours = certificate(tmp_path, "theirs"), certificate(tmp_path, "ours")
    stranger = certificate(tmp_path, "stranger")
    environ = shipline.environ() | {"BUILDX_CONFIG": str(tmp_path / "buildx")}

    def create(name: str, endpoint: str, **files: Path) -> None:
        options = [f"--driver-opt={key}={path}" for key, path in files.items()]
        words = ("builder", "create", "--name", name, endpoint, *options)
        done = run_shipline(*words, environ=environ, stdin=b"", timeout_s=60)
        assert done.returncode == 0, done.stderr

    with relay(docker.host.removeprefix("unix://"), (*theirs, ours[0])) as port:
        endpoint = f"tcp://127.0.0.1:{port}"
        create("known", endpoint, cacert=theirs[0], cert=ours[0], key=ours[1])
        create("impostor", endpoint, cacert=stranger[0], cert=ours[0], key=ours[1])
        create("unknown", endpoint, cacert=theirs[0], cert=stranger[0], key=stranger[1])
        out = tmp_path / "out"
        placed = Shipline(shipline.home, shipline.mirror, environ | {"TOKEN": "hunter2"})
        placed.build(*FLAGS, "--builder=known", "-o", out, context).ok()
        assert (out / "word").read_text() == "spoken\n"
        said = placed.build(*FLAGS, "--builder=impostor", context).failed(14)
        assert "certificate verify failed" in said
        placed.build(*FLAGS, "--builder=unknown", context).failed(14)
        create("plain", endpoint)
        placed.build(*FLAGS, "--builder=plain", context).failed(14)


def test_a_daemon_is_reached_through_a_program(
    shipline: Shipline, context: Path, docker: Docker, tmp_path: Path
) -> None:
    script = Path(buildkit_relay.__file__)
    (tmp_path / "bin").mkdir()
    fake = tmp_path / "bin/ssh"
    fake.write_text(
        f'#!/bin/sh\n[ "$*" = "-p 22 -- me@box buildctl dial-stdio" ] || exit 9\n'
        f'exec "{sys.executable}" "{script}" "{docker.host.removeprefix("unix://")}"\n'
    )
    fake.chmod(0o755)
    environ = shipline.environ() | {
        "BUILDX_CONFIG": str(tmp_path / "buildx"),
        "PATH": f"{fake.parent}{os.pathsep}{os.environ['PATH']}",
        "TOKEN": "hunter2",
    }
    placed = Shipline(shipline.home, shipline.mirror, environ)
    words = ("builder", "create", "--name=box", "ssh://me@box:22", "--use", "--bootstrap")
    done = run_shipline(*words, environ=environ, stdin=b"", timeout_s=60)
    assert done.returncode == 0, done.stderr
    placed.build(*FLAGS, "-o", tmp_path / "out", context).ok()
    assert (tmp_path / "out/word").read_text() == "spoken\n"
    fake.write_text("#!/bin/sh\necho Host key verification failed. >&2\nexit 255\n")
    assert "Host key verification failed." in placed.build(*FLAGS, context).failed(14)


@pytest.fixture(scope="module")
def second(tmp_path_factory: pytest.TempPathFactory, base_images: Registry) -> Iterator[Docker]:
    """Another engine, of another version."""
    with dockerd(tmp_path_factory.mktemp("second"), base_images) as running:
        yield running


WAITING = """\
FROM busybox AS wait-amd64
RUN sleep 8
FROM busybox AS wait-arm64
FROM wait-$TARGETARCH
COPY . /app
"""


@pytest.fixture
def farm(shipline: Shipline, docker: Docker, second: Docker, tmp_path: Path) -> Iterator[Farm]:
    """A builder with two nodes, the second of which can be lost."""
    environ = shipline.environ() | {"BUILDX_CONFIG": str(tmp_path / "buildx"), "TOKEN": "hunter2"}
    placed = Shipline(shipline.home, shipline.mirror, environ)
    with relay(docker.host.removeprefix("unix://")) as port, ExitStack() as losing:
        other = losing.enter_context(relay(second.host.removeprefix("unix://")))
        for endpoint, platform in ((port, "linux/arm64"), (other, "linux/amd64")):
            words = ["builder", "create", "--name=farm", f"tcp://127.0.0.1:{endpoint}"]
            words += [f"--platform={platform}", *(["--append"] if endpoint == other else [])]
            done = run_shipline(*words, environ=environ, stdin=b"", timeout_s=60)
            assert done.returncode == 0, done.stderr
        yield Farm(placed, losing.close)


@dataclass(frozen=True)
class Farm:
    shipline: Shipline
    lose: Callable[[], None]


BOTH = ("--builder=farm", "--platform=linux/amd64,linux/arm64", "--network=none")


def test_each_platform_is_built_on_its_node_and_joined(
    farm: Farm, context: Path, base_images: Registry, tmp_path: Path
) -> None:
    name = f"{base_images.address}/builders/farm"
    (context / "Dockerfile").write_text("FROM busybox\nCOPY . /app\n")
    metadata = tmp_path / "metadata.json"
    words = ("--push", "-t", f"{name}:1", "-t", f"{name}:2", f"--metadata-file={metadata}")
    done = farm.shipline.build(*BOTH, *words, context).ok()
    facts = json.loads(metadata.read_text())
    assert f"pushed {name}:1@{facts['containerimage.digest']}" in done.err
    stated = [key for key in facts if key.startswith("buildx.build.provenance")]
    assert stated == [f"buildx.build.provenance/linux/{one}" for one in ("amd64", "arm64")]
    for tag in ("1", "2"):
        raw = subprocess.run(
            ["skopeo", "inspect", "--raw", "--tls-verify=false", f"docker://{name}:{tag}"],
            capture_output=True,
            check=True,
        ).stdout
        entries = json.loads(raw)["manifests"]
        assert [one["platform"]["architecture"] for one in entries] == ["amd64", "arm64"]
    said = farm.shipline.build(*BOTH, "-o", tmp_path / "out", context).failed(14)
    assert "--push" in said


def test_the_platforms_of_a_lost_node_move(
    farm: Farm, context: Path, base_images: Registry
) -> None:
    name = f"{base_images.address}/builders/lost:1"
    (context / "Dockerfile").write_text(WAITING)
    process = farm.shipline.start(*BOTH, "--push", "-t", name, "--progress=plain", context)
    said = b""
    assert process.stderr is not None
    while b"RUN sleep 8" not in said:
        line = process.stderr.readline()
        assert line, said.decode()
        said += line
    time.sleep(1)
    farm.lose()
    _, rest = process.communicate(timeout=180)
    said += rest
    assert process.returncode == 0, said.decode()
    assert b"is lost" in said and f"pushed {name}".encode() in said


def test_nodes_that_do_not_answer_are_named_and_left_out(
    farm: Farm, context: Path, base_images: Registry
) -> None:
    """One refuses, one accepts and says nothing: neither is waited for as long as it may take."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        for endpoint in ("127.0.0.1:9", f"127.0.0.1:{silent.getsockname()[1]}"):
            words = ("builder", "create", "--name=farm", "--append", f"tcp://{endpoint}")
            environ = farm.shipline.environ()
            done = run_shipline(*words, environ=environ, stdin=b"", timeout_s=60)
            assert done.returncode == 0, done.stderr
        (context / "Dockerfile").write_text("FROM scratch\nCOPY . /app\n")
        name = f"{base_images.address}/builders/dead:1"
        started = time.monotonic()
        said = farm.shipline.build(*BOTH, "--push", "-t", name, "--progress=plain", context).ok()
        assert time.monotonic() - started < 18, "connecting may take 20 seconds"
    assert "the node farm2 is left out" in said.err and "Connection refused" in said.err
    assert "the node farm3 is left out" in said.err


def test_a_single_platform_moves_and_files_are_made_on_one_node(
    farm: Farm, context: Path, tmp_path: Path
) -> None:
    """Both nodes can build both platforms, but files and archives are never joined."""
    (context / "Dockerfile").write_text("FROM scratch\nCOPY deep /\n")
    out = ("-o", tmp_path / "out")
    farm.shipline.build("--builder=farm", "--platform=linux/amd64", *out, context).ok()
    farm.lose()
    done = farm.shipline.build("--builder=farm", "--platform=linux/amd64", *out, context).ok()
    assert "the node farm1 is left out" in done.err
    assert (tmp_path / "out/file").read_text() == "x" * 100


def test_a_platform_that_is_fixed_is_built_though_the_daemon_does_not_name_it(
    shipline: Shipline, docker: Docker, context: Path, tmp_path: Path
) -> None:
    environ = shipline.environ() | {"BUILDX_CONFIG": str(tmp_path / "buildx")}
    placed = Shipline(shipline.home, shipline.mirror, environ)
    (context / "Dockerfile").write_text("FROM scratch\nCOPY deep /\n")
    with relay(docker.host.removeprefix("unix://")) as port:
        words = ("--name=fixed", f"tcp://127.0.0.1:{port}", "--platform=linux/mips64le")
        done = run_shipline("builder", "create", *words, environ=environ, stdin=b"", timeout_s=60)
        assert done.returncode == 0, done.stderr
        out = ("-o", tmp_path / "out")
        placed.build("--builder=fixed", "--platform=linux/mips64le", *out, context).ok()
    assert (tmp_path / "out/file").exists()


def test_the_disk_of_a_builder_is_listed_and_freed(shipline: Shipline, context: Path) -> None:
    build(shipline, "--builder=docker", context).ok()

    def run(*words: str) -> str:
        environ = shipline.environ() | {"BUILDX_BUILDER": "docker"}
        done = run_shipline(*words, environ=environ, stdin=b"", timeout_s=60)
        assert done.returncode == 0, done.stderr
        return done.stdout

    lines = run("du", "--filter=type=source.local", "--format={{.ID}} {{.Type}}").splitlines()
    assert lines and all(line.endswith(" source.local") for line in lines)
    removed = run("prune", "--force", "--filter=type=source.local")
    assert all(line.split()[0] in removed for line in lines)
    assert run("du", "--filter=type=source.local", "--format={{.ID}}") == ""


LINKED = """\
group "default" {{ targets = ["one", "two", "base"] }}
target "made" {{
  dockerfile-inline = <<EOT
FROM busybox
COPY file /file
RUN cat /proc/sys/kernel/random/uuid > /uuid
EOT
  network = "none"
}}
target "base" {{
  contexts = {{ made = "target:made" }}
  dockerfile-inline = "FROM made\\nENV KIND=base\\nRUN cat /uuid > /id\\n"
  network = "none"
  {base}
}}
target "one" {{
  contexts = {{ base = "target:base", other = "target:made" }}
  dockerfile-inline = "FROM base\\nCOPY --from=other /file /copied\\nRUN echo $KIND > /kind\\n"
  network = "none"
  {one}
}}
target "two" {{
  contexts = {{ base = "target:base" }}
  dockerfile-inline = "FROM scratch\\nCOPY --from=base /id /file /\\n"
  {two}
}}
"""


def bake(shipline: Shipline, place: Path, *words: str) -> Done:
    command = ("bake", "--progress=plain", "--allow=fs=*", *words)
    done = run_shipline(*command, environ=shipline.environ(), cwd=place, stdin=b"", timeout_s=300)
    return Done(done.returncode, done.stdout, done.stderr)


@pytest.mark.parametrize("words", [(), ("--no-cache",)])
def test_a_step_of_a_linked_target_runs_once_for_all_that_use_it(
    shipline: Shipline, tmp_path: Path, words: tuple[str, ...]
) -> None:
    outputs = {name: f'output = ["type=local,dest=out/{name}"]' for name in ("base", "one", "two")}
    (tmp_path / "docker-bake.hcl").write_text(LINKED.format(**outputs))
    (tmp_path / "file").write_text("x")
    metadata = tmp_path / "metadata.json"
    done = bake(shipline, tmp_path, "--builder=docker", f"--metadata-file={metadata}", *words).ok()
    out = tmp_path / "out"
    ids = {path.read_text() for path in (out / "base/id", out / "one/id", out / "two/id")}
    assert len(ids) == 1 and (out / "one/uuid").read_text() in ids
    assert (out / "one/kind").read_text() == "base\n" and (out / "one/copied").read_text() == "x"
    assert "[made] " in done.err and "one: wrote out/one" in done.err
    assert set(json.loads(metadata.read_text())) == {"base", "made", "one", "two"}


def test_a_failure_in_a_linked_target_names_it(shipline: Shipline, tmp_path: Path) -> None:
    (tmp_path / "docker-bake.hcl").write_text("""\
target "base" {
  dockerfile-inline = "FROM busybox\\nRUN echo oops; exit 3\\n"
  network = "none"
}
target "default" {
  contexts = { base = "target:base" }
  dockerfile-inline = "FROM base\\nCOPY file /\\n"
}
""")
    (tmp_path / "file").write_text("x")
    said = bake(shipline, tmp_path, "--builder=docker").failed(5)
    assert "target base: " in said and "oops" in said and "Dockerfile:2" in said
    said = bake(
        shipline, tmp_path, "--builder=docker", "--set=base.platform=linux/mips64le"
    ).failed(6)
    assert "target base: " in said and "no match for platform" in said


def test_linked_targets_are_built_where_each_platform_is(
    farm: Farm, tmp_path: Path, base_images: Registry
) -> None:
    names = {one: f"{base_images.address}/bake/{one}" for one in ("base", "one", "two")}
    both = 'platforms = ["linux/amd64", "linux/arm64"]'
    outputs = {one: f'{both}\n  tags = ["{name}:1"]' for one, name in names.items()}
    text = LINKED.format(**outputs).replace('target "made" {', f'target "made" {{\n  {both}')
    (tmp_path / "docker-bake.hcl").write_text(text)
    (tmp_path / "file").write_text("x")
    done = bake(farm.shipline, tmp_path, "--builder=farm", "--push").ok()
    for one, name in names.items():
        assert f"{one}: pushed {name}:1@sha256:" in done.err
        command = ["skopeo", "inspect", "--raw", "--tls-verify=false", f"docker://{name}:1"]
        raw = subprocess.run(command, capture_output=True, check=True).stdout
        entries = json.loads(raw)["manifests"]
        assert [one["platform"]["architecture"] for one in entries] == ["amd64", "arm64"]
