"""Displays of the event stream: terminal, plain lines, CI groups, JSON lines."""

from __future__ import annotations

from typing import TYPE_CHECKING

from shipline.lazy import load_when_named
from shipline.observe.board import Board, VertexState
from shipline.observe.displays import can_encode, open_sinks
from shipline.observe.report import RunReport, table
from shipline.observe.text import OutputLines, clean

if TYPE_CHECKING:
    from shipline.observe.box import (
        advice,
        also_failed,
        boxed,
        excerpt,
        failure_box,
        source_of_buildx,
    )
    from shipline.observe.ci import SUMMARY_LIMIT, GroupsSink, annotate
    from shipline.observe.jsonlines import JsonSink, failure_line, warning_json
    from shipline.observe.lines import LinesSink
    from shipline.observe.tty import TtySink
else:
    __getattr__ = load_when_named(
        __name__,
        box="advice also_failed boxed excerpt failure_box source_of_buildx",
        ci="SUMMARY_LIMIT GroupsSink annotate",
        jsonlines="JsonSink failure_line warning_json",
        lines="LinesSink",
        tty="TtySink",
    )
