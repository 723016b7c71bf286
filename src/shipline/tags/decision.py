"""The decision for a commit: its tags, version, labels and annotations, and why. A pure function of
the policy and the situation.

Labels follow the OCI image specification, "Annotations".
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from shipline.errors import ConfigError
from shipline.git import web_address
from shipline.tags.candidates import (
    CandidateTag,
    NotApplicable,
    RuleMatch,
    expressions,
    make_candidate,
)
from shipline.tags.entry import TagEntry
from shipline.tags.event import Event, Situation
from shipline.tags.proposal import Proposal, propose
from shipline.tags.section import TagRule, TagsSection, match
from shipline.tags.templates import Call, TemplatePiece, render_date, text_of

_OCI = "org.opencontainers.image"
REVISION = f"{_OCI}.revision"
PULL_MERGE = "org.shipline.pull-request.merge"
"""The merge commit that was built, if the revision is the head of a pull request."""
_CREATED = "YYYY-MM-DDTHH:mm:ss[Z]"


def built_from(labels: Mapping[str, object]) -> str:
    """The commit in labels or annotations; empty if there is none."""
    return str(labels.get(PULL_MERGE) or labels.get(REVISION) or "")


def standard_labels(situation: Situation, version: str) -> dict[str, str]:
    """The standard labels with a value. The creation time is that of the commit."""
    event = situation.event
    url = event.url or web_address(situation.url)
    labels = {
        f"{_OCI}.created": render_date(situation.commit.time, _CREATED),
        f"{_OCI}.description": event.description,
        f"{_OCI}.licenses": event.licenses,
        REVISION: situation.named_commit,
        f"{_OCI}.source": url,
        f"{_OCI}.title": event.title or url.rpartition("/")[2],
        f"{_OCI}.url": url,
        f"{_OCI}.version": version,
    }
    if situation.named_commit != situation.commit.sha:
        labels[PULL_MERGE] = situation.commit.sha
    return {key: value for key, value in labels.items() if value}


def complete_labels(
    usual: Mapping[str, str],
    own: Mapping[str, str],
    expressions: Mapping[str, TemplatePiece | Call],
    version: str,
) -> dict[str, str]:
    """The standard labels overridden by those of the configuration; an empty value removes one.

    Raises ConfigError for an unknown expression.
    """
    values = {**expressions, "version": TemplatePiece(version)}
    filled = {key: text_of(value, values) for key, value in own.items()}
    return {key: value for key, value in sorted({**usual, **filled}.items()) if value}


@dataclass(frozen=True, slots=True)
class Tag:
    """A tag that the image gets. A `mutable` tag may move to a later image."""

    name: str
    mutable: bool
    reason: str


@dataclass(frozen=True, slots=True)
class Skipped:
    """An entry of the rule that gives no tag, and why."""

    entry: str
    reason: str


@dataclass(frozen=True, slots=True)
class GitTag:
    """The git tag of the version; a `new` one must be reserved before publishing."""

    name: str
    commit: str
    new: bool


@dataclass(frozen=True, slots=True)
class Decision:
    """The decision for a commit, equal for equal situations. `version` has no prefix and is empty
    if there is none. `commit` is what is built, `named_commit` the commit in tags. `rule` counts
    from 1. `called` is the value of the label and output `version`: the version, or the first tag.
    """

    event: Event
    commit: str
    named_commit: str
    rule: int
    version: str
    version_reason: str
    tags: tuple[Tag, ...]
    skipped: tuple[Skipped, ...]
    git_tag: GitTag | None
    push: bool
    labels: Mapping[str, str] = field(default_factory=dict)
    annotations: Mapping[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    called: str = ""

    @property
    def names(self) -> tuple[str, ...]:
        """The names of the tags, the most specific first."""
        return tuple(tag.name for tag in self.tags)

    def to_json(self) -> dict[str, Any]:
        """The decision as JSON values, in a fixed order."""
        event, git_tag = self.event, self.git_tag
        return {
            "version": self.version,
            "versionReason": self.version_reason,
            "tags": [
                {"name": tag.name, "mutable": tag.mutable, "reason": tag.reason}
                for tag in self.tags
            ],
            "skipped": [{"entry": skip.entry, "reason": skip.reason} for skip in self.skipped],
            "push": self.push,
            "gitTag": {"name": git_tag.name, "commit": git_tag.commit, "new": git_tag.new}
            if git_tag
            else None,
            "commit": self.commit,
            "namedCommit": self.named_commit,
            "rule": self.rule,
            "event": {
                "kind": event.kind,
                "ref": event.ref,
                "number": event.number,
                "base": event.base,
                "source": event.source,
            },
            "labels": dict(self.labels),
            "annotations": dict(self.annotations),
            "notes": [*self.notes],
        }


class NoRuleMatches(ConfigError):
    """No rule matches the event: the image gets no tag."""

    code = "tags-no-rule"


def choose_rule(section: TagsSection, event: Event) -> tuple[int, TagRule, str]:
    """The first rule for the event: its number, the rule, and what the pattern's wildcard matched.

    Raises NoRuleMatches.
    """
    pulled = event.kind == "pull-request"
    name = event.base if pulled else event.tag or event.branch
    for number, rule in enumerate(section.chosen_rules, 1):
        if rule.on is None:
            return number, rule, ""
        matched = match(rule.on.patterns(event.kind), name) if name or pulled else None
        if matched:
            return number, rule, "" if pulled else matched.name
    raise NoRuleMatches(
        f"no rule matches {_event_text(event)}",
        hint=f"rules are for {_rules(section)}; add one for it to tags.rules of shipline.yaml",
    )


def decide(section: TagsSection, situation: Situation) -> Decision:
    """The tags and the version of the commit, each with its reason. Raises NoRuleMatches if no rule
    matches the event or no entry of a rule for all events gives a tag, ConfigError for an invalid
    rule.
    """
    number, rule, name = choose_rule(section, situation.event)
    proposal = Proposal(None, "the rule makes no version")
    if rule.wants_version or (situation.event.tag and rule.version != "none"):
        proposal = propose(rule, section, situation)
    case = RuleMatch(rule, section, situation, name, proposal.version, proposal.reason)
    candidates, skipped = _make_all(case)
    if not candidates and rule.on is None and not rule.wants_version:
        raise _nothing(situation.event, skipped)
    candidates = _with_latest(candidates, case)
    tags, held_back = _held_back(_distinct(candidates), situation)
    version = str(proposal.version or "")
    called = _called(candidates, version, rule)
    known, values = standard_labels(situation, called), expressions(case)
    return Decision(
        event=situation.event,
        commit=situation.commit.sha,
        named_commit=situation.named_commit,
        rule=number,
        version=version,
        version_reason=proposal.reason,
        tags=tags,
        skipped=(*skipped, *held_back),
        git_tag=_git_tag(rule, proposal, situation),
        push=rule.push and bool(tags),
        labels=complete_labels(known, section.labels, values, called),
        annotations=complete_labels(known, section.annotations, values, called),
        notes=_notes(situation, tags, section),
        called=called,
    )


def _make_all(case: RuleMatch) -> tuple[list[CandidateTag], tuple[Skipped, ...]]:
    candidates, skipped = [], []
    for entry in sorted(case.rule.entries, key=_rank):
        try:
            candidates.append(make_candidate(entry, case))
        except NotApplicable as why:
            skipped.append(Skipped(str(entry), str(why)))
    return candidates, tuple(skipped)


def _rank(entry: TagEntry) -> int:
    return -entry.rank


def _called(candidates: list[CandidateTag], version: str, rule: TagRule) -> str:
    """The value of the label and output `version`: the derived version, else the first tag. With
    entries of docker/metadata-action it is the first tag, as in that action.
    """
    first = candidates[0] if candidates else None
    upstream = first is not None and first.latest is not None and rule.version is None
    return first.name if first is not None and (upstream or not version) else version


def _with_latest(candidates: list[CandidateTag], case: RuleMatch) -> list[CandidateTag]:
    """The tags with `latest` if the flavor adds it: with `auto`, the first entry decides."""
    flavor = case.section.flavor
    first = next((candidate for candidate in candidates if candidate.latest is not None), None)
    along = first if first is not None and first.latest else None
    add_latest = flavor.latest == "true" or (flavor.latest == "auto" and along is not None)
    if not add_latest or not candidates:
        return candidates
    prefix = flavor.prefix if flavor.prefix_latest else ""
    suffix = flavor.suffix if flavor.suffix_latest else ""
    reason = f"added with {along.name}" if along else "flavor.latest is true"
    return [*candidates, CandidateTag(f"{prefix}latest{suffix}", True, reason)]


def _distinct(candidates: Iterable[CandidateTag]) -> tuple[Tag, ...]:
    tags: dict[str, Tag] = {}
    for candidate in candidates:
        tags.setdefault(candidate.name, Tag(candidate.name, candidate.mutable, candidate.reason))
    return tuple(tags.values())


def _held_back(
    tags: tuple[Tag, ...], situation: Situation
) -> tuple[tuple[Tag, ...], tuple[Skipped, ...]]:
    """The tags without mutable ones if the branch has moved on: those belong to the newer
    commit.
    """
    if not situation.tip:
        return tags, ()
    branch = situation.event.branch
    reason = f"superseded: {branch} has moved on to {situation.tip[:12]}"
    skipped = tuple(Skipped(tag.name, reason) for tag in tags if tag.mutable)
    return tuple(tag for tag in tags if not tag.mutable), skipped


def _git_tag(rule: TagRule, proposal: Proposal, situation: Situation) -> GitTag | None:
    if not proposal.git_tag or (proposal.new and not rule.makes_git_tag):
        return None
    return GitTag(proposal.git_tag, situation.commit.sha, proposal.new)


def _notes(situation: Situation, tags: tuple[Tag, ...], section: TagsSection) -> tuple[str, ...]:
    notes = []
    event = situation.event
    if event.sha and event.sha != situation.commit.sha:
        head = situation.commit.sha[:12]
        notes.append(f"{event.source} runs for {event.sha[:12]}, but {head} is checked out")
    usual_latest = not section.rules and any(tag.name == "latest" for tag in tags)
    if usual_latest:
        notes.append(
            "latest follows the branch develop; many images have it on the last version instead:"
            " tags.rules of shipline.yaml changes that"
        )
    return tuple(notes)


def _nothing(event: Event, skipped: Iterable[Skipped]) -> NoRuleMatches:
    error = NoRuleMatches(f"no entry of the rule gives a tag for {_event_text(event)}")
    for skip in skipped:
        error.add_note(f"{skip.entry}: {skip.reason}")
    return error


def _event_text(event: Event) -> str:
    if event.kind == "pull-request":
        return f"pull request {event.number}" + (f" into {event.base}" if event.base else "")
    return f"a schedule on {event.ref}" if event.kind == "schedule" else event.ref


def _rules(section: TagsSection) -> str:
    kinds = ("push", "tag", "pull-request", "schedule")
    rules = [
        f"{kind} {pattern}"
        for rule in section.chosen_rules
        if rule.on is not None
        for kind in kinds
        for pattern in rule.on.patterns(kind)
    ]
    return ", ".join(rules)
