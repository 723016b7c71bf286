"""The functions of bake definitions for text, times and network addresses.

Reference: docs/bake-stdlib.md of docker/buildx.
"""

from __future__ import annotations

import ipaddress
import re
import time
import unicodedata
import urllib.parse
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime, timedelta, timezone
from decimal import Decimal

from shipline.bake import typed
from shipline.bake.functions import STDLIB, STRINGS, function, plain_function
from shipline.bake.json_values import encode, quote
from shipline.bake.typed import (
    DYNAMIC,
    NUMBER,
    STRING,
    TypeMismatch,
    Value,
    convert,
    list_with,
    null,
    number,
    object_with,
    text,
    tuple_of,
)
from shipline.regular_expressions import Match, RegularExpression, compiled

_MOST_WIDTH = 1 << 16  # characters of a padded value
_LONGEST_SEARCHED = 1 << 18  # characters


def _title(source: str) -> str:
    return re.sub(r"(?<![\w'])\w", lambda found: found[0].upper(), source)


plain_function("upper", text, str.upper, STRING)
plain_function("lower", text, str.lower, STRING)
plain_function("title", text, _title, STRING)
plain_function("chomp", text, lambda source: re.sub(r"(?:\r\n?|\n)*\Z", "", source), STRING)
plain_function(
    "trim", text, lambda source, ends: source.strip(ends) if ends else source, STRING, STRING
)
plain_function("trimspace", text, str.strip, STRING)
plain_function("trimprefix", text, str.removeprefix, STRING, STRING)
plain_function("trimsuffix", text, str.removesuffix, STRING, STRING)
plain_function("sanitize", text, lambda name: re.sub("[^a-zA-Z0-9_-]", "_", name), STRING)
plain_function("urlencode", text, lambda source: urllib.parse.quote_plus(source, safe=""), STRING)
plain_function("replace", text, str.replace, STRING, STRING, STRING)
plain_function("reverse", text, lambda source: "".join(reversed(graphemes(source))), STRING)
plain_function("strlen", number, lambda source: len(graphemes(source)), STRING)


def graphemes(source: str) -> list[str]:
    """What people see as one character: with combining marks, joiners, modifiers and flags."""
    found: list[str] = []
    joined = False
    for character in source:
        joins = (
            joined
            or unicodedata.category(character) in ("Mn", "Me", "Mc")
            or character == "\u200d"
            or 0x1F3FB <= ord(character) <= 0x1F3FF
            or (bool(found) and found[-1] == "\r" and character == "\n")
            or (_is_flag(character) and bool(found) and len(found[-1]) == 1 and _is_flag(found[-1]))
        )
        if joins and found:
            found[-1] += character
        else:
            found.append(character)
        joined = character == "\u200d"
    return found


def _is_flag(character: str) -> bool:
    return 0x1F1E6 <= ord(character) <= 0x1F1FF


def _substr(source: str, start: typed.Number, count: typed.Number) -> str:
    found = graphemes(source)
    if not isinstance(start, int) or not isinstance(count, int):
        raise ValueError("offset and length have to be whole numbers")
    start = max(0, start + len(found)) if start < 0 else start
    end = len(found) if count < 0 else start + count
    return "".join(found[start:end])


def _indent(spaces: typed.Number, source: str) -> str:
    if not isinstance(spaces, int) or not 0 <= spaces <= _MOST_WIDTH:
        raise ValueError("the number of spaces has to be a whole number, and not huge")
    return source.replace("\n", "\n" + " " * spaces)


plain_function("substr", text, _substr, STRING, NUMBER, NUMBER)
plain_function("indent", text, _indent, NUMBER, STRING)


@function("join", STRING, further=STRINGS)
def _join(separator: Value, *lists: Value) -> Value:
    if not lists:
        raise TypeMismatch("it needs a list")
    words = [one for found in lists for one in found.data]
    if any(one.is_null for one in words):
        raise TypeMismatch("an element is null")
    return text(separator.data.join(one.data for one in words))


@function("split", STRING, STRING)
def _split(separator: Value, source: Value) -> Value:
    words = source.data.split(separator.data) if separator.data else graphemes(source.data)
    return list_with([*map(text, words)], STRING)


def _pattern(pattern: Value, source: Value) -> RegularExpression:
    """The expression for a text; one of megabytes would take minutes."""
    if len(source.data) > _LONGEST_SEARCHED:
        raise ValueError(f"the text has more than {_LONGEST_SEARCHED:,} characters")
    return compiled(pattern.data)


def _captured(found: Match) -> Value:
    """A text, a tuple of what groups matched, or an object by their names."""
    groups = found.groups()
    if not groups:
        return text(found[0] or "")
    if not found.names:
        return tuple_of([_group(one) for one in groups])
    if len(found.names) < len(groups):
        raise ValueError("either all groups have names, or none has one")
    return object_with({name: _group(found[name]) for name in found.names})


def _group(found: str | None) -> Value:
    return null(STRING) if found is None else text(found)


@function("regex", STRING, STRING)
def _regex(pattern: Value, source: Value) -> Value:
    found = _pattern(pattern, source).search(source.data)
    if found is None:
        raise ValueError("the pattern matches nothing in the text")
    return _captured(found)


@function("regexall", STRING, STRING)
def _regexall(pattern: Value, source: Value) -> Value:
    found = [_captured(one) for one in _pattern(pattern, source).finditer(source.data)]
    return list_with(found, found[0].type if found else DYNAMIC)


@function("regex_replace", STRING, STRING, STRING)
def _regex_replace(source: Value, pattern: Value, new: Value) -> Value:
    """`$1` and `${name}` in `new` are what a group matched."""
    return text(_pattern(pattern, source).sub(new.data, source.data))


# format()

_VERB = re.compile(
    r"%(?P<flags>[-+# 0]*)(?P<width>\d+)?(?:\.(?P<precision>\d+))?"
    r"(?:\[(?P<index>\d+)\])?(?P<verb>.)",
    re.DOTALL,
)


@function("format", STRING, further=DYNAMIC, nullable=True)
def _format(form: Value, *values: Value) -> Value:
    if form.is_null:
        raise TypeMismatch("argument 1 is null")
    return text(formatted(form.data, values))


@function("formatlist", STRING, further=DYNAMIC, nullable=True)
def _formatlist(form: Value, *values: Value) -> Value:
    """As format(), for each element of the lists among the arguments."""
    lengths = {len(one.data) for one in values if not one.is_null and one.type.is_sequence}
    if len(lengths) > 1:
        raise ValueError("the lists have different lengths")
    rows = range(lengths.pop() if lengths else 1)
    found = [
        formatted(
            form.data,
            [one.data[row] if not one.is_null and one.type.is_sequence else one for one in values],
        )
        for row in rows
    ]
    return list_with([*map(text, found)], STRING)


def formatted(form: str, values: Sequence[Value]) -> str:
    """What Go's fmt.Sprintf makes of the verbs that cty knows. Raises ValueError, TypeMismatch."""
    position = 0
    used: set[int] = set()
    indexed = False

    def one(found: re.Match[str]) -> str:
        nonlocal position, indexed
        if found["verb"] == "%":
            return "%"
        if found["index"]:
            position, indexed = int(found["index"]) - 1, True
        if not 0 <= position < len(values):
            raise ValueError(f"there are not enough arguments for {found[0]!r}")
        value = values[position]
        used.add(position)
        position += 1
        return _padded(_verb(found, value), found)

    result = _VERB.sub(one, form)
    if re.search(r"%[-+# 0]*[\d.\[\]]*\Z", _VERB.sub("", form)):
        raise ValueError("the format ends in the middle of a verb")
    if not indexed and len(used) < len(values):
        raise ValueError(f"there are more arguments ({len(values)}) than verbs ({len(used)})")
    return result


def _verb(found: re.Match[str], value: Value) -> str:
    verb, flags, precision = found["verb"], found["flags"], found["precision"]
    places = None if precision is None else int(precision)
    if max(places or 0, int(found["width"] or 0)) > _MOST_WIDTH:
        raise ValueError(f"the width in {found[0]!r} is huge")
    if verb == "v":
        return _default(value, quoted="#" in flags)
    if value.is_null:
        raise TypeMismatch(f"null cannot be formatted by {found[0]!r}")
    if verb == "t":
        return "true" if convert(value, typed.BOOL).data else "false"
    if verb in "sq":
        string = str(convert(value, STRING).data)
        string = string if places is None else "".join(graphemes(string)[:places])
        return quote(string) if verb == "q" else string
    if verb in "bdoxXeEfgG":
        return _signed(_number(verb, convert(value, NUMBER).data, places), flags)
    raise ValueError(f"there is no verb {found[0]!r}")


def _default(value: Value, *, quoted: bool) -> str:
    if value.is_null:
        return "null"
    if quoted or not value.type.is_primitive:
        return encode(value)
    return str(convert(value, STRING).data)


def _number(verb: str, value: typed.Number, places: int | None) -> str:
    if verb in "bdoxX":
        if not isinstance(value, int):
            raise ValueError(f"%{verb} needs a whole number")
        return format(value, verb)
    if verb == "g" and places is None:
        return f"{float(value)!r}".removesuffix(".0") if isinstance(value, Decimal) else str(value)
    places = 6 if places is None else places
    if verb in "fF":
        return format(Decimal(value), f".{places}f")
    return format(float(value), f".{places}{verb}")


def _signed(found: str, flags: str) -> str:
    if found.startswith("-"):
        return found
    return ("+" if "+" in flags else " " if " " in flags else "") + found


def _padded(found: str, verb: re.Match[str]) -> str:
    width, flags = int(verb["width"] or 0), verb["flags"]
    missing = width - len(graphemes(found))
    if missing <= 0:
        return found
    if "-" in flags:
        return found + " " * missing
    if "0" in flags and verb["verb"] not in "sqvt":
        sign = found[:1] if found[:1] in ("+", "-") else ""
        return sign + "0" * missing + found[len(sign) :]
    return " " * missing + found


# times

_TIME = re.compile(
    r"(\d{4})-(\d\d)-(\d\d)[Tt](\d\d):(\d\d):(\d\d)(?:\.(\d+))?(Z|z|[+-]\d\d:\d\d)\Z"
)
_SPAN = re.compile(r"(\d+(?:\.\d*)?|\.\d+)(ns|us|µs|μs|ms|s|m|h)")
_SECONDS = {"ns": 1e-9, "us": 1e-6, "µs": 1e-6, "μs": 1e-6, "ms": 1e-3, "s": 1, "m": 60, "h": 3600}
_DAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")
_MONTHS = (
    *("January", "February", "March", "April", "May", "June", "July"),
    *("August", "September", "October", "November", "December"),
)


def parse_time(source: str) -> datetime:
    """A time of RFC 3339. Raises ValueError."""
    found = _TIME.match(source)
    if found is None:
        raise ValueError(f"not a time like 2006-01-02T15:04:05Z: {source!r}")
    *numbers, fraction, zone = found.groups()
    micro = int(((fraction or "") + "000000")[:6])
    offset = UTC
    if zone not in ("Z", "z"):
        minutes = int(zone[1:3]) * 60 + int(zone[4:])
        offset = timezone(timedelta(minutes=-minutes if zone[0] == "-" else minutes))
    try:
        return datetime(*map(int, numbers), micro, tzinfo=offset)  # type: ignore[arg-type,misc]
    except ValueError as error:
        raise ValueError(f"not a time: {source!r} ({error})") from None


def _shown_time(at: datetime) -> str:
    zone = _zone(at, ":")
    return at.strftime("%Y-%m-%dT%H:%M:%S") + ("Z" if at.utcoffset() == timedelta() else zone)


def _zone(at: datetime, separator: str) -> str:
    minutes = int((at.utcoffset() or timedelta()).total_seconds()) // 60
    sign = "-" if minutes < 0 else "+"
    return f"{sign}{abs(minutes) // 60:02}{separator}{abs(minutes) % 60:02}"


@function("timeadd", STRING, STRING)
def _timeadd(source: Value, span: Value) -> Value:
    at, written = parse_time(source.data), span.data
    sign = -1 if written.startswith("-") else 1
    rest = written.lstrip("+-") if len(written) - len(written.lstrip("+-")) < 2 else ""
    parts = _SPAN.findall(rest)
    if rest != "0" and (not parts or "".join(map("".join, parts)) != rest):
        raise ValueError(f"not a span of time like 1h30m: {written!r}")
    seconds = sum(float(count) * _SECONDS[unit] for count, unit in parts)
    try:
        return text(_shown_time(at + timedelta(seconds=sign * seconds)))
    except OverflowError:
        raise ValueError(f"there is no such time: {source.data} and {written}") from None


plain_function("timestamp", text, lambda: time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()))


_TIME_PARTS: dict[str, Callable[[datetime], str]] = {
    "YYYY": lambda at: f"{at.year:04}",
    "YY": lambda at: f"{at.year % 100:02}",
    "MMMM": lambda at: _MONTHS[at.month - 1],
    "MMM": lambda at: _MONTHS[at.month - 1][:3],
    "MM": lambda at: f"{at.month:02}",
    "M": lambda at: str(at.month),
    "DD": lambda at: f"{at.day:02}",
    "D": lambda at: str(at.day),
    "EEEE": lambda at: _DAYS[at.weekday()],
    "EEE": lambda at: _DAYS[at.weekday()][:3],
    "hh": lambda at: f"{at.hour:02}",
    "h": lambda at: str(at.hour),
    "HH": lambda at: f"{at.hour % 12 or 12:02}",
    "H": lambda at: str(at.hour % 12 or 12),
    "AA": lambda at: "AM" if at.hour < 12 else "PM",
    "aa": lambda at: "am" if at.hour < 12 else "pm",
    "mm": lambda at: f"{at.minute:02}",
    "m": lambda at: str(at.minute),
    "ss": lambda at: f"{at.second:02}",
    "s": lambda at: str(at.second),
    "ZZZZZ": lambda at: _zone(at, ":"),
    "ZZZZ": lambda at: _zone(at, ""),
    "ZZZ": lambda at: "UTC" if at.utcoffset() == timedelta() else _zone(at, ""),
    "Z": lambda at: "Z" if at.utcoffset() == timedelta() else _zone(at, ":"),
}


def _time_words(form: str, at: datetime) -> Iterator[str]:
    for found in re.finditer(r"'((?:[^']|'')*)('?)|([a-zA-Z])\3*|.", form, re.DOTALL):
        word = found[0]
        if word.startswith("'"):
            if not found[2]:
                raise ValueError("the format has an opening quote without a closing one")
            yield found[1].replace("''", "'")
        elif found[3] is None:
            yield word
        elif word in _TIME_PARTS:
            yield _TIME_PARTS[word](at)
        else:
            raise ValueError(f"the format has {word!r}, which is not part of a time; quote it")


plain_function(
    "formatdate",
    text,
    lambda form, source: "".join(_time_words(form, parse_time(source))),
    STRING,
    STRING,
)


# networks

_Network = ipaddress.IPv4Network | ipaddress.IPv6Network


def _network(source: Value) -> _Network:
    if "/" not in source.data:
        raise ValueError(f"not a network like 10.0.0.0/8: {source.data!r}")
    try:
        return ipaddress.ip_network(source.data, strict=False)
    except ValueError:
        raise ValueError(f"not a network like 10.0.0.0/8: {source.data!r}") from None


def _whole(value: Value) -> int:
    if not isinstance(value.data, int):
        raise ValueError("a whole number is required")
    return value.data


@function("cidrhost", STRING, NUMBER)
def _cidrhost(source: Value, at: Value) -> Value:
    network, host = _network(source), _whole(at)
    if not -network.num_addresses <= host < network.num_addresses:
        raise ValueError(f"{network} has no host {host}")
    return text(str(network[host]))


@function("cidrnetmask", STRING)
def _cidrnetmask(source: Value) -> Value:
    network = _network(source)
    if network.version == 6:
        raise ValueError("only IPv4 networks have a netmask")
    return text(str(network.netmask))


@function("cidrsubnet", STRING, NUMBER, NUMBER)
def _cidrsubnet(source: Value, bits: Value, at: Value) -> Value:
    network, new, position = _network(source), _whole(bits), _whole(at)
    prefix = network.prefixlen + new
    if new < 0 or prefix > network.max_prefixlen:
        raise ValueError(f"{network} cannot be extended by {new} bits")
    if not 0 <= position < 1 << new:
        raise ValueError(f"{new} bits have no number {position}")
    first = int(network.network_address) + (position << (network.max_prefixlen - prefix))
    return text(f"{type(network.network_address)(first)}/{prefix}")


@function("cidrsubnets", STRING, further=NUMBER)
def _cidrsubnets(source: Value, *bits: Value) -> Value:
    network = _network(source)
    at, found = int(network.network_address), []
    end = at + network.num_addresses
    for one in bits:
        prefix = network.prefixlen + _whole(one)
        if not network.prefixlen < prefix <= network.max_prefixlen:
            raise ValueError(f"{network} cannot be extended by {one.data} bits")
        size = 1 << (network.max_prefixlen - prefix)
        at = -(-at // size) * size
        if at + size > end:
            raise ValueError(f"{network} has not enough addresses")
        found.append(text(f"{type(network.network_address)(at)}/{prefix}"))
        at += size
    return list_with(found, STRING)


__all__ = ["STDLIB"]  # all of it, with the functions above
