"""Decoding: YAML nodes to frozen dataclasses, by their shape.

All problems of a file are found in one pass: an error in one record does not hide errors in others.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final, TypeVar, cast

from shipline.config.document import (
    ConfigProblem,
    Document,
    InvalidConfig,
    Kind,
    MappingNode,
    Mark,
    Node,
    Scalar,
    SequenceNode,
)
from shipline.config.shape import (
    Choice,
    Either,
    Many,
    Named,
    ParsedString,
    Plain,
    Record,
    Shape,
    inlined_in,
)
from shipline.errors import ShiplineError, closest

_VARIABLE = re.compile(
    r"\$(?:(?P<dollar>\$)"
    r"|\{(?P<name>[A-Za-z_][A-Za-z0-9_]*)(?:(?P<how>:[-?])(?P<word>[^}]*))?\}"
    r"|(?P<wrong>\{))"
)
_SECRET = re.compile(r"(?:^|_)(?:TOKEN|PASSWORD|PASSWD|SECRET|CREDENTIALS?|KEY)(?:_|$)", re.I)


def interpolate(text: str, environ: Mapping[str, str]) -> str:
    """`text` with its variables replaced. Raises ValueError for an unset variable, or a secret.

    Any other `$` is literal.
    """

    def replace(match: re.Match[str]) -> str:
        if match["dollar"]:
            return "$"
        if match["wrong"]:
            raise ValueError("${ starts a variable: write ${NAME}, or $${ for a literal ${")
        return _variable_value(match["name"], match["how"] or "", match["word"] or "", environ)

    return _VARIABLE.sub(replace, text)


def _variable_value(name: str, how: str, word: str, environ: Mapping[str, str]) -> str:
    if _SECRET.search(name):
        raise ValueError(
            f"${{{name}}} looks like a secret, and this value is shown in logs: "
            "read it from the environment in the step that needs it"
        )
    value = environ.get(name)
    if value or (value is not None and not how):
        return value
    if how == ":-":
        return word
    state = "empty" if value == "" else "not set"
    raise ValueError(f"${{{name}}}: " + (word or f"the variable is {state}"))


T = TypeVar("T")
Key = tuple[str, ...]
EXTENSION = "x-"
"""The prefix of top-level keys that are free for anchors."""

_INVALID: Final = object()
_KINDS: dict[type, tuple[Kind, ...]] = {
    type(None): ("null",),
    bool: ("bool",),
    int: ("int",),
    float: ("float", "int"),
    str: ("str", "int", "float", "bool"),
}
_NAMES = {
    type(None): "null",
    bool: "true or false",
    int: "an integer",
    float: "a number",
    str: "a string",
}
_OLD_BOOLEANS = {"yes": "true", "on": "true", "no": "false", "off": "false"}


def decode(cls: type[T], document: Document, environ: Mapping[str, str]) -> T:
    """The value of a whole file. Raises InvalidConfig with all its problems."""
    decoder = _Decoder(document.file, environ, [*document.problems])
    value = decoder.record(document.root, cls, ())
    if decoder.problems:
        raise InvalidConfig(decoder.problems)
    return cast(T, value)


@dataclass(slots=True)
class _Decoder:
    """Collects problems; an invalid value is _BROKEN."""

    file: str
    environ: Mapping[str, str]
    problems: list[ConfigProblem] = field(default_factory=list)

    def report(self, mark: Mark, key: Key, message: str) -> Any:
        self.problems.append(ConfigProblem(self.file, mark, ".".join(key), message))
        return _INVALID

    def value(self, node: Node, shape: Shape, key: Key, expand: bool = False) -> Any:
        if isinstance(shape, Record):
            return self.record(node, shape.type, key, expand)
        if isinstance(shape, Either):
            return self.either(node, shape, key, expand)
        if isinstance(shape, Many):
            return self.many(node, shape, key, expand)
        if isinstance(shape, Named):
            return self.named(node, shape, key, expand)
        if not isinstance(node, Scalar):
            return self.report(node.mark, key, f"must be {shape_text(shape)}, not {_kind(node)}")
        return self.scalar(node, shape, key, expand)

    def record(self, node: Node, cls: type, key: Key, expand: bool = False) -> Any:
        if not isinstance(node, MappingNode):
            return self.report(node.mark, key, f"must be a mapping, not {_kind(node)}")
        inline_records = inlined_in(cls)
        values: dict[str, dict[str, Any]] = {"": {}, **{name: {} for name in inline_records}}
        before = len(self.problems)
        self.entries(node, cls, key, values, expand)
        if len(self.problems) > before:
            return _INVALID
        for name, nested in inline_records.items():
            values[""][name] = self.construct(node, nested, values[name], key)
        return self.construct(node, cls, values[""], key)

    def entries(
        self,
        node: MappingNode,
        cls: type,
        key: Key,
        values: Mapping[str, dict[str, Any]],
        expand: bool,
    ) -> None:
        """Fill `values` with the fields of `node`, keyed by inline record, or empty."""
        fields = {field.key: field for field in Record(cls).fields}
        for name, child in node.entries:
            if field := fields.get(name.text):
                values[field.inline][field.name] = self.value(
                    child, field.shape, (*key, field.key), expand or field.interpolate
                )
            elif key or not name.text.startswith(EXTENSION):
                meant = _suggest_key(name.text, list(fields))
                self.report(name.mark, (*key, name.text), f"unknown key{meant}")
        for field in fields.values():
            if field.required and field.name not in values[field.inline]:
                self.report(node.mark, key, f"the key {field.key} is missing")

    def construct(self, node: MappingNode, cls: type, values: Mapping[str, Any], key: Key) -> Any:
        """Build the record; an error is reported at the key that its message starts with, else at
        the record.
        """
        if any(value is _INVALID for value in values.values()):
            return _INVALID
        try:
            return cls(**values)
        except (ShiplineError, ValueError) as error:
            message_text = _message(error)
            inner, _, rest = message_text.partition(": ")
            if inner_node := _node_at(node, inner):
                return self.report(inner_node.mark, (*key, inner), rest)
            return self.report(node.mark, key, message_text)

    def many(self, node: Node, shape: Many, key: Key, expand: bool) -> Any:
        if not isinstance(node, SequenceNode):
            return self.report(node.mark, key, f"must be a list, not {_kind(node)}")
        values = [
            self.value(item, shape.item, _indexed(key, position), expand)
            for position, item in enumerate(node.items)
        ]
        return _INVALID if any(value is _INVALID for value in values) else tuple(values)

    def named(self, node: Node, shape: Named, key: Key, expand: bool) -> Any:
        if not isinstance(node, MappingNode):
            return self.report(node.mark, key, f"must be a mapping, not {_kind(node)}")
        values = {
            name.text: self.value(child, shape.value, (*key, name.text), expand)
            for name, child in node.entries
        }
        return _INVALID if any(value is _INVALID for value in values.values()) else values

    def either(self, node: Node, shape: Either, key: Key, expand: bool) -> Any:
        options = [option for option in shape.options if _fits(node, option)]
        if not options:
            return self.report(node.mark, key, f"must be {shape_text(shape)}, not {_kind(node)}")
        before = len(self.problems)
        for option in options:
            del self.problems[before:]
            decoded = self.value(node, option, key, expand)
            if decoded is not _INVALID:
                return decoded
        if len(options) > 1:
            del self.problems[before:]
            return self.report(node.mark, key, f"must be {shape_text(shape)}, not {_kind(node)}")
        return _INVALID

    def scalar(
        self, node: Scalar, shape: Plain | Choice | ParsedString, key: Key, expand: bool
    ) -> Any:
        if expand:
            try:
                node = Scalar(node.mark, interpolate(node.text, self.environ), node.plain)
            except ValueError as error:
                return self.report(node.mark, key, str(error))
        if isinstance(shape, Plain):
            return self.plain(node, shape.type, key)
        if isinstance(shape, Choice):
            for text, value in shape.values:
                if node.text == text:
                    return value
            close = _did_you_mean(node.text, [text for text, _ in shape.values])
            return self.report(node.mark, key, f"{node.text!r} is not {shape_text(shape)}{close}")
        try:
            return cast(Any, shape.type).parse(node.text)
        except (ShiplineError, ValueError) as error:
            return self.report(node.mark, key, _message(error))

    def plain(self, node: Scalar, kind: type, key: Key) -> Any:
        if node.kind not in _KINDS[kind]:
            message = f"must be {_NAMES[kind]}, not {_kind(node)}"
            if kind is bool and (word := _OLD_BOOLEANS.get(node.text.lower())):
                message += f": write {word}"
            elif not node.plain and kind is not str:
                message += ": remove the quotes"
            return self.report(node.mark, key, message)
        try:
            return _converted(node.text, kind)
        except ValueError:
            return self.report(node.mark, key, f"{node.text[:40]!r} is out of range")


def _converted(text: str, kind: type) -> Any:
    if kind is type(None):
        return None
    if kind is bool:
        return text.lower() == "true"
    if kind is int:
        return int(text, {"0o": 8, "0x": 16}.get(text[:2], 10))
    if kind is float:
        return float(text.replace(".inf", "inf").replace(".nan", "nan"))
    return text


def _fits(node: Node, shape: Shape) -> bool:
    """Whether a node has the kind that a shape requires."""
    if isinstance(shape, Either):
        return any(_fits(node, option) for option in shape.options)
    if isinstance(shape, (Record, Named)):
        return isinstance(node, MappingNode)
    if isinstance(shape, Many):
        return isinstance(node, SequenceNode)
    if not isinstance(node, Scalar):
        return False
    if isinstance(shape, Plain):
        return node.kind in _KINDS[shape.type]
    return node.kind != "null"


def shape_text(shape: Shape) -> str:
    """A shape in words: `a number`, `one of a, b`, `a string or a list`."""
    if isinstance(shape, Plain):
        return _NAMES[shape.type]
    if isinstance(shape, Choice):
        words = ", ".join(text for text, _ in shape.values)
        return f"one of {words}" if len(shape.values) > 1 else repr(words)
    if isinstance(shape, Either):
        return " or ".join(dict.fromkeys(map(shape_text, shape.options)))
    if isinstance(shape, ParsedString):
        return "a string"
    return "a list" if isinstance(shape, Many) else "a mapping"


def _kind(node: Node) -> str:
    if isinstance(node, Scalar):
        text = node.text if len(node.text) <= 40 else node.text[:37] + "..."
        return "empty" if node.plain and not text else f"{text!r}"
    return "a list" if isinstance(node, SequenceNode) else "a mapping"


def _node_at(node: Node, dotted: str) -> Node | None:
    """The node at a dotted key."""
    current: Node | None = node
    for part in dotted.split("."):
        entries = current.entries if isinstance(current, MappingNode) else ()
        current = next((child for name, child in entries if name.text == part), None)
    return current


def _indexed(key: Key, position: int) -> Key:
    return (*key[:-1], f"{key[-1]}[{position}]") if key else (f"[{position}]",)


def _suggest_key(word: str, known: list[str]) -> str:
    return _did_you_mean(word.replace("_", "-"), known) or f"; the keys are {', '.join(known)}"


def _did_you_mean(word: str, known: list[str]) -> str:
    close = closest(word, known)
    return f" (did you mean {close}?)" if close else ""


def _message(error: ShiplineError | ValueError) -> str:
    if isinstance(error, ShiplineError) and error.hint:
        return f"{error.message} ({error.hint})"
    return str(error)
