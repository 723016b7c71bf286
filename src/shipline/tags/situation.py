"""All that a decision depends on, as one value: commit graph, refs, event and clock."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from shipline.git import Commit
from shipline.tags.event import Event


@dataclass(frozen=True, slots=True)
class CommitHistory:
    """The commits since the last version. `last` is its git tag, empty where there is none.

    `pending` is the highest prerelease tag in the history that is above `last`. `later` holds the
    version tags whose commits have this one in their history.
    """

    last: str = ""
    pending: str = ""
    commits: tuple[Commit, ...] = ()
    later: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class Situation:
    """A commit, why it is looked at, and what is known around it.

    `event` has its ref. `tags` are all git tags with their commits. `history` is None where the
    rule for the event asks for no version. `unique` is how many digits tell the commit apart.
    `tip` is the commit of the remote branch where that went on past this one. `now` is in seconds
    since 1970, and only shows where a template asks for the date.
    """

    event: Event
    commit: Commit
    tags: Mapping[str, str] = field(default_factory=dict)
    history: CommitHistory | None = None
    unique: int = 7
    tip: str = ""
    url: str = ""
    now: int = 0

    @property
    def named_commit(self) -> str:
        """The commit that tags are named by: the head of a pull request, not its merge."""
        return self.event.head if self.event.kind == "pull-request" else self.commit.sha

    @property
    def is_default_branch(self) -> bool:
        """Whether the event is one of the default branch itself, as a schedule of GitHub is."""
        event = self.event
        default = event.default_branch or (event.branch if event.kind == "schedule" else "")
        return bool(event.branch) and event.branch == default
