"""Verdicts on reports: whether a report can be used, and the gates of tests and of findings."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from datetime import datetime, timedelta

from shipline.gates.context import GateContext, ImageFacts, ImageSubject, RepositoryPaths
from shipline.gates.coverage import judge_coverage
from shipline.gates.dast import judge_dast
from shipline.gates.report_files import ReportFile
from shipline.gates.reports import (
    Content,
    Coverage,
    Finding,
    FindingLevel,
    Findings,
    Report,
    Sbom,
    TestResults,
    Vex,
    VexStatement,
    Vulnerabilities,
    WebFindings,
    formats_of,
)
from shipline.gates.sbom import judge_sbom
from shipline.gates.section import (
    CoverageGate,
    DastGate,
    FindingsGate,
    GateRules,
    ReportGate,
    SbomGate,
    SecretsGate,
    TestsGate,
    VulnerabilitiesGate,
)
from shipline.gates.thresholds import at_most, bound, shown_age, skipped, undecided
from shipline.gates.verdict import Check, Measurements, Outcome, Verdict
from shipline.gates.vulnerabilities import judge_vulnerabilities
from shipline.gates.waivers import Waivers, expired_checks
from shipline.units import Duration, counted
from shipline.values import replace

_HINT = "fix them, or write a waiver with an owner, a reason and an end date"


def judge_findings(
    rules: FindingsGate, reports: list[Findings], waivers: Waivers, gate: str
) -> tuple[list[Check], Measurements]:
    """Checks on all reports together."""
    findings = [
        finding for report in reports for finding in report.findings if finding.state != "absent"
    ]
    keys = frozenset(finding.key for finding in findings)
    return [*_finding_checks(rules, findings, waivers, gate)], Measurements(
        {"findings": len(findings)}, keys
    )


def _finding_checks(
    rules: FindingsGate, findings: list[Finding], waivers: Waivers, gate: str
) -> Iterator[Check]:
    context = waivers.context
    counting = [finding for finding in findings if _counts(rules, finding)]
    new = on = ""
    if rules.new_only:
        counting, new = [finding for finding in counting if _new(finding, context, gate)], "new "
    if rules.changed_lines_only:
        if context.changes is None:
            yield undecided("findings", "there is no base to compare with", "name one: --base main")
            return
        counting, on = _on_changed_lines(counting, context), " on changed lines"
    split = waivers.split(gate, counting)
    noun = (f"{new}finding{on}", f"{new}findings{on}")
    yield at_most("findings", split, rules.max, noun=noun, hint=_HINT)
    yield from expired_checks(split.expired)


def _counts(rules: FindingsGate, finding: Finding) -> bool:
    if finding.suppressed and rules.suppressed == "ignore":
        return False
    if finding.level >= FindingLevel[rules.level.upper()]:
        return True
    return rules.severity is not None and finding.severity >= rules.severity


def _new(finding: Finding, context: GateContext, gate: str) -> bool:
    """Compared with the baseline, else by the tool itself (SARIF baselineState), else new."""
    before = context.before(gate)
    if before is not None:
        return finding.key not in before.keys
    return finding.state not in ("unchanged", "updated")


def _on_changed_lines(findings: list[Finding], context: GateContext) -> list[Finding]:
    """Findings without a location, or with an ambiguous one, are kept."""
    assert context.changes is not None
    changes, paths = context.changes, RepositoryPaths(context.changes)
    kept = []
    for finding in findings:
        files = paths.find(finding.path) if finding.path else ()
        if len(files) != 1 or changes.touches(files[0], finding.line):
            kept.append(finding)
    return kept


def judge_tests(
    rules: TestsGate, reports: list[TestResults], context: GateContext, gate: str
) -> tuple[list[Check], Measurements]:
    """Checks on all reports together."""
    results = sum(reports, TestResults())
    numbers = {"tests": results.total, "skipped": results.skipped, "flaky": results.flaky}
    return [*_test_checks(rules, results, context, gate)], Measurements(numbers)


def _test_checks(
    rules: TestsGate, results: TestResults, context: GateContext, gate: str
) -> Iterator[Check]:
    failed = results.failed + results.errors
    ran = results.total - results.skipped
    yield replace(
        bound(
            "failures",
            failed,
            rules.max_failed,
            reason=f"{failed:,} of {counted(results.total, 'test')} failed",
            hint="fix the tests, or the code under test",
        ),
        details=results.failed_names,
    )
    if not ran:
        problem = "no test ran" if results.total else "no tests were collected"
        yield undecided("tests", problem, "check that the test runner finds them")
    elif ran < rules.min_tests:
        verb = "is" if rules.min_tests == 1 else "are"
        reason = f"{counted(ran, 'test')} ran; {rules.min_tests:,} {verb} required"
        limit = f">= {rules.min_tests}"
        yield Check("tests", Outcome.FAIL, reason, str(ran), limit, "run all tests")
    else:
        reason = f"{counted(ran, 'test')} ran"
        yield Check("tests", Outcome.PASS, reason, str(ran), f">= {rules.min_tests}")
    if rules.max_skipped is not None:
        yield bound(
            "skipped",
            results.skipped,
            rules.max_skipped,
            reason=f"{counted(results.skipped, 'test was', 'tests were')} skipped",
        )
    if rules.max_flaky is not None:
        problem = f"{counted(results.flaky, 'test')} passed only on retry"
        yield replace(
            bound("flaky", results.flaky, rules.max_flaky, reason=problem),
            details=results.flaky_names,
        )
    if rules.max_duration is not None:
        seconds, longest = round(results.duration_s, 1), rules.max_duration.seconds
        yield bound("duration", seconds, longest, reason=f"the tests took {seconds} s")
    if rules.max_lost is not None:
        yield _lost(results, context, gate, rules.max_lost)


def _lost(results: TestResults, context: GateContext, gate: str, limit: int) -> Check:
    before = context.before(gate)
    if before is None or "tests" not in before.numbers:
        return skipped("lost", "no promoted image to compare with yet")
    lost = max(0, int(before.numbers["tests"]) - results.total)
    return bound("lost", lost, limit, reason=f"{counted(lost, 'test')} fewer than before")


_CLOCK_SKEW = timedelta(minutes=5)  # between two machines
_SHORTEST_COMMIT = 7  # hex digits of an abbreviated commit


def report_problems(
    rules: ReportGate,
    kinds: tuple[type[Content], ...],
    files: Sequence[ReportFile],
    context: GateContext,
) -> Iterator[Check]:
    """A check for each reason why the reports prove nothing; empty if they can be used.

    `kinds` are the contents that the gate judges.
    """
    if not files:
        yield _inconclusive("there is no report", "name one with `reports` or on the command line")
    for file in files:
        if file.report is None:
            yield _unreadable(file)
        elif not isinstance(file.report.content, kinds):
            reason = f"{file.path} is a report of another kind ({file.report.format})"
            hint = f"this gate reads {', '.join(formats_of(*kinds))}"
            yield Check("report", Outcome.ERROR, reason, hint=hint)
        elif isinstance(rules, SecretsGate) and _LINTER.match(file.report.tool.name):
            reason = (
                f"{file.path} is a report of {file.report.tool}, which does not look for secrets"
            )
            hint = "name the report of a secret scanner, such as gitleaks"
            yield Check("report", Outcome.ERROR, reason, hint=hint)
        else:
            yield from map(_inconclusive, _inconclusive_reasons(rules, file, file.report, context))
    if isinstance(rules, VulnerabilitiesGate | SbomGate) and context.image is not None:
        yield from _image_mismatches(rules, files, context.image, context.others)


_SCAN_EACH = (
    "scan each platform by its digest, as a step with `scanner` does; other steps after the build"
    " have the names in variables such as SHIPLINE_IMAGE_LINUX_AMD64"
)


def _unreadable(file: ReportFile) -> Check:
    if file.missing:
        return _inconclusive(
            file.problem, "write the report before the gate runs, or correct the path"
        )
    hint = file.hint or "run the tool that writes it again"
    return Check("report", Outcome.ERROR, file.problem, hint=hint)


def _inconclusive(reason: str, hint: str = "") -> Check:
    hint = hint or "run the tool again, on the current revision or image"
    return Check("report", Outcome.INCOMPLETE, reason, hint=hint)


def _inconclusive_reasons(
    rules: ReportGate, file: ReportFile, report: Report, context: GateContext
) -> Iterator[str]:
    yield from (f"{file.path}: {gap}" for gap in report.gaps)
    revision = report.subject.revision
    if revision and context.revision and not _same_commit(revision, context.revision):
        yield f"{file.path} is about revision {revision[:12]}, not {context.revision[:12]}"
    yield from _age_problems(file.path, file.written, rules.max_age, context)


def _age_problems(
    path: str, written: datetime | None, limit: Duration | None, context: GateContext
) -> Iterator[str]:
    if written is None:
        return
    if written > context.now + _CLOCK_SKEW:
        yield f"{path} is dated in the future: {written:%Y-%m-%d %H:%M} UTC"
    if context.built_at is not None and written < context.built_at - timedelta(seconds=1):
        age = shown_age(context.built_at - written)
        yield f"{path} is {age} older than what is judged"
    if limit is not None and (context.now - written).total_seconds() > limit.seconds:
        yield f"{path} is {shown_age(context.now - written)} old, more than max-age {limit}"


def _same_commit(left: str, right: str) -> bool:
    length = min(len(left), len(right))
    return length >= _SHORTEST_COMMIT and left[:length].lower() == right[:length].lower()


def _image_mismatches(
    rules: VulnerabilitiesGate | SbomGate,
    files: Iterable[ReportFile],
    image: ImageSubject,
    others: frozenset[str],
) -> Iterator[Check]:
    """Reports about other images than this one and `others`, and platforms without a report."""
    if rules.about == "source":
        return
    known = {image.digest} | {
        name for platform in image.platforms for name in (platform.digest, platform.config)
    }
    about = [(file.path, file.report.subject) for file in files if file.report is not None]
    images = [(path, subject) for path, subject in about if subject.kind == "image"]
    for path, subject in images:
        if not subject.digests:
            yield _inconclusive(f"{path} does not say which digest it is about")
        elif not subject.digests & (known | others):
            yield _inconclusive(f"{path} is about {min(subject.digests)}, not {image.digest}")
    if not images and rules.about == "auto":
        return
    for platform in image.platforms:
        if not any(_covers(file.report, platform, image) for file in files if file.report):
            yield _inconclusive(f"no report is about {platform.platform} of the image", _SCAN_EACH)


def _covers(report: Report, platform: ImageFacts, image: ImageSubject) -> bool:
    subject = report.subject
    if subject.kind != "image":
        return False
    if subject.digests & {platform.digest, platform.config}:
        return not subject.platform or _same_platform(subject.platform, platform.platform)
    if image.digest not in subject.digests:
        return False
    return len(image.platforms) == 1 or _same_platform(subject.platform, platform.platform)


def _same_platform(stated: str, expected: str) -> bool:
    """`linux/arm64/v8` equals `linux/arm64`; `arm64` alone is the architecture."""
    stated_parts, expected_parts = stated.split("/"), expected.split("/")
    if len(stated_parts) == 1:
        return bool(stated) and stated in expected_parts[1:2]
    return stated_parts[:2] == expected_parts[:2] and stated_parts[2:3] in (
        [],
        ["v8"],
        expected_parts[2:3],
    )


def only_warns(rules: GateRules, otherwise: str) -> bool:
    """Whether the gate only warns when it cannot tell, which must be configured explicitly."""
    return (rules.on_incomplete or otherwise) == "warn"


Judged = tuple[list[Check], Measurements]
_LINTER = re.compile(
    "(actionlint|biome|clang|clippy|cppcheck|credo|detekt|eslint|flake8|hadolint|ktlint|"
    "markdownlint|mypy|oxlint|phpstan|pmd|psalm|pylint|pyright|revive|rubocop|ruff|shellcheck|"
    "spotbugs|staticcheck|stylelint|swiftlint|tflint|tsc|yamllint)",
    re.IGNORECASE,
)
"""The start of the names, in SARIF, of tools that do not look for secrets."""

_CONTENTS: dict[type[ReportGate], tuple[type[Content], ...]] = {
    CoverageGate: (Coverage,),
    TestsGate: (TestResults,),
    FindingsGate: (Findings,),
    DastGate: (WebFindings, Findings),
    VulnerabilitiesGate: (Vulnerabilities,),
    SbomGate: (Sbom,),
}


def judge(
    gate: str,
    kind: str,
    rules: ReportGate,
    files: Sequence[ReportFile],
    waivers: Waivers,
    *,
    vex: Sequence[ReportFile] = (),
    advisory: bool = False,
) -> Verdict:
    """The verdict of one gate on its reports; pure except that it counts used waivers.

    The usable reports are judged even if others are missing or unreadable: one failure is enough to
    fail, but passing needs all reports. `vex` are the OpenVEX files of a vulnerability gate.
    """
    if rules.skip:
        return Verdict(gate, kind, (skipped("gate", rules.skip),))
    contents = next(found for base, found in _CONTENTS.items() if isinstance(rules, base))
    usable = [file for file in files if file.report and isinstance(file.report.content, contents)]
    checks = [*report_problems(rules, contents, files, waivers.context)]
    scans = () if checks else _scans(usable)
    measurements = Measurements()
    if usable:
        conditions, measurements = _conditions(rules, usable, vex, waivers, gate)
        checks += conditions
    checks += [_unusable_vex(file) for file in vex if file.report is None or not _is_vex(file)]
    warnings = tuple(
        f"{file.path}: {text}" for file in usable if file.report for text in file.report.warnings
    )
    sources = tuple(file.source for file in files)
    verdict = Verdict(gate, kind, tuple(checks), sources, measurements, warnings, advisory, scans)
    return waivers.waive(verdict)


def _conditions(
    rules: ReportGate,
    usable: Sequence[ReportFile],
    vex: Sequence[ReportFile],
    waivers: Waivers,
    gate: str,
) -> Judged:
    contents = [file.report.content for file in usable if file.report]
    match rules:
        case CoverageGate():
            coverages = [content for content in contents if isinstance(content, Coverage)]
            return judge_coverage(rules, coverages, waivers.context, gate)
        case TestsGate():
            results = [content for content in contents if isinstance(content, TestResults)]
            return judge_tests(rules, results, waivers.context, gate)
        case FindingsGate():
            findings = [content for content in contents if isinstance(content, Findings)]
            return judge_findings(rules, findings, waivers, gate)
        case DastGate():
            return judge_dast(rules, usable, waivers, gate)
        case VulnerabilitiesGate():
            return judge_vulnerabilities(rules, usable, _statements(vex), waivers, gate)
        case SbomGate():
            return judge_sbom(rules, [content for content in contents if isinstance(content, Sbom)])
        case _:
            return [undecided("gate", "there are no rules for this kind of gate")], Measurements()


def _scans(usable: Sequence[ReportFile]) -> tuple[Report, ...]:
    reports = [
        file.report for file in usable if file.report and file.report.subject.kind == "image"
    ]
    return tuple(report for report in reports if isinstance(report.content, Vulnerabilities))


def _is_vex(file: ReportFile) -> bool:
    return file.report is not None and isinstance(file.report.content, Vex)


def _statements(vex: Sequence[ReportFile]) -> list[VexStatement]:
    return [
        statement
        for file in vex
        if file.report is not None and isinstance(file.report.content, Vex)
        for statement in file.report.content.statements
    ]


def _unusable_vex(file: ReportFile) -> Check:
    reason = file.problem or f"{file.path} is not an OpenVEX document"
    return Check("vex", Outcome.ERROR, reason, hint=file.hint or "fix the file, or remove it")
