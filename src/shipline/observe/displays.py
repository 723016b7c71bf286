"""Choosing the display."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TextIO

from shipline.errors import UsageError
from shipline.events import Sink
from shipline.observe.lines import LinesSink, WarningsSink

_FOLDING = {"GITHUB_ACTIONS", "GITLAB_CI"}  # variables of CI systems that can fold


def open_sinks(mode: str, stream: TextIO, environ: Mapping[str, str]) -> tuple[Sink, ...]:
    """The sinks of --progress: auto, tty, plain, report (only warnings), rawjson, or quiet and
    none, which show nothing.

    `auto` is tty on a terminal that can move its cursor, folded in GitHub Actions and GitLab CI,
    else plain, according to `environ` (TERM, NO_COLOR, FORCE_COLOR, BUILDKIT_COLORS,
    BUILDKIT_TTY_LOG_LINES and variables of terminals and CI systems). Raises UsageError for tty
    without a terminal.
    """
    if mode in ("quiet", "none"):
        return ()
    if mode == "rawjson":
        from shipline.observe.jsonlines import JsonSink

        return (JsonSink(stream),)
    if mode == "report":
        return (WarningsSink(stream),)
    if mode == "tty" and not stream.isatty():
        raise UsageError(
            "--progress=tty: standard error is not a terminal",
            code="terminal-needed",
            hint="use plain or auto",
        )
    dumb = environ.get("TERM", "dumb") == "dumb"
    if mode == "tty" or (mode == "auto" and stream.isatty() and not dumb):
        from shipline.observe.tty import LOG_LINES, TtySink, palette, reflowing

        lines = environ.get("BUILDKIT_TTY_LOG_LINES", "")
        sink = TtySink(
            stream,
            color=colored(environ),
            reflows=reflowing(environ),
            log_lines=int(lines) if lines.isdecimal() else LOG_LINES,
            colors=palette(environ.get("BUILDKIT_COLORS", "")),
        )
        return (sink,)
    if mode == "auto" and environ.keys() & _FOLDING:
        from shipline.observe.ci import folding_sink

        return (folding_sink(stream, environ) or LinesSink(stream),)
    return (LinesSink(stream),)


def colored(environ: Mapping[str, str]) -> bool:
    """Whether a terminal gets colours: NO_COLOR takes them away (no-color.org), FORCE_COLOR and
    CLICOLOR_FORCE give them back even then (force-color.org, bixense.com/clicolors).
    """
    forced = (environ.get(name, "") for name in ("FORCE_COLOR", "CLICOLOR_FORCE"))
    return any(one not in ("", "0") for one in forced) or not environ.get("NO_COLOR")


def can_encode(stream: TextIO) -> bool:
    """Whether the stream can encode more than ASCII."""
    return (stream.encoding or "").lower().replace("-", "") == "utf8"
