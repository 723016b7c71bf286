"""The subset of Go's text/template that --format supports.

    {{.Name}}  {{.Manifest.Digest}}  {{json .Image}}  {{json (index .Image "linux/amd64")}}
    {{range .Manifest.Manifests}}{{.Digest}}{{"\\n"}}{{end}}  {{if .X}}..{{else}}..{{end}}
    {{.Manifest | json}}

Values are those of JSON; a callable is called for its value, so that costly values are computed
only on use. Field names ignore case: `.MediaType` is the key `mediaType`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from shipline.errors import UsageError

Value = object


class GoStruct(dict[str, Any]):
    """Fields of a Go struct: those of `absent` are nil where they are missing, and `json`, if it is
    given, has the names of the fields in JSON.
    """

    def __init__(
        self,
        fields: Mapping[str, Any] | None = None,
        *,
        absent: Iterable[str] = (),
        json: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(fields or {})
        self.absent = frozenset(name.lower() for name in absent)
        self.json = json


_ACTION = re.compile(r"\{\{(-\s)?(.*?)(\s-)?\}\}", re.DOTALL)
_TOKEN = re.compile(
    r"""\s*(?:(?P<text>"(?:\\.|[^"\\])*"|`[^`]*`)|(?P<number>-?\d+)|(?P<word>[A-Za-z_]\w*)"""
    r"""|(?P<fields>(?:\.[A-Za-z_]\w*)+|\.)|(?P<sign>[()|]))"""
)


def render(template: str, value: Value) -> str:
    """The template rendered with the fields of `value`. Raises UsageError."""
    parts, _ = _parse(iter(_split(template)), None)
    return "".join(part.text(value) for part in parts)


@dataclass(frozen=True, slots=True)
class _Text:
    content: str

    def text(self, value: Value) -> str:
        return self.content


@dataclass(frozen=True, slots=True)
class _Show:
    words: tuple[str, ...]

    def text(self, value: Value) -> str:
        return _plain(_evaluate(self.words, value))


@dataclass(frozen=True, slots=True)
class _Range:
    words: tuple[str, ...]
    body: tuple[_Part, ...]
    else_body: tuple[_Part, ...]

    def text(self, value: Value) -> str:
        result = _evaluate(self.words, value)
        items = [result[key] for key in sorted(result)] if isinstance(result, Mapping) else result
        if not items:
            return "".join(part.text(value) for part in self.else_body)
        if not isinstance(items, (list, tuple)):
            raise UsageError(f"--format: cannot range over {_plain(result)!r}")
        return "".join(part.text(_resolve(item)) for item in items for part in self.body)


@dataclass(frozen=True, slots=True)
class _If:
    words: tuple[str, ...]
    body: tuple[_Part, ...]
    else_body: tuple[_Part, ...]

    def text(self, value: Value) -> str:
        chosen = self.body if _evaluate(self.words, value) else self.else_body
        return "".join(part.text(value) for part in chosen)


_Part = _Text | _Show | _Range | _If
_BLOCKS: dict[str, type[_Range] | type[_If]] = {"range": _Range, "if": _If}


def _split(template: str) -> Iterator[_Text | tuple[str, ...]]:
    """Text and the words of each action, in order; trimmed by actions with a minus."""
    position, trim = 0, False
    for match in _ACTION.finditer(template):
        before = template[position : match.start()]
        before = before.lstrip() if trim else before
        yield _Text(before.rstrip() if match[1] else before)
        yield _words(match[2])
        position, trim = match.end(), bool(match[3])
    rest = template[position:]
    if "{{" in rest:
        raise UsageError(f"--format: {{{{ without }}}} in {template!r}")
    yield _Text(rest.lstrip() if trim else rest)


def _words(action: str) -> tuple[str, ...]:
    words, position, action = [], 0, action.strip()
    while position < len(action):
        match = _TOKEN.match(action, position)
        if match is None:
            raise UsageError(f"--format: cannot read {action[position:]!r}")
        words.append(match[0].strip())
        position = match.end()
    return tuple(words)


def _parse(
    parts: Iterator[_Text | tuple[str, ...]], block: str | None
) -> tuple[tuple[_Part, ...], str]:
    """The parts up to the end of `block`, and the word that ended it: end or else."""
    result: list[_Part] = []
    for part in parts:
        if isinstance(part, _Text):
            result.append(part)
        elif part and part[0] in _BLOCKS:
            body, end_word = _parse(parts, part[0])
            else_body = _parse(parts, "else")[0] if end_word == "else" else ()
            result.append(_BLOCKS[part[0]](part[1:], body, else_body))
        elif part in (("end",), ("else",)):
            if block is None or (block, part[0]) == ("else", "else"):
                raise UsageError(f"--format: {part[0]} without range or if")
            return tuple(result), part[0]
        else:
            result.append(_Show(part))
    if block is not None:
        raise UsageError(f"--format: {block} without end")
    return tuple(result), ""


def _evaluate(words: tuple[str, ...], value: Value) -> Value:
    """The value of a pipeline: each command gets the previous result as its last argument."""
    result, rest = _pipeline(list(words), value)
    if rest:
        raise UsageError(f"--format: unexpected {' '.join(rest)!r}")
    return result


def _pipeline(words: list[str], value: Value) -> tuple[Value, list[str]]:
    result, words = _command(words, value, ())
    while words and words[0] == "|":
        result, words = _command(words[1:], value, (result,))
    return result, words


def _command(words: list[str], value: Value, piped: tuple[Value, ...]) -> tuple[Value, list[str]]:
    if not words:
        raise UsageError("--format: an expression is missing")
    name = words[0] if words[0] in _FUNCTIONS else ""
    arguments, words = _operands(words[1:] if name else words, value)
    arguments += piped
    if name:
        return _call(name, arguments), words
    if len(arguments) != 1:
        raise UsageError("--format: a value takes no arguments")
    return arguments[0], words


def _operands(words: list[str], value: Value) -> tuple[tuple[Value, ...], list[str]]:
    result: list[Value] = []
    while words and words[0] not in ("|", ")"):
        operand, words = _operand(words, value)
        result.append(operand)
    return tuple(result), words


def _operand(words: list[str], value: Value) -> tuple[Value, list[str]]:
    word, *rest = words
    if word == "(":
        inner, rest = _pipeline(rest, value)
        if not rest or rest[0] != ")":
            raise UsageError("--format: ( without )")
        rest = rest[1:]
        if rest and rest[0].startswith(".") and rest[0] != ".":
            return _field(inner, rest[0]), rest[1:]
        return inner, rest
    if word.startswith("."):
        return _field(value, word), rest
    if word[0] == '"':
        return _quoted(word), rest
    if word[0] == "`":
        return word[1:-1], rest
    if word.lstrip("-").isdigit():
        return int(word), rest
    raise UsageError(
        f"--format: unknown word {word!r}", hint=f"the functions are {', '.join(_FUNCTIONS)}"
    )


def _quoted(word: str) -> Value:
    try:
        return json.loads(word, strict=False)  # the common escapes of Go are those of JSON
    except ValueError:
        raise UsageError(f"--format: cannot read {word}") from None


def _field(value: Value, path: str) -> Value:
    for name in filter(None, path.split(".")):
        if not isinstance(value, Mapping):
            raise UsageError(f"--format: {path} has no {name}")
        keys = [key for key in value if key == name] or [
            key for key in value if key.lower() == name.lower()
        ]
        if not keys and name.lower() in (value.absent if isinstance(value, GoStruct) else ()):
            return None
        if not keys:
            raise UsageError(
                f"--format: unknown field .{name}",
                hint=f"the fields are {', '.join(sorted(value))}",
            )
        value = _resolve(value[keys[0]])
    return value


def _resolve(value: Value) -> Value:
    while callable(value):
        value = value()
    return value


def _index(value: Value, *keys: Value) -> Value:
    for key in keys:
        if isinstance(value, Mapping) and isinstance(key, str):
            value = _resolve(value.get(key))
        elif isinstance(value, list) and isinstance(key, int) and 0 <= key < len(value):
            value = value[key]
        else:
            raise UsageError(f"--format: no entry {key!r}")
    return value


def go_json(value: Value) -> str:
    """The value as Go's encoding/json writes it, indented by two spaces."""
    text = json.dumps(_resolve_all(value), indent=2, ensure_ascii=False)
    return re.sub("[<>&\u2028\u2029]", lambda found: f"\\u{ord(found[0]):04x}", text)


def _resolve_all(value: Value) -> Value:
    """The value with all callables resolved."""
    value = _resolve(value)
    if isinstance(value, GoStruct) and value.json is not None:
        value = {key: value[name] for key, name in value.json.items()}
    if isinstance(value, Mapping):
        return {key: _resolve_all(item) for key, item in value.items()}
    return [_resolve_all(item) for item in value] if isinstance(value, (list, tuple)) else value


def _length(value: Value) -> int:
    if isinstance(value, (str, list, Mapping)):
        return len(value)
    raise UsageError(f"--format: {_plain(value)!r} has no length")


def _join(values: Value, separator: Value) -> str:
    if not isinstance(values, list):
        raise UsageError(f"--format: cannot join {_plain(values)!r}")
    return _plain(separator).join(map(_plain, values))


def _lower(value: Value) -> str:
    return _plain(value).lower()


def _upper(value: Value) -> str:
    return _plain(value).upper()


_FUNCTIONS: Mapping[str, Callable[..., Value]] = {
    "index": _index,
    "join": _join,
    "json": go_json,
    "len": _length,
    "lower": _lower,
    "upper": _upper,
}


def _call(name: str, arguments: tuple[Value, ...]) -> Value:
    try:
        return _FUNCTIONS[name](*arguments)
    except TypeError:
        raise UsageError(f"--format: wrong number of arguments for {name}") from None


def _plain(value: Value) -> str:
    """The value as Go prints it."""
    value = _resolve(value)
    if value is None:
        return "<no value>"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, Mapping):
        return f"map[{' '.join(f'{key}:{_plain(value[key])}' for key in sorted(value))}]"
    if isinstance(value, (list, tuple)):
        return f"[{' '.join(map(_plain, value))}]"
    return str(value)
