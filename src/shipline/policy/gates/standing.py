"""Whether a report may be used at all: there, readable, whole, fresh, and about this thing."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from datetime import datetime, timedelta

from shipline.policy.gates.amounts import shown_age
from shipline.policy.gates.context import Context
from shipline.policy.gates.evidence import Evidence
from shipline.policy.gates.facts import ImageFacts, ImageSubject
from shipline.policy.gates.reports import Content, Report, formats_of
from shipline.policy.gates.section import GateRules, ReportGate, SbomGate, VulnerabilitiesGate
from shipline.policy.gates.verdict import Check, Outcome
from shipline.units import Duration

_SKEW = timedelta(minutes=5)  # between the clocks of two machines
_ENOUGH = 7  # hex digits of an abbreviated commit


def standing(
    rules: ReportGate, kind: type[Content], evidence: Sequence[Evidence], context: Context
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


def _unread(one: Evidence) -> Check:
    if one.missing:
        return _doubt(one.problem, "write the report before the gate runs, or correct the path")
    hint = one.hint or "run the tool that writes it again"
    return Check("report", Outcome.ERROR, one.problem, hint=hint)


def _doubt(reason: str, hint: str = "") -> Check:
    hint = hint or "run the tool again, on what is judged now"
    return Check("report", Outcome.INCOMPLETE, reason, hint=hint)


def _doubts(rules: ReportGate, one: Evidence, report: Report, context: Context) -> Iterator[str]:
    yield from (f"{one.path}: {gap}" for gap in report.gaps)
    revision = report.subject.revision
    if revision and context.revision and not _same(revision, context.revision):
        yield f"{one.path} is about revision {revision[:12]}, not {context.revision[:12]}"
    yield from _stale(one.path, one.made, rules.max_age, context)


def _stale(
    path: str, made: datetime | None, limit: Duration | None, context: Context
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
    rules: VulnerabilitiesGate | SbomGate, evidence: Iterable[Evidence], image: ImageSubject
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
