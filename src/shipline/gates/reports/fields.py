"""Typed access to parsed documents: a field is what it should be, or the report is refused."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any, Self

from shipline.gates.reports.coverage import LAST_LINE
from shipline.gates.reports.report import ReportError


class Fields:
    """A JSON object. A field that is missing or null gives the empty value of the type asked for;
    one of another type raises ReportError.
    """

    __slots__ = ("_value", "_where")

    def __init__(self, value: object, where: str) -> None:
        if not isinstance(value, dict):
            raise ReportError(f"{where} is not an object: {value!r:.60}")
        self._value: Mapping[str, Any] = value
        self._where = where

    def __contains__(self, key: str) -> bool:
        return self._value.get(key) is not None

    def __iter__(self) -> Iterator[str]:
        return iter(self._value)

    def having(self, *keys: str) -> Self:
        """Itself. Raises ReportError where one of these fields is missing or null."""
        missing = next((key for key in keys if key not in self), None)
        if missing is not None:
            raise ReportError(f"{self._where} has no {missing}")
        return self

    def raw(self, key: str) -> object:
        return self._value.get(key)

    def name(self, key: str) -> str:
        """A text that must be there and not be empty."""
        found = self.having(key).text(key)
        if not found:
            raise ReportError(f"{self._where} has an empty {key}")
        return found

    def text(self, key: str) -> str:
        found = self._value.get(key)
        return "" if found is None else self._typed(key, found, str, "text")

    def flag(self, key: str) -> bool:
        found = self._value.get(key)
        return False if found is None else self._typed(key, found, bool, "true or false")

    def number(self, key: str) -> float:
        found = self._value.get(key)
        if isinstance(found, bool) or not isinstance(found, int | float | None):
            raise ReportError(f"{key} is not a number: {found!r:.60}")
        try:
            return float(found or 0)
        except OverflowError:
            raise ReportError(f"{key} is too large a number") from None

    def count(self, key: str) -> int:
        """A whole number that is not negative."""
        found = self.number(key)
        if found < 0 or found != int(found):
            raise ReportError(f"{key} is not a count: {found}")
        return int(found)

    def child(self, key: str) -> Fields:
        found = self._value.get(key)
        return Fields({} if found is None else found, key)

    def children(self, key: str) -> list[Fields]:
        return [Fields(one, f"an element of {key}") for one in self.listing(key)]

    def texts(self, key: str) -> tuple[str, ...]:
        return tuple(
            self._typed(f"an element of {key}", one, str, "text") for one in self.listing(key)
        )

    def lines(self, key: str) -> list[int]:
        """Line numbers."""
        return [line_number(one) for one in self.listing(key)]

    def listing(self, key: str) -> list[Any]:
        found = self._value.get(key)
        if found is None:
            return []
        if not isinstance(found, list):
            raise ReportError(f"{key} is not a list: {found!r:.60}")
        return found

    @staticmethod
    def _typed(key: str, found: Any, kind: type, word: str) -> Any:
        if not isinstance(found, kind):
            raise ReportError(f"{key} is not {word}: {found!r:.60}")
        return found


def line_number(value: object) -> int:
    """Raises ReportError for anything but a line number."""
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= LAST_LINE:
        raise ReportError(f"not a line number: {value!r:.40}")
    return value


def whole(text: str, what: str) -> int:
    """A count that is written in a text attribute. Raises ReportError."""
    if len(text) < 18 and text.isascii() and text.isdigit():
        return int(text)
    found = decimal(text, what)
    if found != int(found):
        raise ReportError(f"{what} is not a whole number: {text[:40]!r}")
    return int(found)


def decimal(text: str, what: str) -> float:
    """A number from zero on that is written in a text attribute. Raises ReportError."""
    try:
        found = float(text.replace(",", "")) if len(text) < 40 else math.nan
    except ValueError:
        found = math.nan
    if not math.isfinite(found) or found < 0:
        raise ReportError(f"{what} is not a number from zero on: {text[:40]!r}")
    return found
