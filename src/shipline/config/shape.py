"""Shapes of YAML values, derived from type hints, for the decoder, the encoder and the schema.

Supported are str, int, float, bool, Literal, enumerations, tuple[X, ...], Mapping[str, X],
dataclasses, X | None, unions, and classes with a classmethod `parse(text)`. A dataclass field may
carry metadata: `doc` (one line), `interpolate` (`${NAME}` is expanded), `inline` (its fields
replace it), `section` (`module:Class`, imported on first use), and `key=None` (not in the file).
"""

from __future__ import annotations

import dataclasses
import types
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import Enum
from functools import cache
from importlib import import_module
from typing import Any, Literal, Union, cast, get_args, get_origin, get_type_hints

from shipline.values import replace


@dataclass(frozen=True, slots=True)
class Plain:
    """A scalar of one type: NoneType, bool, int, float or str."""

    type: type


@dataclass(frozen=True, slots=True)
class Choice:
    """One of a few values, by their text."""

    values: tuple[tuple[str, Any], ...]


@dataclass(frozen=True, slots=True)
class ParsedString:
    """A string parsed by a class; `str` of the value gives an equivalent string."""

    type: type


@dataclass(frozen=True, slots=True)
class Many:
    """A list."""

    item: Shape


@dataclass(frozen=True, slots=True)
class Named:
    """A mapping with arbitrary keys."""

    value: Shape


@dataclass(frozen=True, slots=True)
class Either:
    """One of several shapes, chosen by the kind of the node; scalars by the first that fits."""

    options: tuple[Shape, ...]


@dataclass(frozen=True, slots=True)
class Field:
    """One key of a record; `inline` names the field of the inline record that has it, if any."""

    key: str
    name: str
    hint: Callable[[], Any]
    doc: str
    required: bool
    default: Callable[[], Any]
    interpolate: bool
    inline: str = ""

    @property
    def shape(self) -> Shape:
        return shape_of(self.hint())


@dataclass(frozen=True, slots=True)
class Record:
    """A dataclass."""

    type: type

    @property
    def fields(self) -> tuple[Field, ...]:
        return fields_of(self.type)


Shape = Plain | Choice | ParsedString | Many | Named | Either | Record


@cache
def shape_of(hint: Any) -> Shape:
    """The shape of a type hint. Raises TypeError for an unsupported one."""
    origin, arguments = get_origin(hint), get_args(hint)
    if origin in (Union, types.UnionType):
        return Either(tuple(map(shape_of, arguments)))
    if origin is Literal:
        return Choice(tuple((_yaml_text(value), value) for value in arguments))
    if origin is tuple and len(arguments) == 2 and arguments[1] is Ellipsis:
        return Many(shape_of(arguments[0]))
    if origin is not None and issubclass(origin, Mapping) and arguments[0] is str:
        return Named(shape_of(arguments[1]))
    if hint in (None, type(None), bool, int, float, str):
        return Plain(hint or type(None))
    if isinstance(hint, type):
        return _shape_of_class(hint)
    raise TypeError(f"{hint!r} has no YAML shape")


def _shape_of_class(cls: type) -> Shape:
    if issubclass(cls, Enum):
        return Choice(tuple((_word(member), member) for member in cls))
    if hasattr(cls, "parse"):
        return ParsedString(cls)
    if dataclasses.is_dataclass(cls):
        return Record(cls)
    raise TypeError(f"{cls!r} has no YAML shape")


def _word(member: Enum) -> str:
    """How a member is written: its value, or, where that is a number that only orders, its text."""
    return str(member) if isinstance(member.value, int) else _yaml_text(member.value)


def _yaml_text(value: object) -> str:
    """A value as YAML text."""
    if isinstance(value, bool):
        return "true" if value else "false"
    return "null" if value is None else str(value)


@cache
def fields_of(cls: type) -> tuple[Field, ...]:
    """The keys of a record in order, including those of inline records."""
    result: list[Field] = []
    for field in dataclasses.fields(cls):
        meta = field.metadata
        if not field.init or meta.get("key", field.name) is None:
            continue
        if meta.get("inline"):
            nested = fields_of(_hint(cls, field.name, meta))
            result += [replace(inside, inline=field.name) for inside in nested]
            continue
        result.append(_field(cls, field))
    return tuple(result)


def inlined_in(cls: type) -> dict[str, type]:
    """The inline records, by the name of their field."""
    inlined = (field for field in dataclasses.fields(cls) if field.metadata.get("inline"))
    return {field.name: _hint(cls, field.name, field.metadata) for field in inlined}


def _field(cls: type, field: dataclasses.Field[Any]) -> Field:
    def hint() -> Any:
        return _hint(cls, field.name, field.metadata)

    def default() -> Any:
        if field.default is not dataclasses.MISSING:
            return field.default
        return cast(Callable[[], Any], field.default_factory)()

    required = field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
    return Field(
        key=field.name.rstrip("_").replace("_", "-"),
        name=field.name,
        hint=hint,
        doc=str(field.metadata.get("doc", "")),
        required=required,
        default=default,
        interpolate=bool(field.metadata.get("interpolate")),
    )


def _hint(cls: type, name: str, meta: Mapping[str, Any]) -> Any:
    if target := meta.get("section"):
        module, _, attribute = target.partition(":")
        return getattr(import_module(module), attribute)
    return _hints(cls)[name]


@cache
def _hints(cls: type) -> dict[str, Any]:
    """The types of all fields; sections are not imported, and appear as object."""
    sections = (field.metadata.get("section", "") for field in dataclasses.fields(cls))
    unread = {target.partition(":")[2]: object for target in sections if target}
    return get_type_hints(cls, localns=unread)


def encode(value: object, *, defaults: bool = False) -> Any:
    """A tree of dict, list, str, int, float, bool and None that decodes to `value`.

    Keys with their default value are omitted unless `defaults`.
    """
    if isinstance(value, Enum):
        return _word(value)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        if isinstance(shape_of(type(value)), ParsedString):
            return str(value)
        return _record(value, defaults)
    if isinstance(value, Mapping):
        return {key: encode(item, defaults=defaults) for key, item in value.items()}
    if isinstance(value, (tuple, list)):
        return [encode(item, defaults=defaults) for item in value]
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    return str(value)


def _record(value: object, defaults: bool) -> dict[str, Any]:
    result: dict[str, Any] = {}
    for field in Record(type(value)).fields:
        content = _content(value, field)
        if defaults or field.required or content != field.default():
            result[field.key] = encode(content, defaults=defaults)
    return result


def _content(value: object, field: Field) -> Any:
    holder = getattr(value, field.inline) if field.inline else value
    return getattr(holder, field.name)
