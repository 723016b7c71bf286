"""Responses of HTTP/1.1: those that http.client reads are read as it does, cut ones are errors."""

from __future__ import annotations

import http.client
import socket
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from shipline.registry.response import (
    MalformedResponse,
    NoResponse,
    ReceivedResponse,
    ResponseEnded,
)

WHOLE = [
    b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello",
    b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nConnection: Close\r\n\r\nhello",
    b"HTTP/1.1 404\r\nContent-Length: 0\r\n\r\n",
    b"HTTP/1.1 204 No Content\r\n\r\n",
    b"HTTP/1.1 304 Not Modified\r\nContent-Length: 5\r\n\r\n",
    b"HTTP/1.0 200 OK\r\nContent-Length: 5\r\n\r\nhello",
    b"HTTP/1.0 200 OK\r\nContent-Length: 5\r\nConnection: keep-alive\r\n\r\nhello",
    b"HTTP/1.1 200 OK\r\n\r\nuntil the end",
    b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 201 Created\r\nContent-Length: 0\r\n\r\n",
    b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    b"HTTP/1.1 200 OK\r\nTransfer-Encoding: Chunked\r\nContent-Length: 1\r\n\r\n"
    b"3\r\nabc\r\n0A; name=value\r\n0123456789\r\n0\r\nDigest: x\r\n\r\n",
]
CUT = [
    b"HTTP/1.1 200 OK\r\n",
    b"HTTP/1.1 200 OK\r\nContent-Le",
    b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhello",
    b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n",
    b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n9\r\nhello",
    b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello",
    b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n",
    b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhelloXX0\r\n\r\n",
    b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n-5\r\nhello\r\n0\r\n\r\n",
]
MALFORMED = [
    b"\x15\x03\x01\x00\x02\x02\x16",
    b"HTTP/2 200 OK\r\n\r\n",
    b"HTTP/1.1 20 OK\r\n\r\n",
    b"HTTP/1.1 2000 OK\r\n\r\n",
    b"HTTP/1.1 200 " + b"x" * (1 << 17) + b"\r\n\r\n",
    b"HTTP/1.1 200 OK\r\n" + b"a: b\r\n" * 101 + b"\r\n",
    b"HTTP/1.1 103 Early Hints\r\n\r\n" * 11,
]


@contextmanager
def sent(data: bytes) -> Iterator[socket.socket]:
    """A connection whose other end has sent `data` and closed."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        theirs.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 20)
        theirs.sendall(data)
        theirs.shutdown(socket.SHUT_WR)
        yield ours


def read_all(response: ReceivedResponse, size: int) -> bytes:
    data = bytearray()
    while part := response.read(size):
        data += part
    return bytes(data)


@pytest.mark.parametrize("data", WHOLE)
@pytest.mark.parametrize("method", ["GET", "HEAD"])
@pytest.mark.parametrize("size", [1, 4, 5, 1000, -1])
def test_whole_responses_are_read_as_http_client_reads_them(
    data: bytes, method: str, size: int
) -> None:
    with sent(data) as sock, sent(data) as other:
        theirs = http.client.HTTPResponse(other, method=method)
        theirs.begin()
        expected = theirs.status, theirs.will_close, theirs.read()
        ours = ReceivedResponse(sock, method)
        assert (ours.status, ours.will_close, read_all(ours, size)) == expected
        assert ours.length == 0


@pytest.mark.parametrize("data", CUT)
@pytest.mark.parametrize("size", [1, 5, 1000, -1])
def test_a_response_that_is_cut_is_never_taken_for_a_whole_one(data: bytes, size: int) -> None:
    with sent(data) as sock, pytest.raises(ResponseEnded):
        read_all(ReceivedResponse(sock, "GET"), size)


def test_interim_responses_are_left_out() -> None:
    data = b"HTTP/1.1 103 Early Hints\r\nLink: a\r\n\r\nHTTP/1.1 204 None\r\n\r\n"
    with sent(data) as sock:
        response = ReceivedResponse(sock, "GET")
        assert (response.status, response.headers.get("link")) == (204, "")


def test_what_came_of_a_cut_body_is_returned_first() -> None:
    with sent(CUT[2]) as sock:
        response = ReceivedResponse(sock, "GET")
        assert response.read(100) == b"hello"
        with pytest.raises(ResponseEnded, match="4 bytes are missing"):
            response.read(100)


@pytest.mark.parametrize("data", MALFORMED)
def test_what_is_no_response_is_refused(data: bytes) -> None:
    with sent(data) as sock, pytest.raises(MalformedResponse):
        ReceivedResponse(sock, "GET")


def test_a_server_that_sends_nothing_is_told_apart() -> None:
    with sent(b"") as sock, pytest.raises(NoResponse):
        ReceivedResponse(sock, "GET")
