"""The last thing a failed build shows: what failed, where, what it said, and what to do."""

from __future__ import annotations

from collections.abc import Iterable

from shipline.errors import DockerfileError, ShiplineError, Span, StepFailed
from shipline.observe.text import cells, clean, wrap

_LOG_LINES = 20
_UNICODE = ("╭", "╮", "╰", "╯", "─", "│")
_ASCII = ("+", "+", "+", "+", "-", "|")
_NARROWEST = 40


def boxed(title: str, sections: Iterable[Iterable[str]], *, unicode: bool, width: int = 100) -> str:
    """Paragraphs in a box at most `width` columns wide, their lines wrapped."""
    inner = max(width, _NARROWEST) - 4
    body: list[str] = []
    for lines in sections:
        rows = [piece for line in lines for piece in wrap(clean(line), inner)]
        body += _section(rows) if body else rows
    return _boxed(title, body, unicode)


def failure_box(error: ShiplineError, *, unicode: bool, width: int = 100) -> str:
    """The box, at most `width` columns wide; empty for an error without a place to show."""
    if isinstance(error, StepFailed):
        title, span, platform, log = "step failed", error.span, error.platform, error.log
        status = [f"exit code: {error.status}"]
    elif isinstance(error, DockerfileError) and error.span is not None:
        title, span, platform, log = "Dockerfile error", error.span, error.platform, ()
        status = []
    else:
        return ""
    inner = max(width, _NARROWEST) - 4
    body = [
        *wrap(clean(error.message), inner),
        *_place(span, inner),
        *_output(log, inner),
        *_section(status),
        *_section(wrap(f"hint: {clean(error.hint)}", inner) if error.hint else []),
    ]
    return _boxed(f"{title} on {platform}" if platform else title, body, unicode)


def _place(span: Span | None, width: int) -> list[str]:
    if span is None:
        return []
    lines = span.text.splitlines()
    digits = len(str(span.line + max(len(lines) - 1, 0)))
    rows = [str(span)]
    for number, text in enumerate(lines, span.line):
        prefix = f">>> {number:>{digits}} | "
        first, *rest = wrap(clean(text), width - len(prefix))
        rows.append(prefix + first)
        rows += [" " * len(prefix) + more for more in rest]
    return _section(rows)


def _output(log: tuple[str, ...], width: int) -> list[str]:
    lines = [piece for line in log[-_LOG_LINES:] for piece in wrap(clean(line), width - 2)]
    return _section(["last output:", *(f"  {line}" for line in lines)] if lines else [])


def _section(lines: list[str]) -> list[str]:
    return ["", *lines] if lines else []


def _boxed(title: str, body: list[str], unicode: bool) -> str:
    top_left, top_right, bottom_left, bottom_right, across, down = _UNICODE if unicode else _ASCII
    width = max(map(cells, (title + "  ", *body)))
    head = f"{across} {title} "
    top = f"{top_left}{head}{across * (width + 2 - cells(head))}{top_right}"
    rows = [f"{down} {line}{' ' * (width - cells(line))} {down}" for line in body]
    return "\n".join([top, *rows, f"{bottom_left}{across * (width + 2)}{bottom_right}"])
