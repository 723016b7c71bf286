"""HCL's JSON syntax: a JSON document -> the same body that the native syntax gives.

Reference: github.com/hashicorp/hcl, json/spec.md. Strings are templates; values keep their places.
"""

from __future__ import annotations

import json
import re
from json.decoder import scanstring  # type: ignore[attr-defined]
from typing import Any, NoReturn

from msgspec import Struct

from shipline.bake.syntax import (
    Attribute,
    Block,
    Body,
    Expression,
    Literal,
    Object,
    Range,
    SourceText,
    Tuple,
    parse_template,
    refuse,
    refuse_file,
)
from shipline.bake.typed import boolean, null, number, parse_number

_LABELS = {
    "": {"target": 1, "group": 1, "variable": 1, "function": 1},
    "variable": {"validation": 0},
}
"""How many labels each type of block has, by the block that it is in: elsewhere the same name, as
`target` in a target, is an attribute.
"""
_MAX_DEPTH = 200
_SPACE = re.compile(r"[ \t\r\n]*")
_NUMBER = re.compile(r"-?(?:0|[1-9]\d*)(?:\.\d+)?(?:[eE][+-]?\d+)?")
_WORDS = {"true": boolean(True), "false": boolean(False), "null": null()}


class _Node(Struct):
    """A JSON value: `items` are those of an object, with the places of their keys, or of an array,
    with empty keys; None for others.
    """

    place: Range
    kind: str
    items: list[tuple[str, Range, _Node]] = []
    word: str = ""


def parse_json(name: str, content: bytes) -> Body:
    """The body of a file. Raises BakeError with the place."""
    try:
        source = SourceText.of(name, content.decode().removeprefix("\ufeff"))
    except UnicodeDecodeError:
        refuse_file(name, "it is not UTF-8 text")
    parser = _Parser(source)
    root = parser.value(0)
    parser.space()
    if parser.at < len(source.content):
        parser.fail("there is more after the end of the document")
    if root.kind != "{":
        refuse("a definition is an object: { .. }", root.place)
    return _body(root)


class _Parser:
    def __init__(self, source: SourceText) -> None:
        self.source = source
        self.text = source.content
        self.at = 0

    def fail(self, message: str) -> NoReturn:
        refuse(f"not valid JSON: {message}", Range(self.source, self.at, self.at + 1))

    def space(self) -> str:
        """The next character that counts; empty at the end."""
        found = _SPACE.match(self.text, self.at)
        assert found is not None
        self.at = found.end()
        return self.text[self.at : self.at + 1]

    def value(self, depth: int) -> _Node:
        sign, start = self.space(), self.at
        if depth > _MAX_DEPTH:
            self.fail(f"more than {_MAX_DEPTH} levels deep")
        if sign and sign in "{[":
            return self.collection(sign, depth)
        if sign == '"':
            word = self.string()
            return _Node(Range(self.source, start, self.at), "string", word=word)
        for word in _WORDS:
            if self.text.startswith(word, start):
                self.at += len(word)
                return _Node(Range(self.source, start, self.at), "word", word=word)
        found = _NUMBER.match(self.text, start)
        if found is None:
            self.fail(f"a value is expected here, not {sign!r}" if sign else "it ends too early")
        self.at = found.end()
        return _Node(Range(self.source, start, self.at), "number", word=found[0])

    def string(self) -> str:
        try:
            found, self.at = scanstring(self.text, self.at + 1, True)
        except json.JSONDecodeError as error:
            self.at = error.pos
            self.fail(error.msg)
        return str(found)

    def collection(self, sign: str, depth: int) -> _Node:
        start, closing = self.at, "}" if sign == "{" else "]"
        items: list[tuple[str, Range, _Node]] = []
        self.at += 1
        if self.space() == closing:
            self.at += 1
            return _Node(Range(self.source, start, self.at), sign, items)
        while True:
            key, begin = "", self.at
            if sign == "{":
                if self.space() != '"':
                    self.fail("the name of an item, in double quotes, is expected here")
                begin = self.at
                key = self.string()
                named = Range(self.source, begin, self.at)
                if self.space() != ":":
                    self.fail("a colon is expected here")
                self.at += 1
            else:
                named = Range(self.source, begin, begin)
            items.append((key, named, self.value(depth + 1)))
            following = self.space()
            if following not in (",", closing) or not following:
                self.fail(f"a comma or {closing} is expected here")
            self.at += 1
            if following == closing:
                return _Node(Range(self.source, start, self.at), sign, items)
            self.space()


def _body(node: _Node, inside: str = "") -> Body:
    types = _LABELS.get(inside, {})
    attributes: list[Attribute] = []
    blocks: list[Block] = []
    for name, place, value in node.items:
        if name == "//":
            continue
        if name in types:
            blocks.extend(_blocks(name, (), (), value, place, types[name]))
        else:
            attributes.append(Attribute(name, _expression(value), place.to(value.place), place))
    return Body(tuple(attributes), tuple(blocks), node.place)


def _blocks(
    type: str,
    labels: tuple[str, ...],
    places: tuple[Range, ...],
    node: _Node,
    header: Range,
    left: int,
) -> list[Block]:
    """The blocks in an object of labels, or in an array of such objects."""
    if node.kind == "[":
        each = (one for _, _, one in node.items)
        return [block for one in each for block in _blocks(type, labels, places, one, header, left)]
    if node.kind != "{":
        refuse(f"{type} is an object here", node.place)
    if not left:
        return [Block(type, labels, places, _body(node, type), places[0] if places else header)]
    return [
        block
        for name, place, value in node.items
        for block in _blocks(type, (*labels, name), (*places, place), value, header, left - 1)
    ]


def _expression(node: _Node) -> Expression:
    if node.kind == "string":
        found = parse_template(node.place.source, node.place.start, node.word)
        return _placed(found, node.place)
    if node.kind == "number":
        return Literal(node.place, number(parse_number(node.word)))
    if node.kind == "word":
        return Literal(node.place, _WORDS[node.word])
    if node.kind == "[":
        return Tuple(node.place, tuple(_expression(one) for _, _, one in node.items))
    keys = (
        _placed(parse_template(place.source, place.start, name), place)
        for name, place, _ in node.items
    )
    values = (_expression(one) for _, _, one in node.items)
    return Object(node.place, tuple(zip(keys, values, strict=True)))


def _placed(expression: Expression, place: Range) -> Expression:
    """The expression with `place` instead of its own, and of those inside."""
    names = expression.__struct_fields__
    fields: dict[str, Any] = {
        name: _placed_value(getattr(expression, name), place) for name in names
    }
    return type(expression)(**{**fields, "place": place})


def _placed_value(value: object, place: Range) -> object:
    if isinstance(value, Expression):
        return _placed(value, place)
    if isinstance(value, tuple):
        return tuple(_placed_value(one, place) for one in value)
    return value
