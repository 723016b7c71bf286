"""Coverage reports: Clover, Cobertura, JaCoCo, coverage.py, Istanbul, Go cover profiles, lcov."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import BinaryIO

from shipline.gates.reports.coverage import Collector, Coverage, FileCoverage, LineSet, Ratio
from shipline.gates.reports.fields import Fields, line_number, whole
from shipline.gates.reports.json_stream import JsonReader
from shipline.gates.reports.report import Report, ReportError, Tool, epoch, local_moment
from shipline.gates.reports.streams import End, Start, read_lines, read_xml


def parse_clover(source: BinaryIO) -> Report:
    """`stmt` and `cond` lines are what can be covered; `method` lines only name a place.

    Branches are those of the file's metrics: Istanbul writes into `truecount` and `falsecount` how
    many branches of the line ran and did not, others how often it came out so.
    """
    collector = Collector()
    path = generated = version = ""
    hits: dict[int, int] = {}
    branches = Ratio()
    measured: Ratio | None = None
    in_class = False
    for event in read_xml(source, roots=("coverage",)):
        attributes = event.attributes if isinstance(event, Start) else {}
        match event.name, isinstance(event, Start):
            case "coverage", True:
                if not {"clover", "generated"} & attributes.keys():
                    raise ReportError("not a report of Clover: it does not say when it was made")
                generated, version = attributes.get("generated", ""), attributes.get("clover", "")
            case "file", True:
                path = attributes.get("path") or attributes.get("name", "")
                hits, branches, measured = {}, Ratio(), None
            case "class", begins:
                in_class = begins
            case "metrics", True if not in_class:
                measured = _measured(attributes)
            case "line", True if attributes.get("type") != "method":
                line = line_number(whole(attributes.get("num", ""), "line number"))
                count, taken = _line(attributes.get("type", ""), dict(attributes))
                hits[line] = max(hits.get(line, 0), count)
                branches += taken
            case "file", False:
                collector.add(path, hits, measured or branches)
    created = epoch(float(generated)) if generated.isdigit() and len(generated) < 20 else None
    return Report("clover", collector.coverage(), created=created, tool=Tool("clover", version))


def _measured(attributes: Mapping[str, str]) -> Ratio | None:
    """The branches that the metrics of a file tell; None where they tell none."""
    total = whole(attributes.get("conditionals", "0"), "conditionals")
    hit = whole(attributes.get("coveredconditionals", "0"), "coveredconditionals")
    if hit > total:
        raise ReportError(f"{hit} of {total} conditionals cannot be covered")
    return Ratio(hit, total) if total else None


def _line(kind: str, attributes: dict[str, str]) -> tuple[int, Ratio]:
    if kind == "cond":
        true = whole(attributes.get("truecount", "0"), "truecount")
        false = whole(attributes.get("falsecount", "0"), "falsecount")
        count = whole(attributes.get("count", str(true + false)), "count")
        return count, Ratio(bool(true) + bool(false), 2)
    return whole(attributes.get("count", ""), "count"), Ratio()


_CONDITIONS = re.compile(r"\((\d{1,6})/(\d{1,6})\)")


def parse_cobertura(source: BinaryIO) -> Report:
    """Lines stand twice, in `methods` and in the class: only the class's own are the truth, and
    where a writer leaves those out, the methods' are taken.
    """
    collector = Collector()
    roots: list[str] = []
    head: Start | None = None
    events = read_xml(source, roots=("coverage",), texts=("source",))
    for event in events:
        if isinstance(event, Start):
            head = head or event
            if event.name == "class":
                _class(event.attributes.get("filename", ""), events, collector)
            elif event is head and {"clover", "generated"} & event.attributes.keys():
                raise ReportError("not a report of Cobertura but of Clover")
        elif event.name == "source" and event.text.strip():
            roots.append(event.text.strip())
    attributes = head.attributes if head else {}
    created = attributes.get("timestamp", "")
    return Report(
        "cobertura",
        collector.coverage(roots),
        created=epoch(float(created)) if created.isdigit() and len(created) < 20 else None,
        tool=Tool("cobertura", attributes.get("version", "")),
    )


def _class(path: str, events: Iterator[Start | End], collector: Collector) -> None:
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
            line = line_number(whole(event.attributes.get("number", ""), "line number"))
            count = whole(event.attributes.get("hits", ""), "hits")
            hits[in_methods][line] = max(count, hits[in_methods].get(line, 0))
            told = event.attributes.get("condition-coverage")
            if told and (conditions := _CONDITIONS.search(told)):
                branches[in_methods][line] = Ratio(int(conditions[1]), int(conditions[2]))
    own = not hits[False]
    collector.add(path, hits[own], sum(branches[own].values(), Ratio()))


def parse_jacoco(source: BinaryIO) -> Report:
    """A line ran when one of its instructions did, as JaCoCo itself counts lines."""
    collector = Collector()
    package = path = dump = ""
    hits: dict[int, int] = {}
    branches = Ratio()
    for event in read_xml(source, roots=("report",)):
        attributes = event.attributes if isinstance(event, Start) else {}
        match event.name, isinstance(event, Start):
            case "sessioninfo", True:
                dump = max(dump, attributes.get("dump", ""), key=lambda text: (len(text), text))
            case "package", True:
                package = attributes.get("name", "")
            case "report", True if "name" not in attributes:
                raise ReportError("not a report of JaCoCo: it has no name")
            case "sourcefile", True:
                path = "/".join(filter(None, (package, attributes.get("name", ""))))
                hits, branches = {}, Ratio()
            case "line", True:
                line = line_number(whole(attributes.get("nr", ""), "line number"))
                hits[line] = whole(attributes.get("ci", "0"), "covered instructions")
                taken = whole(attributes.get("cb", "0"), "covered branches")
                missed = whole(attributes.get("mb", "0"), "missed branches")
                branches += Ratio(taken, taken + missed)
            case "sourcefile", False:
                collector.add(path, hits, branches)
    created = epoch(float(dump)) if dump.isdigit() and len(dump) < 20 else None
    return Report("jacoco", collector.coverage(), created=created, tool=Tool("JaCoCo"))


def parse_coveragepy(source: BinaryIO) -> Report:
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
    meta = Fields(head, "the report").having("meta", "files", "totals").child("meta")
    return Report(
        "coverage.py",
        collector.coverage(),
        created=local_moment(meta.text("timestamp")),
        tool=Tool("coverage.py", meta.name("version")),
    )


def _file(path: str, value: Fields, collector: Collector) -> None:
    value.having("executed_lines", "missing_lines", "summary")
    hits = dict.fromkeys(value.lines("missing_lines"), 0)
    hits |= dict.fromkeys(value.lines("executed_lines"), 1)
    summary = value.child("summary")
    branches = Ratio(summary.count("covered_branches"), summary.count("num_branches"))
    collector.add(path, hits, branches)


def parse_final(source: BinaryIO) -> Report:
    """A line ran as often as the statement on it that ran most, as Istanbul counts lines."""
    collector = Collector()
    reader = JsonReader(source)
    for path in reader.members():
        value = Fields(reader.value(), path)
        data = value.child("data") if "data" in value else value
        data.having("path", "statementMap", "s", "b")
        collector.add(data.text("path") or path, _hits(data), _branches(data))
    reader.finish()
    if not collector.coverage().files:
        raise ReportError("not a report of Istanbul: it names no file")
    return Report("istanbul", collector.coverage(), tool=Tool("istanbul"))


def parse_summary(source: BinaryIO) -> Report:
    """Without the lines: changed lines cannot be judged by it."""
    files: dict[str, FileCoverage] = {}
    total: FileCoverage | None = None
    reader = JsonReader(source)
    for path in reader.members():
        one = _counts(Fields(reader.value(), path))
        if path == "total":
            total = one
        else:
            files[path] = one
    reader.finish()
    if total is None:
        raise ReportError("not a summary of Istanbul: it has no total")
    if not files:
        files = {"total": total}
    return Report("istanbul-summary", Coverage(files), tool=Tool("istanbul"))


def _hits(data: Fields) -> dict[int, int]:
    counts, hits = data.child("s"), dict[int, int]()
    places = data.child("statementMap")
    for key in places:
        start = places.child(key).child("start")
        line = line_number(start.raw("line"))
        if key not in counts:
            raise ReportError(f"statement {key[:20]} has no count")
        hits[line] = max(hits.get(line, 0), counts.count(key))
    return hits


def _branches(data: Fields) -> Ratio:
    branches = data.child("b")
    counts = [count for key in branches for count in branches.listing(key)]
    if not all(isinstance(count, int) and count >= 0 for count in counts):
        raise ReportError("a branch count is not a number from zero on")
    return Ratio(sum(map(bool, counts)), len(counts))


def _counts(value: Fields) -> FileCoverage:
    value.having("lines")
    return FileCoverage(
        counted=_ratio(value.child("lines")), branches=_ratio(value.child("branches"))
    )


def _ratio(value: Fields) -> Ratio:
    hit, total = value.count("covered"), value.count("total")
    if hit > total:
        raise ReportError(f"{hit} of {total} lines are covered")
    return Ratio(hit, total)


_BLOCK = re.compile(r"(.+):(\d{1,9})\.\d{1,9},(\d{1,9})\.\d{1,9} (\d{1,9}) (\d{1,18})", re.ASCII)
_LONGEST = 100_000  # lines of a block


@dataclass(slots=True)
class _Block:
    first: int
    last: int
    statements: int
    ran: bool


def parse_gocover(source: BinaryIO) -> Report:
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
    files = {path: _gocover_file(list(parts.values())) for path, parts in blocks.items()}
    return Report("go", Coverage(files), tool=Tool("go"))


def _add(parts: dict[str, _Block], found: re.Match[str]) -> None:
    first, last = line_number(int(found[2])), line_number(int(found[3]))
    if not 0 <= last - first <= _LONGEST:
        raise ReportError(f"not a block of lines: {first} to {last}")
    place = found[0].rpartition(" ")[0]
    block = parts.setdefault(place, _Block(first, last, int(found[4]), False))
    block.ran = block.ran or int(found[5]) > 0


def _gocover_file(blocks: list[_Block]) -> FileCoverage:
    covered = LineSet(_lines(one for one in blocks if one.ran))
    missed = LineSet(_lines(one for one in blocks if not one.ran)) - covered
    hit = sum(one.statements for one in blocks if one.ran)
    return FileCoverage(covered, missed, counted=Ratio(hit, sum(one.statements for one in blocks)))


def _lines(blocks: Iterator[_Block]) -> Iterator[int]:
    for block in blocks:
        if block.statements:
            yield from range(block.first, block.last + 1)


def parse_lcov(source: BinaryIO) -> Report:
    """Raises ReportError for a record that does not end, which a cut off file has."""
    collector = Collector()
    path, records = "", 0
    hits: dict[int, int] = {}
    branches: dict[str, bool] = {}
    for line in read_lines(source):
        word, _, rest = line.partition(":")
        match word:
            case "SF":
                path, hits, branches = rest, {}, {}
            case "DA":
                number, count = _lcov_line(rest)
                hits[number] = hits.get(number, 0) + count
            case "BRDA":
                place, _, taken = rest.rpartition(",")
                branches[place] = branches.get(place, False) or taken not in ("-", "0")
            case "end_of_record":
                collector.add(path, hits, Ratio(sum(branches.values()), len(branches)))
                path, records = "", records + 1
    if path:
        raise ReportError(f"the record of {path} has no end: the file is cut off")
    if not records:
        raise ReportError("not a trace of lcov: it has no record of a source file")
    return Report("lcov", collector.coverage(), tool=Tool("lcov"))


def _lcov_line(text: str) -> tuple[int, int]:
    number, _, rest = text.partition(",")
    return (
        line_number(whole(number, "line number")),
        whole(rest.partition(",")[0], "execution count"),
    )
