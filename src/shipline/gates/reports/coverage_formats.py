"""Coverage reports: Clover, Cobertura, JaCoCo, coverage.py, Istanbul, Go cover profiles, lcov."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import BinaryIO

from shipline.gates.reports.coverage import (
    Collector,
    Coverage,
    FileCoverage,
    LineSet,
    Ratio,
    contradictions,
)
from shipline.gates.reports.fields import Fields, line_number, parse_count, parse_number
from shipline.gates.reports.report import Report, ReportError, Tool, parse_epoch, parse_local_time
from shipline.gates.reports.streams import End, JsonReader, Start, read_lines, read_xml


def parse_clover(source: BinaryIO) -> Report:
    """`stmt` and `cond` lines count; `method` lines only mark where a method begins.

    Branches come from the metrics of the file: Istanbul uses `truecount` and `falsecount` for how
    many branches of a line ran, other tools for how often its condition was true and false.
    """
    collector = Collector()
    path = generated = version = ""
    hits: dict[int, int] = {}
    branches = Ratio()
    measured: Ratio | None = None
    statements = 0
    unlisted: list[str] = []
    in_class = False
    for event in read_xml(source, roots=("coverage",)):
        attributes = event.attributes if isinstance(event, Start) else {}
        match event.name, isinstance(event, Start):
            case "coverage", True:
                if not {"clover", "generated"} & attributes.keys():
                    raise ReportError("not a Clover report: it has no time of generation")
                generated, version = attributes.get("generated", ""), attributes.get("clover", "")
            case "file", True:
                path = attributes.get("path") or attributes.get("name", "")
                hits, branches, measured, statements = {}, Ratio(), None, 0
            case "class", begins:
                in_class = begins
            case "metrics", True if not in_class:
                measured = _measured(attributes)
                statements = parse_count(attributes.get("statements", "0"), "statements")
            case "line", True if attributes.get("type") != "method":
                line = line_number(parse_count(attributes.get("num", ""), "line number"))
                count, taken = _line(attributes.get("type", ""), dict(attributes))
                hits[line] = max(hits.get(line, 0), count)
                branches += taken
            case "file", False:
                collector.add(path, hits, measured or branches)
                if statements and not hits:
                    unlisted.append(path)
    created = parse_epoch(float(generated)) if generated.isdigit() and len(generated) < 20 else None
    return Report(
        "clover",
        collector.coverage(),
        created=created,
        tool=Tool("clover", version),
        gaps=_unlisted(unlisted),
    )


def _unlisted(paths: list[str]) -> tuple[str, ...]:
    """The gap of files whose totals count lines or branches that are not listed."""
    if not paths:
        return ()
    more = f" and of {len(paths) - 1:,} more files" if len(paths) > 1 else ""
    return (f"its totals count lines or branches of {paths[0]}{more}, but it lists none",)


def _measured(attributes: Mapping[str, str]) -> Ratio | None:
    """The branches that the metrics of a file count; None if they count none."""
    total = parse_count(attributes.get("conditionals", "0"), "conditionals")
    hit = parse_count(attributes.get("coveredconditionals", "0"), "coveredconditionals")
    if hit > total:
        raise ReportError(f"{hit} of {total} conditionals cannot be covered")
    return Ratio(hit, total) if total else None


def _line(kind: str, attributes: dict[str, str]) -> tuple[int, Ratio]:
    if kind == "cond":
        true = parse_count(attributes.get("truecount", "0"), "truecount")
        false = parse_count(attributes.get("falsecount", "0"), "falsecount")
        count = parse_count(attributes.get("count", str(true + false)), "count")
        return count, Ratio(bool(true) + bool(false), 2)
    return parse_count(attributes.get("count", ""), "count"), Ratio()


_CONDITIONS = re.compile(r"\((\d{1,6})/(\d{1,6})\)")


def parse_cobertura(source: BinaryIO) -> Report:
    """Lines are listed twice, in the methods and in the class. Those of the class count; those of
    the methods only where a tool leaves the others out.
    """
    collector, listed = Collector(), Ratio()
    roots: list[str] = []
    head: Start | None = None
    events = read_xml(source, roots=("coverage",), texts=("source",))
    for event in events:
        if isinstance(event, Start):
            head = head or event
            if event.name == "class":
                listed += _class(event.attributes.get("filename", ""), events, collector)
            elif event is head and {"clover", "generated"} & event.attributes.keys():
                raise ReportError("a Clover report, not a Cobertura report")
        elif event.name == "source" and event.text.strip():
            roots.append(event.text.strip())
    attributes = head.attributes if head else {}
    created = attributes.get("timestamp", "")
    return Report(
        "cobertura",
        collector.coverage(roots),
        created=parse_epoch(float(created)) if created.isdigit() and len(created) < 20 else None,
        tool=Tool("cobertura", attributes.get("version", "")),
        gaps=contradictions(_stated(attributes, listed.total), collector.coverage().lines, listed),
    )


def _stated(attributes: Mapping[str, str], listed: int) -> Ratio:
    """The totals of a Cobertura report; where it only has a rate, that rate of the listed lines."""
    if "lines-valid" in attributes and "lines-covered" in attributes:
        hit = parse_count(attributes["lines-covered"], "lines-covered")
        return Ratio(hit, parse_count(attributes["lines-valid"], "lines-valid"))
    if rate := attributes.get("line-rate"):
        return Ratio(int(parse_number(rate, "line-rate") * listed + 0.5), listed)
    return Ratio()


def _class(path: str, events: Iterator[Start | End], collector: Collector) -> Ratio:
    """Add the lines of a class, and return how many of them ran."""
    if not path:
        raise ReportError("a class has no filename")
    hits: dict[bool, dict[int, int]] = {True: {}, False: {}}
    branches: dict[bool, dict[int, Ratio]] = {True: {}, False: {}}
    in_methods = False
    for event in events:
        if isinstance(event, End) and event.name == "class":
            break
        if event.name == "methods":
            in_methods = isinstance(event, Start)
        elif isinstance(event, Start) and event.name == "line":
            line = line_number(parse_count(event.attributes.get("number", ""), "line number"))
            count = parse_count(event.attributes.get("hits", ""), "hits")
            hits[in_methods][line] = max(count, hits[in_methods].get(line, 0))
            condition = event.attributes.get("condition-coverage")
            if condition and (conditions := _CONDITIONS.search(condition)):
                branches[in_methods][line] = Ratio(int(conditions[1]), int(conditions[2]))
    of_methods = not hits[False]
    collector.add(path, hits[of_methods], sum(branches[of_methods].values(), Ratio()))
    return Ratio(sum(map(bool, hits[of_methods].values())), len(hits[of_methods]))


def parse_jacoco(source: BinaryIO) -> Report:
    """A line ran if one of its instructions did, as JaCoCo counts lines itself."""
    collector = Collector()
    package = path = dump = ""
    hits: dict[int, int] = {}
    branches = stated = Ratio()
    for event in read_xml(source, roots=("report",)):
        attributes = event.attributes if isinstance(event, Start) else {}
        match event.name, isinstance(event, Start):
            case "sessioninfo", True:
                dump = max(dump, attributes.get("dump", ""), key=lambda text: (len(text), text))
            case "package", True:
                package = attributes.get("name", "")
            case "report", True if "name" not in attributes:
                raise ReportError("not a JaCoCo report: it has no name")
            case "sourcefile", True:
                path = "/".join(filter(None, (package, attributes.get("name", ""))))
                hits, branches = {}, Ratio()
            case "line", True:
                line = line_number(parse_count(attributes.get("nr", ""), "line number"))
                hits[line] = parse_count(attributes.get("ci", "0"), "covered instructions")
                taken = parse_count(attributes.get("cb", "0"), "covered branches")
                missed = parse_count(attributes.get("mb", "0"), "missed branches")
                branches += Ratio(taken, taken + missed)
            case "counter", True if attributes.get("type") == "LINE":  # the last is the report's
                covered = parse_count(attributes.get("covered", "0"), "covered lines")
                stated = Ratio(
                    covered, covered + parse_count(attributes.get("missed", "0"), "missed lines")
                )
            case "sourcefile", False:
                collector.add(path, hits, branches)
    created = parse_epoch(float(dump)) if dump.isdigit() and len(dump) < 20 else None
    coverage = collector.coverage()
    gaps = contradictions(stated, coverage.lines)
    return Report("jacoco", coverage, created=created, tool=Tool("JaCoCo"), gaps=gaps)


def parse_coveragepy(source: BinaryIO) -> Report:
    """The JSON report of coverage.py, with branches if they were measured."""
    collector = Collector()
    head: dict[str, object] = {}
    reader = JsonReader(source)
    for key in reader.members():
        if key in ("meta", "totals"):
            head[key] = reader.value()
        elif key == "files":
            head[key] = True
            for path in reader.members():
                _file(path, Fields(reader.value(), path), collector)
    reader.finish()
    report = Fields(head, "the report").require("meta", "files", "totals")
    meta, totals = report.child("meta"), report.child("totals")
    stated = Ratio(totals.count("covered_lines"), totals.count("num_statements"))
    return Report(
        "coverage.py",
        collector.coverage(),
        created=parse_local_time(meta.text("timestamp")),
        tool=Tool("coverage.py", meta.name("version")),
        gaps=contradictions(stated, collector.coverage().lines),
    )


def _file(path: str, value: Fields, collector: Collector) -> None:
    value.require("executed_lines", "missing_lines", "summary")
    hits = dict.fromkeys(value.lines("executed_lines"), 1)
    if both := hits.keys() & set(value.lines("missing_lines")):
        raise ReportError(f"line {min(both)} of {path[:100]} is both executed and missing")
    hits |= dict.fromkeys(value.lines("missing_lines"), 0)
    summary = value.child("summary")
    branches = Ratio(summary.count("covered_branches"), summary.count("num_branches"))
    collector.add(path, hits, branches)


def parse_istanbul(source: BinaryIO) -> Report:
    """A line ran as often as its most frequent statement, as Istanbul counts lines itself."""
    collector = Collector()
    reader = JsonReader(source)
    for path in reader.members():
        value = Fields(reader.value(), path)
        data = value.child("data") if "data" in value else value
        data.require("path", "statementMap", "s", "b")
        collector.add(data.text("path") or path, _hits(data), _branches(data))
    reader.finish()
    if not collector.coverage().files:
        raise ReportError("not an Istanbul report: it lists no files")
    return Report("istanbul", collector.coverage(), tool=Tool("istanbul"))


def parse_istanbul_summary(source: BinaryIO) -> Report:
    """A summary lists no lines: changed lines cannot be judged by it."""
    files: dict[str, FileCoverage] = {}
    total: FileCoverage | None = None
    reader = JsonReader(source)
    for path in reader.members():
        coverage = _counts(Fields(reader.value(), path))
        if path == "total":
            total = coverage
        else:
            files[path] = coverage
    reader.finish()
    if total is None:
        raise ReportError("not an Istanbul summary: it has no total")
    if not files:
        files = {"total": total}
    gaps = contradictions(total.ratio, Coverage(files).lines)
    return Report("istanbul-summary", Coverage(files), tool=Tool("istanbul"), gaps=gaps)


def _hits(data: Fields) -> dict[int, int]:
    counts, hits = data.child("s"), dict[int, int]()
    statements = data.child("statementMap")
    for key in statements:
        start = statements.child(key).child("start")
        line = line_number(start.raw("line"))
        if key not in counts:
            raise ReportError(f"statement {key[:20]} has no count")
        hits[line] = max(hits.get(line, 0), counts.count(key))
    return hits


def _branches(data: Fields) -> Ratio:
    branches = data.child("b")
    counts = [count for key in branches for count in branches.elements(key)]
    if not all(isinstance(count, int) and count >= 0 for count in counts):
        raise ReportError("a branch count is not a non-negative number")
    return Ratio(sum(map(bool, counts)), len(counts))


def _counts(value: Fields) -> FileCoverage:
    value.require("lines")
    return FileCoverage(
        counted=_ratio(value.child("lines")), branches=_ratio(value.child("branches"))
    )


def _ratio(value: Fields) -> Ratio:
    hit, total = value.count("covered"), value.count("total")
    if hit > total:
        raise ReportError(f"{hit} of {total} lines are covered")
    return Ratio(hit, total)


_BLOCK = re.compile(r"(.+):(\d{1,9})\.\d{1,9},(\d{1,9})\.\d{1,9} (\d{1,9}) (\d{1,18})", re.ASCII)
_MAX_BLOCK_LINES = 100_000  # lines of a block


@dataclass(slots=True)
class _Block:
    first: int
    last: int
    statements: int
    ran: bool


def parse_gocover(source: BinaryIO) -> Report:
    """Counts statements, as `go tool cover -func` does. A block is listed once for each tested
    package, and ran if it ran for one of them.
    """
    lines = read_lines(source)
    if not next(lines, "").startswith("mode: "):
        raise ReportError("not a Go cover profile: it does not begin with a mode")
    blocks: dict[str, dict[str, _Block]] = {}
    for line in lines:
        if line.startswith("mode: "):  # concatenated profiles
            continue
        match = _BLOCK.fullmatch(line)
        if match is None:
            raise ReportError(f"not a line of a Go cover profile: {line[:100]!r}")
        _add(blocks.setdefault(match[1], {}), match)
    files = {
        path: _go_file(list(blocks_of_file.values())) for path, blocks_of_file in blocks.items()
    }
    return Report("go", Coverage(files), tool=Tool("go"))


def _add(blocks: dict[str, _Block], match: re.Match[str]) -> None:
    first, last = line_number(int(match[2])), line_number(int(match[3]))
    if not 0 <= last - first <= _MAX_BLOCK_LINES:
        raise ReportError(f"not a block of lines: {first} to {last}")
    position = match[0].rpartition(" ")[0]
    block = blocks.setdefault(position, _Block(first, last, int(match[4]), False))
    block.ran = block.ran or int(match[5]) > 0


def _go_file(blocks: list[_Block]) -> FileCoverage:
    covered = LineSet(_lines(block for block in blocks if block.ran))
    missed = LineSet(_lines(block for block in blocks if not block.ran)) - covered
    hit = sum(block.statements for block in blocks if block.ran)
    return FileCoverage(
        covered, missed, counted=Ratio(hit, sum(block.statements for block in blocks))
    )


def _lines(blocks: Iterator[_Block]) -> Iterator[int]:
    for block in blocks:
        if block.statements:
            yield from range(block.first, block.last + 1)


def parse_lcov(source: BinaryIO) -> Report:
    """Raises ReportError for a record without an end, as in a truncated file."""
    collector, stated, listed, unlisted = Collector(), Ratio(), Ratio(), list[str]()
    path, records = "", 0
    counts: dict[str, int] = {}
    hits: dict[int, int] = {}
    branches: dict[str, bool] = {}
    for line in read_lines(source):
        word, _, rest = line.partition(":")
        match word:
            case "SF":
                path, hits, branches, counts = rest, {}, {}, {}
            case "LF" | "LH" | "BRF":
                counts[word] = parse_count(rest, word)
            case "DA":
                number, count = _lcov_line(rest)
                hits[number] = hits.get(number, 0) + count
            case "BRDA":
                branch, _, taken = rest.rpartition(",")
                branches[branch] = branches.get(branch, False) or taken not in ("-", "0")
            case "end_of_record":
                collector.add(path, hits, Ratio(sum(branches.values()), len(branches)))
                own = Ratio(sum(map(bool, hits.values())), len(hits))
                stated += Ratio(counts.get("LH", own.hit), counts.get("LF", own.total))
                listed += own
                if (counts.get("LF") and not hits) or (counts.get("BRF") and not branches):
                    unlisted.append(path)
                path, records = "", records + 1
    if path:
        raise ReportError(f"the record of {path} has no end: the file is truncated")
    if not records:
        raise ReportError("not an lcov trace file: it has no record of a source file")
    gaps = _unlisted(unlisted) or contradictions(stated, collector.coverage().lines, listed)
    return Report("lcov", collector.coverage(), tool=Tool("lcov"), gaps=gaps)


def _lcov_line(text: str) -> tuple[int, int]:
    number, _, fields = text.partition(",")
    return (
        line_number(parse_count(number, "line number")),
        parse_count(fields.partition(",")[0], "execution count"),
    )
