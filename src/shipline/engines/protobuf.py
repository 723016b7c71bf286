"""Messages of Protocol Buffers as their fields (protobuf.dev, Encoding)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

Value = int | str | bytes


def message(*fields: tuple[int, Value]) -> bytes:
    """The fields by number; those with the default value are left out, as in proto3."""
    return b"".join(_field(number, value) for number, value in fields if value)


def entries(number: int, values: Mapping[str, str]) -> list[tuple[int, Value]]:
    """The fields of a map of strings."""
    return [(number, message((1, key), (2, value))) for key, value in values.items()]


def parse(data: bytes) -> Iterator[tuple[int, int | bytes]]:
    """The fields in order. Raises ValueError for what is no message."""
    position = 0
    while position < len(data):
        key, position = _varint(data, position)
        number, kind = key >> 3, key & 7
        if kind == 0:
            value, position = _varint(data, position)
            yield number, value
            continue
        size = {1: 8, 5: 4}.get(kind)
        if kind == 2:
            size, position = _varint(data, position)
        if size is None or position + size > len(data):
            raise ValueError("not a message of Protocol Buffers")
        yield number, data[position : position + size]
        position += size


def _field(number: int, value: Value) -> bytes:
    if isinstance(value, int):
        return _encoded(number << 3) + _encoded(value)
    data = value.encode() if isinstance(value, str) else value
    return _encoded(number << 3 | 2) + _encoded(len(data)) + data


def _encoded(value: int) -> bytes:
    found = bytearray()
    while value > 0x7F:
        found.append(value & 0x7F | 0x80)
        value >>= 7
    found.append(value)
    return bytes(found)


def _varint(data: bytes, position: int) -> tuple[int, int]:
    value = 0
    for shift in range(0, 70, 7):
        if position >= len(data):
            break
        byte = data[position]
        position += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, position
    raise ValueError("not a message of Protocol Buffers")
