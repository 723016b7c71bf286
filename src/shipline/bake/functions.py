"""The functions of bake definitions: how they are called, and the general ones.

Reference: docs/bake-stdlib.md of docker/buildx. Text, time and address functions are in `texts`.
"""

from __future__ import annotations

import base64
import csv
import hashlib
import io
import itertools
import math
import operator
import os
import posixpath
import uuid
from collections.abc import Callable, Iterable, Sequence
from decimal import Decimal
from functools import partial
from typing import Any

from msgspec import Struct

from shipline.bake import typed
from shipline.bake.evaluation import EvalContext, add, divide, evaluate, index, modulo, multiply
from shipline.bake.json_values import encode, parse_json_value
from shipline.bake.syntax import BakeError, FunctionCall, refuse
from shipline.bake.type_syntax import parse_type
from shipline.bake.typed import (
    BOOL,
    DYNAMIC,
    NUMBER,
    STRING,
    Type,
    TypeMismatch,
    Value,
    boolean,
    convert,
    equal,
    list_of,
    list_with,
    number,
    set_of,
    set_with,
    text,
    tuple_of,
)

Implementation = Callable[..., Value]
STRINGS = list_of(STRING)
_MOST = 1024  # elements that range() makes


class Function(Struct, frozen=True):
    """A function: the types of its parameters, that of further arguments, and what it does with
    converted values. Null is refused unless `nullable`. A `lazy` one evaluates its arguments.
    """

    name: str
    parameters: tuple[Type, ...] = ()
    further: Type | None = None
    implementation: Implementation | None = None
    nullable: bool = False
    lazy: Callable[[FunctionCall, EvalContext], Value] | None = None

    def call(self, arguments: Sequence[Value]) -> Value:
        """Raises TypeMismatch, LookupError, ValueError and ArithmeticError with a message."""
        least = len(self.parameters)
        if len(arguments) < least:
            raise TypeMismatch(f"it needs {least} arguments, and has {len(arguments)}")
        if self.further is None and len(arguments) > least:
            raise TypeMismatch(f"it takes {least} arguments, and has {len(arguments)}")
        converted = []
        for position, value in enumerate(arguments):
            wanted = self.parameters[position] if position < least else self.further
            assert wanted is not None
            if value.is_null and not self.nullable:
                raise TypeMismatch(f"argument {position + 1} is null")
            try:
                converted.append(convert(value, wanted))
            except TypeMismatch as error:
                raise TypeMismatch(f"argument {position + 1}: {error}") from None
        assert self.implementation is not None
        return self.implementation(*converted)


STDLIB: dict[str, Function] = {}


def function(
    name: str, *parameters: Type, further: Type | None = None, nullable: bool = False
) -> Callable[[Implementation], Implementation]:
    """Add a function of this name to the standard library."""

    def add_(implementation: Implementation) -> Implementation:
        STDLIB[name] = Function(name, parameters, further, implementation, nullable)
        return implementation

    return add_


def plain_function(
    name: str, make: Callable[[Any], Value], work: Callable[..., Any], *parameters: Type
) -> None:
    """Add a function of plain values: `make` has the value of what `work` returns."""
    function(name, *parameters)(lambda *values: make(work(*(one.data for one in values))))


# numbers


def _number(found: typed.Number | float) -> Value:
    return number(Decimal(repr(found)) if isinstance(found, float) else found)


def _power(base: typed.Number, exponent: typed.Number) -> float:
    return math.pow(float(base), float(exponent))


def _logarithm(value: typed.Number, base: typed.Number) -> float:
    if value <= 0 or base <= 0 or base == 1:
        raise ValueError("the logarithm is not a number")
    return math.log(float(value)) / math.log(float(base))


plain_function("absolute", _number, abs, NUMBER)
plain_function("add", _number, add, NUMBER, NUMBER)
plain_function("subtract", _number, lambda left, right: add(left, -right), NUMBER, NUMBER)
plain_function("multiply", _number, multiply, NUMBER, NUMBER)
plain_function("divide", _number, divide, NUMBER, NUMBER)
plain_function("modulo", _number, modulo, NUMBER, NUMBER)
plain_function("negate", _number, operator.neg, NUMBER)
plain_function("ceil", _number, math.ceil, NUMBER)
plain_function("floor", _number, math.floor, NUMBER)
plain_function("int", _number, math.trunc, NUMBER)
plain_function("signum", _number, lambda value: (value > 0) - (value < 0), NUMBER)
plain_function("pow", _number, _power, NUMBER, NUMBER)
plain_function("log", _number, _logarithm, NUMBER, NUMBER)
function("max", further=NUMBER)(lambda *values: max(_some(values), key=lambda one: one.data))
function("min", further=NUMBER)(lambda *values: min(_some(values), key=lambda one: one.data))


def _some(values: Sequence[Value]) -> Sequence[Value]:
    if not values:
        raise ValueError("there has to be at least one value")
    return values


@function("parseint", DYNAMIC, NUMBER)
def _parseint(source: Value, base: Value) -> Value:
    if source.type != STRING:
        raise TypeMismatch(f"the first argument has to be a string, not {source.type}")
    if not isinstance(base.data, int) or not 2 <= base.data <= 62:
        raise ValueError("the base has to be a whole number from 2 to 62")
    digits = "0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"[: base.data]
    unsigned = source.data[1:] if source.data[:1] in ("+", "-") else source.data
    unsigned = unsigned.lower() if base.data <= 36 else unsigned
    if not unsigned or not set(unsigned) <= set(digits):
        raise ValueError(f"not a number to the base {base.data}: {source.data!r}")
    found = 0
    for digit in unsigned:
        found = found * base.data + digits.index(digit)
    return number(-found if source.data.startswith("-") else found)


@function("range", further=NUMBER)
def _range(*values: Value) -> Value:
    """`range(end)`, `range(start, end)`, `range(start, end, step)`"""
    if not 1 <= len(values) <= 3:
        raise TypeMismatch("it takes one, two or three numbers")
    found = [one.data for one in values]
    start, end = (0, found[0]) if len(found) == 1 else (found[0], found[1])
    step = found[2] if len(found) == 3 else (1 if start <= end else -1)
    if not step:
        raise ValueError("the step is zero")
    if (step > 0) == (end < start) and end != start:
        raise ValueError("the step leads away from the end")
    made: list[Value] = []
    while start < end if step > 0 else start > end:
        if len(made) == _MOST:
            raise ValueError(f"it makes more than {_MOST} values")
        made.append(number(start))
        start = add(start, step)
    return list_with(made, NUMBER)


# logic


plain_function("and", boolean, operator.and_, BOOL, BOOL)
plain_function("or", boolean, operator.or_, BOOL, BOOL)
plain_function("not", boolean, operator.not_, BOOL)
plain_function("greaterthan", boolean, operator.gt, NUMBER, NUMBER)
plain_function("greaterthanorequalto", boolean, operator.ge, NUMBER, NUMBER)
plain_function("lessthan", boolean, operator.lt, NUMBER, NUMBER)
plain_function("lessthanorequalto", boolean, operator.le, NUMBER, NUMBER)
function("equal", DYNAMIC, DYNAMIC, nullable=True)(lambda a, b: boolean(equal(a, b)))
function("notequal", DYNAMIC, DYNAMIC, nullable=True)(lambda a, b: boolean(not equal(a, b)))


@function("coalesce", further=DYNAMIC, nullable=True)
def _coalesce(*values: Value) -> Value:
    common = typed.unify([one.type for one in _some(values)])
    if common is None:
        raise TypeMismatch("all arguments have to be of one type")
    for one in values:
        if not one.is_null:
            return convert(one, common)
    raise ValueError("there is no argument that is not null")


# collections


def _sequence(value: Value, what: str = "a list") -> tuple[Value, ...]:
    if not value.type.is_sequence:
        raise TypeMismatch(f"{what} is required, not a {value.type}")
    found: tuple[Value, ...] = value.data
    return found


def _mapping(value: Value) -> dict[str, Value]:
    if not value.type.is_mapping:
        raise TypeMismatch(f"a map is required, not a {value.type}")
    found: dict[str, Value] = value.data
    return found


def _same_kind(values: Sequence[Value], like: Iterable[Value]) -> Value:
    """A list where all of `like` are lists of one type, else a tuple."""
    types = {one.type for one in like}
    if len(types) == 1 and (only := types.pop()).kind in ("list", "set"):
        return list_with(values, only.item)
    return tuple_of(values)


@function("chunklist", list_of(DYNAMIC), NUMBER)
def _chunklist(source: Value, size: Value) -> Value:
    length = size.data
    if not isinstance(length, int) or length < 0:
        raise ValueError("the size has to be a whole number, and not negative")
    elements = source.data
    step = length or max(1, len(elements))
    chunks = [elements[at : at + step] for at in range(0, len(elements), step)]
    item = source.type.item
    return list_with([list_with(chunk, item) for chunk in chunks], list_of(item))


@function("coalescelist", further=DYNAMIC)
def _coalescelist(*values: Value) -> Value:
    for one in _some(values):
        if _sequence(one):
            return one
    raise ValueError("there is no list that is not empty")


plain_function(
    "compact",
    lambda found: list_with(found, STRING),
    lambda all_: [x for x in all_ if x.data],
    STRINGS,
)


@function("concat", further=DYNAMIC)
def _concat(*values: Value) -> Value:
    elements = [one for value in _some(values) for one in _sequence(value)]
    return _same_kind(elements, values)


@function("contains", DYNAMIC, DYNAMIC, nullable=True)
def _contains(source: Value, wanted: Value) -> Value:
    if source.is_null:
        raise TypeMismatch("argument 1 is null")
    return boolean(any(equal(one, wanted) for one in _sequence(source)))


@function("distinct", list_of(DYNAMIC))
def _distinct(source: Value) -> Value:
    found: list[Value] = []
    for one in source.data:
        if not any(equal(one, other) for other in found):
            found.append(one)
    return list_with(found, source.type.item)


@function("element", DYNAMIC, NUMBER)
def _element(source: Value, at: Value) -> Value:
    elements = _sequence(source)
    if not elements:
        raise ValueError("the list is empty")
    if not isinstance(at.data, int):
        raise ValueError("the index has to be a whole number")
    if at.data < 0:
        raise ValueError("the index is negative")
    return elements[at.data % len(elements)]


@function("flatten", DYNAMIC)
def _flatten(source: Value) -> Value:
    def walk(value: Value) -> Iterable[Value]:
        for one in value.data:
            if not one.is_null and one.type.is_sequence:
                yield from walk(one)
            else:
                yield one

    _sequence(source)
    return tuple_of([*walk(source)])


@function("hasindex", DYNAMIC, DYNAMIC)
def _hasindex(source: Value, key: Value) -> Value:
    if source.type.kind not in ("list", "tuple", "map"):
        raise TypeMismatch("a list or a map is required")
    try:
        index(source, key)
    except (LookupError, TypeMismatch):
        return boolean(False)
    return boolean(True)


function("index", DYNAMIC, DYNAMIC)(index)


@function("indexof", DYNAMIC, DYNAMIC, nullable=True)
def _indexof(source: Value, wanted: Value) -> Value:
    if source.is_null or source.type.kind not in ("list", "tuple"):
        raise TypeMismatch("a list is required")
    for at, one in enumerate(source.data):
        if equal(one, wanted):
            return number(at)
    raise ValueError("the value is not in the list" if source.data else "the list is empty")


@function("keys", DYNAMIC)
def _keys(source: Value) -> Value:
    names = [text(name) for name in _mapping(source)]
    return list_with(names, STRING) if source.type.kind == "map" else tuple_of(names)


@function("values", DYNAMIC)
def _values(source: Value) -> Value:
    found = [*_mapping(source).values()]
    return list_with(found, source.type.item) if source.type.kind == "map" else tuple_of(found)


@function("length", DYNAMIC)
def _length(source: Value) -> Value:
    if not source.type.is_sequence and source.type.kind != "map":
        raise TypeMismatch("a list, a tuple or a map is required")
    return number(len(source.data))


@function("lookup", DYNAMIC, STRING, further=DYNAMIC, nullable=True)
def _lookup(source: Value, key: Value, *default: Value) -> Value:
    if source.is_null or key.is_null:
        raise TypeMismatch("the map or the key is null")
    if len(default) != 1:
        raise TypeMismatch("it takes a map, a key and a default")
    found = _mapping(source).get(key.data)
    if source.type.kind == "map":
        return found or convert(default[0], source.type.item)
    return found or default[0]


@function("merge", further=DYNAMIC, nullable=True)
def _merge(*values: Value) -> Value:
    found: dict[str, Value] = {}
    for one in _some(values):
        if not one.is_null:
            found |= _mapping(one)
    kinds = {one.type for one in values if not one.is_null}
    if len(kinds) == 1 and (only := kinds.pop()).kind == "map":
        return typed.map_with(found, only.item)
    return typed.object_with(found)


@function("reverselist", DYNAMIC)
def _reverselist(source: Value) -> Value:
    return _same_kind([*reversed(_sequence(source))], [source])


@function("slice", DYNAMIC, NUMBER, NUMBER)
def _slice(source: Value, start: Value, end: Value) -> Value:
    if source.type.kind not in ("list", "tuple"):
        raise TypeMismatch("a list is required")
    first, last = start.data, end.data
    if not isinstance(first, int) or not isinstance(last, int):
        raise ValueError("start and end have to be whole numbers")
    if not 0 <= first <= last <= len(source.data):
        raise ValueError("start and end have to be inside of the list, and in this order")
    return _same_kind(source.data[first:last], [source])


@function("sort", STRINGS)
def _sort(source: Value) -> Value:
    return list_with(sorted(source.data, key=lambda one: str(one.data)), STRING)


@function("zipmap", STRINGS, DYNAMIC)
def _zipmap(keys: Value, found: Value) -> Value:
    elements = _sequence(found)
    if len(keys.data) != len(elements):
        raise ValueError(f"there are {len(keys.data)} keys and {len(elements)} values")
    named = {key.data: one for key, one in zip(keys.data, elements, strict=True)}
    if found.type.kind == "list":
        return typed.map_with(named, found.type.item)
    return typed.object_with(named)


@function("setproduct", further=DYNAMIC)
def _setproduct(*values: Value) -> Value:
    if len(values) < 2:
        raise TypeMismatch("it needs two sets or more")
    columns = [_sequence(one) for one in values]
    if math.prod(map(len, columns)) > 100_000:
        raise ValueError("the product has more than 100,000 elements")
    return tuple_of([tuple_of(row) for row in itertools.product(*columns)])


_Keys = set[tuple[int, object, str]]


def _sets(name: str, work: Callable[[_Keys, _Keys], _Keys], *, several: bool) -> None:
    def call(*values: Value) -> Value:
        unified = typed.unify([one.type.item for one in values])
        if unified is None:
            raise TypeMismatch("all sets have to be of one type")
        sets = [
            {typed.order(item): item for item in convert(one, set_of(unified)).data}
            for one in values
        ]
        keys: _Keys = set(sets[0])
        for other in sets[1:]:
            keys = work(keys, set(other))
        every = {key: item for one in sets for key, item in one.items()}
        return set_with((every[key] for key in keys), unified)

    wanted = set_of(DYNAMIC)
    function(name, wanted, *(() if several else (wanted,)), further=wanted if several else None)(
        call
    )


_sets("setunion", lambda left, right: left | right, several=True)
_sets("setintersection", lambda left, right: left & right, several=True)
_sets("setsymmetricdifference", lambda left, right: left ^ right, several=True)
_sets("setsubtract", lambda left, right: left - right, several=False)


function("sethaselement", set_of(DYNAMIC), DYNAMIC)(
    lambda source, wanted: boolean(any(equal(one, wanted) for one in source.data))
)


# encodings


def _base64decode(source: str) -> str:
    try:
        return base64.b64decode(source, validate=True).decode()
    except ValueError:
        raise ValueError("this is not base64, or not of a UTF-8 text") from None


plain_function("base64encode", text, lambda s: base64.b64encode(s.encode()).decode(), STRING)
plain_function("base64decode", text, _base64decode, STRING)
function("jsonencode", DYNAMIC, nullable=True)(lambda value: text(encode(value)))
function("jsondecode", STRING)(lambda source: parse_json_value(source.data))


@function("csvdecode", STRING)
def _csvdecode(source: Value) -> Value:
    try:
        rows = [row for row in csv.reader(io.StringIO(source.data), strict=True) if row]
    except csv.Error as error:
        raise ValueError(f"this is not CSV: {error}") from None
    if not rows:
        raise ValueError("the header is missing")
    header, *rows = rows
    if len(set(header)) < len(header):
        raise ValueError("two columns have the same name")
    for row in rows:
        if len(row) != len(header):
            raise ValueError("a row has another number of columns than the header")
    item = typed.object_of(dict.fromkeys(header, STRING))
    pairs = [dict(zip(header, map(text, row), strict=True)) for row in rows]
    return list_with([typed.object_with(one) for one in pairs], item)


def _digest(name: str, source: str) -> str:
    return hashlib.new(name, source.encode(), usedforsecurity=False).hexdigest()


for _name in ("md5", "sha1", "sha256", "sha512"):
    plain_function(_name, text, partial(_digest, _name), STRING)


_COST = 10  # rounds, as a power of two


@function("bcrypt", STRING, further=NUMBER)
def _bcrypt(source: Value, *cost: Value) -> Value:
    rounds = cost[0].data if cost else _COST
    if len(cost) > 1 or not isinstance(rounds, int) or not 4 <= rounds <= 20:
        raise ValueError("the cost has to be a whole number from 4 to 20")
    if len(source.data.encode()) > 72:
        raise ValueError("bcrypt takes no more than 72 bytes")
    alphabet = "./ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789"
    salt = "".join(alphabet[byte & 63] for byte in os.urandom(21)) + "u"
    return text(_crypt(source.data, f"$2b${rounds:02}${salt}").replace("$2b$", "$2a$", 1))


def _crypt(password: str, setting: str) -> str:
    """crypt(3) of the C library; Python's own module has gone in 3.13."""
    import ctypes
    import ctypes.util

    name = ctypes.util.find_library("crypt")
    try:
        crypt = ctypes.CDLL(name).crypt
    except (OSError, AttributeError):
        raise ValueError("this machine has no libcrypt") from None
    crypt.restype = ctypes.c_char_p
    found: bytes | None = crypt(password.encode(), setting.encode())
    if found is None or not found.startswith(b"$2b$"):
        raise ValueError("the libcrypt of this machine knows no bcrypt")
    return found.decode()


@function("rsadecrypt", STRING, STRING)
def _rsadecrypt(source: Value, key: Value) -> Value:
    from cryptography.hazmat.primitives.asymmetric import padding, rsa
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    try:
        ciphertext = base64.b64decode(source.data, validate=True)
    except ValueError:
        raise ValueError("the first argument is not base64") from None
    try:
        private = load_pem_private_key(key.data.encode(), None)
    except (ValueError, TypeError):
        raise ValueError("the second argument is not a private key in PEM") from None
    if not isinstance(private, rsa.RSAPrivateKey):
        raise ValueError("the key is not an RSA key")
    return text(private.decrypt(ciphertext, padding.PKCS1v15()).decode())


plain_function("uuidv4", text, lambda: str(uuid.uuid4()))
_SPACES = {
    "dns": uuid.NAMESPACE_DNS,
    "url": uuid.NAMESPACE_URL,
    "oid": uuid.NAMESPACE_OID,
    "x500": uuid.NAMESPACE_X500,
}


def _uuidv5(space: str, name: str) -> str:
    try:
        found = _SPACES.get(space) or uuid.UUID(space)
    except ValueError:
        raise ValueError(f"not a UUID, and not one of {', '.join(_SPACES)}: {space}") from None
    return str(uuid.uuid5(found, name))


def _basename(path: str) -> str:
    return (posixpath.basename(path.rstrip("/")) or "/") if path else "."


def _dirname(path: str) -> str:
    directory = posixpath.dirname(path)
    return posixpath.normpath(directory).replace("//", "/") if directory else "."


plain_function("uuidv5", text, _uuidv5, STRING, STRING)
plain_function("basename", text, _basename, STRING)
plain_function("dirname", text, _dirname, STRING)
plain_function("homedir", text, lambda: os.path.expanduser("~"))


def _bytes(*values: Value) -> Value:
    raise TypeMismatch("bytes are required, and no function makes them")


function("byteslen", DYNAMIC)(_bytes)
function("bytesslice", DYNAMIC, NUMBER, NUMBER)(_bytes)


# functions of expressions


def _try(call: FunctionCall, scope: EvalContext) -> Value:
    """The first argument that has a value."""
    if not call.arguments:
        refuse("try() needs an argument", call.place)
    for one in call.arguments[:-1]:
        try:
            return evaluate(one, scope)
        except BakeError:
            if scope.budget.is_spent:
                raise
    return evaluate(call.arguments[-1], scope)


def _can(call: FunctionCall, scope: EvalContext) -> Value:
    """Whether the argument has a value."""
    if len(call.arguments) != 1:
        refuse("can() takes one argument", call.place)
    try:
        evaluate(call.arguments[0], scope)
    except BakeError:
        if scope.budget.is_spent:
            raise
        return boolean(False)
    return boolean(True)


def _convert(call: FunctionCall, scope: EvalContext) -> Value:
    """`convert(value, type)`"""
    if len(call.arguments) != 2:
        refuse("convert() takes a value and a type", call.place)
    value, wanted = evaluate(call.arguments[0], scope), parse_type(call.arguments[1])
    try:
        return convert(value, wanted)
    except TypeMismatch as error:
        refuse(f"convert(): {error}", call.arguments[0].place)


for _name, _work in (("try", _try), ("can", _can), ("convert", _convert)):
    STDLIB[_name] = Function(_name, lazy=_work)
