"""Which version a commit has and what its image is called: decided from facts, with reasons."""

from shipline.policy.tags.changelog import Release, markdown
from shipline.policy.tags.ci import event_from
from shipline.policy.tags.decide import NoRuleMatches, choose_rule, decide
from shipline.policy.tags.decision import Decision, GitTag, Skipped, Tag
from shipline.policy.tags.entry import Entry
from shipline.policy.tags.event import Event, ref_of
from shipline.policy.tags.labels import PULL_MERGE, REVISION
from shipline.policy.tags.notes import read_release
from shipline.policy.tags.proposal import Proposal, propose
from shipline.policy.tags.published import (
    Existing,
    Placement,
    TagConflict,
    place,
    require_free,
    reusable,
)
from shipline.policy.tags.reserving import foresee, reserve
from shipline.policy.tags.section import Flavor, On, Rule, TagsSection
from shipline.policy.tags.situation import History, Situation
from shipline.policy.tags.snapshot import revision, snapshot
from shipline.policy.tags.survey import Clone, last_version, survey

__all__ = [
    "PULL_MERGE",
    "REVISION",
    "Clone",
    "Decision",
    "Entry",
    "Event",
    "Existing",
    "Flavor",
    "GitTag",
    "History",
    "NoRuleMatches",
    "On",
    "Placement",
    "Proposal",
    "Release",
    "Rule",
    "Situation",
    "Skipped",
    "Tag",
    "TagConflict",
    "TagsSection",
    "choose_rule",
    "decide",
    "event_from",
    "foresee",
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
