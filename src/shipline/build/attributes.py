"""The text of flags to values: one CSV record, and attributes such as `key=value,key=value`."""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterable, Mapping
from typing import TypeVar

from shipline import units
from shipline.errors import FlagConflict, InvalidFlag

_Default = TypeVar("_Default")
_Value = TypeVar("_Value")


class Attributes:
    """The attributes of a flag, read by name; what was read is known, and the rest is not."""

    def __init__(self, flag: str, fields: Mapping[str, str]) -> None:
        self._flag, self._fields = flag, fields
        self._known: list[str] = []

    def text(self, name: str, default: str = "") -> str:
        self._known.append(name)
        return self._fields.get(name, default)

    def switch(self, name: str, default: _Default) -> bool | _Default:
        text = self.text(name)
        return parse_boolean(text, f"{self._flag} {name}") if name in self._fields else default

    def integer(self, name: str, default: _Default) -> int | _Default:
        text = self.text(name)
        return parse_integer(text, f"{self._flag} {name}") if name in self._fields else default

    def size(self, name: str) -> int:
        """The bytes; zero for an empty text, too."""
        return parse_size(self.text(name) or "0", f"{self._flag} {name}")

    @property
    def rest(self) -> dict[str, str]:
        """The attributes that were not read."""
        return {name: text for name, text in self._fields.items() if name not in self._known}

    def close(self) -> None:
        """Raises UsageError for an attribute that was not read."""
        for name in self.rest:
            raise InvalidFlag(
                f"{self._flag}: unknown attribute {name!r}", hint=f"known: {', '.join(self._known)}"
            )


def split_csv(text: str) -> tuple[str, ...]:
    """The fields of one CSV record (RFC 4180), none for an empty text."""
    try:
        rows = [row for row in csv.reader([text], strict=True) if row]
    except csv.Error as error:
        raise InvalidFlag(f"not comma-separated fields: {text!r} ({error})") from None
    if len(rows) > 1:
        raise InvalidFlag(f"not one line of comma-separated fields: {text!r}")
    return tuple(field for row in rows for field in row)


def parse_attributes(text: str, flag: str) -> dict[str, str]:
    """`key=value,key=value` with keys in lower case. Errors show no values: some are secrets."""
    found: dict[str, str] = {}
    for part in split_csv(text):
        key, value = parse_attribute(part, flag)
        if key in found:
            raise FlagConflict(f"{flag}: {key} is given twice")
        found[key] = value
    return found


def parse_attribute(text: str, flag: str) -> tuple[str, str]:
    """One `key=value`, whose key is in lower case then; the value may have commas."""
    key, equals, value = text.partition("=")
    key = key.strip().lower()
    if not equals or not key:
        raise InvalidFlag(f"{flag}: {text!r} is not key=value")
    return key, value


def parse_boolean(text: str, name: str) -> bool:
    """As `units.parse_boolean`. Raises UsageError, which says `name`."""
    if (value := units.parse_boolean(text)) is None:
        raise InvalidFlag(f"{name}: {text!r} is neither true nor false")
    return value


def parse_size(text: str, flag: str) -> int:
    """As `units.parse_go_size`. Raises UsageError, which says `flag`."""
    if (size := units.parse_go_size(text)) is None:
        raise InvalidFlag(f"{flag}: not a size: {text!r}", hint="write it like 64m or 2g")
    return size


def parse_integer(text: str, flag: str) -> int:
    try:
        return int(text)
    except ValueError:
        raise InvalidFlag(f"{flag}: not a whole number: {text!r}") from None


def each(parse: Callable[[str], Iterable[_Value]], texts: Iterable[str]) -> tuple[_Value, ...]:
    """What `parse` makes of all texts."""
    return tuple(one for text in texts for one in parse(text))


def unique(*found: _Value) -> tuple[_Value, ...]:
    """Each value once, in the order of the first."""
    return tuple(dict.fromkeys(found))
