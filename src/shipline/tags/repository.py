"""What the tag policy reads from a repository through git, and the version that it reserves there.

Only a reservation writes to the remote; the clone is only changed to fetch missing history, if that
is allowed.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass

from shipline import git as repositories
from shipline.errors import UsageError
from shipline.git import (
    Git,
    GitError,
    GitRepository,
    TagTaken,
    fetch_tags,
    read_repository,
    remote_tags,
    reserve_tag,
    tags,
)
from shipline.tags.decision import Decision, choose_rule, decide
from shipline.tags.event import CommitHistory, Event, Situation, ref_of
from shipline.tags.proposal import propose, tag_of_commit
from shipline.tags.section import TagRule, TagsSection
from shipline.tags.versions import Version, version_of
from shipline.tasks import sleep
from shipline.values import replace

_CHUNKS = (1, 8)  # tags tried at once, the highest first, before all of them are


@dataclass(frozen=True, slots=True)
class RepositoryClone:
    """A repository with its tags; `fetch`: whether missing history may be fetched."""

    git: Git
    repository: GitRepository
    tags: Mapping[str, str]
    fetch: bool = False


def survey(
    git: Git, section: TagsSection, event: Event, *, fetch: bool = False, now: int = 0
) -> Situation:
    """The situation of HEAD; an event without a ref gets the current branch. Raises GitError if the
    repository lacks what is needed, NoRuleMatches before history is read.
    """
    repository = repositories.read_repository(git, remote=section.remote)
    if not repository.head:
        raise GitError(
            "the repository has no commit yet", code="git-no-commit", hint="commit something first"
        )
    clone = RepositoryClone(git, repository, repositories.tags(git), fetch)
    commit = repositories.read_commit(git, repository.head)
    event = _with_head(_with_ref(event, clone, section), clone)
    _require_tagged(event, clone)
    _, rule, _ = choose_rule(section, event)
    named_commit = event.head if event.kind == "pull-request" else commit.sha
    situation = Situation(
        event,
        commit,
        clone.tags,
        unique=len(repositories.abbreviate(git, named_commit, 7)),
        tip=_tip(event, clone),
        url=repository.url,
        now=now,
    )
    if event.tag or not rule.wants_version:
        return situation
    if tag_of_commit(rule, section, situation):
        return replace(situation, history=CommitHistory())
    return _with_history(situation, rule, section, clone)


def last_version(clone: RepositoryClone, section: TagsSection, commit: str) -> str:
    """The git tag of the highest release in the history of `commit`; empty if there is none."""
    return _last(clone, _ranked(clone.tags, section.tag_prefix), commit)


def _last(clone: RepositoryClone, ranked: Iterable[tuple[Version, str]], commit: str) -> str:
    return _highest_merged(
        clone, [tag for version, tag in ranked if not version.prerelease], commit
    )


def _with_ref(event: Event, clone: RepositoryClone, section: TagsSection) -> Event:
    """The event, with a ref and the default branch."""
    repository = clone.repository
    default = section.default_branch or event.default_branch
    default = default or repositories.default_branch(clone.git, repository.remote)
    event = replace(event, default_branch=default)
    if event.branch in clone.tags and not _is_branch(event.branch, clone):
        return replace(event, kind="tag", ref=ref_of(event.branch, tag=True))
    if event.ref or event.kind == "pull-request":
        return event
    if repository.branch:
        return replace(event, ref=ref_of(repository.branch), source="the checked-out branch")
    return replace(event, ref=_detached(clone), source="the only branch with the commit")


def _require_tagged(event: Event, clone: RepositoryClone) -> None:
    """Raises GitError if the pushed git tag is not on the checked-out commit."""
    head = clone.repository.head
    there = clone.tags.get(event.tag, head)
    if event.tag and there != head:
        raise GitError(
            f"the git tag {event.tag} is on {there[:12]}, but {head[:12]} is checked out",
            code="git-tag-elsewhere",
            hint=f"git checkout {event.tag}, or --ref BRANCH for the checked-out commit",
        )


def _is_branch(name: str, clone: RepositoryClone) -> bool:
    prefixes = ("refs/heads", f"refs/remotes/{clone.repository.remote}")
    return any(repositories.resolve(clone.git, f"{prefix}/{name}") for prefix in prefixes)


def _detached(clone: RepositoryClone) -> str:
    """The only branch that contains HEAD. Raises UsageError if there are several or none."""
    repository = clone.repository
    branches = repositories.branches_containing(clone.git, repository.head, repository.remote)
    if len(branches) == 1:
        return ref_of(branches[0])
    names = ", ".join(branches[:8]) + (", ..." if len(branches) > 8 else "")
    problem = f"several branches contain it: {names}" if branches else "no branch contains it"
    raise UsageError(
        f"HEAD is detached at {repository.head[:12]}, and {problem}",
        code="git-detached",
        hint="name the branch or tag with --ref, such as --ref main or --ref refs/tags/v1.2.3",
    )


def _with_head(event: Event, clone: RepositoryClone) -> Event:
    """A pull request with the head of its branch: the second parent if HEAD is its merge commit."""
    if event.kind != "pull-request" or event.head:
        return event
    head = clone.repository.head
    parents = repositories.parents(clone.git, head)
    is_merge = len(parents) == 2 and (event.ref.endswith("/merge") or not event.ref)
    return replace(event, head=parents[1] if is_merge else head)


def _tip(event: Event, clone: RepositoryClone) -> str:
    """The commit of the remote branch if it has moved on past HEAD; empty otherwise."""
    repository = clone.repository
    if event.kind != "push" or not event.branch or not repository.remote:
        return ""
    tip = repositories.resolve(clone.git, f"refs/remotes/{repository.remote}/{event.branch}")
    moved_on = tip not in {"", repository.head}
    if moved_on and repositories.is_ancestor(clone.git, repository.head, tip):
        return tip
    return ""


def _with_history(
    situation: Situation, rule: TagRule, section: TagsSection, clone: RepositoryClone
) -> Situation:
    if clone.repository.shallow:
        clone = with_complete_history(clone, section)
        situation = replace(situation, tags=clone.tags)
        if tag_of_commit(rule, section, situation):
            return replace(situation, history=CommitHistory())
    head = situation.commit.sha
    ranked = _ranked(clone.tags, section.tag_prefix)
    last = _last(clone, ranked, head)
    above = itertools.takewhile(lambda entry: entry[1] != last, ranked)
    pending = _highest_merged(clone, [tag for version, tag in above if version.prerelease], head)
    commits = (
        repositories.log(clone.git, head, since=[clone.tags[last]], paths=section.paths)
        if last
        else ()
    )
    situation = replace(situation, history=CommitHistory(last, pending, commits))
    return _with_later(situation, rule, section, clone.git)


def with_complete_history(clone: RepositoryClone, section: TagsSection) -> RepositoryClone:
    """The clone with its complete history, if it may be fetched. Raises ShallowClone."""
    if not clone.fetch:
        remote = clone.repository.remote
        raise repositories.shallow_clone(remote, "nothing is fetched without --fetch")
    remote = clone.repository.remote
    repositories.complete_history(clone.git, remote, trees=bool(section.paths))
    return replace(clone, tags=repositories.tags(clone.git))


def _with_later(situation: Situation, rule: TagRule, section: TagsSection, git: Git) -> Situation:
    """The situation with those clashing tags whose commits have this one in their history."""
    head, history = situation.commit.sha, situation.history or CommitHistory()
    clashes = propose(rule, section, situation).clashes
    later = frozenset(
        tag for tag in clashes if repositories.is_ancestor(git, head, situation.tags[tag])
    )
    return replace(situation, history=replace(history, later=later))


def versions_among(tags: Iterable[str], prefix: str) -> list[str]:
    """The version tags among these, highest first."""
    return [tag for _, tag in _ranked(tags, prefix)]


def _ranked(tags: Iterable[str], prefix: str) -> list[tuple[Version, str]]:
    """Versions and their tags, highest first."""
    versions = [(version, tag) for tag in tags if (version := version_of(tag, prefix)) is not None]
    return sorted(
        versions, key=lambda entry: (entry[0], not entry[0].build, entry[1]), reverse=True
    )


def _highest_merged(clone: RepositoryClone, tags: Sequence[str], commit: str) -> str:
    """The first of the tags that is in the history of `commit`; asks git about a few at a time."""
    start = 0
    for size in (*_CHUNKS, len(tags)):
        chunk = tags[start : start + size]
        merged = repositories.merged(clone.git, [f"refs/tags/{tag}" for tag in chunk], commit)
        for tag in chunk:
            if f"refs/tags/{tag}" in merged:
                return tag
        start += size
    return ""


ATTEMPTS = 40
_NAMED = 3  # tags in a message
_PAUSE_S = 0.2  # grows with each attempt


@dataclass(frozen=True, slots=True)
class ExpectedDecision:
    """A decision without a reservation; `doubt` says why the reserved version may differ."""

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
    """What `reserve` would decide for HEAD. A version depends on existing version tags, which the
    clone may lack: with `ask_remote` the remote is asked for its tags, and missing ones are fetched
    if `fetch` is set.

    Raises GitError if the version cannot be determined: tags are missing and may not be fetched, or
    the clone has none and the remote cannot be reached; also what `survey` and `decide` raise.
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
            decision, remote, bool(local_tags), f"{remote} cannot be asked: {error.message}"
        )
    if not ask_remote:
        return _with_doubt(decision, remote, bool(local_tags), f"{remote} was not asked")
    if not (missing := [tag for tag in there if tag not in local_tags]):
        return ExpectedDecision(decision)
    if fetch:
        fetch_tags(git, remote)
        return ExpectedDecision(decide(section, survey(git, section, event, fetch=fetch, now=now)))
    raise GitError(
        f"the version cannot be determined: this clone lacks {_listed(missing)} of {remote}",
        code="git-shallow",
        hint=f"git fetch --tags {remote}, or --fetch",
    )


def _with_doubt(
    decision: Decision, remote: str, has_versions: bool, reason: str
) -> ExpectedDecision:
    if has_versions:
        return ExpectedDecision(decision, f"{reason}; newer versions of others may be missing here")
    raise GitError(
        f"the version cannot be determined: this clone has no version tag, and {reason}",
        code="git-shallow",
        hint=f"git fetch --tags {remote}, once it can be reached",
    )


def _listed(names: list[str]) -> str:
    """The first few of many names."""
    more = len(names) - _NAMED
    return ", ".join(names[:_NAMED]) + (f" and {more} more" if more > 0 else "")


def no_remote(version: str) -> GitError:
    """The clone has no remote where a version could be reserved."""
    return GitError(
        f"the version {version} cannot be reserved: the clone has no remote",
        code="git-no-remote",
        hint="git remote add origin URL; a rule in `tags` with git-tag: false reserves nothing",
    )


def reserve(
    git: Git, section: TagsSection, event: Event, *, fetch: bool = True, now: int = 0
) -> Decision:
    """The decision for HEAD, with its new git tag, if any, pushed to the remote. If another commit
    takes the tag first, the decision is made again with that version known. Repeating it for the
    same commit changes nothing. Raises what `survey` and `decide` raise, and TagTaken if others
    were faster every time.
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
            raise no_remote(git_tag.name)
        try:
            reserve_tag(git, remote, git_tag.name, situation.commit, git_tag.name)
        except TagTaken:
            if attempt == ATTEMPTS - 1:
                raise
        else:
            with suppress(GitError):  # the clone gets the tag too
                fetch_tags(git, remote)
            return decision
        sleep(random.uniform(0, _PAUSE_S * attempt))
        fetch_tags(git, remote)
    raise AssertionError("the last attempt returns or raises")
