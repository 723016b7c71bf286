"""The small notations that flag values are made of: CSV, key=value, booleans, sizes in bytes."""

from __future__ import annotations

import csv
import re
from collections.abc import Iterable, Mapping

from shipline.errors import UsageError

_SIZE = re.compile(r"(\d+(?:\.\d+)?) ?([kmgtp]?)i?b?\Z", re.IGNORECASE)
_TRUE = frozenset({"1", "t", "T", "true", "True", "TRUE"})
_FALSE = frozenset({"0", "f", "F", "false", "False", "FALSE"})


def split_csv(text: str) -> tuple[str, ...]:
    """The fields of one CSV record (RFC 4180): a quoted field may hold commas and line ends.

    No text has no fields.
    """
    try:
        rows = [row for row in csv.reader([text], strict=True) if row]
    except csv.Error as error:
        raise UsageError(f"not comma-separated fields: {text!r} ({error})") from None
    if len(rows) > 1:
        raise UsageError(f"not one line of comma-separated fields: {text!r}")
    return tuple(field for row in rows for field in row)


def parse_attributes(text: str, flag: str) -> dict[str, str]:
    """`key=value,key=value` with keys in lower case. Raises UsageError that names `flag`."""
    found: dict[str, str] = {}
    for part in split_csv(text):
        key, equals, value = part.partition("=")
        key = key.strip().lower()
        if not equals or not key:
            raise UsageError(f"{flag}: {part!r} in {text!r} is not key=value")
        if key in found:
            raise UsageError(f"{flag}: {key} stands twice in {text!r}")
        found[key] = value
    return found


def parse_boolean(text: str, what: str) -> bool:
    """Reads what Go's strconv.ParseBool reads. Raises UsageError that names `what`."""
    if text not in _TRUE | _FALSE:
        raise UsageError(f"{what}: {text!r} is neither true nor false")
    return text in _TRUE


def parse_size(text: str, flag: str) -> int:
    """Bytes: a number with an optional binary unit, `64m` is 64 MiB. Raises UsageError."""
    match = _SIZE.match(text.strip())
    if match is None:
        raise UsageError(f"{flag}: not a size: {text!r}", hint="write it like 64m or 2g")
    number, unit = match.groups()
    return int(float(number) * 1024 ** " kmgtp".index(unit.lower() or " "))


def parse_integer(text: str, flag: str) -> int:
    try:
        return int(text)
    except ValueError:
        raise UsageError(f"{flag}: not a whole number: {text!r}") from None


def parse_assignments(
    texts: Iterable[str], flag: str, environ: Mapping[str, str] | None = None
) -> dict[str, str]:
    """`K=V` each. A bare `K` takes its value from `environ`, and is left out where that has none;
    without an `environ` its value is empty.
    """
    found: dict[str, str] = {}
    for text in texts:
        key, equals, value = text.partition("=")
        if not key:
            raise UsageError(f"{flag}: {text!r} has no name before '='")
        if equals:
            found[key] = value
        elif environ is None:
            found[key] = ""
        elif key in environ:
            found[key] = environ[key]
    return found
