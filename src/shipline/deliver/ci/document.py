"""YAML as people write it in CI files: comments, empty lines, block scripts, stable to the byte.

A library's output may change with its version, and `shipline ci check` compares bytes; so the few
forms that the files need are written here. Values are dicts, lists, str, int, bool and None.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

_PLAIN = re.compile(r"[A-Za-z_./$~^][^\x00-\x1f\x7f]*\Z")
_WORDS = frozenset({"", "~", "null", "true", "false", "yes", "no", "on", "off", "y", "n"})
_WIDTH = 100  # columns, for lists on one line


@dataclass(frozen=True, slots=True, eq=False)
class Comment:
    """A key of a mapping, without value: lines after `# `; without text, an empty line."""

    text: str = ""


class Noted(str):
    """A text with a comment at the end of its line."""

    __slots__ = ("note",)
    note: str

    def __new__(cls, text: str, note: str) -> Noted:
        noted = super().__new__(cls, text)
        noted.note = note
        return noted


class Inline(list[str]):
    """A list that stands on one line where it fits."""


def render(document: Mapping[Any, Any]) -> str:
    """The document as text, with a line end at the end."""
    return "\n".join(line.rstrip() for line in _mapping(document, 0)) + "\n"


def _mapping(mapping: Mapping[Any, Any], depth: int) -> Iterator[str]:
    indent = "  " * depth
    for key, value in mapping.items():
        if isinstance(key, Comment):
            yield from (f"{indent}# {line}" if line else "" for line in key.text.split("\n"))
        else:
            yield from _entry(f"{indent}{_scalar(key)}:", value, depth)


def _entry(start: str, value: Any, depth: int) -> Iterator[str]:
    """The lines of `start` (a key, or the dash of a list) with its value below or behind it."""
    indent = "  " * depth
    if isinstance(value, Inline) and len(short := f"{start} {_flow(value)}") <= _WIDTH:
        yield short
    elif isinstance(value, Mapping) and value:
        yield start
        yield from _mapping(value, depth + 1)
    elif isinstance(value, list) and value:
        yield start
        yield from _sequence(value, depth + 1)
    elif isinstance(value, str) and "\n" in value:
        yield f"{start} |"
        yield from (f"{indent}  {line}" for line in value.rstrip("\n").split("\n"))
    else:
        yield f"{start} {_scalar(value)}"


def _sequence(items: Sequence[Any], depth: int) -> Iterator[str]:
    dash = "  " * depth + "- "
    for item in items:
        if isinstance(item, Mapping) and item:
            lines = list(_mapping(item, depth + 1))
            first = next(i for i, line in enumerate(lines) if line and not _is_comment(line))
            for number, line in enumerate(lines):
                yield dash + line[len(dash) :] if number == first else _outdent(line, first, number)
        else:
            yield from _entry(dash[:-1], item, depth)


def _outdent(line: str, first: int, number: int) -> str:
    """Comments before the first key of an item stand at its dash."""
    return line[2:] if number < first and line else line


def _is_comment(line: str) -> bool:
    return line.lstrip().startswith("#")


def _flow(items: Sequence[str]) -> str:
    return "[" + ", ".join(_quoted_in_flow(item) for item in items) + "]"


def _quoted_in_flow(item: str) -> str:
    plain = re.fullmatch(r"[A-Za-z_.][\w./@+-]*", item) and item.lower() not in _WORDS
    return item if plain else json.dumps(item, ensure_ascii=False)


def _scalar(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, Noted):
        return f"{_scalar(str(value))} # {value.note}"
    if isinstance(value, str):
        return value if _is_plain(value) else _quoted(value)
    return json.dumps(value)  # booleans, numbers, and empty containers


def _quoted(text: str) -> str:
    """In single quotes where that spares backslashes."""
    if '"' in text and text.isprintable():
        return "'" + text.replace("'", "''") + "'"
    return json.dumps(text, ensure_ascii=False)


def _is_plain(text: str) -> bool:
    return bool(
        _PLAIN.match(text)
        and text.lower() not in _WORDS - {"on"}
        and ": " not in text
        and " #" not in text
        and not text.endswith((":", " "))
    )
