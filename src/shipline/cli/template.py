"""Go's text/template, as `--format` takes it: everything but functions as values.

Values are those of JSON and of template_functions; a callable is called for its value, so that
costly values are computed only on use. Field names ignore case: `.MediaType` is the key
`mediaType`.

Source: https://pkg.go.dev/text/template
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from shipline.cli.template_functions import (
    FUNCTIONS,
    GoMap,
    GoMethod,
    GoStruct,
    GoValue,
    TemplateError,
    Value,
    go_json,
    is_true,
    printed,
    resolve,
)
from shipline.errors import UsageError

__all__ = ["GoStruct", "go_json", "render"]

_DEPTH = 1000  # nested blocks and calls of templates
_ACTION = re.compile(
    r"\{\{(?P<left>-(?=\s))?\s*"
    r"(?:/\*.*?\*/|(?P<code>(?:\"(?:\\.|[^\"\\\n])*\"|`[^`]*`|'(?:\\.|[^'\\\n])+'|[^\"`'])*?))"
    r"\s*?(?P<right>(?<=\s)-)?\}\}",
    re.DOTALL,
)
_TOKEN = re.compile(
    r"""(?P<space>\s+)|(?P<text>"(?:\\.|[^"\\])*"|`[^`]*`)|(?P<char>'(?:\\.[^']*|[^'\\])')"""
    r"""|(?P<number>[-+]?(?:0[xXoObB][\da-fA-F_]+|(?:\d[\d_]*\.?\d*|\.\d+)(?:[eE][-+]?\d+)?))"""
    r"""|(?P<chain>(?:\$\w*)?(?:\.[^\W\d]\w*)+|\$\w*|\.)|(?P<word>[^\W\d]\w*)|(?P<sign>:=|[=,()|])"""
)
_ESCAPE = re.compile(r"\\(?:x([\da-fA-F]{2})|u([\da-fA-F]{4})|U([\da-fA-F]{8})|([0-7]{3})|(.))")
_ESCAPES = {**dict(zip("abfnrtv", "\a\b\f\n\r\t\v", strict=True)), "\\": "\\", '"': '"', "'": "'"}
_CONSTANTS: Mapping[str, Value] = {"true": True, "false": False, "nil": None}


def render(template: str, value: Value, *, indent: int | None = 2) -> str:
    """The template rendered with the fields of `value`; `indent` is that of the function `json`.

    Raises UsageError for what Go refuses too.
    """
    try:
        parser = _Parser(template)
        body, _ = parser.block("")
        if isinstance(value, dict) and not isinstance(value, GoStruct):
            value = GoStruct(value)
        as_json: Callable[..., Value] = partial(go_json, indent=indent)
        functions = {**FUNCTIONS, "json": as_json}
        state = _State(value, parser.templates, functions)
        state.run(body)
    except TemplateError as error:
        raise UsageError(f"--format: {error}", code="format-template", hint=error.hint) from None
    except RecursionError:
        raise UsageError(
            "--format: the template is nested too deeply", code="format-template"
        ) from None
    return "".join(state.written)


@dataclass(frozen=True, slots=True)
class _Chain:
    """Fields of a variable (`$x.A`), of the current value (`.A`), or of what is in parentheses."""

    start: str | _Pipeline
    fields: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class _Constant:
    value: Value


@dataclass(frozen=True, slots=True)
class _Command:
    """A function with its operands, a method with its arguments, or a single operand."""

    function: str
    operands: tuple[_Operand, ...]

    @property
    def is_callable(self) -> bool:
        first = self.operands[:1]
        return bool(self.function or (first and isinstance(first[0], _Chain) and first[0].fields))


@dataclass(frozen=True, slots=True)
class _Pipeline:
    """Commands, each of which gets the result of the one before; `names` are assigned to."""

    commands: tuple[_Command, ...]
    names: tuple[str, ...] = ()
    declares: bool = True


_Operand = _Chain | _Constant | _Pipeline


@dataclass(frozen=True, slots=True)
class _Action:
    pipeline: _Pipeline


@dataclass(frozen=True, slots=True)
class _Block:
    """`if`, `with` or `range` with its two bodies."""

    keyword: str
    pipeline: _Pipeline
    body: tuple[_Part, ...]
    otherwise: tuple[_Part, ...]


@dataclass(frozen=True, slots=True)
class _Include:
    name: str
    pipeline: _Pipeline | None


@dataclass(frozen=True, slots=True)
class _Leave:
    """`break` or `continue`."""

    keyword: str


_Part = str | _Action | _Block | _Include | _Leave


class _Parser:
    """Reads a template: text and actions in turn."""

    def __init__(self, template: str) -> None:
        self.templates: dict[str, tuple[_Part, ...]] = {}
        self._parts = _split(template)
        self._depth = self._loops = 0

    def block(self, opened: str) -> tuple[tuple[_Part, ...], str]:
        """The parts up to the end of the block, and the words of the action that ended it."""
        parts: list[_Part] = []
        self._depth += 1
        if self._depth > _DEPTH:
            raise TemplateError("the template is nested too deeply")
        for part, code in self._parts:
            if not code:
                parts.append(part)
                continue
            words = code.split()
            keyword, rest = words[0], code[len(words[0]) :].strip()
            if keyword in ("end", "else"):
                if not opened or (keyword == "end" and rest):
                    raise TemplateError(f"unexpected {{{{{code}}}}}")
                self._depth -= 1
                return tuple(parts), code
            parts += self._action(keyword, rest, code)
        if opened:
            raise TemplateError(f"{{{{{opened}}}}} without {{{{end}}}}")
        return tuple(parts), ""

    def _action(self, keyword: str, rest: str, code: str) -> list[_Part]:
        if keyword in ("if", "with", "range"):
            return [self._conditional(keyword, rest)]
        if keyword in ("define", "block"):
            name, pipeline = self._name(rest)
            if keyword == "define" and pipeline is not None:
                raise TemplateError(f"unexpected words in {{{{{code}}}}}")
            body, ended = self.block(code)
            if ended != "end":
                raise TemplateError(f"unexpected {{{{{ended}}}}}")
            if name in self.templates:
                raise TemplateError(f"multiple definition of template {name!r}")
            self.templates[name] = body
            return [_Include(name, pipeline)] if keyword == "block" else []
        if keyword == "template":
            return [_Include(*self._name(rest))]
        if code in ("break", "continue"):
            if not self._loops:
                raise TemplateError(f"{{{{{code}}}}} outside of range")
            return [_Leave(code)]
        return [_Action(_Tokens(code).pipeline())]

    def _conditional(self, keyword: str, rest: str) -> _Block:
        pipeline = _Tokens(rest, keyword).pipeline()
        self._loops += keyword == "range"
        body, ended = self.block(keyword)
        self._loops -= keyword == "range"
        otherwise: tuple[_Part, ...] = ()
        if ended.startswith("else"):
            words = ended.split()
            if len(words) > 1 and words[1] in ("if", "with") and keyword in ("if", "with"):
                return _Block(
                    keyword, pipeline, body, (self._conditional(words[1], ended.split(None, 2)[2]),)
                )
            if len(words) > 1:
                raise TemplateError(f"unexpected {{{{{ended}}}}}")
            otherwise, ended = self.block(ended)
            if ended != "end":
                raise TemplateError(f"unexpected {{{{{ended}}}}}")
        return _Block(keyword, pipeline, body, otherwise)

    def _name(self, rest: str) -> tuple[str, _Pipeline | None]:
        tokens = _Tokens(rest)
        name = tokens.constant()
        if not isinstance(name, str):
            raise TemplateError("the name of a template is a string")
        return name, None if tokens.done else tokens.pipeline()


def _split(template: str) -> Iterator[tuple[str, str]]:
    """(text, "") and ("", code of an action) in order; comments are left out."""
    position, trim = 0, False
    while (start := template.find("{{", position)) >= 0:
        match = _ACTION.match(template, start)
        if match is None:
            raise TemplateError(f"unclosed action: {template[start : start + 40]}")
        text = template[position:start]
        text = text.lstrip() if trim else text
        yield (text.rstrip() if match["left"] else text), ""
        if match["code"] is not None:
            if not match["code"]:
                raise TemplateError("missing value for command: {{}}")
            yield "", match["code"]
        position, trim = match.end(), bool(match["right"])
    yield (template[position:].lstrip() if trim else template[position:]), ""


class _Tokens:
    """The tokens of one action: (kind, text), the spaces among them."""

    def __init__(self, code: str, keyword: str = "command") -> None:
        self._code, self._keyword = code, keyword
        self._tokens: list[tuple[str, str]] = []
        position = 0
        while position < len(code):
            match = _TOKEN.match(code, position)
            if match is None:
                raise TemplateError(f"cannot read {code[position:]!r}")
            self._tokens.append((match.lastgroup or "", match[0]))
            position = match.end()
        self._next = self._depth = 0

    @property
    def done(self) -> bool:
        return not self._peek()[0]

    def _peek(self, *, spaces: bool = False) -> tuple[str, str]:
        if not spaces and self._next < len(self._tokens) and self._tokens[self._next][0] == "space":
            self._next += 1
        return self._tokens[self._next] if self._next < len(self._tokens) else ("", "")

    def _take(self, text: str) -> bool:
        taken = self._peek() == ("sign", text)
        self._next += taken
        return taken

    def pipeline(self) -> _Pipeline:
        """All that is left. Raises TemplateError."""
        result = self._pipeline()
        if not self.done:
            raise TemplateError(f"unexpected {self._peek()[1]!r} in {self._code!r}")
        return result

    def _pipeline(self) -> _Pipeline:
        names, declares = self._assigned()
        commands = [self._command()]
        while self._take("|"):
            commands.append(self._command())
            if not commands[-1].is_callable:
                raise TemplateError(f"non executable command in pipeline: {self._code!r}")
        return _Pipeline(tuple(commands), names, declares)

    def _assigned(self) -> tuple[tuple[str, ...], bool]:
        """The variables that the pipeline sets."""
        start, names = self._next, []
        while self._peek()[0] == "chain" and re.fullmatch(r"\$\w+", self._peek()[1]):
            names.append(self._peek()[1])
            self._next += 1
            if not (self._keyword == "range" and len(names) == 1 and self._take(",")):
                break
        for sign in (":=", "="):
            if names and self._take(sign):
                return tuple(names), sign == ":="
        self._next = start
        return (), True

    def _command(self) -> _Command:
        kind, text = self._peek()
        function = ""
        if kind == "word" and text not in _CONSTANTS:
            if text not in FUNCTIONS and text not in ("and", "or"):
                raise TemplateError(
                    f"function {text!r} is not defined",
                    f"the functions are {', '.join(sorted((*FUNCTIONS, 'and', 'or')))}",
                )
            function = text
            self._next += 1
        operands = []
        while (found := self._peek())[0] and found not in (("sign", "|"), ("sign", ")")):
            operands.append(self._operand())
        if not function and not operands:
            raise TemplateError(f"missing value for {self._keyword}")
        command = _Command(function, tuple(operands))
        if len(operands) > 1 and not command.is_callable:
            raise TemplateError(f"a value takes no arguments: {self._code!r}")
        return command

    def _operand(self) -> _Operand:
        kind, text = self._peek()
        if kind == "chain":
            self._next += 1
            start, *fields = text.split(".")
            return _Chain(start, tuple(filter(None, fields)))
        if self._take("("):
            self._depth += 1
            if self._depth > _DEPTH:
                raise TemplateError("the template is nested too deeply")
            inner = self._pipeline()
            if not self._take(")"):
                raise TemplateError(f"unclosed left parenthesis in {self._code!r}")
            self._depth -= 1
            kind, text = self._peek(spaces=True)
            if kind == "chain" and text.startswith(".") and text != ".":
                self._next += 1
                return _Chain(inner, tuple(text[1:].split(".")))
            return inner
        if kind == "word" and text in FUNCTIONS:
            self._next += 1
            return _Pipeline((_Command(text, ()),))
        return _Constant(self.constant())

    def constant(self) -> Value:
        """The next token as a constant. Raises TemplateError."""
        kind, text = self._peek()
        self._next += 1
        if kind == "text":
            return text[1:-1] if text[0] == "`" else _unquoted(text)
        if kind == "char":
            return ord(_unquoted(text))
        if kind == "number":
            return _number(text)
        if kind == "word" and text in _CONSTANTS:
            return _CONSTANTS[text]
        raise TemplateError(f"unexpected {text!r} in {self._code!r}")


def _unquoted(quoted: str) -> str:
    def plain(match: re.Match[str]) -> str:
        code = next(filter(None, match.groups()[:3]), None)
        if code is not None and int(code, 16) < 0x110000:
            return chr(int(code, 16))
        if match[4] and int(match[4], 8) < 256:
            return chr(int(match[4], 8))
        if match[5] not in _ESCAPES:
            raise TemplateError(f"invalid escape in {quoted}")
        return _ESCAPES[match[5]]

    return _ESCAPE.sub(plain, quoted[1:-1])


def _number(text: str) -> Value:
    if re.fullmatch("[-+]?0[0-7_]+", text):
        return int(text, 8)
    try:
        number: int | float = int(text, 0)
    except ValueError:
        number = float(text)
    if (isinstance(number, int) and abs(number) >> 63) or number in (math.inf, -math.inf):
        raise TemplateError(f"the number {text} is too large")
    return number


@dataclass(slots=True)
class _State:
    """What a template has while it runs: the current value, variables (the last one of a name
    counts), what is written.
    """

    dot: Value
    templates: Mapping[str, tuple[_Part, ...]]
    functions: Mapping[str, Callable[..., Value]]
    written: list[str] = field(default_factory=list)
    variables: list[tuple[str, Value]] = field(default_factory=list)
    depth: int = 0

    def __post_init__(self) -> None:
        self.variables.append(("$", self.dot))

    def run(self, parts: Sequence[_Part]) -> str:
        """Write the parts; returns `break` or `continue` if one of them was met."""
        for part in parts:
            left = ""
            if isinstance(part, str):
                self.written.append(part)
            elif isinstance(part, _Action):
                result = self.evaluate(part.pipeline)
                if not part.pipeline.names:
                    self.written.append(printed(result))
            elif isinstance(part, _Include):
                self._include(part)
            elif isinstance(part, _Leave):
                left = part.keyword
            else:
                with self._scope(self.dot):
                    left = self._range(part) if part.keyword == "range" else self._choose(part)
            if left:
                return left
        return ""

    @contextmanager
    def _scope(self, dot: Value) -> Iterator[None]:
        before, kept = self.dot, len(self.variables)
        self.dot = dot
        yield
        self.dot = before
        del self.variables[kept:]

    def _choose(self, block: _Block) -> str:
        value = self.evaluate(block.pipeline)
        if not is_true(value):
            return self.run(block.otherwise)
        with self._scope(value if block.keyword == "with" else self.dot):
            return self.run(block.body)

    def _range(self, block: _Block) -> str:
        pipeline = block.pipeline
        value = self.evaluate(_Pipeline(pipeline.commands))
        items = _items(value)
        if not items:
            return self.run(block.otherwise)
        for key, item in items:
            with self._scope(resolve(item)):
                for name, assigned in zip(
                    pipeline.names,
                    (self.dot,) if len(pipeline.names) == 1 else (key, self.dot),
                    strict=False,
                ):
                    self._assign(name, assigned, pipeline.declares)
                if self.run(block.body) == "break":
                    break
        return ""

    def _include(self, part: _Include) -> None:
        if part.name not in self.templates:
            raise TemplateError(f"template {part.name!r} is not defined")
        value = self.evaluate(part.pipeline) if part.pipeline else None
        self.depth += 1
        if self.depth > _DEPTH:
            raise TemplateError(f"template {part.name!r} is nested too deeply")
        variables, self.variables = self.variables, [("$", value)]
        with self._scope(value):
            self.run(self.templates[part.name])
        self.variables = variables
        self.depth -= 1

    def evaluate(self, pipeline: _Pipeline) -> Value:
        piped: tuple[Value, ...] = ()
        for command in pipeline.commands:
            piped = (self._command(command, piped),)
        for name in pipeline.names:
            self._assign(name, piped[0], pipeline.declares)
        return piped[0]

    def _assign(self, name: str, value: Value, declares: bool) -> None:
        if declares:
            self.variables.append((name, value))
            return
        for index in range(len(self.variables) - 1, -1, -1):
            if self.variables[index][0] == name:
                self.variables[index] = (name, value)
                return
        raise TemplateError(f"undefined variable {name!r}")

    def _command(self, command: _Command, piped: tuple[Value, ...]) -> Value:
        if command.function in ("and", "or"):
            return self._first(command, piped)
        if not command.function:
            return self._plain(command.operands, piped)
        values = [self._value(operand) for operand in command.operands]
        try:
            return self.functions[command.function](*values, *piped)
        except TypeError:
            raise TemplateError(f"wrong number of arguments for {command.function}") from None

    def _plain(self, operands: Sequence[_Operand], piped: tuple[Value, ...]) -> Value:
        """The value of an operand without a function; what follows are arguments of its method."""
        if operands == (_Constant(None),):
            raise TemplateError("nil is not a command")
        value = self._unresolved(operands[0])
        arguments = (*map(self._value, operands[1:]), *piped)
        if not arguments:
            return resolve(value)
        if not isinstance(value, GoMethod):
            raise TemplateError(f"{printed(value)} has arguments and is not a method")
        return value(*arguments)

    def _first(self, command: _Command, piped: tuple[Value, ...]) -> Value:
        """The first operand that decides; later ones are not evaluated."""
        decides = command.function == "or"
        value: Value = None
        rest: tuple[Any, ...] = (*command.operands, *(_Constant(one) for one in piped))
        if not rest:
            raise TemplateError(f"wrong number of arguments for {command.function}")
        for operand in rest:
            value = self._value(operand)
            if is_true(value) == decides:
                break
        return value

    def _value(self, operand: _Operand) -> Value:
        return resolve(self._unresolved(operand))

    def _unresolved(self, operand: _Operand) -> Value:
        if isinstance(operand, _Constant):
            return operand.value
        if isinstance(operand, _Pipeline):
            return self.evaluate(operand)
        if isinstance(operand.start, _Pipeline):
            value = self.evaluate(operand.start)
        elif operand.start:
            value = self._variable(operand.start)
        else:
            value = self.dot
        for name in operand.fields:
            value = _field(resolve(value), name)
        return value

    def _variable(self, name: str) -> Value:
        for known, value in reversed(self.variables):
            if known == name:
                return value
        raise TemplateError(f"undefined variable {name!r}")


def _items(value: Value) -> list[tuple[Value, Value]]:
    if isinstance(value, Mapping) and not isinstance(value, GoStruct):
        return [(key, value[key]) for key in sorted(value)]
    if isinstance(value, (list, tuple)):
        return list(enumerate(value))
    if isinstance(value, int) and not isinstance(value, bool):
        return [(number, number) for number in range(min(value, 1_000_000))]
    if value is None:
        return []
    raise TemplateError(f"range cannot iterate over {printed(value)}")


def _field(value: Value, name: str) -> Value:
    """A field, entry or method of a value, as it is."""
    if isinstance(value, GoValue):
        if (method := value.method(name)) is None:
            raise TemplateError(f"{printed(value)} has no field or method .{name}")
        return method
    if value is None:
        raise TemplateError(f"nil has no field .{name}")
    if not isinstance(value, Mapping):
        raise TemplateError(f"{printed(value)} has no field .{name}")
    if isinstance(value, GoMap):
        return value.get(name)
    fields = value.readable if isinstance(value, GoStruct) else value
    folded = name.lower()
    found = name if name in fields else next((key for key in fields if key.lower() == folded), None)
    if found is not None:
        return fields[found]
    if not isinstance(value, GoStruct):
        return None
    raise TemplateError(f"unknown field .{name}", f"the fields are {', '.join(sorted(fields))}")
