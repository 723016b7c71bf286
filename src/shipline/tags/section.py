"""The section `tags` of shipline.yaml: the tags of images by event, and how versions are
derived.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from shipline.errors import ConfigError
from shipline.globs import glob
from shipline.tags.entry import InvalidTags, TagEntry
from shipline.tags.versions import Levels, Version
from shipline.values import doc, replace


@dataclass(frozen=True, slots=True)
class PatternMatch:
    """The part of the ref from the first wildcard of the pattern on; all of it without a
    wildcard.
    """

    pattern: str
    name: str


def match(patterns: Sequence[str], ref: str) -> PatternMatch | None:
    """The match of the last matching pattern, None if there is none or it begins with `!`. `*` and
    `?` match anything but `/`, `**` anything, `[abc]` one of these characters.
    """
    best = None
    for pattern in patterns:
        if glob(pattern.removeprefix("!")).fullmatch(ref):
            best = (
                None if pattern.startswith("!") else PatternMatch(pattern, ref[_fixed(pattern) :])
            )
    return best


def check_pattern(pattern: str) -> str:
    """The pattern. Raises ValueError if it cannot match anything."""
    if not pattern.removeprefix("!"):
        raise ValueError("a pattern must not be empty")
    glob(pattern.removeprefix("!"))
    return pattern


def _fixed(pattern: str) -> int:
    """The number of characters before the first wildcard; 0 without one."""
    wild = re.search(r"[*?\[]", pattern)
    return wild.start() if wild else 0


Patterns = str | tuple[str, ...]


@dataclass(frozen=True, slots=True)
class RuleEvents:
    """The events of a rule, as patterns of ref names such as `main`, `feature/**`, `!feature/x`."""

    push: Patterns = field(default=(), metadata=doc("Branches that were pushed."))
    tag: Patterns = field(default=(), metadata=doc("Git tags that were pushed."))
    pull_request: Patterns = field(default=(), metadata=doc("Target branches of pull requests."))
    schedule: Patterns = field(default=(), metadata=doc("Branches of schedules."))

    def __post_init__(self) -> None:
        if not any((self.push, self.tag, self.pull_request, self.schedule)):
            raise InvalidTags("a rule's `on` needs push, tag, pull-request or schedule")
        for kind in ("push", "tag", "pull-request", "schedule"):
            for pattern in self.patterns(kind):
                check_pattern(pattern)

    def patterns(self, kind: str) -> tuple[str, ...]:
        """The patterns for a kind of event."""
        value: Patterns = getattr(self, kind.replace("-", "_"))
        return (value,) if isinstance(value, str) else value


@dataclass(frozen=True, slots=True)
class TagRule:
    """The tags of images for some events; without `on`, for all events."""

    tags: tuple[str | TagEntry, ...] = field(
        metadata=doc("Templates such as v{version}, or entries of docker/metadata-action.")
    )
    on: RuleEvents | None = field(default=None, metadata=doc("The events; by default all."))
    version: Literal["conventional", "none"] | None = field(
        default=None, metadata=doc("conventional: from the commits since the last version.")
    )
    prerelease: str = field(
        default="", metadata=doc("Make prereleases such as 1.3.0-beta.1, with this word.")
    )
    immutable: bool | None = field(
        default=None,
        metadata=doc("Whether the tags may never move; by default those with a commit or version."),
    )
    git_tag: bool | None = field(
        default=None,
        metadata=doc(
            "Whether a new version becomes a git tag; by default with version: conventional."
        ),
    )
    push: bool = field(default=True, metadata=doc("Whether the image is pushed at all."))
    none_releasable: Literal["patch", "none"] | None = field(
        default=None, metadata=doc("When no commit asks for a version: a patch, or none.")
    )

    def __post_init__(self) -> None:
        if not self.tags:
            raise InvalidTags("tags: a rule needs at least one")
        try:
            self.entries  # noqa: B018  raises what is wrong with them
        except ConfigError as error:
            raise InvalidTags(f"tags: {error}", hint=error.hint) from None
        if self.prerelease:
            _check_word(self.prerelease)

    @property
    def entries(self) -> tuple[TagEntry, ...]:
        """The tags of the rule, parsed."""
        return tuple(TagEntry.read(tag) if isinstance(tag, str) else tag for tag in self.tags)

    @property
    def wants_version(self) -> bool:
        """Whether a version has to be decided."""
        needs_version = any(entry.needs_version for entry in self.entries)
        return self.version == "conventional" or (needs_version and self.version is None)

    @property
    def makes_git_tag(self) -> bool:
        return self.version == "conventional" if self.git_tag is None else self.git_tag


@dataclass(frozen=True, slots=True)
class Flavor:
    """Defaults of all docker/metadata-action entries."""

    latest: Literal["auto", "true", "false"] = field(
        default="auto", metadata=doc("Whether to add the tag latest.")
    )
    prefix: str = field(default="", metadata=doc("Prefix of tags without their own prefix."))
    suffix: str = field(default="", metadata=doc("Suffix of tags without their own suffix."))
    prefix_latest: bool = field(default=False, metadata=doc("Whether latest gets the prefix too."))
    suffix_latest: bool = field(default=False, metadata=doc("Whether latest gets the suffix too."))


@dataclass(frozen=True, slots=True)
class TagsSection:
    """How images are tagged. Every key has a default; the first matching rule applies."""

    rules: tuple[TagRule, ...] = field(
        default=(), metadata=doc("The first rule for the event decides.")
    )
    tag_prefix: str = field(
        default="v", metadata=doc("How git tags of versions begin: v, or api/v.")
    )
    paths: tuple[str, ...] = field(
        default=(),
        metadata=doc("Only commits that change these files count: services/api/**, !**/*.md."),
    )
    initial: str = field(default="0.1.0", metadata=doc("The first version."))
    none_releasable: Literal["patch", "none"] = field(
        default="patch", metadata=doc("When no commit asks for a version: a patch, or none.")
    )
    major_on_zero: bool = field(
        default=True, metadata=doc("Whether a breaking change in 0.y.z makes 1.0.0.")
    )
    minor_types: tuple[str, ...] = field(
        default=("feat",), metadata=doc("Types of commits that ask for a minor version.")
    )
    patch_types: tuple[str, ...] = field(
        default=("fix", "perf", "revert"),
        metadata=doc("Types of commits that ask for a patch version."),
    )
    changelog: Mapping[str, tuple[str, ...]] = field(
        default_factory=dict,
        metadata=doc("Headings of the changelog in order, and the types or areas below each."),
    )
    flavor: Flavor = field(
        default=Flavor(), metadata=doc("Defaults of entries of docker/metadata-action.")
    )
    labels: Mapping[str, str] = field(
        default_factory=dict, metadata=doc("More labels, or other values for standard ones.")
    )
    annotations: Mapping[str, str] = field(
        default_factory=dict, metadata=doc("More annotations, or other values for standard ones.")
    )
    remote: str = field(
        default="",
        metadata=doc("The remote with the version tags; by default origin, or the only one."),
    )
    default_branch: str = field(
        default="", metadata=doc("The default branch, if neither CI nor the remote reports it.")
    )
    unique_names: bool = field(
        default=True,
        metadata=doc("Whether names that are not valid tags get a hash, so that no two collide."),
    )

    def __post_init__(self) -> None:
        try:
            first = Version.parse(self.initial)
        except ValueError as error:
            raise InvalidTags(f"initial: {error}") from None
        if first.prerelease or first.build:
            raise InvalidTags("initial: must be major.minor.patch")

    @property
    def levels(self) -> Levels:
        return Levels(frozenset(self.minor_types), frozenset(self.patch_types))

    def releasing(self) -> TagsSection:
        """The same policy with a single rule that makes a version for every event."""
        return replace(self, rules=(TagRule(("v{version}",), version="conventional"),))

    @property
    def chosen_rules(self) -> tuple[TagRule, ...]:
        """The rules of the file, or the default rules."""
        return self.rules or usual_rules(self.tag_prefix)


def usual_rules(tag_prefix: str) -> tuple[TagRule, ...]:
    """main gets versions, develop `latest`; branches and pull requests get their own names."""
    return (
        TagRule(
            ("v{major}.{minor}.{patch}",),
            RuleEvents(push=("main", "master")),
            version="conventional",
        ),
        TagRule(("dev-{sha}", "latest"), RuleEvents(push="develop")),
        TagRule(("feature-{name}-{sha}",), RuleEvents(push="feature/**")),
        TagRule(("{tag}",), RuleEvents(tag=f"{tag_prefix}*")),
        TagRule(("pr-{number}-{sha}",), RuleEvents(pull_request="**"), push=False),
    )


def _check_word(word: str) -> None:
    try:
        prerelease = Version.parse(f"1.0.0-{word}.1").prerelease
    except ValueError:
        prerelease = ()
    if len(prerelease) != 2 or prerelease[0].isdecimal():
        raise InvalidTags(f"prerelease: {word!r} must be one word such as beta")
