"""Protocol Buffers, as much of proto3 as is used here: messages are Structs whose
fields carry their numbers.

    class Position(Struct):
        line: Annotated[int, 1] = 0
        character: Annotated[int, 2] = 0

Where many messages have parts in common, `part`, `text`, `integer` and their like write single
fields, default values included.

Source: protobuf.dev, programming-guides/encoding. Enumerations and groups are not needed; a packed
list of numbers is read, too. Fields that are not known are skipped.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import cache
from struct import pack
from typing import Any, NamedTuple, TypeVar, get_args, get_origin, get_type_hints

from msgspec import Struct

M = TypeVar("M", bound=Struct)

_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5  # wire types
_WORD = (1 << 64) - 1


class MalformedMessage(ValueError):
    """The bytes are no message of the expected kind."""


def encode(message: Struct) -> bytes:
    """The bytes of a message: fields in the order of their declaration, without default values."""
    out = bytearray()
    for name, write in _writers(type(message)):
        value = getattr(message, name)
        if value:
            write(out, value)
    return bytes(out)


def decode(cls: type[M], data: bytes) -> M:
    """The message in `data`. Raises MalformedMessage."""
    readers = _readers(cls)
    values: dict[str, Any] = {}
    for number, value in _fields(data):
        if (reader := readers.get(number)) is not None:
            reader(values, value)
    return cls(**values)


class _Kind(NamedTuple):
    """How a type is written: its wire type, the two directions, and its default value."""

    wire: int
    write: Callable[[bytearray, Any], None]
    read: Callable[[Any], Any]
    default: Any


def _write_number(out: bytearray, value: int) -> None:
    value &= _WORD
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)


def _write_bytes(out: bytearray, value: bytes) -> None:
    _write_number(out, len(value))
    out += value


def _read_number(value: Any) -> int:
    if not isinstance(value, int):
        raise MalformedMessage("a number was expected")
    return value - (1 << 64) if value >> 63 else value


def _read_bytes(value: Any) -> bytes:
    if not isinstance(value, bytes):
        raise MalformedMessage("bytes were expected")
    return value


def _read_text(value: Any) -> str:
    return _read_bytes(value).decode(errors="surrogateescape")


_SCALARS: dict[type, _Kind] = {
    bool: _Kind(_VARINT, _write_number, lambda value: bool(_read_number(value)), False),
    int: _Kind(_VARINT, _write_number, _read_number, 0),
    bytes: _Kind(_BYTES, _write_bytes, _read_bytes, b""),
    str: _Kind(
        _BYTES,
        lambda out, value: _write_bytes(out, value.encode(errors="surrogateescape")),
        _read_text,
        "",
    ),
}


def _kind(cls: type) -> _Kind:
    if found := _SCALARS.get(cls):
        return found
    return _Kind(
        _BYTES,
        lambda out, value: _write_bytes(out, encode(value)),
        lambda value: decode(cls, _read_bytes(value)),
        None,
    )


@cache
def _declared(cls: type[Struct]) -> tuple[tuple[str, int, type, tuple[type, ...]], ...]:
    """For each field its name, number, type or container, and the types in a container."""
    found = []
    for name, hint in get_type_hints(cls, include_extras=True).items():
        shape, number = get_args(hint)
        if get_origin(shape) in (list, dict):
            found.append((name, number, get_origin(shape), get_args(shape)))
        else:  # a message that may be missing is `Message | None`
            (plain,) = {*(get_args(shape) or (shape,))} - {type(None)}
            found.append((name, number, plain, ()))
    return tuple(found)


@cache
def _writers(cls: type[Struct]) -> tuple[tuple[str, Callable[[bytearray, Any], None]], ...]:
    return tuple(
        (name, _writer(number, shape, items)) for name, number, shape, items in _declared(cls)
    )


def _writer(number: int, shape: type, items: tuple[type, ...]) -> Callable[[bytearray, Any], None]:
    kinds = [_kind(one) for one in items or (shape,)]
    tag = bytearray()
    _write_number(tag, number << 3 | (_BYTES if shape is dict else kinds[0].wire))

    def write_one(out: bytearray, value: Any) -> None:
        out += tag
        kinds[0].write(out, value)

    def write_list(out: bytearray, values: list[Any]) -> None:
        for value in values:
            write_one(out, value)

    def write_map(out: bytearray, values: dict[Any, Any]) -> None:
        for pair in values.items():
            entry = bytearray()
            for position, (kind, value) in enumerate(zip(kinds, pair, strict=True), start=1):
                entry.append(position << 3 | kind.wire)
                kind.write(entry, value)
            out += tag
            _write_bytes(out, bytes(entry))

    return write_map if shape is dict else write_list if shape is list else write_one


@cache
def _readers(cls: type[Struct]) -> dict[int, Callable[[dict[str, Any], Any], None]]:
    return {number: _reader(name, shape, items) for name, number, shape, items in _declared(cls)}


def _reader(
    name: str, shape: type, items: tuple[type, ...]
) -> Callable[[dict[str, Any], Any], None]:
    kinds = [_kind(one) for one in items or (shape,)]

    def read_one(values: dict[str, Any], value: Any) -> None:
        values[name] = kinds[0].read(value)

    def read_list(values: dict[str, Any], value: Any) -> None:
        found = values.setdefault(name, [])
        if kinds[0].wire == _VARINT and isinstance(value, bytes):
            found.extend(kinds[0].read(one) for one in _packed(value))
        else:
            found.append(kinds[0].read(value))

    def read_map(values: dict[str, Any], value: Any) -> None:
        pair = dict(_fields(_read_bytes(value)))
        key, item = (
            kind.read(pair[number]) if number in pair else _default(kind, cls)
            for number, kind, cls in zip((1, 2), kinds, items, strict=True)
        )
        values.setdefault(name, {})[key] = item

    return read_map if shape is dict else read_list if shape is list else read_one


def _default(kind: _Kind, cls: type) -> Any:
    return cls() if kind.default is None else kind.default


def _fields(data: bytes) -> Iterator[tuple[int, Any]]:
    """The fields in `data`: a number, and an int or bytes."""
    position, end = 0, len(data)
    while position < end:
        tag, position = _varint(data, position)
        wire = tag & 7
        if wire == _VARINT:
            value, position = _varint(data, position)
            yield tag >> 3, value
            continue
        size = {_FIXED64: 8, _FIXED32: 4}.get(wire)
        if wire == _BYTES:
            size, position = _varint(data, position)
        if size is None or size > end - position:
            raise MalformedMessage(f"a field of wire type {wire} ends after the message")
        position += size
        if wire == _BYTES:
            yield tag >> 3, data[position - size : position]


def _packed(data: bytes) -> Iterator[int]:
    position = 0
    while position < len(data):
        value, position = _varint(data, position)
        yield value


def _varint(data: bytes, position: int) -> tuple[int, int]:
    value = shift = 0
    try:
        while (byte := data[position]) > 0x7F:
            value |= (byte & 0x7F) << shift
            shift += 7
            position += 1
            if shift > 63:
                raise MalformedMessage("a number has more than 64 bits")
    except IndexError:
        raise MalformedMessage("a number ends after the message") from None
    return (value | byte << shift) & _WORD, position + 1


def _number(value: int) -> bytes:
    if value < 0x80:
        return bytes((value,))
    out = bytearray()
    _write_number(out, value)
    return bytes(out)


def part(number: int, data: bytes) -> bytes:
    """A field that is a message or bytes, for messages that are put together of parts."""
    return _number(number << 3 | _BYTES) + _number(len(data)) + data


def text(number: int, value: str) -> bytes:
    return part(number, value.encode(errors="replace"))


def integer(number: int, value: int) -> bytes:
    return _number(number << 3) + _number(value & _WORD)


def fixed64(number: int, value: int) -> bytes:
    return _number(number << 3 | _FIXED64) + pack("<Q", value)


def fixed32(number: int, value: int) -> bytes:
    return _number(number << 3 | _FIXED32) + pack("<I", value)


def double(number: int, value: float) -> bytes:
    return _number(number << 3 | _FIXED64) + pack("<d", value)
