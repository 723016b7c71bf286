"""Frames of RFC 6455: what a client sends, and what it takes from a server."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shipline.kubernetes.websocket import Opcode, WebSocket, accepted_key, frame


def unmasked(raw: bytes) -> tuple[int, bytes, bytes]:
    """The first byte of a client's frame, its content, and what follows it."""
    assert raw[1] & 0x80
    size, at = raw[1] & 0x7F, 2
    for mark, width in ((126, 2), (127, 8)):
        if raw[1] & 0x7F == mark:
            size, at = int.from_bytes(raw[2 : 2 + width]), 2 + width
    mask, data = raw[at : at + 4], raw[at + 4 : at + 4 + size]
    plain = bytes(byte ^ mask[index % 4] for index, byte in enumerate(data))
    return raw[0], plain, raw[at + 4 + size :]


def server_frame(data: bytes, opcode: int = 2, final: bool = True) -> bytes:
    first = bytes((0x80 * final | opcode,))
    if len(data) < 126:
        return first + bytes((len(data),)) + data
    return first + b"\x7e" + len(data).to_bytes(2) + data


class Server:
    """A connection on which `sent` arrives, in pieces."""

    def __init__(self, sent: bytes, piece: int = 1 << 16) -> None:
        self._sent, self._piece = sent, piece
        self.received = b""

    def read(self, size: int) -> bytes:
        data, self._sent = self._sent[: self._piece], self._sent[self._piece :]
        return data

    def write(self, data: bytes) -> None:
        self.received += data

    def messages(self) -> Iterator[bytes]:
        return WebSocket(self.read, self.write).messages()


@given(st.binary(max_size=300) | st.integers(60_000, 70_000).map(bytes))
def test_a_frame_is_masked_and_holds_its_data(data: bytes) -> None:
    assert unmasked(frame(Opcode.BINARY, data)) == (0x82, data, b"")


def test_the_key_of_the_standard_is_accepted_as_there() -> None:
    assert accepted_key("dGhlIHNhbXBsZSBub25jZQ==") == "s3pPLMBiTxaQ9kYGzzhZRbK+xOo="


@given(st.lists(st.binary(max_size=300)), st.integers(1, 50))
def test_messages_arrive_whole_however_they_are_cut(sent: list[bytes], piece: int) -> None:
    parts = []
    for data in sent:
        middle = len(data) // 2
        parts += [
            server_frame(data[:middle], final=False),
            server_frame(b"here", Opcode.PING),
            server_frame(data[middle:], Opcode.CONTINUATION),
        ]
    server = Server(b"".join([*parts, server_frame(b"\x03\xe8", Opcode.CLOSE)]), piece)
    assert list(server.messages()) == sent
    rest = server.received
    for _ in sent:
        first, data, rest = unmasked(rest)
        assert (first, data) == (0x80 | Opcode.PONG, b"here")
    assert not rest


@pytest.mark.parametrize(
    ("sent", "problem"),
    [
        (b"", "closed"),
        (b"\x82", "closed"),
        (b"\x82\x05abc", "closed"),
        (b"HTTP/1.1 400", "closed|not WebSocket"),
        (b"\xf2\x00", "not WebSocket"),
        (b"\x82\x81aaaaa", "not WebSocket"),
        (b"\x82\x7f" + (1 << 40).to_bytes(8), "too long"),
        (server_frame(b"\x03\xf3broken", Opcode.CLOSE), "broken"),
    ],
)
def test_what_is_no_websocket_is_an_error(sent: bytes, problem: str) -> None:
    with pytest.raises(ConnectionError, match=problem):
        list(Server(sent).messages())
