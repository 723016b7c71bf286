"""Messages on the wire: as protobuf's own runtime writes and reads them."""

from __future__ import annotations

import contextlib
from typing import Annotated

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import Struct, field

from shipline.buildkit.messages import Packet, SolveRequest, Stat
from shipline.grpc.protobuf import MalformedMessage, decode, encode


class Item(Struct):
    name: Annotated[str, 1] = ""
    number: Annotated[int, 2] = 0


class Every(Struct):
    flag: Annotated[bool, 1] = False
    number: Annotated[int, 2] = 0
    text: Annotated[str, 3] = ""
    data: Annotated[bytes, 4] = b""
    item: Annotated[Item | None, 5] = None
    items: Annotated[list[Item], 6] = field(default_factory=list)
    names: Annotated[list[str], 7] = field(default_factory=list)
    numbers: Annotated[list[int], 8] = field(default_factory=list)
    attributes: Annotated[dict[str, str], 9] = field(default_factory=dict)
    blobs: Annotated[dict[str, bytes], 200] = field(default_factory=dict)


NUMBERS = st.integers(-(1 << 63), (1 << 63) - 1)
TEXTS = st.text(max_size=20)
ITEMS = st.builds(Item, name=TEXTS, number=NUMBERS)
MESSAGES = st.builds(
    Every,
    flag=st.booleans(),
    number=NUMBERS,
    text=TEXTS,
    data=st.binary(max_size=200),
    item=st.none() | ITEMS,
    items=st.lists(ITEMS, max_size=3),
    names=st.lists(TEXTS, max_size=3),
    numbers=st.lists(NUMBERS, max_size=3),
    attributes=st.dictionaries(TEXTS, TEXTS, max_size=3),
    blobs=st.dictionaries(TEXTS, st.binary(max_size=9), max_size=3),
)


@given(MESSAGES)
def test_what_was_encoded_is_decoded(message: Every) -> None:
    assert decode(Every, encode(message)) == message


def test_bytes_are_those_of_the_encoding_guide() -> None:
    assert encode(Item(number=150)) == b"\x10\x96\x01"
    assert encode(Item(name="testing")) == b"\x0a\x07testing"
    assert encode(Every(item=Item(number=150))) == b"\x2a\x03\x10\x96\x01"
    assert encode(Item(number=-2)) == b"\x10\xfe\xff\xff\xff\xff\xff\xff\xff\xff\x01"
    assert encode(Every(attributes={"a": ""})) == b"\x4a\x05\x0a\x01a\x12\x00"
    assert decode(Every, b"\x42\x03\x03\x8e\x02").numbers == [3, 270], "packed"


def test_fields_of_later_versions_are_skipped() -> None:
    unknown = b"\x98\x06\x01\xa2\x06\x02ab\xad\x06abcd\xb1\x06abcdefgh"
    assert decode(Item, unknown + encode(Item("a", 1))) == Item("a", 1)


def test_an_empty_part_is_there() -> None:
    assert decode(Packet, encode(Packet(stat=Stat()))).stat == Stat()
    assert decode(Packet, encode(Packet())).stat is None
    assert decode(Every, b"\x4a\x03\x0a\x01a").attributes == {"a": ""}


@given(st.binary(max_size=100))
def test_any_bytes_are_a_message_or_refused(data: bytes) -> None:
    with contextlib.suppress(MalformedMessage):
        decode(SolveRequest, data)


@given(MESSAGES, st.data())
def test_a_part_of_a_message_is_never_read_beyond_its_end(
    message: Every, data: st.DataObject
) -> None:
    whole = encode(message)
    cut = data.draw(st.integers(0, len(whole)))
    try:
        found = encode(decode(Every, whole[:cut]))
    except MalformedMessage:
        return
    assert len(found) <= cut


def test_a_number_without_end_is_refused() -> None:
    with pytest.raises(MalformedMessage):
        decode(Item, b"\x10" + b"\xff" * 11)
