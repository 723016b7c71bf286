"""A version that no other pipeline can have: decided, and reserved as a git tag of the remote."""

from __future__ import annotations

from shipline.git import Git, GitError, TagTaken, fetch_tags, read_repository, reserve_tag
from shipline.policy.tags.decide import decide
from shipline.policy.tags.decision import Decision
from shipline.policy.tags.event import Event
from shipline.policy.tags.section import TagsSection
from shipline.policy.tags.survey import survey
from shipline.tasks import sleep

ATTEMPTS = 8
_PAUSE_S = 0.2  # grows with each attempt


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
