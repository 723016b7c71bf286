"""What is decided for a commit: its tags, version, labels, and why."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from shipline.policy.tags.event import Event


@dataclass(frozen=True, slots=True)
class Tag:
    """A tag that the image gets. `mutable` ones may move to a later image, the others never."""

    name: str
    mutable: bool
    reason: str


@dataclass(frozen=True, slots=True)
class Skipped:
    """A tag of the rule that the image does not get; `entry` is how the rule writes it."""

    entry: str
    reason: str


@dataclass(frozen=True, slots=True)
class GitTag:
    """The git tag of the version; where it is `new` it has to be reserved before publishing."""

    name: str
    commit: str
    new: bool


@dataclass(frozen=True, slots=True)
class Decision:
    """Equal for equal situations. `version` is without prefix, empty where there is none.

    `commit` is what is built, `named_commit` what tags are named by. `rule` counts from 1.
    `called` is what label and output `version` say: the version, or the first tag.
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
        """The tags, as text, the most telling first."""
        return tuple(tag.name for tag in self.tags)

    def to_json(self) -> dict[str, Any]:
        """All of it as plain values, in a fixed order."""
        event, git_tag = self.event, self.git_tag
        return {
            "version": self.version,
            "versionReason": self.version_reason,
            "tags": [
                {"name": tag.name, "mutable": tag.mutable, "reason": tag.reason}
                for tag in self.tags
            ],
            "skipped": [{"entry": one.entry, "reason": one.reason} for one in self.skipped],
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
