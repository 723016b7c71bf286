"""The driver `ssh`: the same builds by this program on another machine, through a real sshd."""

from __future__ import annotations

import json
import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from builds import Done, Shipline
from commands import run_shipline
from openssh import CLIENT, client_context, make_key
from peers import Registry
from peers.registry import Account, docker_registry
from peers.sshd import SshServer, sshd

pytestmark = [pytest.mark.peers, pytest.mark.root]

PROGRAM = Path(sys.executable).parent / "shipline"
DOCKERFILE = """\
FROM busybox AS made
ARG WORD=none
RUN --mount=type=secret,id=token wc -c < /run/secrets/token > /size && echo $WORD > /word
COPY --chmod=640 . /app
COPY --from=more extra /app/extra
FROM scratch
COPY --from=made /size /word /
COPY --from=made /app /app
LABEL a=b
"""
FLAGS = ("--network=none", "--secret=id=token,env=TOKEN", "--build-arg=WORD=spoken")


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SshServer]:
    with sshd(tmp_path_factory.mktemp("ssh") / "server") as running:
        yield running


class Far:
    """This program as a client, with the builder `far`."""

    def __init__(self, server: SshServer, mirror: str, place: Path) -> None:
        self.place = place
        self.home = place / "far"  # the other machine's state
        variables = {
            "SHIPLINE_HOME": str(self.home),
            "SHIPLINE_MIRRORS": f"docker.io=http://{mirror}",
            "DOCKER_CONFIG": str(place / "far-docker"),
        }
        self.words = ["env", *(f"{name}={value}" for name, value in variables.items())]
        environ = {
            "BUILDX_CONFIG": str(place / "buildx"),
            "PATH": f"{server.programs}{os.pathsep}{os.environ['PATH']}",
            "TOKEN": "hunter2-hunter2",
        }
        self.shipline = Shipline(place / "near", mirror, environ)

    def create(self, host: str = "far", *more: str, command: str = "", status: int = 0) -> str:
        """Make the builder `far`: what that prints, or says."""
        run = command or shlex.join([*self.words, str(PROGRAM)])
        words = ["create", "--name=far", "--driver=ssh", f"ssh://{host}", *more]
        words += [f"--driver-opt=command={run}"]
        done = run_shipline(
            "builder", *words, environ=self.shipline.environ(), stdin=b"", timeout_s=60
        )
        assert done.returncode == status, done.stderr
        return done.stderr if status else done.stdout

    def build(self, *words: str | Path, stdin: bytes = b"") -> Done:
        return self.shipline.build("--builder=far", *words, stdin=stdin)


@pytest.fixture
def far(server: SshServer, base_images: Registry, tmp_path: Path) -> Far:
    found = Far(server, base_images.address, tmp_path)
    found.create()
    return found


@pytest.fixture
def context(tmp_path: Path) -> Path:
    place = tmp_path / "context"
    (place / "deep").mkdir(parents=True)
    (place / "Dockerfile").write_text(DOCKERFILE)
    (place / ".dockerignore").write_text("# none\nignored\n")
    (place / "ignored").write_text("x")
    (place / "deep/file").write_text("x" * 100)
    (place / "deep/same").hardlink_to(place / "deep/file")
    (place / "link").symlink_to("deep/file")
    (tmp_path / "more").mkdir()
    (tmp_path / "more/extra").write_text("extra")
    return place


def tree(place: Path) -> dict[str, tuple[int, str]]:
    return {
        str(path.relative_to(place)): (
            path.lstat().st_mode,
            os.readlink(path) if path.is_symlink() else path.read_text() if path.is_file() else "",
        )
        for path in sorted(place.rglob("*"))
    }


def more(context: Path) -> str:
    return f"--build-context=more={context.parent / 'more'}"


def test_the_same_files_come_from_both_machines(far: Far, context: Path, tmp_path: Path) -> None:
    far.build(*FLAGS, more(context), "-o", tmp_path / "theirs", context).ok()
    far.shipline.build(*FLAGS, more(context), "-o", tmp_path / "ours", context).ok()
    assert tree(tmp_path / "theirs") == tree(tmp_path / "ours")
    assert (tmp_path / "theirs/size").read_text() == "15\n"
    assert (tmp_path / "theirs/word").read_text() == "spoken\n"
    assert not (tmp_path / "theirs/app/ignored").exists()
    for path in far.home.rglob("*"):  # neither does a secret stay there
        assert not path.is_file() or b"hunter2" not in path.read_bytes(), path


def test_only_what_changed_is_sent_again(far: Far, context: Path, tmp_path: Path) -> None:
    (context / "Dockerfile").write_text("FROM scratch\nCOPY . /\n")

    def inodes() -> dict[str, int]:
        (place,) = far.home.glob("contexts/*/files-*")
        return {str(one.relative_to(place)): one.lstat().st_ino for one in place.rglob("*")}

    far.build("-o", tmp_path / "1", context).ok()
    before = inodes()
    assert "ignored" not in before
    (context / "deep/file").write_text("changed")
    (context / "link").unlink()
    (context / "link").mkdir()
    (context / "link/new").write_text("new")
    os.chmod(context / "deep", 0o700)
    (context / ".dockerignore").unlink()
    far.build("-o", tmp_path / "2", context).ok()
    after = inodes()
    assert tree(tmp_path / "2") == tree(context)
    assert after.keys() - before.keys() == {"ignored", "link/new"}
    assert before["Dockerfile"] == after["Dockerfile"]
    (context / "ignored").unlink()
    far.build("-o", tmp_path / "3", context).ok()
    assert tree(tmp_path / "3") == tree(context)


@pytest.fixture(scope="module")
def closed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Registry]:
    """A registry that wants a login."""
    account = Account("user", "pass-word")
    with docker_registry(tmp_path_factory.mktemp("closed"), account=account) as running:
        yield running


def test_an_image_is_pushed_with_the_login_of_this_machine(
    far: Far, context: Path, closed: Registry, tmp_path: Path
) -> None:
    name = f"{closed.address}/far/app:1"
    words = (*FLAGS, more(context), "--push", "-t", name, "--annotation=manifest:e=f", context)
    assert closed.account is not None
    far.build(*words).failed(14)
    login = ["login", closed.address, "-u", closed.account.user, "--password-stdin"]
    login += ["--store", "plain"]
    password = closed.account.password.encode()
    environ = far.shipline.environ()
    assert run_shipline(*login, environ=environ, stdin=password, timeout_s=60).returncode == 0
    metadata = tmp_path / "metadata.json"
    done = far.build(*words, f"--metadata-file={metadata}").ok()
    facts = json.loads(metadata.read_text())
    assert facts["image.name"] == name
    assert f"pushed {name}@{facts['containerimage.digest']}" in done.err
    assert not (tmp_path / "far-docker").exists()


def test_archives_standard_input_and_platforms(far: Far, context: Path, tmp_path: Path) -> None:
    layout = tmp_path / "layout.tar"
    both = "--platform=linux/amd64,linux/arm64"
    output = f"type=oci,dest={layout}"
    far.build(*FLAGS, both, more(context), "-o", output, context).ok()
    listed = subprocess.run(["tar", "tf", layout], capture_output=True, text=True).stdout
    assert "index.json" in listed
    dockerfile = b"FROM busybox\nRUN echo here > /f\n"
    far.build("--network=none", "-o", tmp_path / "out", "-", stdin=dockerfile).ok()
    assert (tmp_path / "out/f").read_text() == "here\n"


def test_failures_are_those_of_this_machine(far: Far, tmp_path: Path) -> None:
    place = tmp_path / "bad"
    place.mkdir()
    for text, status, said in (
        ("FROM busybox\nRUN echo oops; exit 3\n", 5, "oops"),
        ("FROM busybox\nCOPY missing /\n", 4, "missing"),
        ("FROM busybox\nRUNN x\n", 4, "unknown instruction"),
    ):
        (place / "Dockerfile").write_text(text)
        for builder in ("far", "native"):
            words = (f"--builder={builder}", "--network=none", place)
            shown = far.shipline.build(*words).failed(status)
            assert said in shown and "Dockerfile:2" in shown
    (place / "Dockerfile").write_text("FROM busybox\nRUN --mount=type=secret,id=x,required true\n")
    assert "secret x: not found" in far.build(place).failed(4)
    assert "drivers that can: native" in far.build("-m", "1g", place).failed(14)


def test_agents_of_this_machine_are_used_there(far: Far, tmp_path: Path) -> None:
    key = make_key(tmp_path)
    place = tmp_path / "agent"
    place.mkdir()
    (place / "Dockerfile").write_text(
        f"FROM busybox\nRUN --mount=type=ssh {CLIENT} /openssh/ssh-add -L > /keys\n"
        "FROM scratch\nCOPY --from=0 /keys /\n"
    )
    client = client_context(tmp_path / "openssh")
    words = ("--network=none", f"--ssh=default={key}", f"--build-context=openssh={client}")
    far.build(*words, "-o", tmp_path / "out", place).ok()
    public = key.with_suffix(".pub").read_text().split()[1]
    assert public in (tmp_path / "out/keys").read_text()


@pytest.mark.parametrize("end", ["interrupt", "lost"])
def test_a_broken_connection_ends_the_build_without_leftovers(
    far: Far, tmp_path: Path, end: str
) -> None:
    place = tmp_path / "slow"
    place.mkdir()
    mark = f"9{os.getpid()}"
    (place / "Dockerfile").write_text(f"FROM busybox\nRUN echo begun; sleep {mark}\n")
    words = ("--builder=far", "--network=none", "--progress=plain", place)
    process = far.shipline.start(*words)
    said = b""
    assert process.stderr is not None
    while b" begun\n" not in said:
        line = process.stderr.readline()
        assert line, said.decode()
        said += line
    assert running(f"sleep {mark}") and running(str(far.home))
    if end == "interrupt":
        process.send_signal(signal.SIGINT)
    else:
        (client,) = children(process.pid, "ssh")
        os.kill(client, signal.SIGKILL)
    _, rest = process.communicate(timeout=60)
    assert process.returncode == (130 if end == "interrupt" else 14), rest.decode()
    deadline = time.monotonic() + 30
    while running(f"sleep {mark}") or running(str(far.home)):
        assert time.monotonic() < deadline, "it runs on"
        time.sleep(0.1)
    assert not [*far.home.glob("contexts/*/outputs")] and not [*far.home.glob("tmp/*/*")]


def running(words: str) -> bool:
    """Whether a program runs whose command line or environment has these words."""
    for path in Path("/proc").glob("[0-9]*"):
        try:
            said = (path / "cmdline").read_bytes() + b"\0" + (path / "environ").read_bytes()
        except OSError:
            continue
        if words.encode() in said.replace(b"\0", b" ") and int(path.name) != os.getpid():
            return True
    return False


def children(parent: int, name: str) -> list[int]:
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            head, _, rest = path.read_text().rpartition(")")
        except OSError:
            continue
        if int(rest.split()[1]) == parent and head.partition("(")[2] == name:
            found.append(int(path.parent.name))
    return found


def test_a_machine_that_cannot_be_used_is_named(
    server: SshServer, base_images: Registry, tmp_path: Path
) -> None:
    far = Far(server, base_images.address, tmp_path)
    said = far.create("far", "--bootstrap", command="/missing/shipline", status=14)
    assert "there is no /missing/shipline on ssh://far" in said and "command=" in said
    said = far.create("stranger", "--bootstrap", status=14)
    assert "ssh cannot connect to ssh://stranger" in said
    other = "import shipline; shipline.__version__ = '9.9'; from shipline.cli import main; main()"
    script = tmp_path / "other"
    script.write_text(f'#!/bin/sh\nexec {sys.executable} -c "{other}" "$@"\n')
    script.chmod(0o755)
    said = far.create("far", "--bootstrap", command=str(script), status=14)
    assert "has the version 9.9" in said and "same version" in said
    assert "is not an endpoint" in far.create("far/path", "--bootstrap", status=2)


def test_a_machine_with_python_alone_is_sent_the_program_once(
    far: Far, server: SshServer, context: Path, tmp_path: Path, base_images: Registry
) -> None:
    bare = Shipline(far.shipline.home, base_images.address, {**far.shipline.environment})
    words = ["create", "--name=bare", "--driver=ssh", "ssh://far", "--driver-opt=copy=true"]
    done = run_shipline("builder", *words, environ=bare.environ(), stdin=b"", timeout_s=60)
    assert done.returncode == 0, done.stderr
    (context / "Dockerfile").write_text("FROM scratch\nCOPY deep /\n")
    took = []
    for number in range(2):
        start = time.monotonic()
        out = tmp_path / f"out{number}"
        bare.build("--builder=bare", "-o", out, context).ok()
        took.append(time.monotonic() - start)
        assert (out / "file").read_text() == "x" * 100
    assert took[1] < took[0], took
    programs = server.programs.parent / "cache/shipline/program"
    (one,) = programs.iterdir()
    assert (one / "shipline/__main__.py").exists() and (one / "msgspec").is_dir()
