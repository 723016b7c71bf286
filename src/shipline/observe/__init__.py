"""Displays of the event stream: terminal, plain lines, CI groups, JSON lines."""

from shipline.observe.board import Board
from shipline.observe.box import advice, also_failed, boxed, excerpt, failure_box
from shipline.observe.ci import SUMMARY_LIMIT, GroupsSink, annotate
from shipline.observe.displays import can_encode, open_sinks
from shipline.observe.jsonlines import JsonSink, failure_line, warning_json
from shipline.observe.lines import LinesSink
from shipline.observe.report import RunReport, table
from shipline.observe.text import OutputLines, clean
from shipline.observe.tty import TtySink
