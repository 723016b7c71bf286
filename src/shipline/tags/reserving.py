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
    """A decision without a reservation; `doubt` says why the final one may differ."""

    decision: Decision
    doubt: str = ""


def expected_decision(
    git: Git,
    section: TagsSection,
    event: Event,
    *,
    fetch: bool = False,
    ask_remote: bool = True,
    now: int = 0,
) -> ExpectedDecision:
    """What `reserve` would decide for HEAD. A version that follows from others is only as good as
    the tags of this clone: with `ask` the remote is asked for its own, and those that are missing
    are fetched where `fetch` allows it.

    Raises GitError where the version cannot be known: tags are missing and are not fetched, or
    there is none here and the remote does not tell; what `survey` and `decide` raise.
    """
    decision = decide(section, survey(git, section, event, fetch=fetch, now=now))
    reserved = decision.git_tag is not None and not decision.git_tag.new
    remote = read_repository(git, remote=section.remote).remote
    if not remote or not decision.version or decision.event.tag or reserved:
        return ExpectedDecision(decision)
    local_tags = versions_among(tags(git), section.tag_prefix)
    try:
        there = versions_among(remote_tags(git, remote) if ask_remote else (), section.tag_prefix)
    except GitError as error:
        return _with_doubt(
            decision, remote, bool(local_tags), f"{remote} does not tell: {error.message}"
        )
    if not ask_remote:
        return _with_doubt(decision, remote, bool(local_tags), f"{remote} was not asked")
    if not (missing := [tag for tag in there if tag not in local_tags]):
        return ExpectedDecision(decision)
    if fetch:
        fetch_tags(git, remote)
        return ExpectedDecision(decide(section, survey(git, section, event, fetch=fetch, now=now)))
    raise GitError(
        f"the version cannot be known: {remote} has {_listed(missing)}, this clone has not",
        hint=f"git fetch --tags {remote}, or --fetch",
    )


def _with_doubt(
    decision: Decision, remote: str, has_versions: bool, reason: str
) -> ExpectedDecision:
    if has_versions:
        return ExpectedDecision(decision, f"{reason}; versions that others made are not known here")
    raise GitError(
        f"the version cannot be known: no version tag is here, and {reason}",
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
        git_tag = decision.git_tag
        if git_tag is None or not git_tag.new:
            return decision
        if not remote:
            raise GitError(
                f"the version {git_tag.name} cannot be reserved: the clone has no remote",
                hint="git remote add origin URL, or git-tag: false in the rule",
            )
        try:
            reserve_tag(git, remote, git_tag.name, situation.commit, git_tag.name)
            return decision
        except TagTaken:
            if attempt == ATTEMPTS - 1:
                raise
        sleep(_PAUSE_S * attempt)
        fetch_tags(git, remote)
    raise AssertionError("the last attempt returns or raises")
