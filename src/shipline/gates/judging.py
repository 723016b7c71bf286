"""From evidence to a verdict: whether a report may be used at all, and the one function that every
gate goes through.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from datetime import datetime, timedelta

from shipline.gates.context import GateContext, ImageFacts, ImageSubject
from shipline.gates.coverage import judge_coverage
from shipline.gates.evidence import ReportFile
from shipline.gates.findings import judge_findings
from shipline.gates.reports import (
    Content,
    Coverage,
    Findings,
    Report,
    Sbom,
    TestResults,
    Vex,
    VexStatement,
    Vulnerabilities,
    formats_of,
)
from shipline.gates.sbom import judge_sbom
from shipline.gates.section import (
    CoverageGate,
    FindingsGate,
    GateRules,
    ReportGate,
    SbomGate,
    TestsGate,
    VulnerabilitiesGate,
)
from shipline.gates.tests import judge_tests
from shipline.gates.thresholds import shown_age, skipped, undecided
from shipline.gates.verdict import Check, Measurements, Outcome, Verdict
from shipline.gates.vulnerabilities import judge_vulnerabilities
from shipline.gates.waivers import Waivers
from shipline.units import Duration

_SKEW = timedelta(minutes=5)  # between the clocks of two machines
_ENOUGH = 7  # hex digits of an abbreviated commit


def standing(
    rules: ReportGate, kind: type[Content], evidence: Sequence[ReportFile], context: GateContext
) -> Iterator[Check]:
    """A check for each reason why the reports prove nothing; none where they do.

    `kind` is the type of content that the gate judges.
    """
    if not evidence:
        yield _doubt("there is no report", "name one with `reports`, or on the command line")
    for one in evidence:
        if one.report is None:
            yield _unread(one)
        elif not isinstance(one.report.content, kind):
            reason = f"{one.path} is a report of another kind ({one.report.format})"
            hint = f"this gate reads {', '.join(formats_of(kind))}"
            yield Check("report", Outcome.ERROR, reason, hint=hint)
        else:
            yield from map(_doubt, _doubts(rules, one, one.report, context))
    if isinstance(rules, VulnerabilitiesGate | SbomGate) and context.image is not None:
        yield from map(_doubt, _about_image(rules, evidence, context.image))


def _unread(one: ReportFile) -> Check:
    if one.missing:
        return _doubt(one.problem, "write the report before the gate runs, or correct the path")
    hint = one.hint or "run the tool that writes it again"
    return Check("report", Outcome.ERROR, one.problem, hint=hint)


def _doubt(reason: str, hint: str = "") -> Check:
    hint = hint or "run the tool again, on what is judged now"
    return Check("report", Outcome.INCOMPLETE, reason, hint=hint)


def _doubts(
    rules: ReportGate, one: ReportFile, report: Report, context: GateContext
) -> Iterator[str]:
    yield from (f"{one.path}: {gap}" for gap in report.gaps)
    revision = report.subject.revision
    if revision and context.revision and not _same(revision, context.revision):
        yield f"{one.path} is about revision {revision[:12]}, not {context.revision[:12]}"
    yield from _stale(one.path, one.made, rules.max_age, context)


def _stale(
    path: str, made: datetime | None, limit: Duration | None, context: GateContext
) -> Iterator[str]:
    if made is None:
        return
    if made > context.now + _SKEW:
        yield f"{path} comes from the future: {made:%Y-%m-%d %H:%M} UTC"
    if context.built_at is not None and made < context.built_at - timedelta(seconds=1):
        age = shown_age(context.built_at - made)
        yield f"{path} is {age} older than what is judged"
    if limit is not None and (context.now - made).total_seconds() > limit.seconds:
        yield f"{path} is {shown_age(context.now - made)} old, more than max-age {limit}"


def _same(one: str, other: str) -> bool:
    short = min(len(one), len(other))
    return short >= _ENOUGH and one[:short].lower() == other[:short].lower()


def _about_image(
    rules: VulnerabilitiesGate | SbomGate, evidence: Iterable[ReportFile], image: ImageSubject
) -> Iterator[str]:
    """Reports about other images, platforms that no report is about."""
    if rules.about == "source":
        return
    known = {image.digest} | {name for one in image.platforms for name in (one.digest, one.config)}
    about = [(one.path, one.report.subject) for one in evidence if one.report is not None]
    images = [(path, subject) for path, subject in about if subject.kind == "image"]
    for path, subject in images:
        if not subject.digests:
            yield f"{path} does not say which digest it is about"
        elif not subject.digests & known:
            yield f"{path} is about {min(subject.digests)}, not {image.digest}"
    if not images and rules.about == "auto":
        return
    for platform in image.platforms:
        if not any(_covers(one.report, platform, image) for one in evidence if one.report):
            yield f"no report is about {platform.platform} of the image"


def _covers(report: Report, platform: ImageFacts, image: ImageSubject) -> bool:
    subject = report.subject
    if subject.kind != "image":
        return False
    if subject.digests & {platform.digest, platform.config}:
        return not subject.platform or _fits(subject.platform, platform.platform)
    if image.digest not in subject.digests:
        return False
    return len(image.platforms) == 1 or _fits(subject.platform, platform.platform)


def _fits(told: str, wanted: str) -> bool:
    """`linux/arm64/v8` and `linux/arm64` are the same; `arm64` alone names the architecture."""
    parts, others = told.split("/"), wanted.split("/")
    if len(parts) == 1:
        return bool(told) and told in others[1:2]
    return parts[:2] == others[:2] and parts[2:3] in ([], ["v8"], others[2:3])


def advisory(rules: GateRules, otherwise: str) -> bool:
    """Whether doubt about the gate only warns, which must be written by name."""
    return (rules.on_incomplete or otherwise) == "warn"


Judged = tuple[list[Check], Measurements]
_CONTENT: dict[type[ReportGate], type[Content]] = {
    CoverageGate: Coverage,
    TestsGate: TestResults,
    FindingsGate: Findings,
    VulnerabilitiesGate: Vulnerabilities,
    SbomGate: Sbom,
}


def judge(
    gate: str,
    kind: str,
    rules: ReportGate,
    evidence: Sequence[ReportFile],
    waivers: Waivers,
    *,
    vex: Sequence[ReportFile] = (),
    advisory: bool = False,
) -> Verdict:
    """The verdict of one gate on the reports that were found for it; pure but for the count of used
    waivers.

    What can be judged is judged also where some reports are missing or unreadable: a failure is
    told as one, and success needs all of them. `vex` are the OpenVEX files of a vulnerability gate.
    """
    if rules.skip:
        return Verdict(gate, kind, (skipped("gate", rules.skip),))
    content = next(held for base, held in _CONTENT.items() if isinstance(rules, base))
    usable = [one for one in evidence if one.report and isinstance(one.report.content, content)]
    checks = [*standing(rules, content, evidence, waivers.context)]
    scans = () if checks else _scans(usable)
    measurements = Measurements()
    if usable:
        more, measurements = _conditions(rules, usable, vex, waivers, gate)
        checks += more
    checks += [_unusable(one) for one in vex if one.report is None or not _is_vex(one)]
    warnings = tuple(
        f"{one.path}: {text}" for one in usable if one.report for text in one.report.warnings
    )
    sources = tuple(one.source for one in evidence)
    verdict = Verdict(gate, kind, tuple(checks), sources, measurements, warnings, advisory, scans)
    return waivers.waive(verdict)


def _conditions(
    rules: ReportGate,
    usable: Sequence[ReportFile],
    vex: Sequence[ReportFile],
    waivers: Waivers,
    gate: str,
) -> Judged:
    contents = [one.report.content for one in usable if one.report]
    match rules:
        case CoverageGate():
            some = [one for one in contents if isinstance(one, Coverage)]
            return judge_coverage(rules, some, waivers.context, gate)
        case TestsGate():
            results = [one for one in contents if isinstance(one, TestResults)]
            return judge_tests(rules, results, waivers.context, gate)
        case FindingsGate():
            found = [one for one in contents if isinstance(one, Findings)]
            return judge_findings(rules, found, waivers, gate)
        case VulnerabilitiesGate():
            return judge_vulnerabilities(rules, usable, _statements(vex), waivers, gate)
        case SbomGate():
            return judge_sbom(rules, [one for one in contents if isinstance(one, Sbom)])
        case _:
            return [undecided("gate", "no rule for this kind of gate")], Measurements()


def _scans(usable: Sequence[ReportFile]) -> tuple[Report, ...]:
    reports = [one.report for one in usable if one.report and one.report.subject.kind == "image"]
    return tuple(one for one in reports if isinstance(one.content, Vulnerabilities))


def _is_vex(one: ReportFile) -> bool:
    return one.report is not None and isinstance(one.report.content, Vex)


def _statements(vex: Sequence[ReportFile]) -> list[VexStatement]:
    return [
        statement
        for one in vex
        if one.report is not None and isinstance(one.report.content, Vex)
        for statement in one.report.content.statements
    ]


def _unusable(one: ReportFile) -> Check:
    reason = one.problem or f"{one.path} is not an OpenVEX document"
    return Check("vex", Outcome.ERROR, reason, hint=one.hint or "fix the file, or leave it out")
