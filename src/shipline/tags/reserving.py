"""A version that no other pipeline can have: foreseen, and reserved as a git tag of the remote."""

from __future__ import annotations

from dataclasses import dataclass

from shipline.git import (
    Git,
    GitError,
    TagTaken,
    fetch_tags,
    read_repository,
    remote_tags,
    reserve_tag,
    tags,
)
from shipline.tags.decision import Decision, decide
from shipline.tags.event import Event
from shipline.tags.facts import survey, versions_among
from shipline.tags.section import TagsSection
from shipline.tasks import sleep

ATTEMPTS = 8
_NAMED = 3  # tags in a message
_PAUSE_S = 0.2  # grows with each attempt


@dataclass(frozen=True, slots=True)
class ExpectedDecision:
    """A decision that nothing is reserved for; `doubt` says why it may be another in the end."""

    decision: Decision
    doubt: str = ""


def foresee(
    git: Git,
    section: TagsSection,
    event: Event,
    *,
    fetch: bool = False,
    ask: bool = True,
    now: int = 0,
) -> ExpectedDecision:
    """What `reserve` would decide for HEAD. A version that follows from others is only as good as
    the tags of this clone: with `ask` the remote is asked for its own, and those that are missing
    are fetched where `fetch` allows it.

    Raises GitError where the version cannot be known: tags are missing and are not fetched, or
    there is none here and the remote does not tell; what `survey` and `decide` raise.
    """
    decision = decide(section, survey(git, section, event, fetch=fetch, now=now))
    standing = decision.git_tag is not None and not decision.git_tag.new
    remote = read_repository(git, remote=section.remote).remote
    if not remote or not decision.version or decision.event.tag or standing:
        return ExpectedDecision(decision)
    here = versions_among(tags(git), section.tag_prefix)
    try:
        there = versions_among(remote_tags(git, remote) if ask else (), section.tag_prefix)
    except GitError as error:
        return _in_doubt(decision, remote, bool(here), f"{remote} does not tell: {error.message}")
    if not ask:
        return _in_doubt(decision, remote, bool(here), f"{remote} was not asked")
    if not (missing := [tag for tag in there if tag not in here]):
        return ExpectedDecision(decision)
    if fetch:
        fetch_tags(git, remote)
        return ExpectedDecision(decide(section, survey(git, section, event, fetch=fetch, now=now)))
    raise GitError(
        f"the version cannot be known: {remote} has {_listed(missing)}, this clone has not",
        hint=f"git fetch --tags {remote}, or --fetch",
    )


def _in_doubt(decision: Decision, remote: str, some: bool, why: str) -> ExpectedDecision:
    if some:
        return ExpectedDecision(decision, f"{why}; versions that others made are not known here")
    raise GitError(
        f"the version cannot be known: no version tag is here, and {why}",
        hint=f"git fetch --tags {remote}, where it can be reached",
    )


def _listed(names: list[str]) -> str:
    """The first of many names, highest first."""
    more = len(names) - _NAMED
    return ", ".join(names[:_NAMED]) + (f" and {more} more" if more > 0 else "")


def reserve(
    git: Git, section: TagsSection, event: Event, *, fetch: bool = True, now: int = 0
) -> Decision:
    """The decision for HEAD, whose new git tag, if it has one, the remote now holds for it.

    Another commit that takes the tag first makes this one decide again, with that version known.
    Doing it again for the same commit changes nothing. Raises what `survey` and `decide` raise,
    TagTaken when others were faster every time.
    """
    remote = read_repository(git, remote=section.remote).remote
    if remote:
        fetch_tags(git, remote)
    for attempt in range(ATTEMPTS):
        situation = survey(git, section, event, fetch=fetch, now=now)
        decision = decide(section, situation)
        wanted = decision.git_tag
        if wanted is None or not wanted.new:
            return decision
        if not remote:
            raise GitError(
                f"the version {wanted.name} cannot be reserved: the clone has no remote",
                hint="git remote add origin URL, or git-tag: false in the rule",
            )
        try:
            reserve_tag(git, remote, wanted.name, situation.commit, wanted.name)
            return decision
        except TagTaken:
            if attempt == ATTEMPTS - 1:
                raise
        sleep(_PAUSE_S * attempt)
        fetch_tags(git, remote)
    raise AssertionError("the last attempt returns or raises")
