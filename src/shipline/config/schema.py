"""The JSON Schema of the configuration, from the same dataclasses that decode it.

Editors that know JSON Schema 2020-12 complete and check shipline.yaml with it.
"""

from __future__ import annotations

import inspect
from typing import Any

from shipline.config.decode import EXTENSION
from shipline.config.encode import encode
from shipline.config.sections import Config
from shipline.config.shape import (
    Choice,
    Either,
    Field,
    Many,
    Named,
    Parsed,
    Plain,
    Record,
    Shape,
)

DIALECT = "https://json-schema.org/draft/2020-12/schema"
_SCALARS = ["string", "number", "boolean"]
_TYPES = {type(None): "null", bool: "boolean", int: "integer", float: "number"}


def file_schema() -> dict[str, Any]:
    """The schema of shipline.yaml: what schema/shipline.schema.json holds."""
    return schema(Config, title="shipline.yaml")


def schema(cls: type, *, title: str) -> dict[str, Any]:
    """The schema of a file that holds one `cls`."""
    writer = _Writer()
    root = writer.record(cls)
    root["patternProperties"] = {f"^{EXTENSION}": {"description": "Yours, for anchors."}}
    return {"$schema": DIALECT, "title": title, **root, "$defs": dict(sorted(writer.defs.items()))}


class _Writer:
    """Writes each record once, under its name."""

    def __init__(self) -> None:
        self.defs: dict[str, Any] = {}
        self._names: dict[type, str] = {}

    def of(self, shape: Shape) -> dict[str, Any]:
        if isinstance(shape, Plain):
            return {"type": _SCALARS if shape.type is str else _TYPES[shape.type]}
        if isinstance(shape, Choice):
            return {"enum": [_json(value) for _, value in shape.values]}
        if isinstance(shape, Parsed):
            return {"type": ["string", "number"]}
        if isinstance(shape, Many):
            return {"type": "array", "items": self.of(shape.item)}
        if isinstance(shape, Named):
            return {"type": "object", "additionalProperties": self.of(shape.value)}
        if isinstance(shape, Either):
            return {"anyOf": [self.of(one) for one in shape.options]}
        return {"$ref": f"#/$defs/{self.name(shape.type)}"}

    def name(self, cls: type) -> str:
        if cls not in self._names:
            name = cls.__name__
            while name in self._names.values():  # two packages may use the same word
                name += "_"
            self._names[cls] = name
            self.defs[name] = self.record(cls)
        return self._names[cls]

    def record(self, cls: type) -> dict[str, Any]:
        fields = Record(cls).fields
        found: dict[str, Any] = {
            "description": _first_line(cls),
            "type": "object",
            "additionalProperties": False,
            "properties": {one.key: self.field(one) for one in fields},
        }
        if required := [one.key for one in fields if one.required]:
            found["required"] = required
        return found

    def field(self, one: Field) -> dict[str, Any]:
        found = self.of(one.shape)
        if one.doc:
            found = {"description": one.doc, **found}
        if not one.required and (default := one.default()) not in (None, (), {}, ""):
            value = encode(default)
            if value != {}:
                found["default"] = value
        return found


def _json(value: object) -> Any:
    return encode(value)


def _first_line(cls: type) -> str:
    text = inspect.getdoc(cls) or ""
    return " ".join(text.partition("\n\n")[0].split())
