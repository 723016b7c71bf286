"""Parsing a Dockerfile into parser directives and nodes: one node per instruction, with its
position, flags and heredocs.

Source: Dockerfile reference, "Parser directives", "Format", "Escape", "Here-documents". BuildKit
also finds `syntax` after `//` and in a JSON object, for the files of other frontends.
"""

from __future__ import annotations

import json
import re

from msgspec import Struct

from shipline.dockerfile.arguments import json_strings, split_instruction
from shipline.dockerfile.text import SPACES
from shipline.dockerfile.words import Mode, process_word
from shipline.errors import DockerfileError, Span
from shipline.values import replace

_DIRECTIVE = re.compile(r"([a-zA-Z][a-zA-Z0-9]*)\s*=\s*(.+?)\s*", re.ASCII)
_NAMES = frozenset({"syntax", "escape", "check"})
_ESCAPES = ("\\", "`")


class Directives(Struct, frozen=True):
    """The directives of a file; `syntax` and `check` are empty if not given."""

    syntax: str = ""
    escape: str = "\\"
    check: str = ""
    spans: tuple[tuple[str, Span], ...] = ()


def parse_directive(comment: str) -> tuple[str, str] | None:
    """(name, value) of the text after `#` or `//` where it is a known directive."""
    found = _DIRECTIVE.fullmatch(comment.lstrip())
    if found is None or found[1].lower() not in _NAMES:
        return None
    return found[1].lower(), found[2]


def read_directives(lines: list[str], file: str) -> tuple[Directives, int]:
    """The directives and the number of lines they take, a shebang line included.

    Raises DockerfileError for a directive given twice and for an escape character that is
    neither backslash nor backtick.
    """
    found: dict[str, tuple[str, Span]] = {}
    shebang = bool(lines) and lines[0].startswith("#!")
    count = int(shebang)
    for number, line in enumerate(lines[count:], count + 1):
        text = line.strip(SPACES)
        directive = parse_directive(text[1:]) if text.startswith("#") else None
        if directive is None:
            break
        name, value = directive
        span = Span(file, number, number, text=line.rstrip("\r\n"))
        if not shebang:  # below a shebang, BuildKit only looks for syntax and check
            _check_directive(name, value, found, span)
        if not shebang or (name != "escape" and name not in found):
            found[name] = (value, span)
        count = number
    values = {name: value for name, (value, _) in found.items()}
    spans = tuple((name, span) for name, (_, span) in found.items())
    return Directives(**values, spans=spans), count


def _check_directive(name: str, value: str, found: dict[str, tuple[str, Span]], span: Span) -> None:
    if name in found:
        raise DockerfileError(
            f"only one {name} parser directive can be used",
            code="dockerfile-directive",
            span=span,
            hint=f"line {found[name][1].line} has the first one; remove one of them",
        )
    if name == "escape" and value not in _ESCAPES:
        raise DockerfileError(
            f"invalid escape token '{value}' does not match ` or \\",
            code="dockerfile-directive",
            span=span,
            hint="use \\ or `",
        )


def detect_syntax(content: str) -> str:
    """The frontend that `content` names, or an empty string.

    The value up to its first space; found in `# syntax=`, then `// syntax=`, then a JSON object.
    Never raises: a broken file is reported by the parser.
    """
    content = content.removeprefix("\ufeff")
    if content.startswith("#!"):
        content = content.partition("\n")[2]
    value = _leading(content, "#") or _leading(content, "//") or _json_syntax(content)
    return value.split(" ", 1)[0]


def _leading(content: str, mark: str) -> str:
    for line in content.splitlines():
        directive = parse_directive(line[len(mark) :]) if line.startswith(mark) else None
        if directive is None:
            return ""
        if directive[0] == "syntax":
            return directive[1]
    return ""


def _json_syntax(content: str) -> str:
    if not content.lstrip().startswith("{"):
        return ""
    try:
        value = json.loads(content)
    except (ValueError, RecursionError):
        return ""
    syntax = value.get("syntax", "") if isinstance(value, dict) else ""
    return syntax if isinstance(syntax, str) else ""


_HEREDOC = re.compile(r"(\d*)<<(-?)\s*([^<]*)")
_HEREDOC_KEYWORDS = frozenset({"RUN", "COPY", "ADD"})


class Heredoc(Struct, frozen=True):
    """An inline document: `content` as in the file, with its line ends.

    `expand` is false if a part of the name was quoted, `chomp` is true for `<<-`.
    """

    name: str
    content: str = ""
    expand: bool = True
    chomp: bool = False


class ParsedInstruction(Struct, frozen=True):
    """One instruction before its arguments are read.

    `text` is the logical line, continuations joined, with the blanks at its end; `rest` is what
    follows keyword and flags; `comments` are the comment lines above, without `#`;
    blank lines may be between, an empty comment drops what is above it.
    """

    keyword: str
    flags: tuple[str, ...]
    rest: str
    text: str
    span: Span
    heredocs: tuple[Heredoc, ...] = ()
    comments: tuple[str, ...] = ()


class ParseWarning(Struct, frozen=True):
    """A deprecated syntax that is still accepted."""

    message: str
    span: Span


class Parsed(Struct, frozen=True):
    """The nodes of a file in order; never empty."""

    nodes: tuple[ParsedInstruction, ...]
    directives: Directives
    warnings: tuple[ParseWarning, ...]


def decode(content: bytes | str) -> str:
    """`content` without a byte order mark; bytes that are not UTF-8 survive a round trip."""
    text = content if isinstance(content, str) else content.decode("utf-8", "surrogateescape")
    return text.removeprefix("\ufeff")


def parse(content: bytes | str, *, file: str = "Dockerfile") -> Parsed:
    """The raw nodes of a Dockerfile.

    Raises DockerfileError for an empty file, a bad directive, an unterminated heredoc.
    """
    lines = decode(content).split("\n")
    lines = [line + "\n" for line in lines[:-1]] + ([lines[-1]] if lines[-1] else [])
    directives, first = read_directives(lines, file)
    reader = _Reader(lines, file, directives.escape, first)
    nodes = reader.nodes()
    if not nodes:
        last = max(len(lines), 1)
        raise DockerfileError(
            "file with no instructions" if lines else "the Dockerfile cannot be empty",
            code="dockerfile-empty",
            span=Span(file, last, last),
            hint="a Dockerfile starts with FROM",
        )
    return Parsed(nodes, directives, tuple(reader.warnings))


class _Reader:
    """Walks the lines of one file; `position` is the next line, counted from 0."""

    def __init__(self, lines: list[str], file: str, escape: str, position: int) -> None:
        self.lines = lines
        self.source = "".join(lines)
        self.file = file
        self.escape = escape
        self.position = position
        self.warnings: list[ParseWarning] = []
        mark = re.escape(escape)
        # Two escape characters at the end are an escaped escape, not a continuation.
        self.continued = re.compile(rf"(^|[^{mark}]){mark}[ \t]*$")

    def nodes(self) -> tuple[ParsedInstruction, ...]:
        nodes: list[ParsedInstruction] = []
        comments: list[str] = []
        while self.position < len(self.lines):
            line = self.lines[self.position].strip(SPACES)
            if line.startswith("#"):
                self.position += 1
                comment = line[1:].strip(SPACES)
                if comment:
                    comments.append(comment)
                else:
                    comments = []
            elif not line:
                self.position += 1
            else:
                nodes.append(self.instruction(tuple(comments)))
                comments = []
        return tuple(nodes)

    def instruction(self, comments: tuple[str, ...]) -> ParsedInstruction:
        start = self.position
        text = self.logical_line()
        keyword, flags, rest = split_instruction(text, self.escape)
        node = ParsedInstruction(keyword, flags, rest, text, self.span(start), comments=comments)
        heredocs = tuple(self.heredoc(doc, start) for doc in heredocs_of(node, self.escape))
        return replace(node, heredocs=heredocs, span=self.span(start))

    def logical_line(self) -> str:
        """The line at `position` with its continuations; comments inside are dropped."""
        start = self.position
        line, more = self.cut_continuation(self.lines[start].rstrip("\r\n").lstrip(SPACES))
        self.position += 1
        empty = False
        while more and self.position < len(self.lines):
            following = self.lines[self.position].rstrip("\r\n")
            self.position += 1
            if not following.strip(SPACES):
                empty = True
            elif not following.lstrip(SPACES).startswith("#"):
                following, more = self.cut_continuation(following)
                line += following
        if empty:
            last = self.span(self.position - 1)  # as in BuildKit
            self.warnings.append(ParseWarning("Empty continuation line", last))
        return line

    def cut_continuation(self, line: str) -> tuple[str, bool]:
        found = self.continued.search(line)
        return (line[: found.end(1)], True) if found else (line, False)

    def heredoc(self, doc: Heredoc, start: int) -> Heredoc:
        first = self.position
        while self.position < len(self.lines):
            line = self.lines[self.position].rstrip("\r\n")
            self.position += 1
            if (line.lstrip("\t") if doc.chomp else line) == doc.name:
                return replace(doc, content="".join(self.lines[first : self.position - 1]))
        raise DockerfileError(
            "unterminated heredoc",
            span=self.span(start),
            hint=f"end it with a line that holds only {doc.name}",
        )

    def span(self, start: int) -> Span:
        """From the line with index `start` to the last line that was read."""
        line = self.lines[start]
        column = len(line) - len(line.lstrip(SPACES)) + 1
        text = line.rstrip("\r\n")
        end = max(self.position, start + 1)
        return Span(self.file, start + 1, end, column, text, self.source)


def heredocs_of(node: ParsedInstruction, escape: str) -> tuple[Heredoc, ...]:
    """The heredocs that the line of `node` declares, in order, without their content."""
    keyword, rest = node.keyword.upper(), node.rest
    if keyword == "ONBUILD":
        inner, _, rest = split_instruction(rest, escape)
        keyword = inner.upper()
    if "<<" not in rest or keyword not in _HEREDOC_KEYWORDS or json_strings(rest) is not None:
        return ()
    mode = Mode(raw_quotes=True, raw_escapes=True, keep_undefined=True)
    try:
        words = process_word(node.text, {}, mode=mode).words
    except DockerfileError:
        return ()
    return tuple(doc for word in words if (doc := parse_heredoc(word)))


def parse_heredoc(word: str) -> Heredoc | None:
    """The document that `<<NAME`, `<<-NAME` or `<<"NAME"` declares, None for another word."""
    found = _HEREDOC.fullmatch(word)
    if found is None or not found[3]:
        return None
    try:
        plain = process_word(found[3], {}, mode=Mode(keep_undefined=True)).words
    except DockerfileError:
        return None
    if len(plain) != 1:
        return None
    raw = process_word(found[3], {}, mode=Mode(raw_quotes=True, keep_undefined=True)).text
    return Heredoc(plain[0], expand=_quotes(plain[0]) == _quotes(raw), chomp=found[2] == "-")


def _quotes(text: str) -> int:
    return text.count("'") + text.count('"')


def chomp(content: str) -> str:
    """`content` without the leading tabs of each line, for `<<-`."""
    return re.sub(r"^\t+", "", content, flags=re.MULTILINE)


def check_comments(comments: tuple[str, ...]) -> str:
    """The value of the first `check=` among the comments above an instruction, or empty."""
    for comment in comments:
        directive = parse_directive(comment)
        if directive and directive[0] == "check":
            return directive[1]
    return ""
