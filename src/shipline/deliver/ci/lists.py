"""Inputs of an action that hold several values: lines of comma-separated fields, with quotes."""

from __future__ import annotations

import csv
import io

from shipline.errors import UsageError


def by_comma(text: str, name: str) -> tuple[str, ...]:
    """Values are separated by line ends and by commas, also by those in a line that is quoted.

    Raises UsageError that names the input.
    """
    found: list[str] = []
    for record in _records(text, name):
        found += record if len(record) > 1 else record[0].split(",")
    return _present(found)


def by_line(text: str, name: str) -> tuple[str, ...]:
    """Values are separated by line ends; one in double quotes may hold line ends.

    Raises UsageError that names the input.
    """
    return _present([",".join(record) for record in _records(text, name)])


def verbatim(text: str) -> tuple[str, ...]:
    """Each line is a value as it stands, quotes included."""
    return _present(text.splitlines())


def _records(text: str, name: str) -> list[list[str]]:
    try:
        return [record for record in csv.reader(io.StringIO(text, newline="")) if record]
    except csv.Error as error:
        raise UsageError(f"input {name}: {error}", hint="quote a value as a whole") from None


def _present(values: list[str]) -> tuple[str, ...]:
    return tuple(value.strip() for value in values if value.strip())
