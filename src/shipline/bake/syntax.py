"""HCL's native syntax: text -> attributes, blocks and expressions, each with its place.

Reference: github.com/hashicorp/hcl, hclsyntax/spec.md. One pass over the characters: what a brace
or a newline means depends on what is around it.
"""

from __future__ import annotations

import bisect
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import NoReturn

from msgspec import Struct

from shipline.bake.typed import Value, boolean, null, number, parse_number, text
from shipline.errors import ConfigError, Span

_MAX_DEPTH = 60  # expressions inside of each other


class BakeError(ConfigError):
    """A bake definition is wrong; `span` is the place."""

    code = "bake-invalid"
    title = "bake definition error"


class SourceText(Struct, frozen=True):
    """A file of definitions; `name` is for messages."""

    name: str
    content: str
    starts: tuple[int, ...] = ()  # of the lines

    @classmethod
    def of(cls, name: str, content: str) -> SourceText:
        starts = [0, *(found.end() for found in re.finditer("\n", content))]
        return cls(name, content, tuple(starts))


class Range(Struct, frozen=True):
    """A part of a file, from `start` up to `end`, in characters."""

    source: SourceText
    start: int
    end: int

    @property
    def span(self) -> Span:
        lines = self.source.starts
        first = bisect.bisect_right(lines, self.start) - 1
        last = bisect.bisect_right(lines, max(self.start, self.end - 1)) - 1
        rest = self.source.content[lines[first] :].partition("\n")[0].rstrip("\r")
        return Span(
            self.source.name,
            first + 1,
            last + 1,
            self.start - lines[first] + 1,
            rest,
            self.source.content,
        )

    def to(self, end: Range) -> Range:
        return Range(self.source, self.start, end.end)


def refuse(message: str, place: Range | None, hint: str = "") -> NoReturn:
    """Raise BakeError at `place`."""
    error = BakeError(message, hint=hint)
    error.span = None if place is None else place.span
    raise error


@contextmanager
def not_too_deep() -> Iterator[None]:
    """Raises BakeError where definitions are deeper in each other than they can be followed."""
    try:
        yield
    except RecursionError:
        raise BakeError("expressions, targets or documents are too deep in each other") from None


class Expression(Struct, frozen=True):
    """An expression; `place` is where it is written."""

    place: Range


class Literal(Expression, frozen=True):
    value: Value


class Template(Expression, frozen=True):
    """Parts that are joined as strings."""

    parts: tuple[Expression, ...]


class Wrapped(Expression, frozen=True):
    """`"${x}"` or `(x)`: the value itself."""

    inner: Expression
    template: bool = False


class Joined(Expression, frozen=True):
    """The strings of a tuple, joined: a `%{for}` of a template."""

    inner: Expression


class Variable(Expression, frozen=True):
    name: str


class AttributeAccess(Expression, frozen=True):
    """`object.name`"""

    object: Expression
    name: str


class Subscript(Expression, frozen=True):
    """`collection[key]`"""

    collection: Expression
    key: Expression


class Splat(Expression, frozen=True):
    """`source.*.x` or `source[*].x`: `each` is evaluated with `element` as the value of `slot`."""

    source: Expression
    each: Expression
    slot: str


class FunctionCall(Expression, frozen=True):
    """A function call; with `expanded` the last argument is a list of further ones."""

    name: str
    arguments: tuple[Expression, ...]
    expanded: bool = False


class Unary(Expression, frozen=True):
    operator: str
    operand: Expression


class Binary(Expression, frozen=True):
    operator: str
    left: Expression
    right: Expression


class Conditional(Expression, frozen=True):
    condition: Expression
    yes: Expression
    no: Expression


class Tuple(Expression, frozen=True):
    items: tuple[Expression, ...]


class Object(Expression, frozen=True):
    """Pairs of a key and a value; a key that is a bare name is a Literal."""

    items: tuple[tuple[Expression, Expression], ...]


class For(Expression, frozen=True):
    """`[for key, item in collection : result if condition]`; with `new_key` it makes an object, and
    `grouped` collects the results of equal keys.
    """

    key: str
    item: str
    collection: Expression
    new_key: Expression | None
    result: Expression
    condition: Expression | None
    grouped: bool = False


class Attribute(Struct, frozen=True):
    """`name = value`; `place` is all of it."""

    name: str
    value: Expression
    place: Range
    name_place: Range


class Block(Struct, frozen=True):
    """A block; `place` is its header, `label_places` that of each label."""

    type: str
    labels: tuple[str, ...]
    label_places: tuple[Range, ...]
    body: Body
    place: Range


class Body(Struct, frozen=True):
    """What is between braces, or a file; `place` is that of the opening brace, or of nothing."""

    attributes: tuple[Attribute, ...]
    blocks: tuple[Block, ...]
    place: Range

    def get(self, name: str) -> Attribute | None:
        return next((one for one in self.attributes if one.name == name), None)


def parse_hcl(name: str, content: bytes) -> Body:
    """The body of a file. Raises BakeError with the place."""
    try:
        source = SourceText.of(name, content.decode().removeprefix("\ufeff"))
    except UnicodeDecodeError as error:
        line = content[: error.start].count(b"\n") + 1
        refuse_file(name, f"it is not UTF-8 text (line {line})")
    return _Parser(source).file()


def refuse_file(name: str, reason: str) -> NoReturn:
    raise BakeError(f"cannot read {name}: {reason}", code="bake-unreadable")


def parse_template(source: SourceText, start: int, content: str) -> Expression:
    """A template that is a whole string, as in JSON; places are those of the string."""
    parser = _Parser(SourceText.of(source.name, content))
    place = Range(source, start, start + 1)
    try:
        parts = parser.template_parts("")
    except BakeError as error:
        error.span = place.span
        raise
    return parser.assembled(parts, place)


def parse_expression(place: Range, content: str) -> Expression:
    """An expression in a text of another language; errors are at `place`."""
    parser = _Parser(SourceText.of(place.source.name, content))
    try:
        found = parser.expression()
        parser.skip(newlines=True)
        if parser.at < len(content):
            parser.fail("there is more after the expression")
    except BakeError as error:
        error.span = place.span
        raise
    return found


_NAME = re.compile(r"[^\W\d][\w-]*")
_DIGITS = re.compile(r"\d+(?:\.\d+)?(?:[eE][+-]?\d+)?")
_SPACE = re.compile(r"(?:[ \t\r]|/\*.*?\*/)+", re.DOTALL)
_COMMENT = re.compile(r"(?:#|//)[^\n]*")
_SPLAT = re.compile(r"\.\s*\*|\[\s*\*\s*\]")
_HEREDOC = re.compile(r"<<(-?)([^\W\d][\w-]*)\r?\n")
_PLAIN = re.compile(r'[^\\"$%\n]+|.', re.DOTALL)
_LEVELS = (("||",), ("&&",), ("==", "!="), (">=", "<=", ">", "<"), ("+", "-"), ("*", "/", "%"))
_STRENGTH = {operator: level for level, row in enumerate(_LEVELS) for operator in row}
_OPERATOR = re.compile(r"\|\||&&|==|!=|>=|<=|[><+\-*/%]")
_ESCAPES = {"n": "\n", "r": "\r", "t": "\t", '"': '"', "\\": "\\"}


class _Part(Struct):
    """A part of a template: a literal, an interpolation, or a directive, named by `kind`."""

    kind: str
    place: Range
    literal: str = ""
    expression: Expression | None = None
    names: tuple[str, str] = ("", "")


class _Parser:
    def __init__(self, source: SourceText) -> None:
        self.source = source
        self.text = source.content
        self.at = 0
        self.depth = 0
        self.newlines = [True]  # whether a newline ends an expression

    # characters

    def place(self, start: int, end: int | None = None) -> Range:
        return Range(self.source, start, self.at if end is None else end)

    def fail(self, message: str, start: int | None = None, hint: str = "") -> NoReturn:
        start = self.at if start is None else start
        refuse(message, Range(self.source, start, start + 1), hint)

    def skip(self, *, newlines: bool | None = None) -> None:
        """Go to the next character that counts."""
        over = not self.newlines[-1] if newlines is None else newlines
        while True:
            if found := _SPACE.match(self.text, self.at) or _COMMENT.match(self.text, self.at):
                self.at = found.end()
            elif over and self.text.startswith("\n", self.at):
                self.at += 1
            else:
                return

    def sees(self, word: str) -> bool:
        self.skip()
        return self.text.startswith(word, self.at)

    def take(self, word: str) -> bool:
        if not self.sees(word):
            return False
        self.at += len(word)
        return True

    def name(self) -> str:
        """The name here; empty if there is none."""
        self.skip()
        found = _NAME.match(self.text, self.at)
        if found is None:
            return ""
        self.at = found.end()
        return found[0]

    def sees_name(self, word: str) -> bool:
        self.skip()
        found = _NAME.match(self.text, self.at)
        return found is not None and found[0] == word

    # structure

    def file(self) -> Body:
        return self.body(self.place(0, 0), closing="")

    def body(self, opening: Range, closing: str) -> Body:
        attributes: dict[str, Attribute] = {}
        blocks: list[Block] = []
        while True:
            self.skip(newlines=True)
            if self.at >= len(self.text):
                if closing:
                    refuse("the block is not closed: there is no }", opening)
                break
            if closing and self.take(closing):
                break
            item = self.item()
            if isinstance(item, Block):
                blocks.append(item)
            elif item.name in attributes:
                first = attributes[item.name].place.span
                refuse(f"{item.name} is set twice: first on line {first.line}", item.name_place)
            else:
                attributes[item.name] = item
            self.skip(newlines=False)
            if self.at < len(self.text) and self.text[self.at] != "\n":
                what = "a block" if isinstance(item, Block) else "an argument"
                self.fail(f"there has to be a newline after {what}")
        return Body(tuple(attributes.values()), tuple(blocks), opening)

    def item(self) -> Attribute | Block:
        start = self.at
        name = self.name()
        if not name:
            self.fail("an argument or a block is expected here")
        named = self.place(start)
        if self.sees("=") and not self.sees("=="):
            self.at += 1
            value = self.expression()
            return Attribute(name, value, self.place(start, value.place.end), named)
        return self.block(name, start)

    def block(self, type: str, start: int) -> Block:
        labels: list[str] = []
        places: list[Range] = []
        while not self.sees("{"):
            begin = self.at
            if self.text.startswith('"', begin):
                found = self.quoted()
                if not isinstance(found, Literal):
                    refuse("a label has no interpolation", found.place)
                labels.append(found.value.data)
            elif word := self.name():
                labels.append(word)
            else:
                self.fail(
                    f"{type} is neither an argument nor a block",
                    hint=f'write {type} = VALUE, or {type} "NAME" {{',
                )
            places.append(self.place(begin))
        header = self.place(start)
        opening = self.place(self.at, self.at + 1)
        self.at += 1
        self.skip(newlines=False)
        if self.text.startswith(("\n", "}"), self.at) or self.at >= len(self.text):
            body = self.nested(opening)
        else:
            body = self.one_line(opening)
        return Block(type, tuple(labels), tuple(places), body, header)

    def nested(self, opening: Range) -> Body:
        self.deeper(opening.start)
        body = self.body(opening, "}")
        self.depth -= 1
        return body

    def one_line(self, opening: Range) -> Body:
        """`{ name = value }`"""
        item = self.item()
        if not isinstance(item, Attribute):
            refuse("a block in one line has no blocks inside", item.place)
        if not self.take("}"):
            self.fail("a block in one line has one argument: there has to be a newline, or }")
        return Body((item,), (), opening)

    def deeper(self, start: int) -> None:
        self.depth += 1
        if self.depth > _MAX_DEPTH:
            self.fail(f"this is more than {_MAX_DEPTH} levels deep", start)

    # expressions

    def expression(self) -> Expression:
        self.skip()
        self.deeper(self.at)
        condition = self.binary(0)
        if self.take("?"):
            yes = self.expression()
            if not self.take(":"):
                self.fail("the conditional has no : and value for false")
            no = self.expression()
            condition = Conditional(condition.place.to(no.place), condition, yes, no)
        self.depth -= 1
        return condition

    def binary(self, level: int) -> Expression:
        """An operand, with operators that bind as strongly as those of `level`, or more."""
        left = self.unary()
        while True:
            self.skip()
            found = _OPERATOR.match(self.text, self.at)
            if found is None or _STRENGTH[found[0]] < level:
                return left
            self.at = found.end()
            right = self.binary(_STRENGTH[found[0]] + 1)
            left = Binary(left.place.to(right.place), found[0], left, right)

    def unary(self) -> Expression:
        self.skip()
        start = self.at
        for operator in ("-", "!"):
            if self.text.startswith(operator, start):
                self.at += 1
                self.deeper(start)
                operand = self.unary()
                self.depth -= 1
                return Unary(self.place(start, operand.place.end), operator, operand)
        return self.traversal(self.term())

    def traversal(self, found: Expression) -> Expression:
        """`found` with the attributes, indexes and splats after it."""
        start = found.place.start
        while True:
            begin = self.at
            self.skip(newlines=False if self.newlines[-1] else None)
            if splat := _SPLAT.match(self.text, self.at):
                self.at = splat.end()
                found = self.splat(found, start, full=splat[0][0] == "[")
            elif (after := self.access(found, start, indexes=True)) is not None:
                found = after
            else:
                self.at = begin
                return found

    def splat(self, found: Expression, start: int, *, full: bool) -> Expression:
        """The rest of a splat is done with each element; without brackets, only attributes are."""
        slot = f"*{self.at}"
        each: Expression = Variable(self.place(self.at), slot)
        while True:
            self.skip()
            if _SPLAT.match(self.text, self.at):
                break
            after = self.access(each, start, indexes=full)
            if after is None:
                break
            each = after
        return Splat(self.place(start), found, each, slot)

    def access(self, found: Expression, start: int, *, indexes: bool) -> Expression | None:
        """`found` with the attribute or index here; None if there is none."""
        if self.text.startswith("...", self.at):
            return None
        if self.text.startswith(".", self.at):
            self.at += 1
            self.skip()
            if digits := re.compile(r"\d+").match(self.text, self.at):
                key: Expression = Literal(self.place(self.at, digits.end()), number(int(digits[0])))
                self.at = digits.end()
                return Subscript(self.place(start), found, key)
            if word := self.name():
                return AttributeAccess(self.place(start), found, word)
            self.fail("after the dot there has to be the name of an attribute")
        if not indexes or not self.text.startswith("[", self.at):
            return None
        self.at += 1
        self.newlines.append(False)
        key = self.expression()
        self.close("]")
        return Subscript(self.place(start), found, key)

    def close(self, word: str) -> None:
        if not self.take(word):
            where = self.text[self.at : self.at + 1]
            self.fail(f"{word} is expected here" + (f", not {where!r}" if where.strip() else ""))
        self.newlines.pop()

    def term(self) -> Expression:
        self.skip()
        start = self.at
        if self.text.startswith('"', start):
            return self.quoted()
        if found := _HEREDOC.match(self.text, start):
            return self.heredoc(found)
        if found := _DIGITS.match(self.text, start):
            self.at = found.end()
            try:
                return Literal(self.place(start), number(parse_number(found[0])))
            except ValueError:
                self.fail(f"not a number: {found[0]}", start)
        if self.text.startswith("(", start):
            self.at += 1
            self.newlines.append(False)
            inner = self.expression()
            self.close(")")
            return Wrapped(self.place(start), inner)
        if self.text.startswith("[", start):
            return self.tuple_literal()
        if self.text.startswith("{", start):
            return self.object_literal()
        return self.named()

    def named(self) -> Expression:
        start = self.at
        name = self.name()
        if not name:
            what = self.text[start : start + 1]
            self.fail(
                f"an expression is expected here, not {what!r}"
                if what.strip()
                else "an expression is expected here",
                start,
            )
        while self.text.startswith("::", self.at):
            self.at += 2
            name += f"::{self.name()}"
        begin = self.at
        if self.take("("):
            return self.call(name, start)
        self.at = begin
        if name in ("true", "false"):
            return Literal(self.place(start), boolean(name == "true"))
        if name == "null":
            return Literal(self.place(start), null())
        return Variable(self.place(start), name)

    def call(self, name: str, start: int) -> Expression:
        self.newlines.append(False)
        arguments: list[Expression] = []
        expanded = False
        while not self.sees(")"):
            arguments.append(self.expression())
            if self.take("..."):
                expanded = True
                self.take(",")
                break
            if not self.take(","):
                break
        self.close(")")
        return FunctionCall(self.place(start), name, tuple(arguments), expanded)

    def tuple_literal(self) -> Expression:
        start = self.at
        self.at += 1
        self.newlines.append(False)
        if self.sees_name("for"):
            return self.for_(start, "]")
        items: list[Expression] = []
        while not self.sees("]"):
            items.append(self.expression())
            if not self.take(","):
                break
        if not self.sees("]"):
            self.fail("a comma, or ] is expected here")
        self.close("]")
        return Tuple(self.place(start), tuple(items))

    def object_literal(self) -> Expression:
        start = self.at
        self.at += 1
        self.newlines.append(False)
        if self.sees_name("for"):
            return self.for_(start, "}")
        self.newlines[-1] = True
        items: list[tuple[Expression, Expression]] = []
        while True:
            self.skip(newlines=True)
            if self.text.startswith("}", self.at) or self.at >= len(self.text):
                break
            key = self.key()
            if not (self.take("=") or self.take(":")):
                self.fail("there has to be = or : after a key")
            items.append((key, self.expression()))
            self.skip(newlines=False)
            if not self.take(",") and not self.text.startswith(("\n", "}"), self.at):
                self.fail("a comma, a newline or } is expected after an item of an object")
        self.close("}")
        return Object(self.place(start), tuple(items))

    def key(self) -> Expression:
        begin = self.at
        if name := self.name():
            if self.sees("=") or self.sees(":"):
                return Literal(self.place(begin, begin + len(name)), text(name))
            self.at = begin
        found = self.expression()
        if isinstance(found, AttributeAccess):
            refuse("a key with dots has to be in quotes, or in parentheses", found.place)
        return found

    def for_(self, start: int, closing: str) -> Expression:
        self.name()
        (key, item), collection = self.iteration()
        if not self.take(":"):
            self.fail("there has to be a : after the collection of a for expression")
        result, new_key = self.expression(), None
        grouped = False
        if self.take("=>"):
            if closing == "]":
                self.fail("a for expression in brackets makes a list: it has no =>")
            new_key, result = result, self.expression()
            grouped = self.take("...")
        elif closing == "}":
            self.fail("a for expression in braces makes an object: it needs KEY => VALUE")
        condition = None
        if self.sees_name("if"):
            self.name()
            condition = self.expression()
        self.close(closing)
        place = self.place(start)
        return For(place, key, item, collection, new_key, result, condition, grouped)

    def iteration(self) -> tuple[tuple[str, str], Expression]:
        """`key, item in collection`, or `item in collection`."""
        key, item = "", self.variable()
        if self.take(","):
            key, item = item, self.variable()
        if self.name() != "in":
            self.fail("`for` has no `in`")
        return (key, item), self.expression()

    def variable(self) -> str:
        name = self.name()
        if not name:
            self.fail("the name of a variable is expected after `for`")
        return name

    # templates

    def quoted(self) -> Expression:
        start = self.at
        self.at += 1
        parts = self.template_parts('"')
        self.at += 1
        return self.assembled(parts, self.place(start))

    def heredoc(self, opening: re.Match[str]) -> Expression:
        start = self.at
        self.at = opening.end()
        end = re.compile(rf"^[ \t]*{re.escape(opening[2])}[ \t]*\r?$", re.MULTILINE)
        closing = end.search(self.text, self.at)
        if closing is None:
            self.fail(f"the heredoc is not closed: no line has only {opening[2]}", start)
        parts = self.template_parts("heredoc", closing.start())
        self.at = closing.end() - closing[0].endswith("\r")
        if opening[1]:
            _unindent(parts)
        return self.assembled(parts, self.place(start))

    def template_parts(self, kind: str, end: int | None = None) -> list[_Part]:
        """The parts up to the closing quote, the end of a heredoc or of the text. A literal ends
        after each newline, which is as far as `~` trims.
        """
        limit = len(self.text) if end is None else end
        parts: list[_Part] = []
        start, found, trim = self.at, "", False
        quoted = kind == '"'

        def flush(*, right: bool = False) -> None:
            nonlocal found, trim
            if self.at > start or found:
                literal = found.lstrip() if trim else found
                parts.append(_Part("", self.place(start), literal.rstrip() if right else literal))
            elif right and parts and not parts[-1].kind and not trim:
                parts[-1].literal = parts[-1].literal.rstrip()
            found, trim = "", False

        while True:
            if self.at >= limit:
                if quoted:
                    self.fail("the string is not closed", start)
                break
            rest = self.text[self.at : self.at + 4]
            if quoted and rest[0] == '"':
                break
            if quoted and rest[0] == "\n":
                self.fail("a string has no newline inside", hint="write \\n, or a heredoc: <<EOT")
            if rest.startswith(("$${", "%%{")):
                found += rest[0] + "{"
                self.at += 3
            elif rest.startswith(("${", "%{")):
                begin = self.at
                flush(right=rest[2:3] == "~")
                self.at = begin + 2 + (rest[2:3] == "~")
                self.deeper(begin)
                parts.append(self.sequence(rest[0], begin))
                self.depth -= 1
                trim = self.text[self.at - 2] == "~"
                start = self.at
            elif quoted and rest[0] == "\\":
                found += self.escape()
            else:
                run = _PLAIN.match(self.text, self.at, limit)
                assert run is not None
                found += run[0]
                self.at = run.end()
                if run[0].endswith("\n"):
                    flush()
                    start = self.at
        flush()
        return parts

    def escape(self) -> str:
        letter = self.text[self.at + 1 : self.at + 2]
        if letter in _ESCAPES and letter:
            self.at += 2
            return _ESCAPES[letter]
        width = {"u": 4, "U": 8}.get(letter, 0)
        code = self.text[self.at + 2 : self.at + 2 + width]
        if (
            not (width and re.fullmatch(f"[0-9a-fA-F]{{{width}}}", code))
            or int(code, 16) >> 20 > 16
        ):
            self.fail(f"\\{letter} is not an escape", hint="write \\\\ for a backslash")
        self.at += 2 + width
        return chr(int(code, 16))

    def sequence(self, sign: str, begin: int) -> _Part:
        """What is between `${` or `%{` and `}`."""
        self.newlines.append(False)
        part = _Part("value", self.place(begin))
        if sign == "$":
            part.expression = self.expression()
        else:
            self.directive(part)
        self.take("~")
        if not self.sees("}"):
            self.fail(
                "there has to be a } after the expression in a template",
                hint=f"write {sign}{sign}{{ where {sign}{{ is meant as it is",
            )
        self.at += 1
        self.newlines.pop()
        part.place = self.place(begin)
        return part

    def directive(self, part: _Part) -> None:
        part.kind = word = self.name()
        if word == "if":
            part.expression = self.expression()
        elif word == "for":
            part.names, part.expression = self.iteration()
        elif word not in ("else", "endif", "endfor"):
            self.fail("a directive is one of if, else, endif, for, endfor", part.place.start)

    def assembled(self, parts: list[_Part], place: Range) -> Expression:
        """The expression of a template: a sole interpolation is the value itself."""
        real = [one for one in parts if one.kind or one.literal]
        if len(parts) == 1 and parts[0].kind == "value" and parts[0].expression is not None:
            return Wrapped(place, parts[0].expression, template=True)
        waiting = list(reversed(real))
        found = self.sequence_of(waiting, ())
        if len(found) == 1 and isinstance(found[0], Literal):
            return Literal(place, found[0].value)
        return Template(place, found) if found else Literal(place, text(""))

    def sequence_of(self, waiting: list[_Part], ends: Sequence[str]) -> tuple[Expression, ...]:
        """Expressions up to one of the directives `ends`, which stays."""
        found: list[Expression] = []
        literal = ""
        while waiting:
            part = waiting[-1]
            if part.kind in ends:
                break
            waiting.pop()
            if not part.kind:
                literal += part.literal
                if not waiting or waiting[-1].kind:
                    found.append(Literal(part.place, text(literal)))
                    literal = ""
                continue
            if part.kind == "value" and part.expression is not None:
                found.append(part.expression)
            elif part.kind == "if" and part.expression is not None:
                found.append(self.if_of(part, part.expression, waiting))
            elif part.kind == "for" and part.expression is not None:
                inner = Template(part.place, self.sequence_of(waiting, ("endfor",)))
                self.ended(waiting, part)
                each = For(part.place, *part.names, part.expression, None, inner, None)
                found.append(Joined(part.place, each))
            else:
                refuse(f"%{{{part.kind}}} has no beginning", part.place)
        return tuple(found)

    def if_of(self, part: _Part, condition: Expression, waiting: list[_Part]) -> Expression:
        yes = Template(part.place, self.sequence_of(waiting, ("else", "endif")))
        no = Template(part.place, ())
        if self.ended(waiting, part) == "else":
            no = Template(part.place, self.sequence_of(waiting, ("endif",)))
            self.ended(waiting, part)
        return Conditional(part.place, condition, yes, no)

    def ended(self, waiting: list[_Part], part: _Part) -> str:
        if not waiting:
            refuse(f"%{{{part.kind}}} has no %{{end{part.kind}}}", part.place)
        return waiting.pop().kind


def _unindent(parts: list[_Part]) -> None:
    """Take the indentation that all lines share off, as `<<-` does."""
    firsts = [
        part
        for number, part in enumerate(parts)
        if not part.kind and (not number or parts[number - 1].literal.endswith("\n"))
    ]
    indents = [len(part.literal) - len(part.literal.lstrip(" \t")) for part in firsts]
    starts = [
        part
        for number, part in enumerate(parts)
        if part.kind and (not number or parts[number - 1].literal.endswith("\n"))
    ]
    least = 0 if starts else min(indents, default=0)
    for part in firsts:
        part.literal = part.literal[least:]
