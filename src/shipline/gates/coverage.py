"""The coverage gate: all lines, branches, each file, changed lines, the drop since last time."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import reduce

from shipline.gates.context import GateContext, RepositoryPaths
from shipline.gates.reports import Coverage, FileCoverage, Ratio
from shipline.gates.section import CoverageGate
from shipline.gates.thresholds import listed, skipped, undecided
from shipline.gates.verdict import Check, Location, Measurements, Outcome
from shipline.git import ChangedLines
from shipline.units import counted

_SPANS = 20  # of lines that are named for a file
_MORE_TESTS = "write tests for the lines that did not run"


def judge_coverage(
    rules: CoverageGate, reports: list[Coverage], context: GateContext, gate: str
) -> tuple[list[Check], Measurements]:
    """Checks for one or more reports taken together: a line ran if it ran in one of them."""
    merged = reduce(Coverage.__or__, reports)
    files = {
        path: one
        for path, one in merged.files.items()
        if not any(pattern.matches(path) for pattern in rules.exclude)
    }
    coverage = Coverage(files, merged.roots)
    return [*_checks(rules, coverage, context, gate)], _measured(coverage)


def _checks(
    rules: CoverageGate, coverage: Coverage, context: GateContext, gate: str
) -> Iterator[Check]:
    if not coverage.lines.total:
        yield undecided("lines", "the report has no line that could run", "run the tests with it")
        return
    yield _with_files(least("lines", coverage.lines, rules.min, "lines"), coverage.files)
    if rules.branch_min is not None:
        if coverage.branches.total:
            yield least("branches", coverage.branches, rules.branch_min, "branches")
        else:
            yield undecided("branches", "the report has no branches", "switch branches on in it")
    if rules.file_min is not None:
        yield _each_file(coverage.files, rules.file_min)
    if rules.patch_min is not None:
        yield _patch(rules, coverage, context.changes, rules.patch_min)
    if rules.max_drop is not None:
        yield _drop(rules, coverage, context, gate, rules.max_drop)


def least(name: str, ratio: Ratio, limit: float, what: str) -> Check:
    """The check that at least `limit` percent ran."""
    percent = ratio.percent or 0.0
    reason = f"{ratio.hit:,} of {ratio.total:,} {what} ran"
    if percent >= limit:
        return Check(name, Outcome.PASS, reason, shown(percent), f">= {limit:g} %")
    missing = -(-ratio.total * limit // 100) - ratio.hit
    more = max(1, int(missing))
    reason = f"{reason}; {more:,} more {'is' if more == 1 else 'are'} needed for {limit:g} %"
    return Check(name, Outcome.FAIL, reason, shown(percent), f">= {limit:g} %", _MORE_TESTS)


def shown(percent: float) -> str:
    """Cut, not rounded: 79.99 is not 80."""
    return f"{int(percent * 10) / 10:.1f} %"


def _measured(coverage: Coverage) -> Measurements:
    lines, branches = coverage.lines, coverage.branches
    numbers: dict[str, int | float] = {"lines": lines.hit, "lines-total": lines.total}
    numbers |= {"branches": branches.hit, "branches-total": branches.total}
    return Measurements(numbers)


def _each_file(files: Mapping[str, FileCoverage], limit: float) -> Check:
    low = sorted(
        (percent, path)
        for path, one in files.items()
        if (percent := one.ratio.percent) is not None and percent < limit
    )
    if not low:
        return Check("files", Outcome.PASS, f"every file has {limit:g} %", limit=f">= {limit:g} %")
    reason = f"{counted(len(low), 'file has', 'files have')} less: "
    check = Check(
        "files",
        Outcome.FAIL,
        reason + listed(path for _, path in low),
        shown(low[0][0]),
        f">= {limit:g} %",
        _MORE_TESTS,
    )
    return _with_files(check, {path: files[path] for _, path in low})


def _with_files(check: Check, files: Mapping[str, FileCoverage]) -> Check:
    """A failure with the files where something did not run, most of it first."""
    if check.outcome is not Outcome.FAIL:
        return check
    short = [(one.ratio.total - one.ratio.hit, path) for path, one in files.items()]
    names = [path for missed, path in sorted(short, key=lambda one: (-one[0], one[1])) if missed]
    places = [_place_of(path, files[path]) for path in names]
    details = (f"{one.path}: {one.text}" for one in places)
    return replace(check, details=tuple(details), places=tuple(places))


def _place_of(path: str, one: FileCoverage) -> Location:
    lines, percent = sorted(one.missed), shown(one.ratio.percent or 0.0)
    if not lines:
        return Location(path, 0, percent)
    word = "line" if len(lines) == 1 else "lines"
    return Location(path, lines[0], f"{percent}, {word} {_spans(lines)} did not run")


@dataclass(slots=True)
class Patch:
    """Changed lines that could run: which did, by file of the repository."""

    hit: dict[str, set[int]] = field(default_factory=dict)
    missed: dict[str, set[int]] = field(default_factory=dict)
    unclear: list[str] = field(default_factory=list)
    unknown: list[str] = field(default_factory=list)

    @property
    def ratio(self) -> Ratio:
        hit = sum(map(len, self.hit.values()))
        return Ratio(hit, hit + sum(map(len, self.missed.values())))


def patch_of(coverage: Coverage, changes: ChangedLines) -> Patch:
    """The changed lines in the light of a report."""
    patch, places, seen = Patch(), RepositoryPaths(changes, coverage.roots), set[str]()
    for path, one in coverage.files.items():
        found = places.find(path)
        changed = [name for name in found if name in changes.lines]
        if not changed:
            continue
        if len(found) > 1:
            patch.unclear.append(path)
            continue
        name = changed[0]
        seen.add(name)
        covered = {line for line in one.covered if changes.touches(name, line)}
        missed = {line for line in one.missed if changes.touches(name, line)}
        patch.hit[name] = patch.hit.get(name, set()) | covered
        patch.missed[name] = (patch.missed.get(name, set()) | missed) - patch.hit[name]
    endings = {path.rpartition(".")[2] for path in seen}
    rest = changes.lines.keys() - seen
    patch.unknown = sorted(path for path in rest if path.rpartition(".")[2] in endings)
    return patch


def _patch(
    rules: CoverageGate, coverage: Coverage, changes: ChangedLines | None, limit: float
) -> Check:
    if changes is None:
        return undecided("changed lines", "nothing to compare with", "name a base: --base main")
    if not any(len(one.covered) + len(one.missed) for one in coverage.files.values()):
        return undecided("changed lines", "the report names no lines", "use one that does")
    patch = patch_of(coverage, changes)
    if patch.unclear:
        names = listed(patch.unclear)
        return undecided("changed lines", f"which files are meant is not clear: {names}")
    ratio = patch.ratio
    if not ratio.total:
        return skipped("changed lines", "the change has no line that could run")
    if ratio.total < rules.patch_floor:
        lines = counted(ratio.total, "changed line is", "changed lines are")
        return skipped("changed lines", f"{lines} fewer than {rules.patch_floor}: not judged")
    return _with_details(least("changed lines", ratio, limit, "changed lines"), patch)


def _with_details(check: Check, patch: Patch) -> Check:
    missed = [(path, line) for path, lines in patch.missed.items() for line in sorted(lines)]
    details = [f"{path}: {_spans(sorted(lines))}" for path, lines in patch.missed.items() if lines]
    details += [f"{path}: not in the report" for path in patch.unknown]
    places = [Location(path, line, "this changed line did not run") for path, line in missed]
    failed = check.outcome is Outcome.FAIL
    return Check(
        check.name, check.outcome, check.reason, check.measured, check.limit, check.hint,
        tuple(details), tuple(places) if failed else (),
    )  # fmt: skip


def _spans(lines: list[int]) -> str:
    spans: list[list[int]] = []
    for line in lines:
        if spans and spans[-1][1] == line - 1:
            spans[-1][1] = line
        else:
            spans.append([line, line])
    more = ", ..." if len(spans) > _SPANS else ""
    return ", ".join(str(a) if a == b else f"{a}-{b}" for a, b in spans[:_SPANS]) + more


def _drop(
    rules: CoverageGate, coverage: Coverage, context: GateContext, gate: str, limit: float
) -> Check:
    """Deleting covered code lowers the percentage though no line is worse than before."""
    before = context.before(gate)
    total = before.numbers.get("lines-total", 0) if before else 0
    if before is None or not total:
        return skipped("drop", "there is no promoted image to compare with yet")
    lines = coverage.lines
    hit = before.numbers.get("lines", 0)
    drop = 100 * hit / total - (lines.percent or 0.0)
    reason = f"{shown(lines.percent or 0.0)} after {shown(100 * hit / total)}"
    measured, most = f"{max(0.0, drop):.2f}", f"<= {limit:g} points"
    if drop <= limit:
        return Check("drop", Outcome.PASS, reason, measured, most)
    if rules.deleted_code == "tolerate" and lines.total - lines.hit <= total - hit:
        reason += ": only covered code was deleted"
        return Check("drop", Outcome.PASS, reason, measured, most)
    reason += f", {drop:.2f} points lower, allowed are {limit:g}"
    return Check("drop", Outcome.FAIL, reason, measured, most, _MORE_TESTS)
