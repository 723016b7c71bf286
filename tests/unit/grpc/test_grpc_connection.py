"""Calls between two ends of a connection: messages, errors, cancelling, flow control."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import pytest

from shipline.buildkit.messages import InfoResponse, PruneRequest
from shipline.errors import Cancelled, UsageError
from shipline.grpc.connection import (
    Code,
    Connection,
    Handler,
    RpcCall,
    RpcError,
    SocketPipe,
    connected,
)
from shipline.grpc.protobuf import encode
from shipline.tasks import TaskGroup


@contextmanager
def ends(handlers: Mapping[str, Handler]) -> Iterator[Connection]:
    ours, theirs = socket.socketpair()
    with connected(SocketPipe(theirs), handlers), connected(SocketPipe(ours)) as client:
        yield client


def echo(stream: RpcCall) -> None:
    for message in stream:
        stream.send(message)


@pytest.mark.parametrize("size", [0, 1, 5, 16_379, 16_384, 1 << 20, 20 << 20])
def test_messages_come_back(size: int) -> None:
    message = bytes(size)
    with ends({"/a.B/Echo": echo}) as client:
        stream = client.call("/a.B/Echo", {})
        with TaskGroup() as group:  # the two directions may not wait for each other
            group.start(stream.send, message, b"second")
            assert [stream.receive(), stream.receive()] == [message, b"second"]
        stream.end()
        assert stream.receive() is None


def test_headers_arrive_whatever_their_number() -> None:
    patterns = [f"pattern-{number}" for number in range(20_000)]
    seen: list[str] = []

    def look(stream: RpcCall) -> None:
        seen.extend(stream.metadata["exclude-patterns"])

    with ends({"/a.B/C": look}) as client:
        stream = client.call("/a.B/C", {"exclude-patterns": patterns})
        assert stream.receive() is None
    assert seen == patterns


def test_an_error_has_its_code_and_text() -> None:
    def fail(stream: RpcCall) -> None:
        raise RpcError(Code.NOT_FOUND, "there is no “thing”\n100 %")

    with ends({"/a.B/C": fail}) as client:
        with pytest.raises(RpcError) as caught:
            client.call("/a.B/C", {}).receive()
        assert caught.value.code == Code.NOT_FOUND
        assert caught.value.message == "there is no “thing”\n100 %"
        with pytest.raises(RpcError) as caught:
            client.call("/a.B/Missing", {}).receive()
        assert caught.value.code == Code.UNIMPLEMENTED


def test_an_answer_may_come_before_the_request(monkeypatch: pytest.MonkeyPatch) -> None:
    send = RpcCall.send

    def answer(stream: RpcCall) -> None:
        send(stream, encode(InfoResponse()))

    def send_late(stream: RpcCall, *messages: bytes) -> None:
        deadline = time.monotonic() + 30
        while not stream.incoming.ended and time.monotonic() < deadline:
            time.sleep(0.01)
        send(stream, *messages)

    monkeypatch.setattr(RpcCall, "send", send_late)
    with ends({"/a.B/Info": answer}) as client:
        assert client.ask("/a.B/Info", PruneRequest(), InfoResponse) == InfoResponse()
        with pytest.raises(RpcError, match="no method"):
            client.ask("/a.B/Missing", PruneRequest(), InfoResponse)


def test_messages_before_an_error_are_received() -> None:
    def fail(stream: RpcCall) -> None:
        stream.send(b"one", b"two")
        raise RpcError(Code.UNKNOWN, "then it broke")

    with ends({"/a.B/C": fail}) as client:
        stream = client.call("/a.B/C", {})
        assert [stream.receive(), stream.receive()] == [b"one", b"two"]
        with pytest.raises(RpcError, match="then it broke"):
            stream.receive()


def test_a_sender_waits_for_a_reader() -> None:
    sent = []

    def flood(stream: RpcCall) -> None:
        for number in range(64):
            stream.send(bytes(1 << 20))
            sent.append(number)

    with ends({"/a.B/C": flood}) as client:
        stream = client.call("/a.B/C", {})
        assert stream.receive() is not None
        time.sleep(0.2)
        assert len(sent) < 32, "no more is sent than fits into the windows"
        assert sum(len(message) for message in stream) == 63 << 20


def test_cancelling_ends_both_sides() -> None:
    ended = threading.Event()

    def wait(stream: RpcCall) -> None:
        try:
            stream.receive()
        except RpcError as error:
            assert error.code == Code.CANCELLED
            ended.set()

    with ends({"/a.B/Wait": wait, "/a.B/Echo": echo}) as client:
        stream = client.call("/a.B/Wait", {})
        stream.cancel()
        assert ended.wait(60)
        with pytest.raises(RpcError):
            stream.receive()
        other = client.call("/a.B/Echo", {})
        other.send(b"still there")
        assert other.receive() == b"still there"
        other.cancel()


def test_an_interrupt_ends_what_waits() -> None:
    def never(stream: RpcCall) -> None:
        stream.receive()

    with pytest.raises(Cancelled), TaskGroup() as group:
        timer = threading.Timer(0.2, group.scope.cancel)
        timer.start()
        with ends({"/a.B/C": never}) as client:
            client.call("/a.B/C", {}).receive()


def test_a_connection_that_breaks_fails_its_calls() -> None:
    ours, theirs = socket.socketpair()
    with connected(SocketPipe(ours)) as client:
        stream = client.call("/a.B/C", {})
        theirs.close()
        with pytest.raises(RpcError) as caught:
            stream.receive()
        assert caught.value.code == Code.UNAVAILABLE
        with pytest.raises(RpcError):
            client.call("/a.B/C", {})


def test_what_is_no_http_2_is_one_error() -> None:
    ours, theirs = socket.socketpair()
    theirs.sendall(b"HTTP/1.1 400 Bad Request\r\nConnection: close\r\n\r\n")
    with connected(SocketPipe(ours)) as client, pytest.raises(RpcError):
        client.call("/a.B/C", {}).receive()
    theirs.close()


def test_an_error_of_a_handler_ends_the_block() -> None:
    def fail(stream: RpcCall) -> None:
        raise UsageError("a file vanished")

    with (
        pytest.raises(UsageError, match="a file vanished"),
        ends({"/a.B/C": fail}) as client,
        pytest.raises(RpcError, match="a file vanished"),
    ):
        client.call("/a.B/C", {}).receive()


def test_many_calls_at_once() -> None:
    with ends({"/a.B/Echo": echo}) as client, TaskGroup() as group:

        def talk(number: int) -> bytes:
            stream = client.call("/a.B/Echo", {})
            for _ in range(20):
                stream.send(b"%d" % number)
                assert stream.receive() == b"%d" % number
            stream.end()
            assert stream.receive() is None
            return b"%d" % number

        tasks = [group.start(talk, number) for number in range(40)]
        assert [task.result() for task in tasks] == [b"%d" % number for number in range(40)]
