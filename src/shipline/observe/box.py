"""The error box of a failed command: what failed, where, its last output, and a hint.

The box has no right edge, so that its text can be copied; lines are wrapped if a width is given,
and left whole for logs, which people search.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from shipline.errors import (
    GateError,
    RegistryError,
    ShiplineError,
    Span,
    StepFailed,
)
from shipline.net import without_logins
from shipline.observe.text import cells, clean, wrap

_LOG_LINES = 30
_SOURCE_LINES = 40  # of an instruction; a longer one is elided in the middle
_CONTEXT_LINES = 2  # lines of the file before and after the instruction
_UNICODE = ("╭", "╰", "─", "│")
_ASCII = ("+", "+", "-", "|")
_MIN_WIDTH = 40
_RULE = 74  # columns of an edge without a width
_RULE_OF_BUILDX = "-" * 20


def boxed(
    title: str, sections: Iterable[Iterable[str]], *, unicode: bool, width: int | None = None
) -> str:
    """Sections in a box with a title; lines are wrapped at `width` columns."""
    corner, end, horizontal, vertical = _UNICODE if unicode else _ASCII
    inner = None if width is None else max(width, _MIN_WIDTH) - 2
    rule = _RULE if inner is None else min(inner + 1, _RULE)
    head = f"{horizontal} {title} "
    rows: list[str] = []
    for lines in sections:
        block = [piece for line in lines for piece in _wrapped(line, inner)]
        rows += ["", *block] if rows and block else block
    return "\n".join(
        [
            f"{corner}{head}{horizontal * (rule - cells(head))}",
            *(f"{vertical} {row}".rstrip() for row in rows),
            f"{end}{horizontal * rule}",
        ]
    )


def failure_box(
    error: ShiplineError, *, unicode: bool, width: int | None = None, again: str = ""
) -> str:
    """The box of `error`: message, source excerpt, output, status, hint, code; and the command that
    does it `again`.
    """
    title = f"{error.title} on {error.platform}" if error.platform else error.title
    log = error.log if isinstance(error, StepFailed) else ()
    sections = (
        [*error.message.splitlines(), *_details(error)],
        excerpt(error.span) if error.span is not None else [],
        ["last output:", *(f"  {clean(line)}" for line in log[-_LOG_LINES:])] if log else [],
        [f"exit code: {error.status}"] if isinstance(error, StepFailed) else [],
        also_failed(error.others),
        advice(error, again),
    )
    return boxed(title, sections, unicode=unicode, width=width)


def also_failed(others: Iterable[ShiplineError]) -> list[str]:
    """What failed besides the failure of a box: platform, place and first line of each."""
    rows = []
    for one in others:
        parts = (one.platform, str(one.span or ""), one.message.partition("\n")[0])
        rows.append(f"- {': '.join(filter(None, parts))}")
    return ["also failed:", *rows] if rows else []


def advice(error: ShiplineError, again: str = "") -> list[str]:
    """The end of a box: the hint, the run and its trace, the command that does it `again`, the code
    with what explains it.
    """
    rows = [f"hint: {error.hint}"] if error.hint else []
    rows += [f"run: {error.run} (shipline history inspect {error.run})"] if error.run else []
    rows += [f"trace: {error.trace}"] if error.trace else []
    rows += [f"again: {again}"] if again else []
    return [*rows, f"code: {error.code} (shipline explain {error.code})"]


def excerpt(span: Span) -> list[str]:
    """`Dockerfile:3` and its lines, marked, with some context."""
    source = span.source.split("\n")
    if not span.source or span.line > len(source):
        source = [*[""] * (span.line - 1), *span.text.splitlines()]
        first, end = span.line, len(source)
    else:
        first, end = max(span.line - _CONTEXT_LINES, 1), min(span.end, len(source))
        source = source[:-1] if source[-1] == "" else source
    last = min(end + _CONTEXT_LINES, len(source))
    digits = len(str(last))
    rows = [str(span)]
    for number in _shortened(first, last):
        if number == 0:
            rows.append(f"    {' ' * digits} | ...")
            continue
        mark = ">>>" if span.line <= number <= end else "   "
        text = clean(without_logins(source[number - 1]))
        rows.append(f"{mark} {number:>{digits}} | {text}".rstrip())
    return rows


def source_of_buildx(span: Span) -> Iterator[str]:
    """`Dockerfile:3` and its lines, marked, with some context, as buildx prints them."""
    lines = span.source.split("\n")
    around = 2 if span.end == span.line else 1
    first, last = max(span.line - around, 1), min(span.end + around, len(lines))
    yield f"{span.file}:{span.line}"
    yield _RULE_OF_BUILDX
    for number in range(first, last + 1):
        mark = ">>>" if span.line <= number <= span.end else "   "
        yield f" {number:3} | {mark} {clean(without_logins(lines[number - 1]))}"
    yield _RULE_OF_BUILDX


def _shortened(first: int, last: int) -> Iterator[int]:
    """The line numbers to show; 0 stands for an elision."""
    if last - first < _SOURCE_LINES:
        yield from range(first, last + 1)
        return
    half = _SOURCE_LINES // 2
    yield from range(first, first + half)
    yield 0
    yield from range(last - half + 1, last + 1)


def _details(error: ShiplineError) -> Iterator[str]:
    if isinstance(error, GateError):
        reasons = (one for one in error.verdicts if one.split(": ", 2)[-1] not in error.message)
        yield from (f"  - {reason}" for reason in reasons)
    if isinstance(error, RegistryError):
        yield from (f"  {code}" for code in error.diagnostics if code not in error.message)
    yield from (f"  {note}" for note in getattr(error, "__notes__", ()))


def _wrapped(line: str, width: int | None) -> list[str]:
    """The wrapped line; continuations are indented below its text."""
    text = clean(line)
    if width is None:
        return [text]
    head, bar, _ = text.partition(" | ")
    numbered = bool(bar) and head.lstrip("> ").isdigit()
    indent = cells(head + bar) if numbered else len(text) - len(text.lstrip())
    first, *rest = wrap(text[indent:] if indent < width // 2 else text, width - indent)
    return [text[:indent] + first, *(" " * indent + piece for piece in rest)]
