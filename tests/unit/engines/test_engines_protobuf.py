"""Messages of Protocol Buffers: what is written is read, and garbage is an error."""

from __future__ import annotations

from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shipline.engines.protobuf import entries, message, parse

VALUES = st.one_of(st.integers(1, 1 << 63), st.binary(min_size=1, max_size=300))


@given(st.lists(st.tuples(st.integers(1, 1 << 28), VALUES), max_size=8))
def test_what_is_written_is_read(fields: list[tuple[int, int | bytes]]) -> None:
    assert list(parse(message(*fields))) == fields


@given(st.binary(max_size=40))
def test_garbage_is_an_error_and_nothing_else(data: bytes) -> None:
    with suppress(ValueError):
        list(parse(data))


def test_known_bytes() -> None:
    """The examples of protobuf.dev."""
    assert message((1, 150)) == bytes.fromhex("089601")
    assert message((2, "testing")) == bytes.fromhex("120774657374696e67")
    assert message((1, 0), (2, "")) == b""
    assert list(parse(bytes.fromhex("0d0100000009"[:10]))) == [(1, b"\1\0\0\0")]
    assert message(*entries(7, {"a": "b"})) == b"\x3a\x06\x0a\x01a\x12\x01b"
    with pytest.raises(ValueError, match="Protocol Buffers"):
        list(parse(b"\x12\x09x"))
