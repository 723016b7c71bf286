"""Typed access to parsed documents: a field of the wrong type is a ReportError."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from typing import Any, Self

from shipline.gates.reports.coverage import LAST_LINE
from shipline.gates.reports.report import ReportError


class Fields:
    """A JSON object. Reading a field that is missing or null returns the empty value of the type;
    a field of another type raises ReportError.
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

    def require(self, *keys: str) -> Self:
        """Returns self. Raises ReportError if one of these fields is missing or null."""
        missing = next((key for key in keys if key not in self), None)
        if missing is not None:
            raise ReportError(f"{self._where} has no {missing}")
        return self

    def raw(self, key: str) -> object:
        return self._value.get(key)

    def name(self, key: str) -> str:
        """A string that must exist and not be empty."""
        text = self.require(key).text(key)
        if not text:
            raise ReportError(f"{self._where} has an empty {key}")
        return text

    def text(self, key: str) -> str:
        value = self._value.get(key)
        return "" if value is None else self._typed(key, value, str, "text")

    def flag(self, key: str) -> bool:
        value = self._value.get(key)
        return False if value is None else self._typed(key, value, bool, "true or false")

    def number(self, key: str) -> float:
        value = self._value.get(key)
        if isinstance(value, bool) or not isinstance(value, int | float | None):
            raise ReportError(f"{key} is not a number: {value!r:.60}")
        try:
            return float(value or 0)
        except OverflowError:
            raise ReportError(f"{key} is too large a number") from None

    def count(self, key: str) -> int:
        """A non-negative integer."""
        number = self.number(key)
        if number < 0 or number != int(number):
            raise ReportError(f"{key} is not a count: {number}")
        return int(number)

    def child(self, key: str) -> Fields:
        value = self._value.get(key)
        return Fields({} if value is None else value, key)

    def children(self, key: str) -> list[Fields]:
        return [Fields(element, f"an element of {key}") for element in self.elements(key)]

    def texts(self, key: str) -> tuple[str, ...]:
        return tuple(
            self._typed(f"an element of {key}", element, str, "text")
            for element in self.elements(key)
        )

    def lines(self, key: str) -> list[int]:
        """A list of line numbers."""
        return [line_number(element) for element in self.elements(key)]

    def elements(self, key: str) -> list[Any]:
        value = self._value.get(key)
        if value is None:
            return []
        if not isinstance(value, list):
            raise ReportError(f"{key} is not a list: {value!r:.60}")
        return value

    @staticmethod
    def _typed(key: str, value: Any, kind: type, expected: str) -> Any:
        if not isinstance(value, kind):
            raise ReportError(f"{key} is not {expected}: {value!r:.60}")
        return value


_NUMBER = re.compile(r"[0-9.,eE+-]{1,40}")  # Python's own takes 1_0, and digits of all scripts


def line_number(value: object) -> int:
    """The value as a line number. Raises ReportError."""
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= LAST_LINE:
        raise ReportError(f"not a line number: {value!r:.40}")
    return value


def parse_count(text: str, what: str) -> int:
    """A non-negative integer in a text attribute. Raises ReportError."""
    if len(text) < 18 and text.isascii() and text.isdigit():
        return int(text)
    number = parse_number(text, what)
    if number != int(number):
        raise ReportError(f"{what} is not a whole number: {text[:40]!r}")
    return int(number)


def parse_number(text: str, what: str) -> float:
    """A non-negative number in a text attribute. Raises ReportError."""
    try:
        number = float(text.replace(",", "")) if _NUMBER.fullmatch(text.strip()) else math.nan
    except ValueError:
        number = math.nan
    if not math.isfinite(number) or number < 0:
        raise ReportError(f"{what} is not a non-negative number: {text[:40]!r}")
    return number
