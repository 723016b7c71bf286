"""Text read line by line, in bounded memory."""

from __future__ import annotations

from collections.abc import Iterator
from typing import BinaryIO

from shipline.policy.gates.reports.report import ReportError

_LINE_LIMIT = 64 << 10  # bytes


def read_lines(source: BinaryIO) -> Iterator[str]:
    """Lines without their ends and without space around them; empty ones are left out.

    Raises ReportError for a line of more than 64 KiB, UnicodeDecodeError.
    """
    while data := source.readline(_LINE_LIMIT + 1):
        if len(data) > _LINE_LIMIT:
            raise ReportError(f"a line of more than {_LINE_LIMIT >> 10} KiB")
        if line := data.decode("utf-8-sig").strip():
            yield line
