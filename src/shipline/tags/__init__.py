"""Decides the version and image tags of a commit, with reasons."""

from shipline.tags.changelog import Release, markdown, read_release
from shipline.tags.decision import (
    PULL_MERGE,
    REVISION,
    Decision,
    GitTag,
    NoRuleMatches,
    Skipped,
    Tag,
    built_from,
    choose_rule,
    decide,
)
from shipline.tags.entry import TagEntry
from shipline.tags.event import CommitHistory, Event, Situation, event_from, ref_of
from shipline.tags.proposal import Proposal, propose
from shipline.tags.published import (
    PublishedImage,
    TagConflict,
    TagPlacement,
    place,
    require_free,
    reusable,
    revision,
    snapshot,
)
from shipline.tags.repository import (
    RepositoryClone,
    expected_decision,
    last_version,
    reserve,
    survey,
)
from shipline.tags.section import Flavor, RuleEvents, TagRule, TagsSection

__all__ = [
    "PULL_MERGE",
    "REVISION",
    "CommitHistory",
    "Decision",
    "Event",
    "Flavor",
    "GitTag",
    "NoRuleMatches",
    "Proposal",
    "PublishedImage",
    "Release",
    "RepositoryClone",
    "RuleEvents",
    "Situation",
    "Skipped",
    "Tag",
    "TagConflict",
    "TagEntry",
    "TagPlacement",
    "TagRule",
    "TagsSection",
    "built_from",
    "choose_rule",
    "decide",
    "event_from",
    "expected_decision",
    "last_version",
    "markdown",
    "place",
    "propose",
    "read_release",
    "ref_of",
    "require_free",
    "reserve",
    "reusable",
    "revision",
    "snapshot",
    "survey",
]
