"""Functions of Go templates (text/template and Docker's), and values as package fmt prints them.

Sources: https://pkg.go.dev/text/template#hdr-Functions, https://pkg.go.dev/fmt,
docker/cli templates/templates.go
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from typing import Any
from urllib.parse import quote_plus

Value = object


class TemplateError(Exception):
    """A template that Go refuses as well."""

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.hint = hint


class GoMethod:
    """A method that takes a number of arguments."""

    __slots__ = ("_function", "arguments")

    def __init__(self, function: Callable[..., Value], arguments: int = 0) -> None:
        self._function, self.arguments = function, arguments

    def __call__(self, *arguments: Value) -> Value:
        if len(arguments) != self.arguments:
            raise TemplateError(
                f"the method takes {self.arguments} arguments, not {len(arguments)}"
            )
        return self._function(*arguments)


class GoValue:
    """A value that is neither a map nor a struct and has methods; `str` is its text."""

    __slots__ = ()

    def method(self, name: str) -> GoMethod | None:
        """The method of that name, if there is one."""
        return None

    def json(self) -> str | None:
        """The value in JSON."""
        return str(self)


class _Nil(GoValue):
    __slots__ = ()

    def __bool__(self) -> bool:
        return False

    def __str__(self) -> str:
        return "<nil>"

    def json(self) -> None:
        return None


NIL = _Nil()
"""A nil pointer, which is shown as `<nil>`; None is a nil interface, `<no value>`, and () a nil
slice.
"""


class GoMap(dict[str, Any]):
    """A map whose missing entries are `zero` to `index`; a nil one for None."""

    def __init__(self, entries: Mapping[str, Any] | None, *, zero: Value) -> None:
        super().__init__(entries or {})
        self.zero = zero
        self.is_nil = entries is None


class GoStruct(dict[str, Any]):
    """Fields of a Go struct; those of `embedded` structs are read as if they were its own.

    `json`, if it is given, has the names of the fields in JSON.
    """

    def __init__(
        self,
        fields: Mapping[str, Any] | None = None,
        *,
        json: Mapping[str, str] | None = None,
        embedded: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(fields or {})
        self.json = json
        self.embedded = embedded or {}

    @property
    def readable(self) -> dict[str, Any]:
        """All fields by name."""
        return {**self.embedded, **self}


def resolve(value: Value) -> Value:
    """The value of a callable."""
    while callable(value):
        value = value()
    return value


def is_true(value: Value) -> bool:
    """Whether `if` takes the value for true: not zero, nil or empty; structs always are."""
    value = resolve(value)
    return isinstance(value, GoStruct) or bool(value)


def go_json(value: Value, *, indent: int | None = 2) -> str:
    """The value as JSON: indented as buildx writes it, or on one line as Docker does, which leaves
    the characters of HTML as they are.
    """
    plain = _resolve_all(value)
    if indent is None:
        return json.dumps(plain, ensure_ascii=False, separators=(",", ":"))
    text = json.dumps(plain, indent=indent, ensure_ascii=False)
    return re.sub("[<>&\u2028\u2029]", lambda found: f"\\u{ord(found[0]):04x}", text)


def _resolve_all(value: Value) -> Value:
    """The value with all callables resolved."""
    value = resolve(value)
    if isinstance(value, GoValue):
        return value.json()
    if isinstance(value, GoStruct) and value.json is not None:
        fields = value.readable
        value = {key: fields[name] for key, name in value.json.items()}
    if value == () or (isinstance(value, GoMap) and value.is_nil):
        return None
    if isinstance(value, Mapping):
        return {key: _resolve_all(item) for key, item in value.items()}
    if isinstance(value, float) and value.is_integer() and abs(value) < 1e21:
        return int(value)
    return [_resolve_all(item) for item in value] if isinstance(value, (list, tuple)) else value


def printed(value: Value) -> str:
    """The value as an action writes it."""
    value = resolve(value)
    return "<no value>" if value is None else formatted(value, "v")


def formatted(value: Value, verb: str, flags: str = "", precision: int | None = None) -> str:
    """The value as fmt formats it with `verb`, without padding."""
    value = resolve(value)
    if verb == "T":
        return go_type(value)
    if isinstance(value, GoValue) and not isinstance(value, str):
        return str(value)
    if isinstance(value, GoStruct):
        named = "+" in flags
        items = [f"{key}:" * named + formatted(value[key], verb, flags) for key in value]
        return "{" + " ".join(items) + "}"
    if isinstance(value, Mapping):
        parts = [
            formatted(part, verb, flags) for key in sorted(value) for part in (key, value[key])
        ]
        return f"map[{' '.join(map(':'.join, zip(parts[::2], parts[1::2], strict=True)))}]"
    if isinstance(value, (list, tuple)):
        return f"[{' '.join(formatted(item, verb, flags) for item in value)}]"
    text = _scalar(value, verb, flags, precision)
    if text is not None:
        return text
    kind = "<nil>" if value is None else f"{go_type(value)}={formatted(value, 'v')}"
    return f"%!{verb}({kind})"


def go_type(value: Value) -> str:
    """The name of the Go type of a value."""
    for kind, name in ((bool, "bool"), (int, "int"), (float, "float64"), (str, "string")):
        if isinstance(value, kind):
            return name
    if value is None:
        return "<nil>"
    return "map[string]interface {}" if isinstance(value, Mapping) else "[]interface {}"


_LARGE_EXPONENT = 6  # from it on, the shortest form of a number has an exponent


def _scalar(value: Value, verb: str, flags: str, precision: int | None) -> str | None:
    """None where the verb does not fit the value."""
    if value is None:
        return "<nil>" if verb == "v" else None
    if isinstance(value, bool):
        return str(value).lower() if verb in "tv" else None
    if isinstance(value, int):
        return _integer(value, verb, flags)
    if isinstance(value, float):
        return _float(value, verb, flags, precision)
    return _string(str(value), verb, flags, precision)


def _integer(value: int, verb: str, flags: str) -> str | None:
    sign = "+" if "+" in flags and value >= 0 else " " if " " in flags and value >= 0 else ""
    if verb in "dv":
        return f"{sign}{value}" if verb == "d" else str(value)
    if verb in "xXob":
        prefix = {"x": "0x", "X": "0X", "o": "0", "b": "0b"}[verb] if "#" in flags else ""
        return f"{'-' if value < 0 else sign}{prefix}{abs(value):{verb}}"
    if verb == "O":
        return f"{'-' if value < 0 else sign}0o{abs(value):o}"
    if verb not in "cqU":
        return None
    char = chr(value) if 0 <= value < 0x110000 else "\ufffd"
    if verb == "U":
        return f"U+{value:04X}" + (f" '{char}'" if "#" in flags else "")
    return char if verb == "c" else "'" + _quoted(char)[1:-1].replace('\\"', '"') + "'"


def _float(value: float, verb: str, flags: str, precision: int | None) -> str | None:
    if verb not in "veEfFgG":
        return None
    sign = "+" if "+" in flags else " " if " " in flags else ""
    sign = sign if value >= 0 and verb != "v" else ""
    if verb in "eEfF":
        return f"{sign}{value:.{6 if precision is None else precision}{verb}}"
    if precision is not None:
        return f"{sign}{value:.{precision}{'g' if verb == 'v' else verb}}"
    text = next(
        text for digits in range(1, 18) if float(text := f"{value:.{digits - 1}e}") == value
    )
    mantissa, _, exponent = text.partition("e")
    if -4 <= int(exponent) < _LARGE_EXPONENT:
        decimals = sum(map(str.isdigit, mantissa)) - 1 - int(exponent)
        text = f"{value:.{max(decimals, 0)}f}"
    return sign + (text.upper() if verb == "G" else text)


def _string(value: str, verb: str, flags: str, precision: int | None) -> str | None:
    if verb in "sv":
        if verb == "v" and "#" in flags:
            return _quoted(value)
        return value if precision is None else value[:precision]
    if verb == "q":
        raw = "#" in flags and "`" not in value and value.isprintable()
        return f"`{value}`" if raw else _quoted(value, ascii_only="+" in flags)
    if verb in "xX":
        digits = value.encode().hex(" " if " " in flags else "\0").replace("\0", "")
        return digits.upper() if verb == "X" else digits
    return None


_SPECIAL = {**dict(zip("\a\b\f\n\r\t\v", "abfnrtv", strict=True)), "\\": "\\", '"': '"'}


def _quoted(text: str, *, ascii_only: bool = False) -> str:
    def escaped(char: str) -> str:
        if char in _SPECIAL:
            return "\\" + _SPECIAL[char]
        if char.isprintable() and (char.isascii() or not ascii_only):
            return char
        code = ord(char)
        return (
            f"\\x{code:02x}"
            if code < 0x80
            else f"\\u{code:04x}"
            if code < 1 << 16
            else (f"\\U{code:08x}")
        )

    return '"' + "".join(map(escaped, text)) + '"'


_VERB = re.compile(
    r"%(?P<flags>[-+# 0]*)(?P<width>\*|\d+)?(?:\.(?P<precision>\*|\d+)?(?P<dot>))?"
    r"(?:\[(?P<index>\d+)\])?(?P<verb>.|\Z)",
    re.DOTALL,
)
_WIDEST = 10_000


def sprintf(template: Value, *values: Value) -> str:
    """The text of fmt.Sprintf. Raises TemplateError if the first value is not a string."""
    if not isinstance(template, str):
        raise TemplateError("printf takes a string first")
    position, reordered = 0, False

    def taken() -> Value:
        nonlocal position
        position += 1
        return values[position - 1]

    def number(text: str | None) -> int | None:
        if text != "*":
            return None if text is None else min(int(text), _WIDEST)
        value = taken() if position < len(values) else None
        return min(value, _WIDEST) if isinstance(value, int) else None

    def replaced(match: re.Match[str]) -> str:
        nonlocal position, reordered
        verb, flags = match["verb"], match["flags"]
        if verb == "%":
            return "%"
        if not verb:
            return "%!(NOVERB)"
        width, precision = number(match["width"]), number(match["precision"])
        precision = 0 if precision is None and match["dot"] is not None else precision
        if match["index"]:
            reordered, position = True, int(match["index"]) - 1
            if not 0 <= position < len(values):
                return f"%!{verb}(BADINDEX)"
        if position >= len(values):
            return f"%!{verb}(MISSING)"
        value = resolve(taken())
        if width is not None and width < 0:
            width, flags = -width, flags + "-"
        return _padded(formatted(value, verb, flags, precision), value, width or 0, flags)

    text = _VERB.sub(replaced, template)
    if position < len(values) and not reordered:
        extra = (f"{go_type(value)}={formatted(value, 'v')}" for value in values[position:])
        text += f"%!(EXTRA {', '.join(extra)})"
    return text


def _padded(text: str, value: Value, width: int, flags: str) -> str:
    if "-" in flags:
        return text.ljust(width)
    if "0" in flags and isinstance(value, (int, float)) and not isinstance(value, bool):
        return text.zfill(width)
    return text.rjust(width)


def _print(*values: Value) -> str:
    """fmt.Sprint: a space between two operands of which none is a string."""
    text, previous = "", True
    for number, value in enumerate(map(resolve, values)):
        is_text = isinstance(value, str)
        text += " " * (number > 0 and not is_text and not previous) + formatted(value, "v")
        previous = is_text
    return text


def _println(*values: Value) -> str:
    return " ".join(formatted(value, "v") for value in values) + "\n"


def _index(value: Value, *keys: Value) -> Value:
    for key in keys:
        value = resolve(value)
        if isinstance(value, Mapping) and not isinstance(value, GoStruct):
            if not isinstance(key, str):
                raise TemplateError(f"an index of a map is a string, not {printed(key)}")
            value = value.get(key, value.zero if isinstance(value, GoMap) else None)
        elif isinstance(value, (list, tuple, str)):
            items = value.encode() if isinstance(value, str) else value
            if isinstance(key, bool) or not isinstance(key, int):
                raise TemplateError(f"an index is a number, not {printed(key)}")
            if not 0 <= key < len(items):
                raise TemplateError(f"index out of range: {key}")
            value = items[key]
        else:
            raise TemplateError(f"{printed(value)} has no entry {printed(key)}")
    return resolve(value)


def _slice(value: Value, *bounds: Value) -> Value:
    if not isinstance(value, (list, tuple, str)) or len(bounds) > 2:
        raise TemplateError(f"cannot slice {printed(value)}")
    start, end = map(_whole, (*bounds, *(0, len(value))[len(bounds) :]))
    if not 0 <= start <= end <= len(value):
        raise TemplateError(f"slice index out of range: {start}:{end}")
    return value[start:end]


def _length(value: Value) -> int:
    if isinstance(value, str):
        return len(value.encode())
    if isinstance(value, (list, tuple, Mapping)) and not isinstance(value, GoStruct):
        return len(value)
    raise TemplateError(f"{printed(value)} has no length")


def _is_equal(one: Value, *others: Value) -> bool:
    if not others:
        raise TemplateError("missing argument for comparison")
    for other in others:
        if None not in (one, other) and go_type(one) != go_type(other):
            raise TemplateError(
                f"incompatible types for comparison: {go_type(one)} and {go_type(other)}"
            )
        if one == other:
            return True
    return False


def _is_less(one: Value, other: Value) -> bool:
    for kind in (int, float, str):
        if (
            isinstance(one, kind)
            and isinstance(other, kind)
            and bool not in map(type, (one, other))
        ):
            return one < other  # type: ignore[operator]
    raise TemplateError(f"incompatible types for comparison: {go_type(one)} and {go_type(other)}")


def _text(value: Value) -> str:
    if not isinstance(value, str):
        raise TemplateError(f"{printed(value)} is not a string")
    return value


def _whole(value: Value) -> int:
    if isinstance(value, bool) or not isinstance(value, int):
        raise TemplateError(f"{printed(value)} is not a number")
    return value


def _join(values: Value, separator: Value) -> str:
    if not isinstance(values, (list, tuple)):
        raise TemplateError(f"cannot join {printed(values)}")
    return _text(separator).join(map(printed, values))


def _pad(value: Value, before: Value, after: Value) -> str:
    text = _text(value)
    sides = (min(_whole(side), _WIDEST) for side in (before, after))
    left, right = (" " * side for side in sides)
    return f"{left}{text}{right}" if text else text


_HTML = str.maketrans(
    {"\0": "\ufffd", '"': "&#34;", "'": "&#39;", "&": "&amp;", "<": "&lt;", ">": "&gt;"}
)
_JS = str.maketrans(
    {"\\": "\\\\", "'": "\\'", '"': '\\"'} | {char: f"\\u{ord(char):04X}" for char in "<>&=\n\r\t"}
)

FUNCTIONS: Mapping[str, Callable[..., Value]] = {
    "eq": _is_equal,
    "ge": lambda one, other: not _is_less(one, other),
    "gt": lambda one, other: _is_less(other, one),
    "html": lambda *values: _print(*values).translate(_HTML),
    "index": _index,
    "join": _join,
    "js": lambda *values: _print(*values).translate(_JS),
    "json": go_json,
    "le": lambda one, other: not _is_less(other, one),
    "len": _length,
    "lower": lambda value: _text(value).lower(),
    "lt": _is_less,
    "ne": lambda one, other: not _is_equal(one, other),
    "not": lambda value: not is_true(value),
    "pad": _pad,
    "print": _print,
    "printf": sprintf,
    "println": _println,
    "slice": _slice,
    "split": lambda value, separator: (
        list(_text(value).split(_text(separator))) if separator else list(_text(value))
    ),
    "title": lambda value: re.sub(r"\b\w", lambda first: first[0].upper(), _text(value)),
    "truncate": lambda value, size: _text(value).encode()[: _whole(size)].decode(errors="ignore"),
    "upper": lambda value: _text(value).upper(),
    "urlquery": lambda *values: quote_plus(_print(*values), safe="~"),
}
"""The functions besides `and` and `or`, which evaluate only what they need."""
