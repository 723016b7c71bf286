"""Nodes to values: a tree of YAML and a shape make frozen dataclasses, or a list of problems.

All problems of a file are found in one pass: what is wrong inside a record does not hide what is
wrong beside it.
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
    Listing,
    Mark,
    Node,
    Scalar,
    Table,
)
from shipline.config.shape import (
    Choice,
    Either,
    Many,
    Named,
    Parsed,
    Plain,
    Record,
    Shape,
    inlined_in,
)
from shipline.errors import ShiplineError

_FORM = re.compile(
    r"\$(?:(?P<dollar>\$)"
    r"|\{(?P<name>[A-Za-z_][A-Za-z0-9_]*)(?:(?P<how>:[-?])(?P<word>[^}]*))?\}"
    r"|(?P<wrong>\{))"
)
_SECRET = re.compile(r"(?:^|_)(?:TOKEN|PASSWORD|PASSWD|SECRET|CREDENTIALS?|KEY)(?:_|$)", re.I)


def interpolate(text: str, environ: Mapping[str, str]) -> str:
    """`text` with its variables replaced. Raises ValueError for one that is not set, or a secret.

    A `$` before anything else stays as it is.
    """

    def replace(found: re.Match[str]) -> str:
        if found["dollar"]:
            return "$"
        if found["wrong"]:
            raise ValueError("${ begins a variable: write ${NAME}, or $${ for the text itself")
        return _value(found["name"], found["how"] or "", found["word"] or "", environ)

    return _FORM.sub(replace, text)


def _value(name: str, how: str, word: str, environ: Mapping[str, str]) -> str:
    if _SECRET.search(name):
        raise ValueError(
            f"${{{name}}} looks like a secret, and this value is shown in logs: "
            "let the step that needs it read the environment"
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
"""Keys of the file that begin so are the user's own, for anchors."""

_BROKEN: Final = object()
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
    int: "a whole number",
    float: "a number",
    str: "a text",
}
_OLD_BOOLEANS = {"yes": "true", "on": "true", "no": "false", "off": "false"}


def decode(cls: type[T], document: Document, environ: Mapping[str, str]) -> T:
    """The value of a whole file. Raises InvalidConfig with everything that is wrong in it."""
    decoder = _Decoder(document.file, environ, [*document.problems])
    value = decoder.record(document.root, cls, ())
    if decoder.problems:
        raise InvalidConfig(decoder.problems)
    return cast(T, value)


@dataclass(slots=True)
class _Decoder:
    """Collects problems; a value that has one is _BROKEN."""

    file: str
    environ: Mapping[str, str]
    problems: list[ConfigProblem] = field(default_factory=list)

    def wrong(self, mark: Mark, key: Key, message: str) -> Any:
        self.problems.append(ConfigProblem(self.file, mark, ".".join(key), message))
        return _BROKEN

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
            return self.wrong(node.mark, key, f"must be {wanted(shape)}, not {_kind(node)}")
        return self.scalar(node, shape, key, expand)

    def record(self, node: Node, cls: type, key: Key, expand: bool = False) -> Any:
        if not isinstance(node, Table):
            return self.wrong(node.mark, key, f"must be a mapping, not {_kind(node)}")
        inlined = inlined_in(cls)
        values: dict[str, dict[str, Any]] = {"": {}, **{name: {} for name in inlined}}
        before = len(self.problems)
        self.entries(node, cls, key, values, expand)
        if len(self.problems) > before:
            return _BROKEN
        for name, nested in inlined.items():
            values[""][name] = self.made(node, nested, values[name], key)
        return self.made(node, cls, values[""], key)

    def entries(
        self,
        node: Table,
        cls: type,
        key: Key,
        values: Mapping[str, dict[str, Any]],
        expand: bool,
    ) -> None:
        """Fill `values` with the fields of `node`, by the name of the inline record or none."""
        fields = {one.key: one for one in Record(cls).fields}
        for name, child in node.entries:
            if one := fields.get(name.text):
                values[one.inline][one.name] = self.value(
                    child, one.shape, (*key, one.key), expand or one.interpolate
                )
            elif key or not name.text.startswith(EXTENSION):
                meant = _meant(name.text, list(fields))
                self.wrong(name.mark, (*key, name.text), f"there is no such key{meant}")
        for one in fields.values():
            if one.required and one.name not in values[one.inline]:
                self.wrong(node.mark, key, f"needs the key {one.key}")

    def made(self, node: Table, cls: type, values: Mapping[str, Any], key: Key) -> Any:
        """The value; where it cannot be, the place is that of the key that the message begins
        with, else the whole record.
        """
        if any(value is _BROKEN for value in values.values()):
            return _BROKEN
        try:
            return cls(**values)
        except (ShiplineError, ValueError) as error:
            said = _said(error)
            inner, _, rest = said.partition(": ")
            if found := _below(node, inner):
                return self.wrong(found.mark, (*key, inner), rest)
            return self.wrong(node.mark, key, said)

    def many(self, node: Node, shape: Many, key: Key, expand: bool) -> Any:
        if not isinstance(node, Listing):
            return self.wrong(node.mark, key, f"must be a list, not {_kind(node)}")
        found = [
            self.value(item, shape.item, _indexed(key, position), expand)
            for position, item in enumerate(node.items)
        ]
        return _BROKEN if any(one is _BROKEN for one in found) else tuple(found)

    def named(self, node: Node, shape: Named, key: Key, expand: bool) -> Any:
        if not isinstance(node, Table):
            return self.wrong(node.mark, key, f"must be a mapping, not {_kind(node)}")
        found = {
            name.text: self.value(child, shape.value, (*key, name.text), expand)
            for name, child in node.entries
        }
        return _BROKEN if any(one is _BROKEN for one in found.values()) else found

    def either(self, node: Node, shape: Either, key: Key, expand: bool) -> Any:
        options = [one for one in shape.options if _fits(node, one)]
        if not options:
            return self.wrong(node.mark, key, f"must be {wanted(shape)}, not {_kind(node)}")
        before = len(self.problems)
        for option in options:
            del self.problems[before:]
            found = self.value(node, option, key, expand)
            if found is not _BROKEN:
                return found
        if len(options) > 1:
            del self.problems[before:]
            return self.wrong(node.mark, key, f"must be {wanted(shape)}, not {_kind(node)}")
        return _BROKEN

    def scalar(self, node: Scalar, shape: Plain | Choice | Parsed, key: Key, expand: bool) -> Any:
        if expand:
            try:
                node = Scalar(node.mark, interpolate(node.text, self.environ), node.plain)
            except ValueError as error:
                return self.wrong(node.mark, key, str(error))
        if isinstance(shape, Plain):
            return self.plain(node, shape.type, key)
        if isinstance(shape, Choice):
            for text, value in shape.values:
                if node.text == text:
                    return value
            close = _close(node.text, [text for text, _ in shape.values])
            return self.wrong(node.mark, key, f"{node.text!r} is not {wanted(shape)}{close}")
        try:
            return cast(Any, shape.type).parse(node.text)
        except (ShiplineError, ValueError) as error:
            return self.wrong(node.mark, key, _said(error))

    def plain(self, node: Scalar, kind: type, key: Key) -> Any:
        if node.kind not in _KINDS[kind]:
            message = f"must be {_NAMES[kind]}, not {_kind(node)}"
            if kind is bool and (word := _OLD_BOOLEANS.get(node.text.lower())):
                message += f": write {word}"
            elif not node.plain and kind is not str:
                message += ": take the quotes away"
            return self.wrong(node.mark, key, message)
        try:
            return _converted(node.text, kind)
        except ValueError:
            return self.wrong(node.mark, key, f"{node.text[:40]!r} is out of range")


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
    """Whether a node is of the kind that a shape is made of."""
    if isinstance(shape, Either):
        return any(_fits(node, one) for one in shape.options)
    if isinstance(shape, (Record, Named)):
        return isinstance(node, Table)
    if isinstance(shape, Many):
        return isinstance(node, Listing)
    if not isinstance(node, Scalar):
        return False
    if isinstance(shape, Plain):
        return node.kind in _KINDS[shape.type]
    return node.kind != "null"


def wanted(shape: Shape) -> str:
    """A shape in words: `a number`, `one of a, b`, `a text or a list`."""
    if isinstance(shape, Plain):
        return _NAMES[shape.type]
    if isinstance(shape, Choice):
        words = ", ".join(text for text, _ in shape.values)
        return f"one of {words}" if len(shape.values) > 1 else repr(words)
    if isinstance(shape, Either):
        return " or ".join(dict.fromkeys(map(wanted, shape.options)))
    if isinstance(shape, Parsed):
        return "a text"
    return "a list" if isinstance(shape, Many) else "a mapping"


def _kind(node: Node) -> str:
    if isinstance(node, Scalar):
        text = node.text if len(node.text) <= 40 else node.text[:37] + "..."
        return "empty" if node.plain and not text else f"{text!r}"
    return "a list" if isinstance(node, Listing) else "a mapping"


def _below(node: Node, dotted: str) -> Node | None:
    """The node that a dotted key leads to."""
    found: Node | None = node
    for part in dotted.split("."):
        entries = found.entries if isinstance(found, Table) else ()
        found = next((child for name, child in entries if name.text == part), None)
    return found


def _indexed(key: Key, position: int) -> Key:
    return (*key[:-1], f"{key[-1]}[{position}]") if key else (f"[{position}]",)


def _meant(word: str, known: list[str]) -> str:
    return _close(word.replace("_", "-"), known) or f"; there is {', '.join(known)}"


def _close(word: str, known: list[str]) -> str:
    from difflib import get_close_matches  # only mistakes need it

    close = get_close_matches(word, known, n=1, cutoff=0.6)
    return f" (did you mean {close[0]}?)" if close else ""


def _said(error: ShiplineError | ValueError) -> str:
    if isinstance(error, ShiplineError) and error.hint:
        return f"{error.message} ({error.hint})"
    return str(error)
