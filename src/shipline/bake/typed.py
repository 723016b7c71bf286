"""Types and values of HCL's type system, and conversions between them.

Reference: github.com/zclconf/go-cty, docs/types.md and docs/convert.md; the words for types and the
rules of conversion are those of that library.
"""

from __future__ import annotations

import decimal
import json
import unicodedata
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from msgspec import Struct

NUMBERS = decimal.Context(prec=154, rounding=decimal.ROUND_HALF_EVEN, Emax=999_999, Emin=-999_999)
"""512 bits, as in cty; overflow and division by zero raise."""


class TypeMismatch(Exception):
    """A value is not of a type, and cannot be converted to it."""


class Type(Struct, frozen=True):
    """A type: `kind` is string, number, bool, dynamic, list, set, map, tuple or object. `items` are
    the types of the elements: one for a collection, one each for a tuple and, named by `names`, for
    an object, whose `optional` attributes may be missing.
    """

    kind: str
    items: tuple[Type, ...] = ()
    names: tuple[str, ...] = ()
    optional: frozenset[str] = frozenset()

    @property
    def item(self) -> Type:
        """The type of the elements of a collection."""
        return self.items[0]

    @property
    def attributes(self) -> dict[str, Type]:
        """The types of the attributes of an object."""
        return dict(zip(self.names, self.items, strict=True))

    @property
    def is_primitive(self) -> bool:
        return self.kind in ("string", "number", "bool")

    @property
    def is_sequence(self) -> bool:
        return self.kind in ("list", "set", "tuple")

    @property
    def is_mapping(self) -> bool:
        return self.kind in ("map", "object")

    def __str__(self) -> str:
        if self.kind in ("list", "set", "map"):
            return f"{self.kind} of {self.item}"
        return self.kind


STRING, NUMBER, BOOL = Type("string"), Type("number"), Type("bool")
DYNAMIC = Type("dynamic")


def list_of(item: Type) -> Type:
    return Type("list", (item,))


def map_of(item: Type) -> Type:
    return Type("map", (item,))


def set_of(item: Type) -> Type:
    return Type("set", (item,))


def object_of(attributes: Mapping[str, Type], optional: Iterable[str] = ()) -> Type:
    names = tuple(sorted(attributes))
    return Type("object", tuple(attributes[name] for name in names), names, frozenset(optional))


Number = int | decimal.Decimal


class Value(Struct, frozen=True):
    """A value: `data` is None for null, else str, bool, an int or Decimal, a tuple of values, or a
    dict of values in the order of their keys.
    """

    type: Type
    data: Any = None

    @property
    def is_null(self) -> bool:
        return self.data is None

    @property
    def elements(self) -> tuple[Value, ...]:
        """The elements of a collection, the values of a mapping in the order of the keys."""
        return tuple(self.data.values()) if self.type.is_mapping else self.data

    def pairs(self) -> Iterator[tuple[Value, Value]]:
        """Key and value of each element: the key of a set's element is the element."""
        if self.type.is_mapping:
            yield from ((text(key), one) for key, one in self.data.items())
        elif self.type.kind == "set":
            yield from ((one, one) for one in self.data)
        else:
            yield from ((number(index), one) for index, one in enumerate(self.data))


def text(value: str) -> Value:
    """A string, in the normal form C of Unicode."""
    return Value(STRING, value if value.isascii() else unicodedata.normalize("NFC", value))


def number(value: Number) -> Value:
    return Value(NUMBER, whole(value))


def boolean(value: bool) -> Value:
    return Value(BOOL, value)


def null(type: Type = DYNAMIC) -> Value:
    return Value(type)


def whole(value: Number) -> Number:
    """The number as an int where it is one."""
    if isinstance(value, decimal.Decimal):
        if not value.is_finite():
            raise TypeMismatch("the number is too big")
        if value == value.to_integral_value(context=NUMBERS) and value.adjusted() < 5000:
            return int(value)
    return value


def tuple_of(values: Sequence[Value]) -> Value:
    return Value(Type("tuple", tuple(one.type for one in values)), tuple(values))


def object_with(values: Mapping[str, Value]) -> Value:
    data = {key: values[key] for key in sorted(values)}
    return Value(object_of({key: one.type for key, one in data.items()}), data)


def list_with(values: Sequence[Value], item: Type) -> Value:
    return Value(list_of(item), tuple(values))


def set_with(values: Iterable[Value], item: Type) -> Value:
    """A set in cty's order: numbers by size, others by their text."""
    found = {order(one): one for one in values}
    return Value(set_of(item), tuple(found[key] for key in sorted(found)))


def map_with(values: Mapping[str, Value], item: Type) -> Value:
    return Value(map_of(item), {key: values[key] for key in sorted(values)})


def order(value: Value) -> tuple[int, Any, str]:
    """A key to sort and compare the elements of sets by; null is last."""
    if value.is_null:
        return (2, 0, "")
    if value.type == NUMBER:
        return (0, value.data, "")
    if value.type == STRING:
        return (0, 0, value.data)
    if value.type == BOOL:
        return (0, int(value.data), "")
    return (1, 0, json.dumps(plain(value), sort_keys=True))


def number_text(value: Number) -> str:
    """A number as cty converts it to a string: decimal, without an exponent."""
    if isinstance(value, int):
        return str(value)
    shown = format(value.normalize(NUMBERS), "f")
    return shown.rstrip("0").rstrip(".") if "." in shown else shown


def parse_number(source: str) -> Number:
    """Raises ValueError for what is not a decimal number."""
    if "_" in source or source != source.strip():
        raise ValueError(source)
    try:
        found = NUMBERS.create_decimal(source)
    except decimal.DecimalException:
        raise ValueError(source) from None
    if not found.is_finite():
        raise ValueError(source)
    return whole(found)


def plain(value: Value) -> Any:
    """The value as JSON has it. A Decimal is a float."""
    if value.is_null:
        return None
    if value.type.is_sequence:
        return [plain(one) for one in value.data]
    if value.type.is_mapping:
        return {key: plain(one) for key, one in value.data.items()}
    if isinstance(value.data, decimal.Decimal):
        return float(value.data)
    return value.data


def from_plain(found: Any) -> Value:
    """The value of a JSON document, numbers of which are int or Decimal."""
    if found is None:
        return null()
    if isinstance(found, bool):
        return boolean(found)
    if isinstance(found, str):
        return text(found)
    if isinstance(found, (int, decimal.Decimal)):
        return number(found)
    if isinstance(found, list):
        return tuple_of([from_plain(one) for one in found])
    return object_with({key: from_plain(one) for key, one in found.items()})


def convert(value: Value, wanted: Type) -> Value:
    """The value as one of type `wanted`. Raises TypeMismatch."""
    if value.type == wanted or wanted.kind == "dynamic":
        return value
    if value.is_null:
        return Value(wanted if _is_known(wanted) else DYNAMIC)
    if wanted.is_primitive:
        return _primitive(value, wanted)
    if wanted.kind in ("list", "set") and value.type.is_sequence:
        return _sequence(value, wanted)
    if wanted.kind == "tuple" and value.type.is_sequence and value.type.kind != "set":
        return _tuple(value, wanted)
    if wanted.kind == "map" and value.type.is_mapping:
        return _map(value, wanted)
    if wanted.kind == "object" and value.type.is_mapping:
        return _object(value, wanted)
    raise TypeMismatch(f"{requirement(wanted)} is required")


def completed(value: Value, wanted: Type) -> Value:
    """The value of a JSON document, with null for the attributes of `wanted` that it lacks.
    Raises TypeMismatch for others. Source: go-cty, json.Unmarshal.
    """
    if value.is_null or not wanted.items:
        return value
    if wanted.kind == "object" and value.type.is_mapping:
        attributes = wanted.attributes
        if other := next((name for name in value.data if name not in attributes), None):
            raise TypeMismatch(f"there is no attribute {other!r}")
        found = {name: value.data.get(name, null()) for name in attributes}
        return object_with({name: completed(found[name], attributes[name]) for name in found})
    if wanted.kind == "map" and value.type.is_mapping:
        return object_with({key: completed(one, wanted.item) for key, one in value.data.items()})
    if wanted.kind in ("list", "set") and value.type.is_sequence:
        return tuple_of([completed(one, wanted.item) for one in value.data])
    if wanted.kind == "tuple" and value.type.is_sequence and len(value.data) == len(wanted.items):
        pairs = zip(value.data, wanted.items, strict=True)
        return tuple_of([completed(one, item) for one, item in pairs])
    return value


def requirement(type: Type) -> str:
    """A type for messages: `list of string`, `a number`."""
    if type.kind == "string":
        return "string"
    if type.kind in ("number", "bool"):
        return f"a {type}"
    return str(type)


def _is_known(type: Type) -> bool:
    return type.kind != "dynamic" and all(map(_is_known, type.items))


_TRUE, _FALSE = ("true", "1"), ("false", "0")


def _primitive(value: Value, wanted: Type) -> Value:
    data = value.data
    if wanted == STRING and value.type == NUMBER:
        return text(number_text(data))
    if wanted == STRING and value.type == BOOL:
        return text("true" if data else "false")
    if wanted == NUMBER and value.type == STRING:
        try:
            return number(parse_number(data))
        except ValueError:
            pass
    if wanted == BOOL and value.type == STRING and data in (*_TRUE, *_FALSE):
        return boolean(data in _TRUE)
    raise TypeMismatch(f"{requirement(wanted)} is required")


def _sequence(value: Value, wanted: Type) -> Value:
    item = wanted.item
    found: Sequence[Value] = value.data
    if item.kind == "dynamic":
        unified = unify([one.type for one in found]) if found else DYNAMIC
        if unified is None:
            raise TypeMismatch("all list elements must have the same type")
        item = unified
    converted = [_element(one, item, str(index)) for index, one in enumerate(found)]
    make = set_with if wanted.kind == "set" else list_with
    return make(converted, item)


def _element(value: Value, wanted: Type, place: str) -> Value:
    try:
        return convert(value, wanted)
    except TypeMismatch as error:
        raise TypeMismatch(f"element {place}: {error}") from None


def _tuple(value: Value, wanted: Type) -> Value:
    if len(value.data) != len(wanted.items):
        raise TypeMismatch(f"a tuple with {len(wanted.items)} elements is required")
    pairs = zip(value.data, wanted.items, strict=True)
    return tuple_of([_element(one, item, str(at)) for at, (one, item) in enumerate(pairs)])


def _map(value: Value, wanted: Type) -> Value:
    item = wanted.item
    if item.kind == "dynamic":
        unified = unify([one.type for one in value.elements]) if value.data else DYNAMIC
        if unified is None:
            raise TypeMismatch("all map elements must have the same type")
        item = unified
    return map_with({key: _element(one, item, repr(key)) for key, one in value.data.items()}, item)


def _object(value: Value, wanted: Type) -> Value:
    found: dict[str, Value] = {}
    for name, type in wanted.attributes.items():
        if name in value.data:
            try:
                found[name] = convert(value.data[name], type)
            except TypeMismatch as error:
                raise TypeMismatch(f"attribute {name!r}: {error}") from None
        elif name in wanted.optional:
            found[name] = Value(type)
        else:
            raise TypeMismatch(f"attribute {name!r} is required")
    return object_with(found)


def unify(types: Sequence[Type]) -> Type | None:
    """The type that values of all `types` convert to; None if there is none."""
    known = [one for one in dict.fromkeys(types) if one.kind != "dynamic"]
    if len(known) < 2:
        return known[0] if known else DYNAMIC
    if all(one.is_primitive for one in known):
        return STRING if STRING in known else None
    kinds = {one.kind for one in known}
    if kinds == {"object"} and len({one.names for one in known}) == 1:
        return _unified_object(known)
    if kinds <= {"object", "map"}:
        item = unify([item for one in known for item in one.items])
        return None if item is None else map_of(item)
    if kinds == {"tuple"} and len({len(one.items) for one in known}) == 1:
        items = [unify(column) for column in zip(*(one.items for one in known), strict=True)]
        return None if None in items else Type("tuple", tuple(filter(None, items)))
    if kinds <= {"tuple", "list", "set"}:
        item = unify([item for one in known for item in one.items])
        kind = "set" if "set" in kinds and "list" not in kinds else "list"
        return None if item is None else Type(kind, (item,))
    return None


def _unified_object(known: Sequence[Type]) -> Type | None:
    items = [unify(column) for column in zip(*(one.items for one in known), strict=True)]
    if None in items:
        return None
    return Type("object", tuple(filter(None, items)), known[0].names)


def equal(left: Value, right: Value) -> bool:
    """Whether two values are equal, as `==` has it: values of other types never are."""
    if left.is_null or right.is_null:
        return left.is_null and right.is_null
    if left.type.kind != right.type.kind:
        return False
    if left.type.is_mapping:
        return left.data.keys() == right.data.keys() and all(
            equal(one, right.data[key]) for key, one in left.data.items()
        )
    if left.type.is_sequence:
        return len(left.data) == len(right.data) and all(map(equal, left.data, right.data))
    return bool(left.data == right.data)
