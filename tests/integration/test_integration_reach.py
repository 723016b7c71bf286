"""Registries without TLS and with an authority of their own: the same two options everywhere."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from builds import Done
from commands import run_shipline
from nodes import Node, node
from peers import Account, Registry, docker_registry

pytestmark = pytest.mark.peers


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Node]:
    """A registry that speaks plain http on an address that is not a loopback address."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("198.51.100.1", 9))  # nothing is sent
        except OSError:
            pytest.skip("this machine has no address but loopback ones")
        own = probe.getsockname()[0]
    with node(
        tmp_path_factory.mktemp("plain") / "data", listen=f"{own}:0", insecure_open=True
    ) as it:
        yield it


@pytest.fixture(scope="module")
def secure(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Registry]:
    """A registry on loopback with an authority that no system knows, and an account."""
    work = tmp_path_factory.mktemp("secure")
    with docker_registry(work, account=Account("alice", "secret"), tls=True) as it:
        yield it


class Person:
    """Somebody with a state directory and a docker configuration."""

    def __init__(self, home: Path) -> None:
        kept = {k: v for k, v in os.environ.items() if not k.startswith(("SHIPLINE_", "DOCKER_"))}
        own = {"SHIPLINE_HOME": str(home / "state"), "DOCKER_CONFIG": str(home / "docker")}
        self._environ = kept | own | {"SHIPLINE_KEY_PASSWORD": "secret"}

    def try_(self, *words: str | Path, stdin: str = "", **more: str) -> Done:
        done = run_shipline(*words, environ=self._environ | more, stdin=stdin, timeout_s=300)
        return Done(done.returncode, done.stdout, done.stderr)

    def run(self, *words: str | Path, stdin: str = "") -> str:
        done = self.try_(*words, stdin=stdin).ok()
        return done.out + done.err


@pytest.fixture
def person(tmp_path: Path) -> Person:
    (tmp_path / "context").mkdir()
    (tmp_path / "context/file").write_text("content")
    return Person(tmp_path)


def dockerfile(tmp_path: Path, base: str) -> Path:
    (tmp_path / "context/Dockerfile").write_text(f"FROM {base}\nCOPY file /{base[:4]}\n")
    return tmp_path / "context"


def test_from_push_and_copy_reach_both_kinds(
    person: Person, plain: Node, secure: Registry, tmp_path: Path
) -> None:
    ca, first, second = secure.ca, f"{secure.address}/team/base:1", f"{plain.address}/team/app:1"
    assert ca is not None
    login = ("login", "-u", "alice", "--password-stdin", "--store", "plain")
    person.run(*login, "--ca", ca, secure.address, stdin="secret")
    both = ("--ca", ca, "--insecure", plain.address)
    build = ("build", "--progress", "plain", "--push")
    person.run(*build, "--ca", ca, "-t", first, dockerfile(tmp_path, "scratch"))
    person.run(*build, *both, "-t", second, dockerfile(tmp_path, first))
    person.run(*build, *both, "-t", f"{secure.address}/team/up:1", dockerfile(tmp_path, second))
    person.run("imagetools", "create", *both, "-t", f"{plain.address}/team/copy:1", first)
    said = person.run("imagetools", "inspect", "--insecure", plain.address, second)
    assert "team/app" in said
    key = tmp_path / "release"
    person.run("key", "generate", "--output-key-prefix", key)
    person.run("sign", "--key", f"{key}.key", "--insecure", plain.address, second)
    person.run("verify", "--key", f"{key}.pub", "--insecure", plain.address, second)


def test_loopback_is_asked_over_tls_where_it_speaks_it(person: Person, secure: Registry) -> None:
    name = f"{secure.address}/team/base:1"
    said = person.try_("imagetools", "inspect", name).failed(6)
    assert "certificate refused" in said and "--ca" in said
    named = person.try_("imagetools", "inspect", "--insecure", secure.address, name).failed(6)
    assert "HTTPS" in named and "drop --insecure" in named


def test_the_environment_says_the_same(person: Person, plain: Node, secure: Registry) -> None:
    name = f"{plain.address}/team/nothing:1"
    assert "--insecure" in person.try_("imagetools", "inspect", name).failed(6)
    found = person.try_("imagetools", "inspect", name, SHIPLINE_INSECURE=f"x,{plain.address}")
    assert found.status == 8


def test_login_takes_the_registry_from_insecure(person: Person, plain: Node) -> None:
    login = ("login", "-u", "a", "--password-stdin", "--store", "plain")
    done = person.try_(*login, "--insecure", plain.address, stdin="x")
    assert plain.address in done.ok().err


def test_a_missing_authority_is_a_usage_error(person: Person) -> None:
    assert "does not exist" in person.try_("imagetools", "inspect", "--ca", "/no", "a").failed(2)
