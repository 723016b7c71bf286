"""Values to what YAML and JSON are made of: the inverse of decode."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from enum import Enum
from typing import Any

from shipline.config.shape import Field, Parsed, Record, shape_of


def encode(value: object, *, defaults: bool = False) -> Any:
    """A tree of dict, list, str, int, float, bool and None that decodes to `value` again.

    Keys that have their default are left out unless `defaults`.
    """
    if isinstance(value, Enum):
        return value.value
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        if isinstance(shape_of(type(value)), Parsed):
            return str(value)
        return _record(value, defaults)
    if isinstance(value, Mapping):
        return {key: encode(one, defaults=defaults) for key, one in value.items()}
    if isinstance(value, (tuple, list)):
        return [encode(one, defaults=defaults) for one in value]
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    return str(value)


def _record(value: object, defaults: bool) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for one in Record(type(value)).fields:
        content = _content(value, one)
        if defaults or one.required or content != one.default():
            found[one.key] = encode(content, defaults=defaults)
    return found


def _content(value: object, one: Field) -> Any:
    holder = getattr(value, one.inline) if one.inline else value
    return getattr(holder, one.name)
