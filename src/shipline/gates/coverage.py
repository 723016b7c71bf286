"""The coverage gate: lines, branches, files, changed lines, the drop since the last image."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import reduce

from shipline.gates.context import GateContext, RepositoryPaths
from shipline.gates.reports import Coverage, FileCoverage, Ratio
from shipline.gates.section import CoverageGate
from shipline.gates.thresholds import listed, skipped, undecided
from shipline.gates.verdict import Check, Location, Measurements, Outcome
from shipline.git import ChangedLines
from shipline.units import counted
from shipline.values import replace

_MAX_SPANS = 20  # line ranges named per file
_MORE_TESTS = "write tests for the lines that did not run"


def judge_coverage(
    rules: CoverageGate, reports: list[Coverage], context: GateContext, gate: str
) -> tuple[list[Check], Measurements]:
    """Checks on all reports together: a line ran if it ran in one of them."""
    merged = reduce(Coverage.__or__, reports)
    files = {
        path: file
        for path, file in merged.files.items()
        if not any(pattern.matches(path) for pattern in rules.exclude)
    }
    coverage = Coverage(files, merged.roots)
    return [*_checks(rules, coverage, context, gate)], _measurements(coverage)


def _checks(
    rules: CoverageGate, coverage: Coverage, context: GateContext, gate: str
) -> Iterator[Check]:
    if not coverage.lines.total:
        yield undecided(
            "lines", "the report has no executable lines", "measure while the tests run"
        )
        return
    yield _with_files(_at_least("lines", coverage.lines, rules.min, "lines"), coverage.files)
    if rules.branch_min is not None:
        if coverage.branches.total:
            yield _at_least("branches", coverage.branches, rules.branch_min, "branches")
        else:
            yield undecided("branches", "the report has no branches", "turn on branch coverage")
    if rules.file_min is not None:
        yield _each_file(coverage.files, rules.file_min)
    if rules.patch_min is not None:
        yield _patch(rules, coverage, context.changes, rules.patch_min)
    if rules.max_drop is not None:
        yield _drop(rules, coverage, context, gate, rules.max_drop)


def _at_least(name: str, ratio: Ratio, limit: float, what: str) -> Check:
    """The check that at least `limit` percent ran."""
    percent = ratio.percent or 0.0
    reason = f"{ratio.hit:,} of {ratio.total:,} {what} ran"
    if percent >= limit:
        return Check(name, Outcome.PASS, reason, _percent_text(percent), f">= {limit:g} %")
    missing = -(-ratio.total * limit // 100) - ratio.hit
    needed = max(1, int(missing))
    reason = f"{reason}; {needed:,} more {'is' if needed == 1 else 'are'} needed for {limit:g} %"
    return Check(name, Outcome.FAIL, reason, _percent_text(percent), f">= {limit:g} %", _MORE_TESTS)


def _percent_text(percent: float) -> str:
    """Truncated, not rounded: 79.99 is not 80."""
    return f"{int(percent * 10) / 10:.1f} %"


def _measurements(coverage: Coverage) -> Measurements:
    lines, branches = coverage.lines, coverage.branches
    numbers: dict[str, int | float] = {"lines": lines.hit, "lines-total": lines.total}
    numbers |= {"branches": branches.hit, "branches-total": branches.total}
    return Measurements(numbers)


def _each_file(files: Mapping[str, FileCoverage], limit: float) -> Check:
    low = sorted(
        (percent, path)
        for path, file in files.items()
        if (percent := file.ratio.percent) is not None and percent < limit
    )
    if not low:
        return Check("files", Outcome.PASS, f"every file has {limit:g} %", limit=f">= {limit:g} %")
    reason = f"{counted(len(low), 'file has', 'files have')} less: "
    check = Check(
        "files",
        Outcome.FAIL,
        reason + listed(path for _, path in low),
        _percent_text(low[0][0]),
        f">= {limit:g} %",
        _MORE_TESTS,
    )
    return _with_files(check, {path: files[path] for _, path in low})


def _with_files(check: Check, files: Mapping[str, FileCoverage]) -> Check:
    """A failure with its files, those with the most uncovered lines first."""
    if check.outcome is not Outcome.FAIL:
        return check
    uncovered = [(file.ratio.total - file.ratio.hit, path) for path, file in files.items()]
    names = [
        path
        for missed, path in sorted(uncovered, key=lambda entry: (-entry[0], entry[1]))
        if missed
    ]
    locations = [_location(path, files[path]) for path in names]
    details = (f"{location.path}: {location.text}" for location in locations)
    return replace(check, details=tuple(details), locations=tuple(locations))


def _location(path: str, file: FileCoverage) -> Location:
    lines, percent = sorted(file.missed), _percent_text(file.ratio.percent or 0.0)
    if not lines:
        return Location(path, 0, percent)
    noun = "line" if len(lines) == 1 else "lines"
    return Location(path, lines[0], f"{percent}, {noun} {_spans(lines)} did not run")


@dataclass(slots=True)
class PatchCoverage:
    """Executable changed lines, covered and missed, by path in the repository.

    `ambiguous` are paths of the report that may mean several files, `unreported` changed files that
    the report does not have.
    """

    hit: dict[str, set[int]] = field(default_factory=dict)
    missed: dict[str, set[int]] = field(default_factory=dict)
    ambiguous: list[str] = field(default_factory=list)
    unreported: list[str] = field(default_factory=list)

    @property
    def ratio(self) -> Ratio:
        """Covered lines of all changed executable lines."""
        hit = sum(map(len, self.hit.values()))
        return Ratio(hit, hit + sum(map(len, self.missed.values())))


def patch_coverage(coverage: Coverage, changes: ChangedLines) -> PatchCoverage:
    """The coverage of the changed lines."""
    patch, paths, seen = PatchCoverage(), RepositoryPaths(changes, coverage.roots), set[str]()
    for path, file in coverage.files.items():
        candidates = paths.find(path)
        changed = [name for name in candidates if name in changes.lines]
        if not changed:
            continue
        if len(candidates) > 1:
            patch.ambiguous.append(path)
            continue
        name = changed[0]
        seen.add(name)
        covered = {line for line in file.covered if changes.touches(name, line)}
        missed = {line for line in file.missed if changes.touches(name, line)}
        patch.hit[name] = patch.hit.get(name, set()) | covered
        patch.missed[name] = (patch.missed.get(name, set()) | missed) - patch.hit[name]
    endings = {path.rpartition(".")[2] for path in coverage.files}
    unseen = changes.lines.keys() - seen
    patch.unreported = sorted(path for path in unseen if path.rpartition(".")[2] in endings)
    return patch


def _patch(
    rules: CoverageGate, coverage: Coverage, changes: ChangedLines | None, limit: float
) -> Check:
    if changes is None:
        return undecided(
            "changed lines", "there is no base to compare with", "name one: --base main"
        )
    if not any(len(file.covered) + len(file.missed) for file in coverage.files.values()):
        return undecided("changed lines", "the report lists no lines", "use a format that does")
    patch = patch_coverage(coverage, changes)
    if patch.ambiguous:
        names = listed(patch.ambiguous)
        return undecided("changed lines", f"these paths match several files: {names}")
    ratio = patch.ratio
    if ratio.total < rules.patch_floor or not ratio.total:
        return _small(rules, patch)
    return _with_details(_at_least("changed lines", ratio, limit, "changed lines"), patch)


def _small(rules: CoverageGate, patch: PatchCoverage) -> Check:
    """Too little to judge. Files that the report lacks may be the change that no test runs."""
    lines = counted(patch.ratio.total, "changed line is", "changed lines are")
    reason = f"{lines} fewer than {rules.patch_floor}: not judged"
    if not patch.ratio.total:
        reason = "no executable line was changed" + " in a file of the report" * bool(
            patch.unreported
        )
    if patch.unreported:
        reason += f"; it does not have {listed(patch.unreported)}"
    return skipped("changed lines", reason)


def _with_details(check: Check, patch: PatchCoverage) -> Check:
    missed = [(path, line) for path, lines in patch.missed.items() for line in sorted(lines)]
    details = [f"{path}: {_spans(sorted(lines))}" for path, lines in patch.missed.items() if lines]
    details += [f"{path}: not in the report" for path in patch.unreported]
    locations = [Location(path, line, "this changed line did not run") for path, line in missed]
    failed = check.outcome is Outcome.FAIL
    return Check(
        check.name, check.outcome, check.reason, check.measured, check.limit, check.hint,
        tuple(details), tuple(locations) if failed else (),
    )  # fmt: skip


def _spans(lines: list[int]) -> str:
    spans: list[list[int]] = []
    for line in lines:
        if spans and spans[-1][1] == line - 1:
            spans[-1][1] = line
        else:
            spans.append([line, line])
    ellipsis = ", ..." if len(spans) > _MAX_SPANS else ""
    return ", ".join(str(a) if a == b else f"{a}-{b}" for a, b in spans[:_MAX_SPANS]) + ellipsis


def _drop(
    rules: CoverageGate, coverage: Coverage, context: GateContext, gate: str, limit: float
) -> Check:
    """Deleting covered code lowers the percentage although no other line lost coverage."""
    before = context.before(gate)
    total = before.numbers.get("lines-total", 0) if before else 0
    if before is None or not total:
        return skipped("drop", "no promoted image to compare with yet")
    lines = coverage.lines
    hit = before.numbers.get("lines", 0)
    drop = 100 * hit / total - (lines.percent or 0.0)
    reason = f"{_percent_text(lines.percent or 0.0)} after {_percent_text(100 * hit / total)}"
    measured, limit_text = f"{max(0.0, drop):.2f}", f"<= {limit:g} points"
    if drop <= limit:
        return Check("drop", Outcome.PASS, reason, measured, limit_text)
    if rules.deleted_code == "tolerate" and lines.total - lines.hit <= total - hit:
        reason += ": only covered code was deleted"
        return Check("drop", Outcome.PASS, reason, measured, limit_text)
    reason += f", {drop:.2f} points lower; {limit:g} are allowed"
    return Check("drop", Outcome.FAIL, reason, measured, limit_text, _MORE_TESTS)
