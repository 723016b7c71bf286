"""Parser directives: the `# name=value` comments at the very top of a Dockerfile.

Source: Dockerfile reference, "Parser directives"; BuildKit additionally finds `syntax` after
`//` and in a JSON object, so that files of other frontends can name theirs.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field

from shipline.dockerfile.quoting import SPACES
from shipline.errors import DockerfileError, Span

_DIRECTIVE = re.compile(r"([a-zA-Z][a-zA-Z0-9]*)\s*=\s*(.+?)\s*", re.ASCII)
_NAMES = frozenset({"syntax", "escape", "check"})
_ESCAPES = ("\\", "`")


@dataclass(frozen=True, slots=True)
class Directives:
    """The directives of a file; `syntax` and `check` are empty where they are not given."""

    syntax: str = ""
    escape: str = "\\"
    check: str = ""
    spans: tuple[tuple[str, Span], ...] = field(default=(), compare=False)


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
        if not shebang:  # below one BuildKit looks for syntax and check only
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
            span=span,
            hint=f"line {found[name][1].line} has the first one; remove one of them",
        )
    if name == "escape" and value not in _ESCAPES:
        raise DockerfileError(
            f"invalid escape token '{value}' does not match ` or \\", span=span, hint="use \\ or `"
        )


def detect_syntax(content: str) -> str:
    """The frontend that `content` asks for, or an empty string.

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
    except ValueError:
        return ""
    syntax = value.get("syntax", "") if isinstance(value, dict) else ""
    return syntax if isinstance(syntax, str) else ""
