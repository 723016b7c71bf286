"""Values as JSON, in the form that Go's encoding/json gives them."""

from __future__ import annotations

import json
from decimal import Decimal
from typing import Any

from shipline.bake.typed import Value, from_plain, number_text, parse_number

_ESCAPED = {
    "<": "\\u003c",
    ">": "\\u003e",
    "&": "\\u0026",
    "\u2028": "\\u2028",
    "\u2029": "\\u2029",
}


def quote(source: str) -> str:
    """A JSON string; the characters that mean something in HTML are escaped."""
    found = json.dumps(source, ensure_ascii=False)
    for character, escape in _ESCAPED.items():
        found = found.replace(character, escape)
    return found


def encode(value: Value) -> str:
    """Compact JSON with the keys of objects in order."""
    if value.is_null:
        return "null"
    if value.type.is_sequence:
        return "[" + ",".join(map(encode, value.data)) + "]"
    if value.type.is_mapping:
        pairs = (f"{quote(key)}:{encode(one)}" for key, one in value.data.items())
        return "{" + ",".join(pairs) + "}"
    if isinstance(value.data, str):
        return quote(value.data)
    if isinstance(value.data, bool):
        return "true" if value.data else "false"
    return number_text(value.data)


def _constant(name: str) -> Any:
    raise ValueError(f"{name} is not JSON")


def _number(source: str) -> int | Decimal:
    return parse_number(source)


def parse_json_value(source: str) -> Value:
    """Raises ValueError for what is not JSON."""
    try:
        found = json.loads(source, parse_constant=_constant, parse_float=_number, parse_int=_number)
        return from_plain(found)
    except RecursionError:
        raise ValueError("the JSON is nested too deeply") from None
    except ValueError as error:
        raise ValueError(f"this is not JSON: {error}") from None
