"""The keys of shipline.yaml as a page for people, from the same dataclasses that decode it."""

from __future__ import annotations

import inspect
import json
from collections.abc import Iterator

from shipline.config.decode import wanted
from shipline.config.encode import encode
from shipline.config.sections import Config
from shipline.config.shape import Either, Field, Many, Named, Record, Shape

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
