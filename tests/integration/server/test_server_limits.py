"""What one client may use up, so that the others are served."""

from __future__ import annotations

import os
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from nodes import Node
from served import served
from spec_client import Target, sha256, with_query

_IMPATIENT = """
limits:
  header-timeout: 1s
  body-timeout: 2s
  body-rate: 1000B
  blob-size: 100kB
"""


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Node]:
    with served(tmp_path_factory.mktemp("limits"), _IMPATIENT) as started:
        yield started


def connect(running: Node) -> socket.socket:
    host, _, port = running.address.partition(":")
    return socket.create_connection((host, int(port)), timeout=30)


def unfinished(running: Node, location: str, promised: int, body: bytes) -> socket.socket:
    """A connection that promised more than it sent."""
    connection = connect(running)
    head = f"PATCH {location} HTTP/1.1\r\nHost: x\r\nContent-Length: {promised}\r\n\r\n"
    connection.sendall(head.encode() + body)
    return connection


def ended_after(connection: socket.socket) -> float:
    """Seconds until the node ended the connection."""
    began = time.monotonic()
    try:
        while connection.recv(4096):
            pass
    except ConnectionError:
        pass
    return time.monotonic() - began


def require_cut_off(running: Node, promised: int) -> None:
    target = Target(running.url, "stalled")
    location = target.start()
    with unfinished(running, location, promised, b"abc") as connection:
        assert ended_after(connection) < 20
    deadline = time.monotonic() + 60
    while target.call("GET", location)["Range"] != "0-2":  # the node is still syncing them
        assert time.monotonic() < deadline
        time.sleep(0.05)
    assert "stalled" in running.log.read_text()


def test_client_that_never_finishes_is_cut_off_and_can_go_on(running: Node) -> None:
    require_cut_off(running, 10)


def test_the_same_for_a_body_that_is_read_from_the_socket(tmp_path: Path) -> None:
    with served(tmp_path, _IMPATIENT.replace("100kB", "100MB")) as running:
        require_cut_off(running, 64 << 20)


@pytest.mark.parametrize("size", [1 << 20, 16 << 20])
def test_upload_goes_on_before_the_node_knows_that_the_connection_broke(
    tmp_path: Path, size: int
) -> None:
    """As when a laptop wakes up elsewhere: the other connection stays open for a while."""
    content = os.urandom(size)
    unread = 1 << 20 if size > 8 << 20 else 0  # of a large one, until more comes or it ends
    with served(tmp_path) as running:
        target = Target(running.url, "moved")
        for ask in (True, False):
            location, began = target.start(), time.monotonic()
            with unfinished(running, location, size, content[: size // 2]) as left:
                file = running.data / "uploads" / location.rpartition("/")[2]
                while file.stat().st_size < size // 2 - unread:
                    assert time.monotonic() - began < 20
                    time.sleep(0.01)
                if ask:
                    answer = target.call("GET", location)
                else:
                    answer = target.call("PATCH", location, b"x", {"Content-Range": "0-0"})
                    assert answer.status == 416
                start = int((answer["Range"] or "").partition("-")[2]) + 1
                assert start == size // 2
                place = with_query(location, digest=sha256(content))
                rest = {"Content-Range": f"{start}-{size - 1}"}
                assert target.call("PUT", place, content[start:], rest).status == 201
                assert left.recv(1) == b""
            assert time.monotonic() - began < 25  # and not the time limit of bodies


def test_where_to_go_on_is_known_as_soon_as_the_client_is_back(running: Node) -> None:
    target = Target(running.url, "back")
    location = target.start()
    with unfinished(running, location, 100_000, b"abc") as connection:
        file = running.data / "uploads" / location.rpartition("/")[2]
        while not file.stat().st_size:
            time.sleep(0.01)
        connection.close()
        assert target.call("GET", location)["Range"] == "0-2"


def test_body_that_drips_is_cut_off(running: Node) -> None:
    location, began = Target(running.url, "drips").start(), time.monotonic()
    with unfinished(running, location, 5000, b"") as connection, pytest.raises(ConnectionError):
        while time.monotonic() - began < 20:
            connection.sendall(b"x" * 20)
            time.sleep(0.1)
    assert time.monotonic() - began < 20


def test_slow_body_above_the_rate_arrives(running: Node) -> None:
    location = Target(running.url, "slow").start()
    with unfinished(running, location, 20_000, b"") as connection:
        for _ in range(20):
            connection.sendall(b"x" * 1000)
            time.sleep(0.2)
        assert b" 202 " in connection.recv(4096)


def test_head_that_drips_is_cut_off(running: Node) -> None:
    """Slowloris."""
    began = time.monotonic()
    with connect(running) as connection, pytest.raises(ConnectionError):
        connection.sendall(b"GET /v2/ HTTP/1.1\r\n")
        while time.monotonic() - began < 20:
            connection.sendall(b"X: y\r\n")
            time.sleep(0.1)
    assert time.monotonic() - began < 20


def test_idle_connection_is_ended(running: Node) -> None:
    with connect(running) as connection:
        connection.sendall(b"GET /v2/ HTTP/1.1\r\nHost: x\r\n\r\n")
        assert b" 200 " in connection.recv(4096)
        assert ended_after(connection) < 20


def test_stalled_clients_on_every_thread_give_way(running: Node) -> None:
    target = Target(running.url, "crowd")
    stalled = [unfinished(running, target.start(), 10, b"x") for _ in range(8)]
    time.sleep(0.3)
    try:
        assert target.call("GET", "/v2/").status == 200
    finally:
        for connection in stalled:
            connection.close()


def test_blob_above_the_limit_is_refused(running: Node) -> None:
    target, content = Target(running.url, "large"), b"x" * 100_001
    whole = target.call("PUT", f"{target.start()}?digest={sha256(content)}", content)
    assert (whole.status, whole.codes) == (413, ["SIZE_INVALID"])
    chunked = target.call("PATCH", target.start(), iter([content]))
    assert chunked.status == 413
    location = target.start()
    assert target.call("PATCH", location, content[:60_000]).status == 202
    assert target.call("PATCH", location, content[:60_000]).status == 413
    assert target.call("GET", location)["Range"] == "0-59999"


def test_blob_at_the_limit_is_taken(running: Node) -> None:
    Target(running.url, "large").push_blob(b"x" * 100_000)


@pytest.mark.parametrize(
    ("head", "statuses"),
    [
        (b"GET /v2/ HTTP/1.1\r\nHost: x\r\n" + b"X: y\r\n" * 200, {431, 400}),
        (b"GET /v2/ HTTP/1.1\r\nHost: x\r\nX: " + b"y" * 600_000 + b"\r\n", {400}),
        (b"GET /" + b"a" * 80_000 + b" HTTP/1.1\r\nHost: x\r\n", {400}),
        (b"GET /v2/ HTTP/1.1\r\n", {400}),
        (b"GET /v2/ HTTP/1.1\r\nHost: a\r\nHost: b\r\n", {400}),
        (b"GET /v2/ HTTP/1.1\r\nHost : x\r\n", {400}),
        (b"PUT /v2/ HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\nContent-Length: 6\r\n", {400}),
        (b"PUT /v2/ HTTP/1.1\r\nHost: x\r\nContent-Length: -1\r\n", {400}),
        (b"PUT /v2/ HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: gzip, chunked\r\n", {501}),
        (b"PUT /v2/ HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked, gzip\r\n", {400}),
        (b"PUT /v2/ HTTP/1.0\r\nHost: x\r\nTransfer-Encoding: chunked\r\n", {400}),
    ],
)
def test_heads_that_mislead_are_refused(running: Node, head: bytes, statuses: set[int]) -> None:
    with connect(running) as connection:
        with suppress(ConnectionError):  # refused before all of it was sent
            connection.sendall(head + b"\r\n0\r\n\r\n")
        answer = connection.recv(4096)
        assert int(answer.split()[1]) in statuses
        assert b'{"errors": [{"code": "UNSUPPORTED"' in answer and b"aiohttp" not in answer


def test_two_hundred_clients_at_once_are_served(tmp_path: Path) -> None:
    with served(tmp_path) as running:
        connections = [connect(running) for _ in range(200)]
        failed: list[int] = []

        def push(number: int) -> None:
            content = f"content of {number}".encode()
            target = Target(running.url, f"many/r{number % 10}")
            if target.call("GET", f"blobs/{target.push_blob(content)}").body != content:
                failed.append(number)

        threads = [threading.Thread(target=push, args=(number,)) for number in range(200)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        for connection in connections:
            connection.close()
        assert failed == []
        assert running.stop() == 0
