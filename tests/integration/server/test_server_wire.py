"""Requests as old, careful and hasty clients write them (RFC 9112)."""

from __future__ import annotations

import re
import socket
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from nodes import Node, node
from spec_client import Target, sha256, with_query

CONTENT = b"what travels"


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Node]:
    with node(tmp_path_factory.mktemp("wire") / "data") as started:
        yield started


@contextmanager
def connected(running: Node) -> Iterator[socket.socket]:
    host, _, port = running.address.partition(":")
    with socket.create_connection((host, int(port)), timeout=10) as connection:
        yield connection


def everything(connection: socket.socket) -> bytes:
    """What comes until the node ends the connection."""
    received = b""
    while data := connection.recv(65536):
        received += data
    return received


def blob(running: Node) -> str:
    """The path of a blob that is there."""
    return f"/v2/wire/blobs/{Target(running.url, 'wire').push_blob(CONTENT)}"


def upload(running: Node) -> str:
    """The path and query that an upload of CONTENT is finished with."""
    return with_query(Target(running.url, "wire").start(), digest=sha256(CONTENT))


def test_http_1_0_needs_no_host(running: Node) -> None:
    with connected(running) as connection:
        connection.sendall(f"GET {blob(running)} HTTP/1.0\r\n\r\n".encode())
        answer = everything(connection)
    assert re.match(rb"HTTP/1\.[01] 200 ", answer)
    assert answer.endswith(CONTENT)


def test_http_1_0_can_push(running: Node) -> None:
    head = f"PUT {upload(running)} HTTP/1.0\r\nContent-Length: {len(CONTENT)}\r\n\r\n"
    with connected(running) as connection:
        connection.sendall(head.encode() + CONTENT)
        assert b" 201 " in everything(connection).partition(b"\r\n")[0]


def test_http_1_1_names_a_host(running: Node) -> None:
    with connected(running) as connection:
        connection.sendall(b"GET /v2/ HTTP/1.1\r\nConnection: close\r\n\r\n")
        assert b" 400 " in everything(connection).partition(b"\r\n")[0]


def test_pipelined_requests_are_answered_in_order(running: Node) -> None:
    place = blob(running)
    lines = ["GET /v2/", f"HEAD {place}", f"GET {place}", "GET /nowhere"]
    requests = [f"{line} HTTP/1.1\r\nHost: x\r\n\r\n" for line in lines]
    requests[-1] = requests[-1].replace("Host", "Connection: close\r\nHost")
    with connected(running) as connection:
        connection.sendall("".join(requests).encode())
        answer = everything(connection)
    assert re.findall(rb"HTTP/1.1 (\d+) ", answer) == [b"200", b"200", b"200", b"404"]
    assert answer.count(CONTENT) == 1


def test_body_is_sent_when_the_node_says_so(running: Node) -> None:
    """Expect: 100-continue (RFC 9110, 10.1.1)."""
    fields = f"Host: x\r\nExpect: 100-continue\r\nContent-Length: {len(CONTENT)}"
    head = f"PUT {upload(running)} HTTP/1.1\r\n{fields}\r\nConnection: close\r\n\r\n"
    with connected(running) as connection:
        connection.sendall(head.encode())
        assert connection.recv(4096).startswith(b"HTTP/1.1 100 ")
        connection.sendall(CONTENT)
        assert everything(connection).startswith(b"HTTP/1.1 201 ")


def test_body_that_is_refused_is_not_asked_for(running: Node) -> None:
    place = "/v2/wire/blobs/uploads/00000000-0000-4000-8000-000000000000"
    fields = "Host: x\r\nExpect: 100-continue\r\nContent-Length: 100000000"
    with connected(running) as connection:
        connection.sendall(f"PATCH {place} HTTP/1.1\r\n{fields}\r\n\r\n".encode())
        assert connection.recv(4096).startswith(b"HTTP/1.1 404 ")


def test_another_expectation_is_refused(running: Node) -> None:
    fields = "Host: x\r\nExpect: a-miracle\r\nContent-Length: 1"
    with connected(running) as connection:
        connection.sendall(f"PUT {upload(running)} HTTP/1.1\r\n{fields}\r\n\r\n".encode())
        assert connection.recv(4096).startswith(b"HTTP/1.1 417 ")


def test_http_1_0_expects_nothing(running: Node) -> None:
    fields = f"Expect: 100-continue\r\nContent-Length: {len(CONTENT)}"
    with connected(running) as connection:
        connection.sendall(f"PUT {upload(running)} HTTP/1.0\r\n{fields}\r\n\r\n".encode() + CONTENT)
        assert b" 201 " in everything(connection).partition(b"\r\n")[0]


def test_target_may_be_a_whole_url(running: Node) -> None:
    """RFC 9112, 3.2.2: proxies write it so."""
    head = f"GET {running.url}{blob(running)} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
    with connected(running) as connection:
        connection.sendall(head.encode())
        assert everything(connection).endswith(CONTENT)


@pytest.mark.parametrize("sizes", [[1], [5, 3, 4], [12]], ids=str)
def test_chunks_of_a_body_have_any_size(running: Node, sizes: list[int]) -> None:
    ends = [sum(sizes[: number + 1]) for number in range(len(sizes))]
    starts = [0, *ends]
    pieces = [CONTENT[start:end] for start, end in zip(starts, [*ends, None], strict=True)]
    body = b"".join(b"%x;note=x\r\n%s\r\n" % (len(piece), piece) for piece in pieces if piece)
    head = f"PUT {upload(running)} HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n"
    with connected(running) as connection:
        raw = (head + "Connection: close\r\n\r\n").encode() + body + b"0\r\nTrailer: 1\r\n\r\n"
        connection.sendall(raw)
        assert everything(connection).startswith(b"HTTP/1.1 201 ")
