"""Go cover profiles, as `go test -coverprofile` writes them (golang.org/x/tools/cover)."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import BinaryIO

from shipline.policy.gates.reports.coverage import Coverage, FileCoverage, LineSet, Ratio
from shipline.policy.gates.reports.fields import line_number
from shipline.policy.gates.reports.report import Report, ReportError, Tool
from shipline.policy.gates.reports.text_stream import read_lines

_BLOCK = re.compile(r"(.+):(\d{1,9})\.\d{1,9},(\d{1,9})\.\d{1,9} (\d{1,9}) (\d{1,18})", re.ASCII)
_LONGEST = 100_000  # lines of a block


@dataclass(slots=True)
class _Block:
    first: int
    last: int
    statements: int
    ran: bool


def parse(source: BinaryIO) -> Report:
    """Counted in statements, as `go tool cover -func` counts; a block stands once for each package
    that was tested, and ran if it ran for one.
    """
    lines = read_lines(source)
    if not next(lines, "").startswith("mode: "):
        raise ReportError("not a Go cover profile: the first line is no mode")
    blocks: dict[str, dict[str, _Block]] = {}
    for line in lines:
        if line.startswith("mode: "):  # profiles that were put one behind the other
            continue
        found = _BLOCK.fullmatch(line)
        if found is None:
            raise ReportError(f"not a line of a Go cover profile: {line[:100]!r}")
        _add(blocks.setdefault(found[1], {}), found)
    files = {path: _file(list(parts.values())) for path, parts in blocks.items()}
    return Report("go", Coverage(files), tool=Tool("go"))


def _add(parts: dict[str, _Block], found: re.Match[str]) -> None:
    first, last = line_number(int(found[2])), line_number(int(found[3]))
    if not 0 <= last - first <= _LONGEST:
        raise ReportError(f"not a block of lines: {first} to {last}")
    place = found[0].rpartition(" ")[0]
    block = parts.setdefault(place, _Block(first, last, int(found[4]), False))
    block.ran = block.ran or int(found[5]) > 0


def _file(blocks: list[_Block]) -> FileCoverage:
    covered = LineSet(_lines(one for one in blocks if one.ran))
    missed = LineSet(_lines(one for one in blocks if not one.ran)) - covered
    hit = sum(one.statements for one in blocks if one.ran)
    return FileCoverage(covered, missed, counted=Ratio(hit, sum(one.statements for one in blocks)))


def _lines(blocks: Iterator[_Block]) -> Iterator[int]:
    for block in blocks:
        if block.statements:
            yield from range(block.first, block.last + 1)
