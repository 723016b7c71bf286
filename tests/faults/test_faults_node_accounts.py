"""Accounts that are changed from outside while the node waits for clients."""

from __future__ import annotations

import socket
import sqlite3
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path

from guarded import Guarded, guarded

CHANGES = 30  # accounts removed from outside


def half_a_body(node: Guarded, credentials: Mapping[str, str]) -> socket.socket:
    """A connection that promised ten bytes of an upload and sent one."""
    started = node.call("POST", "/v2/team/app/blobs/uploads/", b"", credentials)
    assert started.status == 202, started.body
    host, _, port = node.address.partition(":")
    connection = socket.create_connection((host, int(port)))
    fields = "".join(f"{name}: {value}\r\n" for name, value in credentials.items())
    head = f"PATCH {started['Location']} HTTP/1.1\r\nHost: x\r\n{fields}Content-Length: 10\r\n\r\n"
    connection.sendall(head.encode() + b"x")
    return connection


def remove_user(data: Path, name: str) -> None:
    command = ["registry", "user", "rm", name, "--data", str(data)]
    subprocess.run([sys.executable, "-m", "shipline", *command], check=True, capture_output=True)


def log_in(node: Guarded, credentials: Mapping[str, str]) -> int:
    return node.call("GET", "/service/token?service=shipline", None, credentials).status


def test_a_user_removed_from_outside_is_out_while_a_body_comes_in(tmp_path: Path) -> None:
    """SQLite's locks must survive whatever the node does to its connections meanwhile."""
    config = tmp_path / "shipline.yaml"
    limits = "limits: {body-timeout: 400ms, body-rate: 1B}"
    config.write_text(f"version: 1\nregistry:\n  {limits}\n")
    data = tmp_path / "data"
    with guarded(data, "--accounts", "--config", str(config)) as node:
        node.project("team")
        users = [node.user(f"user{number}", team="developer") for number in range(CHANGES)]
        alice, bob = node.user("alice", team="developer"), node.user("bob")
        assert log_in(node, bob) == 200
        for round_ in range(2):
            with half_a_body(node, alice):
                time.sleep(1)  # until the node has looked at its connections
                for number in range(round_, CHANGES, 2):
                    with node.accounts() as accounts:
                        accounts.remove_user(f"user{number}")
        remove_user(data, "bob")
        assert [log_in(node, user) for user in (users[0], users[1], users[-1])] == [401] * 3
        assert log_in(node, bob) == 401
        assert log_in(node, alice) == 200
        assert node.process.poll() is None
    with sqlite3.connect(data / "access" / "accounts.db") as records:
        assert records.execute("pragma integrity_check").fetchall() == [("ok",)]
