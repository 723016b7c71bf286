"""Values of declared Go types, read from JSON: structs with all their fields, nil maps and slices,
times and digests with their methods, as templates see them.

Sources: https://pkg.go.dev/encoding/json, https://pkg.go.dev/time
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta, timezone
from typing import Any, Self

from shipline.cli.template_functions import NIL, GoMap, GoMethod, GoStruct, GoValue, TemplateError
from shipline.errors import ContentError

Fields = tuple[tuple[str, str, str, bool], ...]
"""Of a struct: name, type, key in JSON (empty for an embedded struct), whether it is omitted where
it is empty."""


def struct(declared: str) -> Fields:
    """The fields of lines like those of Go: `Name type key,omitempty`."""
    fields = []
    for line in filter(None, map(str.split, declared.splitlines())):
        name, type_, key, *_ = (*line, "")
        fields.append((name, type_, key.partition(",")[0], ",omitempty" in key))
    return tuple(fields)


class GoTypes:
    """Structs by name, which refer to each other."""

    def __init__(self, **structs: str) -> None:
        self._structs = {name: struct(declared) for name, declared in structs.items()}

    def read(self, type_: str, value: object) -> Any:
        """The value of a Go type for a document of JSON; the type's zero value for None.

        Raises ContentError for a document that does not fit.
        """
        if type_.startswith("*"):
            return NIL if value is None else self.read(type_[1:], value)
        if type_ == "any":
            return _ordered(value)
        if type_.startswith("[]"):
            items = _checked(type_, value, list, None)
            return () if items is None else [self.read(type_[2:], one) for one in items]
        if type_.startswith("map[string]"):
            item = type_.removeprefix("map[string]")
            found = _checked(type_, value, dict, None)
            read = found and {key: self.read(item, found[key]) for key in sorted(found)}
            return GoMap(read, zero=self.read(item, None))
        if type_ in self._structs:
            return self._struct(self._structs[type_], _checked(type_, value, dict, {}))
        scalar, zero = _SCALARS[type_]
        return scalar(_checked(type_, value, type(zero), zero))

    def _struct(self, fields: Fields, document: Mapping[str, Any]) -> GoStruct:
        values: dict[str, Any] = {}
        keys: dict[str, str] = {}
        embedded: dict[str, Any] = {}
        for name, type_, key, omitted in fields:
            if not key:
                inner = self.read(type_, document)
                values[name] = inner
                embedded |= inner
                keys |= inner.json or {}
                continue
            values[name] = self.read(type_, document.get(key))
            if not omitted or _is_filled(values[name]):
                keys[key] = name
        return GoStruct(values, json=keys, embedded=embedded)


def _ordered(value: Any) -> Any:
    """JSON with its keys in order, as Go writes maps."""
    if isinstance(value, Mapping):
        return {key: _ordered(value[key]) for key in sorted(value)}
    return [*map(_ordered, value)] if isinstance(value, list) else value


def _checked(type_: str, value: object, wanted: type, zero: Any) -> Any:
    if value is None:
        return zero
    if not isinstance(value, wanted) or (wanted is int and isinstance(value, bool)):
        raise ContentError(f"not a value of type {type_}: {value!r:.80}", code="document-invalid")
    return value


def _is_filled(value: object) -> bool:
    """Whether encoding/json writes a field with `omitempty`; structs always are."""
    return isinstance(value, GoStruct) or (value is not None and bool(value))


class GoDigest(str, GoValue):
    """A digest with the methods of go-digest's."""

    __slots__ = ()

    def method(self, name: str) -> GoMethod | None:
        algorithm, _, encoded = self.partition(":")
        found = {"Algorithm": algorithm, "Encoded": encoded, "Hex": encoded, "String": str(self)}
        return GoMethod(lambda: found[name]) if name in found else None


_RFC3339 = re.compile(
    r"(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d)(?:[.,](\d{1,9})\d*)?(?:Z|([+-])(\d\d):(\d\d))\Z"
)


class GoTime(GoValue):
    """A time.Time, to the nanosecond."""

    __slots__ = ("_at", "_nanoseconds")

    def __init__(self, at: datetime, nanoseconds: int = 0) -> None:
        """`at` without parts of a second, in the zone that is shown."""
        self._at, self._nanoseconds = at, nanoseconds

    @classmethod
    def parse(cls, text: str) -> Self:
        """A time of RFC 3339, the zero time for no text. Raises ContentError."""
        found = _RFC3339.match(text or "0001-01-01T00:00:00Z")
        if found is None:
            raise ContentError(f"not a time of RFC 3339: {text!r:.80}", code="document-invalid")
        whole, fraction, sign, hours, minutes = found.groups()
        ahead = timedelta(hours=int(hours or 0), minutes=int(minutes or 0))
        zone = timezone(-ahead if sign == "-" else ahead) if ahead else UTC
        try:
            at = datetime.fromisoformat(whole).replace(tzinfo=zone)
        except ValueError as error:
            raise ContentError(
                f"not a time of RFC 3339: {text!r:.80} ({error})", code="document-invalid"
            ) from None
        return cls(at, int((fraction or "").ljust(9, "0")))

    def __str__(self) -> str:
        return self.format("2006-01-02 15:04:05.999999999 -0700 MST")

    def json(self) -> str:
        return self.format("2006-01-02T15:04:05.999999999Z07:00")

    def format(self, layout: object) -> str:
        """The time in a layout, which shows how 2 January 2006, 15:04:05 is written."""
        if not isinstance(layout, str):
            raise TemplateError("Format takes a string")
        return _LAYOUT.sub(lambda found: self._shown(found[0]), layout)

    def _shown(self, part: str) -> str:
        at = self._at
        if part[0] in ".,":
            digits = f"{self._nanoseconds:09}"[: len(part) - 1]
            digits = digits.rstrip("0") if part[1] == "9" else digits
            return f"{part[0]}{digits}" if digits else ""
        if part[0] in "Z-" or part == "MST":
            minutes = int((at.utcoffset() or timedelta()).total_seconds()) // 60
            if not minutes and part[0] != "-":
                return "UTC" if part == "MST" else "Z"
            form = "0700" if part == "MST" else part[1:]  # a zone without name
            sign, (hours, left) = "-" if minutes < 0 else "+", divmod(abs(minutes), 60)
            shown = {"0700": f"{hours:02}{left:02}", "07": f"{hours:02}"}
            return sign + shown.get(form, f"{hours:02}:{left:02}")
        return _PARTS[part](at)

    def method(self, name: str) -> GoMethod | None:
        at, nanoseconds = self._at, self._nanoseconds
        unix = int((at - datetime(1970, 1, 1, tzinfo=UTC)).total_seconds())
        plain: dict[str, Callable[[], object]] = {
            "Day": lambda: at.day,
            "Hour": lambda: at.hour,
            "IsZero": lambda: (at.replace(tzinfo=None), nanoseconds) == (datetime.min, 0),
            "Minute": lambda: at.minute,
            "Month": lambda: at.strftime("%B"),
            "Nanosecond": lambda: nanoseconds,
            "Second": lambda: at.second,
            "String": lambda: str(self),
            "UTC": lambda: GoTime(_in_utc(at), nanoseconds),
            "Unix": lambda: unix,
            "UnixMicro": lambda: unix * 10**6 + nanoseconds // 1000,
            "UnixMilli": lambda: unix * 1000 + nanoseconds // 10**6,
            "UnixNano": lambda: unix * 10**9 + nanoseconds,
            "Weekday": lambda: at.strftime("%A"),
            "Year": lambda: at.year,
            "YearDay": lambda: at.timetuple().tm_yday,
        }
        compared: dict[str, Callable[[object], object]] = {
            "After": lambda other: self._moment > _moment(other),
            "Before": lambda other: self._moment < _moment(other),
            "Equal": lambda other: self._moment == _moment(other),
            "Format": self.format,
        }
        if name in plain:
            return GoMethod(plain[name])
        return GoMethod(compared[name], 1) if name in compared else None

    @property
    def _moment(self) -> tuple[datetime, int]:
        return self._at, self._nanoseconds


def _in_utc(at: datetime) -> datetime:
    try:
        return at.astimezone(UTC)
    except OverflowError:
        raise TemplateError(f"{at} is not in the years of UTC") from None


def _moment(value: object) -> tuple[datetime, int]:
    if not isinstance(value, GoTime):
        raise TemplateError("a time is compared with a time")
    return value._moment


_PARTS: Mapping[str, Callable[[datetime], str]] = {
    "2006": lambda at: f"{at.year:04}",
    "06": lambda at: f"{at.year % 100:02}",
    "January": lambda at: at.strftime("%B"),
    "Jan": lambda at: at.strftime("%b"),
    "01": lambda at: f"{at.month:02}",
    "1": lambda at: str(at.month),
    "Monday": lambda at: at.strftime("%A"),
    "Mon": lambda at: at.strftime("%a"),
    "002": lambda at: at.strftime("%j"),
    "02": lambda at: f"{at.day:02}",
    "_2": lambda at: f"{at.day:2}",
    "2": lambda at: str(at.day),
    "15": lambda at: f"{at.hour:02}",
    "03": lambda at: f"{at.hour % 12 or 12:02}",
    "3": lambda at: str(at.hour % 12 or 12),
    "04": lambda at: f"{at.minute:02}",
    "4": lambda at: str(at.minute),
    "05": lambda at: f"{at.second:02}",
    "5": lambda at: str(at.second),
    "PM": lambda at: at.strftime("%p"),
    "pm": lambda at: at.strftime("%p").lower(),
}
_LAYOUT = re.compile(
    r"2006|January|Jan(?![a-z])|Monday|Mon(?![a-z])|MST|002|0[1-6]|15|_2(?!006)|[.,](?:0+|9+)(?!\d)"
    r"|-07:00|-0700|-07|Z07:00|Z0700|Z07|PM|pm|[1-5]"
)
_SCALARS: Mapping[str, tuple[Callable[[Any], Any], Any]] = {
    "string": (str, ""),
    "int": (int, 0),
    "bool": (bool, False),
    "digest.Digest": (GoDigest, ""),
    "time.Time": (GoTime.parse, ""),
    "struct{}": (lambda _: GoStruct(json={}), {}),
}
