"""Candidate tags from the entries of a rule, with reasons."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from packaging.version import Version as PythonVersion

from shipline.errors import ConfigError
from shipline.tags import templates
from shipline.tags.entry import TagEntry, regular_expression, search_pattern
from shipline.tags.event import Situation
from shipline.tags.section import TagRule, TagsSection
from shipline.tags.templates import (
    Call,
    TemplatePiece,
    expressions_of,
    fit,
    render,
    render_date,
    text_of,
)
from shipline.tags.versions import Version

_RAW = re.compile(r"\{\{\{?\s*raw\s*\}?\}\}")


@dataclass(frozen=True, slots=True)
class RuleMatch:
    """A rule that matches the event: `name` is what its pattern's wildcard matched, `version` the
    derived version, None with `reason` if there is none.
    """

    rule: TagRule
    section: TagsSection
    situation: Situation
    name: str
    version: Version | None
    reason: str


@dataclass(frozen=True, slots=True)
class CandidateTag:
    """A tag that an entry gives. `latest`: whether the tag latest is added; None for templates,
    which do not decide that.
    """

    name: str
    mutable: bool
    reason: str
    latest: bool | None = None


class NotApplicable(Exception):
    """The entry gives no tag for this event; the message is the reason."""


def make_candidate(entry: TagEntry, case: RuleMatch) -> CandidateTag:
    """The tag of an entry. Raises NotApplicable if it gives none, ConfigError if it is invalid."""
    enabled = text_of(entry.enable, expressions(case))
    if enabled not in {"true", "false"}:
        raise ConfigError(f"{entry}: enable must evaluate to true or false, not {enabled!r}")
    if enabled == "false":
        raise NotApplicable("it is disabled")
    pieces, mutable, reason, latest = _KINDS[entry.type](entry, case)
    if entry.type != "template":
        pieces = _with_affixes(pieces, entry, case)
        if not pieces:
            raise NotApplicable("it evaluates to an empty tag")
    try:
        name = fit(pieces, unique=case.section.unique_names)
    except ConfigError as error:
        raise ConfigError(f"{entry}: {error.message}", hint=error.hint) from None
    _refuse_reserved_name(name, pieces, entry, case)
    if entry.immutable is not None or case.rule.immutable is not None:
        mutable = not (case.rule.immutable if entry.immutable is None else entry.immutable)
    return CandidateTag(name, mutable, reason, latest)


Parts = tuple[tuple[TemplatePiece, ...], bool, str, bool | None]
"""The pieces, whether they are mutable, the reason, and `CandidateTag.latest`."""


def expressions(case: RuleMatch) -> dict[str, TemplatePiece | Call]:
    """The expressions for every entry, label and annotation."""
    situation = case.situation
    event = situation.event
    is_default = situation.is_default_branch
    base = event.base if event.tag or event.kind == "pull-request" else ""

    def date(seconds: int) -> Call:
        def call(arguments: tuple[str, ...], keywords: Mapping[str, str]) -> TemplatePiece:
            return TemplatePiece(render_date(seconds, " ".join(arguments), keywords.get("tz", "")))

        return call

    return {
        "branch": TemplatePiece(event.branch, ref=True),
        "tag": TemplatePiece(event.tag, ref=True),
        "base_ref": TemplatePiece(base, ref=True),
        "sha": TemplatePiece(situation.named_commit[: max(event.short_sha, situation.unique)]),
        "is_default_branch": TemplatePiece(str(is_default).lower()),
        "is_not_default_branch": TemplatePiece(str(not is_default).lower()),
        "date": date(situation.now),
        "commit_date": date(situation.commit.time),
    }


def _template(entry: TagEntry, case: RuleMatch) -> Parts:
    fields = templates.fields_of(entry.template)
    if fields & templates.VERSION_FIELDS and case.version is None:
        raise NotApplicable(case.reason)
    if case.version and case.version.prerelease:
        allowed = bool(case.rule.prerelease) or entry.template != "latest"
        if templates.hides_prerelease(entry.template) or not allowed:
            raise NotApplicable(f"{case.version} is a prerelease, which this tag would not show")
    if {"branch", "name"} & fields and "name" not in _values(case):
        raise NotApplicable("the event has no branch")
    unique = case.situation.unique
    pieces = templates.fill(entry.template, _values(case), case.situation.named_commit, unique)
    reason = case.reason if fields & templates.VERSION_FIELDS else _event_reason(case)
    return pieces, not templates.is_fixed(entry.template), reason, None


def _values(case: RuleMatch) -> dict[str, TemplatePiece]:
    """The fields that have a value on this event."""
    situation, version = case.situation, case.version
    event = situation.event
    values = {"date": TemplatePiece(render_date(situation.commit.time, "YYYYMMDD"))}
    if branch := event.branch or event.head_branch:
        values["branch"] = TemplatePiece(branch, ref=True)
    if name := case.name or branch:
        values["name"] = TemplatePiece(name, ref=True)
    if event.number:
        values["number"] = TemplatePiece(event.number)
    if tag := event.tag:
        component = case.section.tag_prefix.rpartition("/")[0]
        values["tag"] = TemplatePiece(
            tag.removeprefix(f"{component}/" if component else ""), ref=True
        )
    if version is not None:
        values |= {
            "version": TemplatePiece(str(version).partition("+")[0]),
            "major": TemplatePiece(str(version.major)),
            "minor": TemplatePiece(str(version.minor)),
            "patch": TemplatePiece(str(version.patch)),
            "prerelease": TemplatePiece(".".join(version.prerelease)),
        }
    return values


def _schedule(entry: TagEntry, case: RuleMatch) -> Parts:
    if case.situation.event.kind != "schedule":
        raise NotApplicable("the event is not a schedule")
    pieces = render(entry.pattern or "nightly", expressions(case))
    return pieces, True, _event_reason(case), False


def _semver(entry: TagEntry, case: RuleMatch) -> Parts:
    raw, reason = _version_text(entry, case)
    try:
        version = Version.parse(_bare(raw, case.section.tag_prefix.rpartition("/")[2]))
    except ValueError:
        raise NotApplicable(f"{raw} is not a semantic version") from None
    values = {
        "raw": TemplatePiece(raw, ref=True),
        "version": TemplatePiece(str(version).partition("+")[0]),
        "major": TemplatePiece(str(version.major)),
        "minor": TemplatePiece(str(version.minor)),
        "patch": TemplatePiece(str(version.patch)),
    }
    return _of_version(entry, case, values, reason, final=not version.prerelease)


def _bare(text: str, prefix: str) -> str:
    """The text without the prefix of version tags and without a leading v."""
    bare = text.removeprefix(prefix)
    return bare if bare != text and prefix.endswith("v") else bare.removeprefix("v")


def _pep440(entry: TagEntry, case: RuleMatch) -> Parts:
    raw, reason = _version_text(entry, case)
    try:
        version = PythonVersion(raw)
    except ValueError:
        raise NotApplicable(f"{raw} is not a PEP 440 version") from None
    values = {
        "raw": TemplatePiece(raw, ref=True),
        "version": TemplatePiece(str(version), ref=True),
        "major": TemplatePiece(str(version.major)),
        "minor": TemplatePiece(str(version.minor)),
        "patch": TemplatePiece(str(version.micro)),
    }
    final = not (version.is_prerelease or version.is_postrelease)
    return _of_version(entry, case, values, reason, final=final)


def _of_version(
    entry: TagEntry, case: RuleMatch, values: dict[str, TemplatePiece], reason: str, *, final: bool
) -> Parts:
    """The tag of a version. A prerelease gives only its complete version or its raw text, whatever
    the pattern.
    """
    used = expressions_of(entry.pattern)
    complete = bool(used & {"version", "raw"}) or {"major", "minor", "patch"} <= used
    pattern = entry.pattern if final or _RAW.fullmatch(entry.pattern) else "{{version}}"
    pieces = render(pattern, {**expressions(case), **values})
    return pieces, not (complete or not final), reason, final


def _version_source(entry: TagEntry, case: RuleMatch) -> tuple[str, str]:
    """The text to parse a version from: the entry's value, the git tag, or the derived version."""
    tag = case.situation.event.tag
    if entry.value:
        return text_of(entry.value, expressions(case)), "the rule sets the value"
    if tag:
        component = case.section.tag_prefix.rpartition("/")[0]
        name = tag.removeprefix(f"{component}/" if component else "")
        return name, f"the git tag {tag} was pushed"
    if case.version is not None:
        return f"v{case.version}", case.reason
    raise NotApplicable("no git tag was pushed")


def _version_text(entry: TagEntry, case: RuleMatch) -> tuple[str, str]:
    """As `_version_source`, reduced to the group of `match`."""
    value, reason = _version_source(entry, case)
    if entry.match:
        match = regular_expression(entry.match).search(_full_text(value, entry, case))
        value = (match[1] or "") if match else value
    return value.replace("/", "-"), reason


def _full_text(value: str, entry: TagEntry, case: RuleMatch) -> str:
    """The git tag including the directory of the section's tag-prefix."""
    return value if entry.value else case.situation.event.tag or value


def _match(entry: TagEntry, case: RuleMatch) -> Parts:
    value, reason = _version_source(entry, case)
    raw = _full_text(value, entry, case)
    match = search_pattern(entry.pattern).search(raw)
    if not match:
        raise NotApplicable(f"{entry.pattern} does not match {raw}")
    if entry.group > match.re.groups:
        raise NotApplicable(f"there is no group {entry.group} in {entry.pattern}")
    if not (text := match[entry.group]):
        raise NotApplicable(f"group {entry.group} of {entry.pattern} is empty in {raw}")
    return (TemplatePiece(text, ref=True),), True, reason, True


def _edge(entry: TagEntry, case: RuleMatch) -> Parts:
    event = case.situation.event
    edge_branch = text_of(entry.branch, expressions(case)) or event.default_branch
    if not edge_branch:
        raise NotApplicable("the default branch is unknown")
    if event.branch != edge_branch:
        raise NotApplicable(f"the branch is not {edge_branch}")
    return (TemplatePiece("edge"),), True, _event_reason(case), False


def _ref(entry: TagEntry, case: RuleMatch) -> Parts:
    event = case.situation.event
    if entry.event == "branch":
        if not event.branch:
            raise NotApplicable("the ref is not a branch")
        return (TemplatePiece(event.branch, ref=True),), True, _event_reason(case), False
    if entry.event == "tag":
        if not event.tag:
            raise NotApplicable("the ref is not a tag")
        return (TemplatePiece(event.tag, ref=True),), True, _event_reason(case), True
    if not event.number:
        raise NotApplicable("the event is not a pull request")
    return (TemplatePiece(event.number),), True, _event_reason(case), False


def _raw(entry: TagEntry, case: RuleMatch) -> Parts:
    pieces = render(entry.value, expressions(case))
    return pieces, "sha" not in expressions_of(entry.value), _event_reason(case), False


def _sha(entry: TagEntry, case: RuleMatch) -> Parts:
    situation = case.situation
    width = max(situation.event.short_sha, situation.unique) if entry.format == "short" else None
    return (TemplatePiece(situation.named_commit[:width]),), False, _event_reason(case), False


_KINDS: Mapping[str, Callable[[TagEntry, RuleMatch], Parts]] = {
    "template": _template,
    "schedule": _schedule,
    "semver": _semver,
    "pep440": _pep440,
    "match": _match,
    "edge": _edge,
    "ref": _ref,
    "raw": _raw,
    "sha": _sha,
}


def _with_affixes(
    pieces: tuple[TemplatePiece, ...], entry: TagEntry, case: RuleMatch
) -> tuple[TemplatePiece, ...]:
    """The pieces with prefix and suffix: of the entry, its type, or the flavor."""
    flavor, values = case.section.flavor, expressions(case)
    prefix = flavor.prefix if entry.front is None else entry.front
    suffix = flavor.suffix if entry.suffix is None else entry.suffix
    return (*render(prefix, values), *pieces, *render(suffix, values))


def _event_reason(case: RuleMatch) -> str:
    event = case.situation.event
    if event.kind == "pull-request":
        into = f" into {event.base}" if event.base else ""
        return f"pull request {event.number}{into}"
    if event.tag:
        return f"the git tag {event.tag} was pushed"
    if event.kind == "schedule":
        return f"a schedule on {event.branch}" if event.branch else "a schedule"
    return f"a push to {event.branch}" if event.branch else f"a push to {event.ref}"


def _refuse_reserved_name(
    name: str, pieces: tuple[TemplatePiece, ...], entry: TagEntry, case: RuleMatch
) -> None:
    """Raises ConfigError if a branch would get a tag that means something else."""
    by_branch = any(piece.ref for piece in pieces) and not case.situation.event.tag
    if by_branch and entry.type in {"template", "ref", "raw"} and templates.is_reserved(name):
        raise ConfigError(
            f"the branch {case.situation.event.branch} would get the tag {name},"
            " which means something else",
            code="tag-reserved",
            hint=f"rename the branch, or put text before the name: branch-{{name}} for {entry}",
        )
