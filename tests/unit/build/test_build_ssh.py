"""Agents for steps: OpenSSH's client lists their keys and signs with them, and can do no more."""

from __future__ import annotations

import socket
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from openssh import make_key, ssh_add, ssh_agent
from shipline.build.request import Ssh
from shipline.build.ssh import Agent, agents_of, served
from shipline.errors import UsageError

KINDS = (("ed25519", "256"), ("ecdsa", "256"), ("ecdsa", "384"), ("ecdsa", "521"), ("rsa", "2048"))


@contextmanager
def open_agent(agent: Agent, place: Path) -> Iterator[str]:
    with served(agent, place / "served", uid=0, gid=0, mode=0o600) as path:
        yield str(path)
    assert not (place / "served").exists()


def verifies(agent: str, key: Path) -> bool:
    """Whether the agent signs for the key, judged by OpenSSH: `ssh-add -T`."""
    return ssh_add(agent, "-T", f"{key}.pub").returncode == 0


@pytest.fixture
def real_agent(tmp_path: Path) -> Iterator[Path]:
    with ssh_agent(tmp_path / "real.sock", make_key(tmp_path)) as path:
        yield path


@pytest.mark.parametrize("form", ["RFC4716", "PEM", "PKCS8"])
def test_keys_of_every_kind_and_form_sign(tmp_path: Path, form: str) -> None:
    kinds = KINDS if form == "RFC4716" else KINDS[1:]  # OpenSSH writes Ed25519 in its own form only
    keys = tuple(make_key(tmp_path, *kind, "-m", form) for kind in kinds)
    agent = agents_of([Ssh("default", keys)], {})["default"]
    with open_agent(agent, tmp_path) as path:
        listed = ssh_add(path, "-L").stdout.split()
        for key in keys:
            assert Path(f"{key}.pub").read_text().split()[1] in listed
            assert verifies(path, key)
        assert not verifies(path, make_key(tmp_path, "ed25519", "257"))


def test_requests_are_forwarded_to_the_users_agent(tmp_path: Path, real_agent: Path) -> None:
    agent = agents_of([Ssh("default")], {"SSH_AUTH_SOCK": str(real_agent)})["default"]
    with open_agent(agent, tmp_path) as path:
        assert verifies(path, tmp_path / "ed25519-256")


def test_a_step_cannot_change_the_users_agent(tmp_path: Path, real_agent: Path) -> None:
    agent = agents_of([Ssh("default", (real_agent,))], {})["default"]
    other = make_key(tmp_path, "rsa", "2048")
    with open_agent(agent, tmp_path) as path:
        for words in ((str(other),), ("-D",), ("-d", str(tmp_path / "ed25519-256"))):
            assert ssh_add(path, *words).returncode != 0
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(path)
            for kind in (*range(11), 12, *range(14, 256)):
                client.sendall(b"\0\0\0\x05" + bytes([kind]) + b"\0\0\0\0")
                assert client.recv(5, socket.MSG_WAITALL) == b"\0\0\0\1\5", kind
        assert len(ssh_add(path, "-L").stdout.splitlines()) == 1
    assert len(ssh_add(str(real_agent), "-L").stdout.splitlines()) == 1


@pytest.mark.parametrize(
    "sent", [b"\0\0\0\0", b"\xff\xff\xff\xff", b"\0\0\0\5\x0d\0\0\1\0", b"\0\0\0\1\x0d", b"\0"]
)
def test_a_broken_client_is_hung_up_on_and_others_are_served(tmp_path: Path, sent: bytes) -> None:
    key = make_key(tmp_path)
    agent = agents_of([Ssh("default", (key,))], {})["default"]
    with open_agent(agent, tmp_path) as path, socket.socket(socket.AF_UNIX) as client:
        client.connect(path)
        client.sendall(sent)
        client.shutdown(socket.SHUT_WR)
        assert client.recv(1) == b""
        assert verifies(path, key)


def test_the_end_of_the_block_ends_all_connections(tmp_path: Path) -> None:
    before = threading.active_count()
    agent = agents_of([Ssh("default", (make_key(tmp_path),))], {})["default"]
    clients = [socket.socket(socket.AF_UNIX) for _ in range(24)]  # more than are served at once
    with open_agent(agent, tmp_path) as path:
        for client in clients:
            client.connect(path)
    for client in clients:
        client.settimeout(60)
        with suppress(ConnectionResetError):
            assert client.recv(1) == b""
        client.close()
    assert threading.active_count() == before


def test_an_agent_that_has_gone_is_a_connection_that_ends(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as gone:
        gone.bind(str(tmp_path / "gone"))
    agent = agents_of([Ssh("default", (tmp_path / "gone",))], {})["default"]
    with open_agent(agent, tmp_path) as path:
        assert ssh_add(path, "-L").returncode != 0


def test_a_path_longer_than_the_address_of_a_socket_serves(tmp_path: Path) -> None:
    long = tmp_path / ("d" * 120)
    long.mkdir()
    agent = agents_of([Ssh("default", (make_key(tmp_path),))], {})["default"]
    with open_agent(agent, long) as path, socket.socket(socket.AF_UNIX) as client:
        (tmp_path / "short").symlink_to(path)
        client.connect(str(tmp_path / "short"))


def test_what_is_no_agent_and_no_key_is_refused(tmp_path: Path) -> None:
    (tmp_path / "text").write_text("no key")
    locked = tmp_path / "locked"
    words = ("-q", "-N", "secret", "-t", "ed25519", "-f", str(locked))
    subprocess.run(["ssh-keygen", *words], check=True)
    key = make_key(tmp_path)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "socket"))
    for wanted, said in (
        ([Ssh("default")], "--ssh default: there is no agent: SSH_AUTH_SOCK is not set"),
        ([Ssh("x", (tmp_path / "text",))], "text is not a usable private key"),
        ([Ssh("x", (Path(f"{key}.pub"),))], "is not a usable private key"),
        ([Ssh("x", (locked,))], "this private key is passphrase protected"),
        ([Ssh("x", (tmp_path / "none",))], "cannot read .*none: No such file or directory"),
        ([Ssh("x", (tmp_path,))], "Is a directory"),
        ([Ssh("x", (key, tmp_path / "socket"))], "pass either one socket or keys"),
        ([Ssh("x", (key,)), Ssh("x", (key,))], "the id x is given twice"),
    ):
        with pytest.raises(UsageError, match=said):
            agents_of(wanted, {})


def test_a_key_is_in_no_representation(tmp_path: Path) -> None:
    key = make_key(tmp_path)
    agent = agents_of([Ssh("default", (key,))], {})["default"]
    assert "PRIVATE" not in repr(agent) and "sign" not in repr(agent)
