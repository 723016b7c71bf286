"""Choosing the display."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TextIO

from shipline.errors import UsageError
from shipline.events import Sink
from shipline.observe.jsonlines import JsonSink
from shipline.observe.lines import LinesSink
from shipline.observe.tty import TtySink, reflowing


def open_sinks(mode: str, stream: TextIO, environ: Mapping[str, str]) -> tuple[Sink, ...]:
    """The sinks of --progress: auto, tty, plain, rawjson, or quiet and none, which show nothing.

    `auto` is tty on a terminal that can move its cursor, else plain, according to `environ` (TERM,
    NO_COLOR and variables of terminals). Raises UsageError for tty without a terminal.
    """
    dumb = environ.get("TERM", "dumb") == "dumb"
    if mode in ("quiet", "none"):
        return ()
    if mode == "rawjson":
        return (JsonSink(stream),)
    if mode == "tty" and not stream.isatty():
        raise UsageError(
            "--progress=tty: standard error is not a terminal",
            code="terminal-needed",
            hint="use plain or auto",
        )
    if mode == "tty" or (mode == "auto" and stream.isatty() and not dumb):
        color = not environ.get("NO_COLOR")
        return (TtySink(stream, color=color, reflows=reflowing(environ)),)
    return (LinesSink(stream),)


def can_encode(stream: TextIO) -> bool:
    """Whether the stream can encode more than ASCII."""
    return (stream.encoding or "").lower().replace("-", "") == "utf8"
