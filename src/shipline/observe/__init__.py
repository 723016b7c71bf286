"""Displays of the event stream: terminal, plain lines, CI groups, JSON lines."""

from shipline.observe.board import Activity, Board, VertexState
from shipline.observe.box import boxed, excerpt, failure_box
from shipline.observe.displays import can_encode, open_sinks
from shipline.observe.jsonlines import JsonSink, failure_line, warning_json
from shipline.observe.lines import GroupsSink, LinesSink
from shipline.observe.text import clean
from shipline.observe.tty import TtySink

__all__ = [
    "Activity",
    "Board",
    "GroupsSink",
    "JsonSink",
    "LinesSink",
    "TtySink",
    "VertexState",
    "boxed",
    "can_encode",
    "clean",
    "excerpt",
    "failure_box",
    "failure_line",
    "open_sinks",
    "warning_json",
]
