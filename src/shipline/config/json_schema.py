"""The JSON Schema and the reference page of shipline.yaml, from the dataclasses that decode it.

Editors that know JSON Schema 2020-12 complete and check shipline.yaml with it.
"""

from __future__ import annotations

import inspect
import json
from collections.abc import Iterator
from typing import Any

from shipline.config.decoding import EXTENSION, wanted
from shipline.config.loading import Config
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
    encode,
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


_HEAD = """\
# shipline.yaml

Written by `shipline config reference`; `schema/shipline.schema.json` says the same to editors:
with `# yaml-language-server: $schema=SCHEMA` in the first line they complete and check keys.

The file is YAML 1.2: `yes` and `on` are texts. Unknown keys are errors; keys at the top that begin
with `x-` are yours. Fields marked `${}` may have `${NAME}`, `${NAME:-default}` or
`${NAME:?message}` for variables of the environment, but for none that is named like a secret;
`$$` is a dollar.
"""


def reference() -> str:
    """The whole page, in Markdown."""
    seen: dict[type, None] = {}
    parts = [_HEAD, *_record(Config, "The file", seen)]
    done: set[type] = {Config}
    while waiting := [cls for cls in seen if cls not in done]:
        done.add(waiting[0])
        parts += _record(waiting[0], waiting[0].__name__, seen)
    return "\n".join(parts)


def _record(cls: type, title: str, seen: dict[type, None]) -> Iterator[str]:
    text = (inspect.getdoc(cls) or "").partition("\n\n")[0]
    yield f"## {title}\n\n{' '.join(text.split())}\n"
    yield "| key | value | default | |\n|---|---|---|---|"
    for one in Record(cls).fields:
        yield _row(one, seen)
    yield ""


def _row(one: Field, seen: dict[type, None]) -> str:
    value = _linked(one.shape, seen)
    mark = " `${}`" if one.interpolate else ""
    doc = one.doc.replace("|", "\\|")
    return f"| `{one.key}` | {value}{mark} | {_default(one)} | {doc} |"


def _default(one: Field) -> str:
    if one.required:
        return "required"
    found = one.default()
    value = encode(found)
    if found is None or value in ("", [], {}):
        return ""
    return f"`{value if isinstance(value, str) else json.dumps(value)}`"


def _linked(shape: Shape, seen: dict[type, None]) -> str:
    """A shape in words, with links to the records in it."""
    if isinstance(shape, Record):
        seen.setdefault(shape.type)
        return f"[{shape.type.__name__}](#{shape.type.__name__.lower()})"
    if isinstance(shape, Many):
        return f"list of {_linked(shape.item, seen)}"
    if isinstance(shape, Named):
        return f"names to {_linked(shape.value, seen)}"
    if isinstance(shape, Either):
        words = [_linked(one, seen) for one in shape.options if wanted(one) != "null"]
        return " or ".join(dict.fromkeys(words))
    return wanted(shape)
