"""Entries of a rule into tags: what each kind gives on an event, with the reason."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from packaging.version import Version as PythonVersion

from shipline.errors import ConfigError
from shipline.tags import templates
from shipline.tags.entry import Entry, regular_expression, search_pattern
from shipline.tags.section import Rule, TagsSection
from shipline.tags.situation import Situation
from shipline.tags.templates import Call, Piece, expressions_of, fit, render, render_date, text_of
from shipline.tags.versions import Version

_SHORT = 7  # digits of docker/metadata-action's sha
_RAW = re.compile(r"\{\{\{?\s*raw\s*\}?\}\}")


@dataclass(frozen=True, slots=True)
class Case:
    """A rule that applies: `name` is what its pattern's wildcard stands for, `version` the one
    that was decided, and `number` the rule's place in the list.
    """

    rule: Rule
    section: TagsSection
    situation: Situation
    name: str
    version: Version | None
    reason: str


@dataclass(frozen=True, slots=True)
class Made:
    """A tag out of an entry. `latest` tells whether the tag latest goes along with it; None for a
    template, which has no say in that.
    """

    name: str
    mutable: bool
    reason: str
    latest: bool | None = None


class NotHere(Exception):
    """The entry gives no tag on this event; the text says why."""


def make(entry: Entry, case: Case) -> Made:
    """The tag. Raises NotHere where the entry gives none, ConfigError where it is wrong."""
    enabled = text_of(entry.enable, expressions(case))
    if enabled not in {"true", "false"}:
        raise ConfigError(f"{entry}: enable must come out as true or false, not {enabled!r}")
    if enabled == "false":
        raise NotHere("it is not enabled")
    pieces, mutable, reason, latest = _KINDS[entry.type](entry, case)
    if entry.type != "template":
        pieces = _dressed(pieces, entry, case)
        if not pieces:
            raise NotHere("it comes out empty")
    try:
        name = fit(pieces, unique=case.section.unique_names)
    except ConfigError as error:
        raise ConfigError(f"{entry}: {error.message}", hint=error.hint) from None
    _refuse_disguise(name, pieces, entry, case)
    if entry.immutable is not None or case.rule.immutable is not None:
        mutable = not (case.rule.immutable if entry.immutable is None else entry.immutable)
    return Made(name, mutable, reason, latest)


Parts = tuple[tuple[Piece, ...], bool, str, bool | None]
"""The pieces, whether they are mutable, the reason, and what `Made.latest` is."""


def expressions(case: Case) -> dict[str, Piece | Call]:
    """The expressions that every entry, label and annotation knows."""
    situation = case.situation
    event = situation.event
    is_default = situation.is_default_branch
    base = event.base if event.tag or event.kind == "pull-request" else ""

    def date(seconds: int) -> Call:
        def call(arguments: tuple[str, ...], named: Mapping[str, str]) -> Piece:
            return Piece(render_date(seconds, " ".join(arguments), named.get("tz", "")))

        return call

    return {
        "branch": Piece(event.branch, ref=True),
        "tag": Piece(event.tag, ref=True),
        "base_ref": Piece(base, ref=True),
        "sha": Piece(situation.named_commit[: max(_SHORT, situation.unique)]),
        "is_default_branch": Piece(str(is_default).lower()),
        "is_not_default_branch": Piece(str(not is_default).lower()),
        "date": date(situation.now),
        "commit_date": date(situation.commit.time),
    }


def _template(entry: Entry, case: Case) -> Parts:
    fields = templates.fields_of(entry.template)
    if fields & templates.VERSION_FIELDS and case.version is None:
        raise NotHere(case.reason)
    if case.version and case.version.prerelease:
        meant = bool(case.rule.prerelease) or entry.template != "latest"
        if templates.hides_prerelease(entry.template) or not meant:
            raise NotHere(f"{case.version} is a prerelease, which this tag would not tell")
    if {"branch", "name"} & fields and "name" not in _values(case):
        raise NotHere("the event has no branch")
    unique = case.situation.unique
    pieces = templates.fill(entry.template, _values(case), case.situation.named_commit, unique)
    reason = case.reason if fields & templates.VERSION_FIELDS else _event_reason(case)
    return pieces, not templates.is_fixed(entry.template), reason, None


def _values(case: Case) -> dict[str, Piece]:
    """The fields that have a value on this event."""
    situation, version = case.situation, case.version
    event = situation.event
    values = {"date": Piece(render_date(situation.commit.time, "YYYYMMDD"))}
    if branch := event.branch or event.head_branch:
        values["branch"] = Piece(branch, ref=True)
    if name := case.name or branch:
        values["name"] = Piece(name, ref=True)
    if event.number:
        values["number"] = Piece(event.number)
    if tag := event.tag:
        component = case.section.tag_prefix.rpartition("/")[0]
        values["tag"] = Piece(tag.removeprefix(f"{component}/" if component else ""), ref=True)
    if version is not None:
        values |= {
            "version": Piece(str(version).partition("+")[0]),
            "major": Piece(str(version.major)),
            "minor": Piece(str(version.minor)),
            "patch": Piece(str(version.patch)),
            "prerelease": Piece(".".join(version.prerelease)),
        }
    return values


def _schedule(entry: Entry, case: Case) -> Parts:
    if case.situation.event.kind != "schedule":
        raise NotHere("the event is no schedule")
    pieces = render(entry.pattern or "nightly", expressions(case))
    return pieces, True, _event_reason(case), False


def _semver(entry: Entry, case: Case) -> Parts:
    raw, reason = _version_text(entry, case)
    try:
        version = Version.parse(_bare(raw, case.section.tag_prefix.rpartition("/")[2]))
    except ValueError:
        raise NotHere(f"{raw} is not a semantic version") from None
    values = {
        "raw": Piece(raw, ref=True),
        "version": Piece(str(version).partition("+")[0]),
        "major": Piece(str(version.major)),
        "minor": Piece(str(version.minor)),
        "patch": Piece(str(version.patch)),
    }
    return _of_version(entry, case, values, reason, final=not version.prerelease)


def _bare(text: str, prefix: str) -> str:
    """Without the prefix of version tags, and without the one v that a version may have."""
    bare = text.removeprefix(prefix)
    return bare if bare != text and prefix.endswith("v") else bare.removeprefix("v")


def _pep440(entry: Entry, case: Case) -> Parts:
    raw, reason = _version_text(entry, case)
    try:
        version = PythonVersion(raw)
    except ValueError:
        raise NotHere(f"{raw} is not a version of PEP 440") from None
    values = {
        "raw": Piece(raw, ref=True),
        "version": Piece(str(version), ref=True),
        "major": Piece(str(version.major)),
        "minor": Piece(str(version.minor)),
        "patch": Piece(str(version.micro)),
    }
    final = not (version.is_prerelease or version.is_postrelease)
    return _of_version(entry, case, values, reason, final=final)


def _of_version(
    entry: Entry, case: Case, values: dict[str, Piece], reason: str, *, final: bool
) -> Parts:
    """A prerelease only ever gives its whole version or the text as it is, whatever the pattern
    puts around it.
    """
    used = expressions_of(entry.pattern)
    whole = bool(used & {"version", "raw"}) or {"major", "minor", "patch"} <= used
    pattern = entry.pattern if final or _RAW.fullmatch(entry.pattern) else "{{version}}"
    pieces = render(pattern, {**expressions(case), **values})
    return pieces, not (whole or not final), reason, final


def _given(entry: Entry, case: Case) -> tuple[str, str]:
    """The text that a version is read from: that of the entry, the git tag, or the decided one."""
    tag = case.situation.event.tag
    if entry.value:
        return text_of(entry.value, expressions(case)), "the rule gives the value"
    if tag:
        component = case.section.tag_prefix.rpartition("/")[0]
        name = tag.removeprefix(f"{component}/" if component else "")
        return name, f"the git tag {tag} was pushed"
    if case.version is not None:
        return f"v{case.version}", case.reason
    raise NotHere("no git tag was pushed")


def _version_text(entry: Entry, case: Case) -> tuple[str, str]:
    """As `_given`, reduced to what `match` finds in the whole of it."""
    given, reason = _given(entry, case)
    if entry.match:
        found = regular_expression(entry.match).search(_whole(given, entry, case))
        given = (found[1] or "") if found else given
    return given.replace("/", "-"), reason


def _whole(given: str, entry: Entry, case: Case) -> str:
    """The git tag with the directory that the section's tag-prefix takes away."""
    return given if entry.value else case.situation.event.tag or given


def _match(entry: Entry, case: Case) -> Parts:
    given, reason = _given(entry, case)
    raw = _whole(given, entry, case)
    found = search_pattern(entry.pattern).search(raw)
    if not found:
        raise NotHere(f"{entry.pattern} is not in {raw}")
    if entry.group > found.re.groups:
        raise NotHere(f"there is no group {entry.group} in {entry.pattern}")
    if not (text := found[entry.group]):
        raise NotHere(f"group {entry.group} of {entry.pattern} is empty in {raw}")
    return (Piece(text, ref=True),), True, reason, True


def _edge(entry: Entry, case: Case) -> Parts:
    event = case.situation.event
    wanted = text_of(entry.branch, expressions(case)) or event.default_branch
    if not wanted:
        raise NotHere("the default branch is not known")
    if event.branch != wanted:
        raise NotHere(f"the branch is not {wanted}")
    return (Piece("edge"),), True, _event_reason(case), False


def _ref(entry: Entry, case: Case) -> Parts:
    event = case.situation.event
    if entry.event == "branch":
        if not event.branch:
            raise NotHere("the ref is no branch")
        return (Piece(event.branch, ref=True),), True, _event_reason(case), False
    if entry.event == "tag":
        if not event.tag:
            raise NotHere("the ref is no tag")
        return (Piece(event.tag, ref=True),), True, _event_reason(case), True
    if not event.number:
        raise NotHere("the event is no pull request")
    return (Piece(event.number),), True, _event_reason(case), False


def _raw(entry: Entry, case: Case) -> Parts:
    pieces = render(entry.value, expressions(case))
    return pieces, "sha" not in expressions_of(entry.value), _event_reason(case), False


def _sha(entry: Entry, case: Case) -> Parts:
    situation = case.situation
    width = max(_SHORT, situation.unique) if entry.format == "short" else None
    return (Piece(situation.named_commit[:width]),), False, _event_reason(case), False


_KINDS: Mapping[str, Callable[[Entry, Case], Parts]] = {
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


def _dressed(pieces: tuple[Piece, ...], entry: Entry, case: Case) -> tuple[Piece, ...]:
    """With prefix and suffix: the entry's own, the type's, or those of the flavor."""
    flavor, values = case.section.flavor, expressions(case)
    prefix = flavor.prefix if entry.front is None else entry.front
    suffix = flavor.suffix if entry.suffix is None else entry.suffix
    return (*render(prefix, values), *pieces, *render(suffix, values))


def _event_reason(case: Case) -> str:
    event = case.situation.event
    if event.kind == "pull-request":
        into = f" into {event.base}" if event.base else ""
        return f"pull request {event.number}{into}"
    if event.tag:
        return f"the git tag {event.tag} was pushed"
    if event.kind == "schedule":
        return f"a schedule on {event.branch}" if event.branch else "a schedule"
    return f"a push to {event.branch}" if event.branch else f"a push to {event.ref}"


def _refuse_disguise(name: str, pieces: tuple[Piece, ...], entry: Entry, case: Case) -> None:
    """Raises ConfigError where a branch would be published under the name of something else."""
    by_branch = any(piece.ref for piece in pieces) and not case.situation.event.tag
    if by_branch and entry.type in {"template", "ref", "raw"} and templates.is_reserved(name):
        raise ConfigError(
            f"the branch {case.situation.event.branch} would get the tag {name},"
            " which stands for something else",
            hint=f"rename the branch, or put text before the name: branch-{{name}} for {entry}",
        )
