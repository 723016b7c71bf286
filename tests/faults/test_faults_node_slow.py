"""Hundreds of clients that read and send slowly, with and without an account."""

from __future__ import annotations

import http.client
import os
import socket
import ssl
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing, suppress
from pathlib import Path

import pytest

from crowds import connect, latencies, percentile, slow_clients
from guarded import guarded
from nodes import Node, node
from peers.registry import certificate
from served import served
from shipline.server import RegistrySection
from shipline.server.access import AccessSection, TlsSection
from spec_client import OCTETS, Target, sha256

MANY = 400  # readers, and as many senders
LARGE = 32 << 20  # bytes of the blob that is read; more than sockets hold
MOST = 200 << 20  # bytes of memory
MANY_TLS = 300  # the same over TLS, and as many handshakes
MOST_TLS = 360 << 20  # bytes of memory
SOON_S = 0.05  # half of the answers come in this time
MOST_S = 5.0  # all of them
ROUNDS_S = 60.0


def memory(process: int) -> int:
    """Bytes of a process that are in memory now (proc(5), VmRSS)."""
    status = Path(f"/proc/{process}/status").read_text()
    (line,) = [line for line in status.splitlines() if line.startswith("VmRSS")]
    return int(line.split()[1]) << 10


@pytest.fixture
def running(tmp_path: Path) -> Iterator[Node]:
    with node(tmp_path / "data") as started:
        yield started


def require_soon(address: str, path: str, tls: ssl.SSLContext | None = None) -> None:
    """Answers come soon, in one round at least: other work on the machine may slow down some."""
    end = time.monotonic() + ROUNDS_S
    while True:
        found = latencies(address, path, 2, tls=tls)
        if percentile(found, 0.5) < SOON_S and found[-1] < MOST_S:
            return
        assert time.monotonic() < end, (path, percentile(found, 0.5), found[-1])


def test_slow_clients_stop_nobody(running: Node) -> None:
    target = Target(running.url, "team/app")
    digest = target.push_blob(os.urandom(LARGE))
    assert target.push(target.image("an image"), "v1").status == 201
    path = f"/v2/team/app/blobs/{digest}"
    with slow_clients(running.address, readers=MANY, senders=MANY, path=path):
        time.sleep(2)
        for asked in ("/healthz", "/v2/team/app/manifests/v1", "/readyz", "/metrics"):
            require_soon(running.address, asked)
        assert target.push_blob(b"in time")
        assert target.call("GET", f"blobs/{digest}").status == 200
        assert memory(running.process.pid) < MOST


def test_slow_clients_over_tls_stop_nobody(tmp_path: Path) -> None:
    """With as many that never finish to agree on a key."""
    cert, key = certificate(tmp_path, "node")
    tls = ssl.create_default_context(cafile=str(cert))
    access = AccessSection(tls=TlsSection(cert=str(cert), key=str(key)))
    content = os.urandom(LARGE)
    with (
        node(tmp_path / "data", section=RegistrySection(access=access)) as running,
        ExitStack() as stack,
    ):
        host, _, port = running.url.rpartition("/")[2].partition(":")
        pushing = stack.enter_context(
            closing(http.client.HTTPSConnection(host, int(port), context=tls))
        )
        pushing.request("POST", f"/v2/a/b/blobs/uploads/?digest={sha256(content)}", content)
        with pushing.getresponse() as answer:
            assert answer.status == 201
        path, address = f"/v2/a/b/blobs/{sha256(content)}", f"{host}:{port}"
        stack.enter_context(
            slow_clients(address, readers=MANY_TLS, senders=MANY_TLS, path=path, tls=tls)
        )
        for number in range(MANY_TLS):
            greeting = stack.enter_context(connect(address, number))
            greeting.sendall(b"\x16\x03\x01\x02\x00\x01\x00" if number % 2 else b"")
        time.sleep(2)
        require_soon(address, "/healthz", tls)
        assert memory(running.process.pid) < MOST_TLS


def test_slow_anonymous_clients_block_no_one(tmp_path: Path) -> None:
    """Without an account: their bodies are refused, and not read for long."""
    with (
        guarded(tmp_path / "data", "--accounts") as running,
        slow_clients(running.address, readers=MANY, senders=MANY, path="/v2/a/blobs/x"),
    ):
        require_soon(running.address, "/healthz")
        assert running.call("GET", "/v2/", None, running.admin).status == 200


def drip(connection: socket.socket, head: str) -> tuple[bytes, float]:
    """Send a body that does not end; what came back, and the seconds until the end."""
    connection.sendall(head.encode())
    answer, began = b"", time.monotonic()
    connection.settimeout(0.1)
    while time.monotonic() - began < 60:
        try:
            data = connection.recv(4096)
            if not data:
                break
            answer += data
        except TimeoutError:
            pass
        except ConnectionError:
            break
        try:
            connection.send(b"x" * 100)
        except OSError:
            break
    return answer, time.monotonic() - began


@pytest.mark.parametrize("fields", ["Content-Length: 1000000", "Transfer-Encoding: chunked"])
def test_a_refused_body_is_answered_first_and_read_for_two_seconds(
    tmp_path: Path, fields: str
) -> None:
    with guarded(tmp_path / "data", "--accounts") as running, ExitStack() as stack:
        connection = stack.enter_context(connect(running.address, 0))
        head = f"POST /v2/a/b/blobs/uploads/ HTTP/1.1\r\nHost: x\r\n{fields}\r\n\r\n"
        body = "f4240\r\n" if "chunked" in fields else ""
        answer, seconds = drip(connection, head + body)
        assert b" 401 " in answer.partition(b"\r\n")[0]
        assert 1 < seconds < 30


def test_a_fast_client_reads_the_refusal_of_a_large_body(tmp_path: Path) -> None:
    with guarded(tmp_path / "data", "--accounts") as running:
        for _ in range(5):
            body = (b"x" * (1 << 20) for _ in range(16))
            answer = running.call("PUT", "/v2/a/b/manifests/v1", body, OCTETS)  # type: ignore[arg-type]
            assert answer.status == 401


def test_a_reader_that_stops_is_cut_off(tmp_path: Path) -> None:
    limits = "limits: {body-timeout: 1s, body-rate: 1000B}"
    with served(tmp_path, limits) as running:
        target = Target(running.url, "team/app")
        digest = target.push_blob(os.urandom(LARGE))
        with connect(running.address, 0, buffer=4096) as connection:
            head = f"GET /v2/team/app/blobs/{digest} HTTP/1.1\r\nHost: x\r\n\r\n"
            connection.sendall(head.encode())
            deadline = time.monotonic() + 60
            while "stalled" not in running.log.read_text():
                assert time.monotonic() < deadline
                time.sleep(0.1)
            received = 0
            with suppress(ConnectionError):
                while data := connection.recv(1 << 20):
                    received += len(data)
            assert received < LARGE


def test_a_reader_that_stops_does_not_hold_the_node(tmp_path: Path) -> None:
    with served(tmp_path, "drain-timeout: 1s") as running:
        target = Target(running.url, "team/app")
        digest = target.push_blob(os.urandom(LARGE))
        with connect(running.address, 0, buffer=4096) as connection:
            head = f"GET /v2/team/app/blobs/{digest} HTTP/1.1\r\nHost: x\r\n\r\n"
            connection.sendall(head.encode())
            assert connection.recv(100).startswith(b"HTTP/1.1 200 ")
            began = time.monotonic()
            assert running.stop() == 0
            assert time.monotonic() - began < 20


def test_bodies_of_one_address_hold_so_much_memory(running: Node) -> None:
    body = b" " * ((4 << 20) - 1)
    head = f"PUT /v2/a/manifests/v1 HTTP/1.1\r\nHost: x\r\nContent-Length: {4 << 20}\r\n\r\n"
    with ExitStack() as stack:
        mine = [stack.enter_context(connect(running.address, 0)) for _ in range(20)]
        for connection in mine:
            with suppress(OSError):  # refused before all of it was sent
                connection.sendall(head.encode() + body)
        answers = []
        for connection in mine:
            connection.settimeout(0.5)
            with suppress(TimeoutError, ConnectionError):
                answers.append(connection.recv(4096))
        assert 10 <= sum(answer.startswith(b"HTTP/1.1 429 ") for answer in answers) < 20
        assert (
            Target(running.url, "b").push(Target(running.url, "b").image("x"), "v1").status == 201
        )
        assert memory(running.process.pid) < MOST


def test_one_address_gets_so_many_connections(tmp_path: Path) -> None:
    with served(tmp_path, "limits: {address-connections: 5}") as running, ExitStack() as stack:
        mine = [stack.enter_context(connect(running.address, 0)) for _ in range(5)]
        extra = stack.enter_context(connect(running.address, 0))
        with suppress(ConnectionError):
            assert extra.recv(1) == b""
        for connection in (*mine, stack.enter_context(connect(running.address, 1))):
            connection.sendall(b"GET /v2/ HTTP/1.1\r\nHost: x\r\n\r\n")
            assert connection.recv(4096).startswith(b"HTTP/1.1 200 ")


def test_who_comes_to_a_full_node_waits(tmp_path: Path) -> None:
    limits = "limits: {connections: 3, header-timeout: 2s}"
    with served(tmp_path, limits) as running, ExitStack() as stack:
        crowd = [stack.enter_context(connect(running.address, number)) for number in range(60)]
        for connection in crowd:
            connection.sendall(b"GET /v2/ HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        for connection in crowd:
            assert connection.recv(4096).startswith(b"HTTP/1.1 200 ")
