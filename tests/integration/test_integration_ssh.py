"""`RUN --mount=type=ssh`: a step uses keys of the user, and nothing of them stays anywhere."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from builds import PLATFORMS, Shipline, context, leftovers
from openssh import CLIENT, client_context, make_key, ssh_add, ssh_agent
from peers import Registry
from users import ordinary_user

pytestmark = [pytest.mark.peers, pytest.mark.root]
RUN = f"FROM busybox\nRUN {CLIENT} --mount=type=ssh{{}} {{}}\n"
PLAIN = ("--progress", "plain", "-o", "type=cacheonly")


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return client_context(tmp_path_factory.mktemp("openssh") / "client")


@pytest.fixture
def key(tmp_path: Path) -> Path:
    return make_key(tmp_path)


@pytest.fixture
def shipline(tmp_path: Path, base_images: Registry) -> Iterator[Shipline]:
    home = tmp_path / "home"
    yield Shipline(home, base_images.address)
    assert leftovers(home) == []


def words(client: Path, *more: str) -> tuple[str, ...]:
    return (*PLAIN, "--build-context", f"openssh={client}", *more)


def test_steps_of_every_platform_sign_with_a_key_of_a_file(
    shipline: Shipline, client: Path, key: Path, tmp_path: Path
) -> None:
    test = "/openssh/ssh-add -T /key.pub && echo signed on $(uname -m) by $SSH_AUTH_SOCK"
    dockerfile = RUN.format("", test).replace("busybox\n", "busybox\nCOPY key.pub /\n")
    place = context(tmp_path / "context", dockerfile, key__pub=Path(f"{key}.pub").read_text())
    given = words(client, "--ssh", f"default={key}", "--platform", PLATFORMS)
    said = shipline.build(*given, place).ok().err
    for machine in ("x86_64", "aarch64"):
        assert f"signed on {machine} by /run/buildkit/ssh_agent.0" in said
    assert "BEGIN OPENSSH" not in said


def test_an_ordinary_user_forwards_an_agent_that_steps_cannot_change(base_images: Registry) -> None:
    script = "/openssh/ssh-add -L && ! /openssh/ssh-add -D && stat -c 'is %u:%g %a' $SSH_AUTH_SOCK"
    with ordinary_user(subids=True) as user:
        place = context(user.home / "user", RUN.format(",uid=3,gid=4,mode=0606", script))
        agent, key, client = user.home / "agent", make_key(user.home), user.home / "client"
        client_context(client)
        user.give(user.home)
        start = ("setpriv", "--reuid", str(user.home.stat().st_uid), "--clear-groups")
        with ssh_agent(agent, key, *start):
            mirrors = f"docker.io=http://{base_images.address}"
            given = ("build", *words(client, "--ssh", f"default={agent}"), str(place))
            done = user.run(*given, SHIPLINE_MIRRORS=mirrors)
            assert done.returncode == 0, done.stdout
            kept = ssh_add(agent, "-L").stdout
        assert kept and kept.split()[1] in done.stdout
        assert "is 3:4 606" in done.stdout
        assert leftovers(user.state) == []


def test_the_agent_of_the_environment_is_the_default(
    shipline: Shipline, client: Path, key: Path, tmp_path: Path
) -> None:
    place = context(tmp_path / "context", RUN.format(",target=/a,required", "/openssh/ssh-add -l"))
    with ssh_agent(tmp_path / "agent", key) as agent:
        given = words(client, "--ssh", "default")
        said = shipline.build(*given, place, SSH_AUTH_SOCK=str(agent)).ok().err
    assert "ED25519" in said


def test_no_trace_of_an_agent_is_kept(
    shipline: Shipline, client: Path, key: Path, tmp_path: Path
) -> None:
    script = "/openssh/ssh-add -l > /listed; env > /env; ls -R /run > /run-listed"
    place = context(tmp_path / "context", RUN.format(",id=deploy,required=true", script))
    out = tmp_path / "out"
    given = words(client, "--ssh", f"deploy={key}", "-o", str(out))
    assert "CACHED" not in shipline.build(*given, place).ok().err
    assert "ED25519" in (out / "listed").read_text()
    assert not (out / "run").exists() and not (out / "tmp/agent.sock").exists()
    other = make_key(tmp_path, "rsa", "2048")
    given = words(client, "--ssh", f"deploy={other}", "-o", str(out))
    assert re.search(r"CACHED|cached", shipline.build(*given, place).ok().err)
    lines = {line for line in key.read_bytes().splitlines()[1:-1] if len(line) > 30}
    for file in shipline.home.rglob("*"):
        if file.is_file():
            content = file.read_bytes()
            assert not any(line in content for line in lines), file
            assert str(key).encode() not in content, file


def test_a_mount_without_an_agent_is_left_out_unless_required(
    shipline: Shipline, client: Path, tmp_path: Path
) -> None:
    place = context(tmp_path / "context", RUN.format("", "test ! -e $SSH_AUTH_SOCK"))
    shipline.build(*words(client), place).ok()
    context(tmp_path / "context", RUN.format(" --mount=type=secret,id=token", "false"))
    said = shipline.build(*words(client), place).failed(5)
    assert "it ran without what it mounts: pass --ssh default, --secret id=token" in said
    context(tmp_path / "context", RUN.format(",id=x,required", "true"))
    said = shipline.build(*words(client), place).failed(4)
    assert 'no SSH key "x" forwarded from the client' in said and "--ssh x" in said


def test_the_socket_never_leaves_the_root_of_the_step(
    shipline: Shipline, client: Path, key: Path, tmp_path: Path
) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    names = ("../../../escape", "/link/escape", "/up/../../escape")
    more = "".join(f" --mount=type=ssh,target={name}" for name in names)
    dockerfile = RUN.format(",target=/first" + more, "/openssh/ssh-add -l")
    dockerfile = dockerfile.replace("busybox\n", f"busybox\nRUN ln -s {outside} /link\n")
    place = context(tmp_path / "context", dockerfile)
    shipline.build(*words(client, "--ssh", f"default={key}"), place).ok()
    assert list(outside.iterdir()) == [] and not Path("/escape").exists()
    assert not (tmp_path / "escape").exists()


def test_an_agent_that_cannot_be_is_refused_before_the_build(
    shipline: Shipline, key: Path, tmp_path: Path
) -> None:
    place = context(tmp_path / "context", "FROM scratch\nCOPY Dockerfile /\n")
    said = shipline.build(*PLAIN, "--ssh", "default", place, SSH_AUTH_SOCK="").failed(2)
    assert "SSH_AUTH_SOCK is not set" in said and "ssh-add" in said
    said = shipline.build(*PLAIN, "--ssh", f"a={key}", "--ssh", f"a={key}", place).failed(2)
    assert "the id a is given twice" in said
