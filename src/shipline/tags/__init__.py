"""Decides the version and image tags of a commit, with reasons."""

from shipline.tags.changelog import Release, markdown, read_release
from shipline.tags.decision import (
    PULL_MERGE,
    REVISION,
    Decision,
    GitTag,
    NoRuleMatches,
    Tag,
    built_from,
    decide,
)
from shipline.tags.entry import TagEntry
from shipline.tags.event import COMMAND_LINE, CommitHistory, Event, Situation, event_from, ref_of
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
    no_remote,
    reserve,
    survey,
)
from shipline.tags.section import Flavor, RuleEvents, TagRule, TagsSection
