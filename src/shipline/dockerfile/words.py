"""Expansion of variables, quotes and escapes in the words of a Dockerfile, including `${v#p}`,
`${v%p}` and `${v/p/r}`.

Source: Dockerfile reference, "Environment replacement"; for the shell grammar POSIX XCU 2.6.2 and
2.13. Patterns support `*` and `?` only.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import lru_cache

from msgspec import Struct, field

from shipline.dockerfile.text import SPACES, quote
from shipline.errors import DockerfileError
from shipline.globs import sought

_STAR = ".*"


class InvalidSubstitution(DockerfileError):
    """A substitution such as `${v:-x}` is malformed, or refuses the value."""

    code = "dockerfile-substitution"


def trim_prefix(pattern: str, value: str, *, greedy: bool) -> str:
    """`value` without the shortest, or when `greedy` the longest, prefix that `pattern` matches."""
    found = _compile(pattern, greedy=greedy).match(value)
    return value[found.end() :] if found else value


def trim_suffix(pattern: str, value: str, *, greedy: bool) -> str:
    """`value` without the shortest or longest matching suffix.

    Both texts are reversed: leftmost matching cannot find the shortest rightmost match.
    """
    return trim_prefix(_reversed_pattern(pattern), value[::-1], greedy=greedy)[::-1]


def replace_matches(pattern: str, value: str, replacement: str, *, every: bool) -> str:
    """`value` with the first, or every, longest match replaced by the literal `replacement`."""
    expression = _compile(pattern, greedy=True)
    result: list[str] = []
    position = 0
    for found in expression.finditer(value):
        # An empty match adjacent to the previous one does not count.
        if result and found.start() == found.end() == position:
            continue
        result += [value[position : found.start()], replacement]
        position = found.end()
        if not every:
            break
    return "".join(result) + value[position:]


def _compile(pattern: str, *, greedy: bool) -> re.Pattern[str]:
    out: list[str] = []
    position = 0
    while position < len(pattern):
        char = pattern[position]
        position += 1
        if char == "\\":
            char = pattern[position : position + 1]
            position += 1
            if char not in ("*", "?", "\\", "}", "/"):
                raise InvalidSubstitution(
                    f"invalid pattern ({pattern}) in substitution: invalid escape '\\{char}'"
                )
            out.append(re.escape(char))
        else:
            out.append({"*": _STAR, "?": "."}.get(char) or re.escape(char))
    return re.compile(sought(out, _STAR, last="" if greedy else ".*?"))


def _reversed_pattern(pattern: str) -> str:
    units = re.findall(r"\\.|.", pattern, re.DOTALL)
    return "".join(reversed(units))


BACKSLASH = "\\"
_MAX_DEPTH = 100  # nested substitutions
_SPECIAL_PARAMETERS = frozenset("@*#?-$!0")
_END = ""


class Expansion(Struct, frozen=True):
    """A text after expansion.

    `text` keeps its spaces; `words` is split at unquoted spaces, including those from variables.
    `used` and `undefined` are the variables that were looked up.
    """

    text: str
    words: tuple[str, ...]
    used: frozenset[str]
    undefined: frozenset[str]


class Mode(Struct, frozen=True):
    """What is kept as written: quotes, escapes, undefined variables; `escape` is the escape
    character.

    With `quoting` false, quotes are ordinary characters, as in a heredoc.
    """

    escape: str = BACKSLASH
    raw_quotes: bool = False
    raw_escapes: bool = False
    keep_undefined: bool = False
    quoting: bool = True


def process_word(
    text: str, variables: Mapping[str, str], *, escape: str = BACKSLASH, mode: Mode | None = None
) -> Expansion:
    """`text` with its variables replaced and its quotes and escapes removed.

    Raises DockerfileError (without a span) for an unmatched quote or brace, an unknown
    modifier, and a `${v:?message}` whose variable is missing.
    """
    lexer = _Lexer(text, variables, mode or Mode(escape=escape))
    try:
        result, words = lexer.read_until(_END)
    except DockerfileError as error:
        raise InvalidSubstitution(
            f"failed to process {quote(text)}: {error.message}", hint=error.hint
        ) from None
    if len(result) > _LONGEST:
        raise InvalidSubstitution(
            f"{quote(text[:40])} becomes longer than {_LONGEST >> 20} MiB",
            hint="the value of a variable in it grows with each use",
        )
    return Expansion(result, words, frozenset(lexer.used), frozenset(lexer.undefined))


_LONGEST = 16 << 20  # characters of an expanded text: as long as a Dockerfile can be
_SPACED = re.compile(f"[{re.escape(SPACES)}]+")


@lru_cache(maxsize=64)
def _special(more: str) -> re.Pattern[str]:
    return re.compile(f"[{re.escape(more)}$'\"<]")


class _Words(Struct):
    """Words under construction; quoted and escaped characters do not split."""

    current: list[str] = field(default_factory=list)
    done: list[str] = field(default_factory=list)

    def add(self, text: str) -> None:
        first, *others = _SPACED.split(text)
        self.current.append(first)
        for part in others:
            self.end_word()
            self.current.append(part)

    def add_raw(self, text: str) -> None:
        self.current.append(text)

    def end_word(self) -> None:
        if word := "".join(self.current):
            self.done.append(word)
        self.current.clear()

    def finish(self) -> tuple[str, ...]:
        self.end_word()
        return tuple(self.done)


class _Lexer(Struct):
    """Reads one text from left to right; `position` is the next character."""

    text: str
    variables: Mapping[str, str]
    mode: Mode
    position: int = 0
    depth: int = 0
    used: set[str] = field(default_factory=set)
    undefined: set[str] = field(default_factory=set)

    def peek(self) -> str:
        return self.text[self.position : self.position + 1]

    def take(self) -> str:
        char = self.peek()
        self.position += 1
        return char

    def read_until(self, stop: str, *, raw_escapes: bool = False) -> tuple[str, tuple[str, ...]]:
        """Text up to `stop`, which is consumed, or to the end when `stop` is empty."""
        result: list[str] = []
        words = _Words()
        raw_escapes = raw_escapes or self.mode.raw_escapes
        while char := self.peek():
            if char == stop:
                self.take()
                return "".join(result), words.finish()
            if char == "$":
                piece = self.dollar()
                words.add(piece)
            elif char in "'\"" and self.mode.quoting:
                piece = self.single_quoted() if char == "'" else self.double_quoted(raw_escapes)
                words.add_raw(piece)
            elif char == self.mode.escape:
                piece = self.escaped(raw_escapes)
                words.add_raw(piece)
            elif char == "<":
                piece = self.redirection()
                words.add_raw(piece)
            else:
                piece = self.plain(stop)
                words.add(piece)
            result.append(piece)
        if stop:
            raise InvalidSubstitution(
                f"unexpected end of statement while looking for matching {stop}"
            )
        return "".join(result), words.finish()

    def plain(self, stop: str) -> str:
        """The characters up to the next one that may mean something, at least one."""
        start = self.position
        found = _special(stop + self.mode.escape).search(self.text, start + 1)
        self.position = found.start() if found else len(self.text)
        return self.text[start : self.position]

    def redirection(self) -> str:
        """`<`, or `<<` with following spaces, which belong to the name of a heredoc."""
        start = self.position
        self.take()
        if self.peek() == "<":
            self.take()
            while self.peek() and self.peek() in "\t\r ":
                self.take()
        return self.text[start : self.position]

    def escaped(self, raw_escapes: bool) -> str:
        escape, char = self.take(), self.take()
        return escape + char if raw_escapes else char

    def single_quoted(self) -> str:
        end = self.text.find("'", self.position + 1)
        if end < 0:
            raise InvalidSubstitution(
                "unexpected end of statement while looking for matching single-quote"
            )
        quoted = self.text[self.position : end + 1]
        self.position = end + 1
        return quoted if self.mode.raw_quotes else quoted[1:-1]

    def double_quoted(self, raw_escapes: bool) -> str:
        mark = '"' if self.mode.raw_quotes else ""
        result = [mark]
        self.take()
        while char := self.peek():
            if char == '"':
                self.take()
                return "".join([*result, mark])
            if char == "$":
                result.append(self.dollar())
            elif char == self.mode.escape:
                result.append(self.escaped_in_quotes(raw_escapes))
            else:
                result.append(self.take())
        raise InvalidSubstitution(
            "unexpected end of statement while looking for matching double-quote"
        )

    def escaped_in_quotes(self, raw_escapes: bool) -> str:
        escape, char = self.take(), self.peek()
        if not char:
            return escape if raw_escapes else ""
        if char in ('"', "$", self.mode.escape):
            self.take()
            return escape + char if raw_escapes else char
        return escape + escape if raw_escapes else escape

    def dollar(self) -> str:
        self.take()
        if self.peek() != "{":
            return self.bare_variable()
        self.take()
        if not self.peek():
            raise _missing_brace()
        if self.peek() in "{}:":
            raise InvalidSubstitution("syntax error: bad substitution")
        return self.braced_variable(self.name())

    def bare_variable(self) -> str:
        name = self.name()
        if not name:
            return "$"
        value = self.lookup(name)
        if value is None:
            return f"${name}" if self.mode.keep_undefined else ""
        return value

    def braced_variable(self, name: str) -> str:
        operator = self.take()
        if operator == "}":
            value = self.lookup(name)
            if value is None:
                return f"${{{name}}}" if self.mode.keep_undefined else ""
            return value
        if operator == "/":
            return self.replacement(name)
        if operator == ":":
            operator += self.take()
        if not operator:
            raise _missing_brace()
        if operator[0] != ":" and operator not in "+-?#%":
            raise _unsupported(operator)
        return self.modified(name, operator)

    def modified(self, name: str, operator: str) -> str:
        """`${name<operator>word}`, after the operator; with `:`, an empty value counts as unset."""
        kind = operator[-1]
        word = self.operand("}", raw_escapes=kind in "#%")
        value = self.lookup(name)
        if value is None and self.mode.keep_undefined:
            return f"${{{name}{operator}{word}}}"
        if operator[0] == ":" and kind not in "+-?":
            raise _unsupported(operator)
        missing = value is None or (operator[0] == ":" and value == "")
        if kind == "-":
            return word if missing else value or ""
        if kind == "+":
            return "" if missing else word
        if kind == "?":
            return self.required(name, value, word, missing)
        trim = trim_prefix if kind == "#" else trim_suffix
        greedy = word.startswith(kind)
        return trim(word[1:] if greedy else word, value or "", greedy=greedy)

    def required(self, name: str, value: str | None, message: str, missing: bool) -> str:
        if missing:
            state = "unset" if value is None else "empty"
            raise DockerfileError(
                f"{name}: {message or f'is not allowed to be {state}'}",
                code="dockerfile-variable",
                hint=f"give it a value with ARG or ENV, or with --build-arg {name}=...",
            )
        return value or ""

    def replacement(self, name: str) -> str:
        every = self.peek() == "/"
        if every:
            self.take()
        pattern = self.operand("/", raw_escapes=True)
        with_text = self.operand("}", raw_escapes=True)
        value = self.lookup(name)
        if value is None and self.mode.keep_undefined:
            return f"${{{name}/{pattern}/{with_text}}}"
        return replace_matches(pattern, value or "", with_text, every=every)

    def operand(self, stop: str, *, raw_escapes: bool) -> str:
        if self.depth == _MAX_DEPTH:
            raise InvalidSubstitution(f"more than {_MAX_DEPTH} nested substitutions")
        self.depth += 1
        try:
            return self.read_until(stop, raw_escapes=raw_escapes)[0]
        except DockerfileError:
            if self.peek():
                raise
            missing = "'/' in ${}" if stop == "/" else "'}'"
            raise InvalidSubstitution(f"syntax error: missing {missing}") from None
        finally:
            self.depth -= 1

    def name(self) -> str:
        start = self.position
        if self.peek().isdecimal():
            while self.peek().isdecimal():
                self.take()
        elif self.peek() and self.peek() in _SPECIAL_PARAMETERS:
            self.take()
        else:
            while self.peek().isalpha() or self.peek().isdecimal() or self.peek() == "_":
                self.take()
        return self.text[start : self.position]

    def lookup(self, name: str) -> str | None:
        value = self.variables.get(name)
        (self.undefined if value is None else self.used).add(name)
        return value


def _unsupported(operator: str) -> DockerfileError:
    return InvalidSubstitution(f"unsupported modifier ({operator}) in substitution")


def _missing_brace() -> DockerfileError:
    return InvalidSubstitution("syntax error: missing '}'")
