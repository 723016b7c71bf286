"""Responses of HTTP/1.1: those that http.client reads are read as it does, cut ones are errors."""

from __future__ import annotations

import http.client
import socket
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shipline.errors import RegistryError
from shipline.registry.connection_errors import NameNotResolved, translate_errors
from shipline.registry.hosts import HostSettings
from shipline.registry.request import Origin, Url
from shipline.registry.response import (
    MalformedResponse,
    NoResponse,
    ReceivedResponse,
    ResponseEnded,
)
from shipline.registry.transport import Transport

WHOLE = [
    b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello",
    b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nConnection: Close\r\n\r\nhello",
    b"HTTP/1.1 404\r\nContent-Length: 0\r\n\r\n",
    b"HTTP/1.1 204 No Content\r\n\r\n",
    b"HTTP/1.1 304 Not Modified\r\nContent-Length: 5\r\n\r\n",
    b"HTTP/1.0 200 OK\r\nContent-Length: 5\r\n\r\nhello",
    b"HTTP/1.0 200 OK\r\nContent-Length: 5\r\nConnection: keep-alive\r\n\r\nhello",
    b"HTTP/1.1 200 OK\r\n\r\nuntil the end",
    b"HTTP/1.1 200 OK\r\nContent-Length:\r\n\r\nuntil the end",
    b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 201 Created\r\nContent-Length: 0\r\n\r\n",
    b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n0\r\n",
    b"HTTP/1.1 200 OK\r\nTransfer-Encoding: Chunked\r\n\r\n"
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
    *(
        b"HTTP/1.1 200 OK\r\n" + fields + b"\r\n\r\nhello"
        for fields in (
            b"Content-Length: -5",
            b"Content-Length: +5",
            b"Content-Length: 0x5",
            b"Content-Length: 5;",
            b"Content-Length: \xb2",
            b"Content-Length: " + b"9" * 5000,
            b"Content-Length: 5, 6",
            b"Content-Length: 5\r\nContent-Length: 6",
            b"Content-Length : 5",
            b"Content-Length: 5\r\r",
            b"A: b\rContent-Length: 5",
            b"A: \0",
            b"Transfer-Encoding: gzip, chunked",
            b"Transfer-Encoding: chunked, identity\r\nContent-Length: 5",
            b"Transfer-Encoding: \x0bchunked",
            b"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked",
            b"Transfer-Encoding:\r\n chunked\r\n",
            b"Transfer-Encoding:",
        )
    ),
]
ODD = [
    b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n0\r\n\r\n",
    b"HTTP/1.0 200 OK\r\nConnection: keep-alive\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nno field\r\n\r\n",
    b"HTTP/1.1 200 OK\r\n a: b\r\nContent-Length: 0\r\n\r\n",
    b"HTTP/1.1 200 OK\r\nA: b\r\n c\r\nContent-Length: 0\r\n\r\n",
    b"HTTP/1.1 200 OK\r\nConnection: keep-alive\r\nConnection: close\r\nContent-Length: 0\r\n\r\n",
    b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\nmore",
    b"HTTP/1.1 204 No Content\r\n\r\nmore",
    b"HTTP/1.1 101 Switching Protocols\r\n\r\n",
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


@pytest.mark.parametrize("data", ODD)
def test_after_an_odd_response_the_connection_is_not_used_again(data: bytes) -> None:
    with sent(data) as sock:
        response = ReceivedResponse(sock, "GET")
        assert read_all(response, 1000) == b""
        assert response.will_close or not response.is_over


PARTS = [
    *(b"HTTP/1.1 200 OK", b"HTTP/1.1 204 None", b"HTTP/1.0 200 OK", b"HTTP/1.1 100 Continue"),
    *(b"\r\n", b"\r\n", b"\r\n", b"\r\n\r\n", b"\n", b"\r", b" ", b"\0", b":", b",", b";", b"\t"),
    *(b"Content-Length: 5", b"Content-Length: 3", b"Transfer-Encoding: chunked", b"A: b"),
    *(b"Connection: close", b"hello", b"5\r\nhello\r\n", b"0\r\n\r\n", b"3", b"5", b"ffff"),
]


@settings(max_examples=300, deadline=None)
@given(st.lists(st.sampled_from(PARTS), max_size=14), st.sampled_from(["GET", "HEAD"]))
def test_what_leaves_a_connection_in_use_is_what_http_client_reads(
    parts: list[bytes], method: str
) -> None:
    data = b"HTTP/1.1 200 OK\r\n" + b"".join(parts)
    with sent(data) as sock, sent(data) as other:
        try:
            ours = ReceivedResponse(sock, method)
            body = read_all(ours, 4)
        except MalformedResponse:
            return
        if ours.is_over and not ours.will_close:
            theirs = http.client.HTTPResponse(other, method=method)
            theirs.begin()
            assert (theirs.status, theirs.will_close, theirs.read()) == (ours.status, False, body)


def test_chunks_that_are_said_to_be_huge_take_no_memory() -> None:
    head = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
    for data in (head + b"fffffffffffffff\r\n", WHOLE[0].replace(b"5", b"9" * 18)):
        with sent(data) as sock, pytest.raises(ResponseEnded):
            ReceivedResponse(sock, "GET").read()


def test_chunks_of_almost_no_data_are_refused() -> None:
    chunk = b"1;" + b"x" * 500 + b"\r\na\r\n"
    head = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
    with sent(head + chunk * 50) as sock, pytest.raises(MalformedResponse, match="little data"):
        read_all(ReceivedResponse(sock, "GET"), 1)


def test_a_connection_whose_request_was_not_sent_whole_is_not_used_again() -> None:
    transport = Transport(HostSettings())
    with socket.create_server(("127.0.0.1", 0)) as server:
        url = Url.parse(f"http://127.0.0.1:{server.getsockname()[1]}/")
        writer = transport.open("PUT", url, {}, length=10)
        other = server.accept()[0]
        other.sendall(b"HTTP/1.1 413 Large\r\nContent-Length: 0\r\n\r\n")
        response = writer.early_response()
        assert response is not None and response.status == 413
        response.close()
        assert other.recv(1 << 16).startswith(b"PUT") and other.recv(1) == b""
        other.close()
    transport.close()


def test_a_server_that_sends_nothing_is_told_apart() -> None:
    with sent(b"") as sock, pytest.raises(NoResponse):
        ReceivedResponse(sock, "GET")


def test_what_is_no_response_is_shown_without_control_characters() -> None:
    with (
        pytest.raises(RegistryError, match=r"connection lost: \[31m") as caught,
        translate_errors(Origin("http", "registry.example", 80)),
    ):
        raise MalformedResponse("\x1b[31m" + "x" * 10_000)
    assert caught.value.message.isprintable() and len(caught.value.message) < 500


def test_docker_hub_out_of_reach_is_no_misspelling() -> None:
    hub = Origin("https", "registry-1.docker.io", 443)
    with pytest.raises(RegistryError) as caught, translate_errors(hub):
        raise NameNotResolved
    assert "Docker Hub" in caught.value.hint and "spelling" not in caught.value.hint
