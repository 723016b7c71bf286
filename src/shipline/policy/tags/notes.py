"""The release that a changelog is about, read from the repository."""

from __future__ import annotations

from dataclasses import replace

from shipline import git as repositories
from shipline.git import Commit, Git, GitError
from shipline.policy.tags.changelog import Release
from shipline.policy.tags.event import Event
from shipline.policy.tags.proposal import propose, tag_of_commit
from shipline.policy.tags.section import TagsSection
from shipline.policy.tags.situation import Situation
from shipline.policy.tags.survey import Clone, completed, last_version, survey

_UNRELEASED = "Unreleased"


def read_release(
    git: Git, section: TagsSection, *, since: str = "", until: str = "", fetch: bool = False
) -> tuple[Release, str]:
    """What changed after `since`, by default the version before, up to `until`, by default HEAD;
    and the address of the repository on the web, empty where nobody knows it.

    Raises GitError for a revision that is not there.
    """
    repository = repositories.read_repository(git, remote=section.remote)
    if not repository.head:
        raise GitError("the repository has no commit yet", hint="commit something first")
    clone = Clone(git, repository, repositories.tags(git), fetch)
    if repository.shallow:
        clone = completed(clone, section)
    target = repositories.read_commit(git, _existing(git, until) if until else repository.head)
    title = _title(clone, section, target)
    since = since or _version_before(clone, section, target)
    start = [_existing(git, since)] if since else []
    commits = repositories.log(git, target.sha, since=start, paths=section.paths)
    end = title if title in clone.tags else (until or target.sha[:12])
    release = Release.of(title, target.time, since, end, commits)
    return release, repositories.web_address(repository.url)


def _existing(git: Git, revision: str) -> str:
    if sha := repositories.resolve(git, revision):
        return sha
    raise GitError(f"there is no commit {revision!r}", hint="see git log and git tag")


def _title(clone: Clone, section: TagsSection, target: Commit) -> str:
    """The version tag on the commit; for HEAD the one it would get."""
    section = section.releasing()
    (rule,) = section.rules
    if tag := tag_of_commit(rule, section, Situation(Event(), target, clone.tags)):
        return tag
    if target.sha != clone.repository.head:
        return _UNRELEASED
    situation = survey(clone.git, section, Event(ref="HEAD"), fetch=clone.fetch)
    return propose(rule, section, situation).git_tag or _UNRELEASED


def _version_before(clone: Clone, section: TagsSection, target: Commit) -> str:
    older = {tag: sha for tag, sha in clone.tags.items() if sha != target.sha}
    return last_version(replace(clone, tags=older), section, target.sha)
