"""The changes between two versions, as Markdown and as values, from conventional commits, or from
those that begin with areas, under headings of the project: `builders, cli: what changes`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from shipline import git as repositories
from shipline.git import Commit, Git, GitError
from shipline.tags.event import Event, Situation
from shipline.tags.proposal import propose, tag_of_commit
from shipline.tags.repository import RepositoryClone, last_version, survey, with_complete_history
from shipline.tags.section import TagsSection
from shipline.tags.templates import render_date
from shipline.tags.versions import Change, read_changes
from shipline.values import replace

_GROUPS = {
    "feat": "Features",
    "fix": "Fixes",
    "perf": "Performance",
    "revert": "Reverts",
    "docs": "Documentation",
    "refactor": "Refactoring",
    "test": "Tests",
    "build": "Build",
    "ci": "Continuous integration",
    "style": "Style",
    "chore": "Chores",
}
_NOTICED = ("feat", "fix", "perf", "revert")
_OTHER = "Other changes"
_ISSUE = re.compile(r"(?<![\w&/#\[])#(\d+)\b")


@dataclass(frozen=True, slots=True)
class Release:
    """The changes of a version. `since` and `until` are revisions, `since` empty for the first
    version; `date` in seconds since 1970; `changes` newest first; `headings` are those of the
    project, with types and areas.
    """

    title: str
    date: int
    since: str
    until: str
    changes: tuple[Change, ...]
    headings: Mapping[str, Sequence[str]] = field(default_factory=dict)

    @classmethod
    def of(
        cls, title: str, date: int, since: str, until: str, commits: Sequence[Commit]
    ) -> Release:
        """The release of these commits, without reverted changes and plain merge commits."""
        changes = read_changes(commits)
        listed = tuple(
            change for change in changes if change.type or change.breaking or not _is_merge(change)
        )
        return cls(title, date, since, until, listed)

    @property
    def breaking(self) -> tuple[Change, ...]:
        return tuple(change for change in self.changes if change.breaking)

    def groups(self, *, everything: bool = False) -> tuple[tuple[str, tuple[Change, ...]], ...]:
        """The changes under their headings; `everything` includes those that users do not
        notice.
        """
        usual = {_GROUPS[kind]: [kind] for kind in (_GROUPS if everything else _NOTICED)}
        headings = self.headings or usual
        groups: dict[str, list[Change]] = {heading: [] for heading in headings}
        heading_of = {
            area.lower(): heading for heading in reversed([*headings]) for area in headings[heading]
        }
        groups.setdefault(_OTHER, [])
        for change in self.changes:
            named = [heading_of[area] for area in _areas(change) if area in heading_of]
            groups[named[0] if named else _OTHER].append(change)
        if not everything and _OTHER not in self.headings:
            del groups[_OTHER]
        return tuple((heading, tuple(changes)) for heading, changes in groups.items() if changes)

    def to_json(self) -> dict[str, Any]:
        """All changes, whatever their kind."""
        return {
            "version": self.title,
            "date": render_date(self.date, "YYYY-MM-DD"),
            "from": self.since,
            "to": self.until,
            "changes": [
                {
                    "commit": change.commit.sha,
                    "type": change.type,
                    "scope": change.scope,
                    "description": change.description,
                    "breaking": change.breaking,
                    "author": change.commit.author,
                }
                for change in self.changes
            ],
        }


def markdown(release: Release, *, url: str = "", everything: bool = False) -> str:
    """The release as Markdown, breaking changes first, with links if the repository's `url` is
    known. Text of commits cannot become HTML.
    """
    links = _Links(url)
    heading = _escaped(release.title)
    if url and release.since:
        heading = f"[{heading}]({links.between(release.since, release.until)})"
    lines = [f"## {heading} ({render_date(release.date, 'YYYY-MM-DD')})"]
    if release.breaking:
        lines += ["", "### Breaking changes", ""]
        lines += [_line(change, change.breaking, links) for change in release.breaking]
    for name, changes in release.groups(everything=everything):
        lines += ["", f"### {name}", ""]
        if release.headings:
            changes = tuple(_named_for_areas(change) for change in changes)
        lines += [_line(change, change.description, links) for change in changes]
    if len(lines) == 1:
        lines += ["", "No changes that users notice."]
    return "\n".join(lines) + "\n"


@dataclass(frozen=True, slots=True)
class _Links:
    """The links of a hosting service: GitHub, Gitea, GitLab or Bitbucket."""

    url: str

    def commit(self, sha: str) -> str:
        short = sha[:7]
        if not self.url:
            return short
        page = {"gitlab": "-/commit", "bitbucket": "commits"}.get(self._service, "commit")
        return f"[{short}]({self.url}/{page}/{sha})"

    def between(self, since: str, until: str) -> str:
        if self._service == "bitbucket":
            return f"{self.url}/branches/compare/{until}%0D{since}"
        page = "-/compare" if self._service == "gitlab" else "compare"
        return f"{self.url}/{page}/{since}...{until}"

    def issues(self, text: str) -> str:
        if not self.url:
            return text
        page = "-/issues" if self._service == "gitlab" else "issues"
        return _ISSUE.sub(rf"[#\1]({self.url}/{page}/\1)", text)

    @property
    def _service(self) -> str:
        host = self.url.partition("://")[2].partition("/")[0]
        return next((name for name in ("gitlab", "bitbucket") if name in host), "github")


def _line(change: Change, text: str, links: _Links) -> str:
    scope = f"**{_escaped(change.scope)}:** " if change.scope else ""
    return f"- {scope}{links.issues(_escaped(text))} ({links.commit(change.commit.sha)})"


def _escaped(text: str) -> str:
    """The text with HTML escaped, except in `code`, where Markdown shows it literally."""
    parts = text.split("`")
    balanced = len(parts) % 2 == 1
    return "`".join(
        part if balanced and number % 2 else part.replace("&", "&amp;").replace("<", "&lt;")
        for number, part in enumerate(parts)
    )


def _areas(change: Change) -> list[str]:
    """The type of a conventional commit, or all words before the colon that commas part."""
    before, colon, _ = change.line.partition(": ")
    words = [change.type] if change.type or not colon else before.split(",")
    return [word.strip().lower() for word in words]


def _named_for_areas(change: Change) -> Change:
    """The change with what is before the colon as its scope, unless it has one."""
    before, colon, text = change.line.partition(": ")
    if change.scope or not colon:
        return change
    return replace(change, scope=before.rstrip("!"), description=text.strip())


def _is_merge(change: Change) -> bool:
    return len(change.commit.parents) > 1


_UNRELEASED = "Unreleased"


def read_release(
    git: Git, section: TagsSection, *, since: str = "", until: str = "", fetch: bool = False
) -> tuple[Release, str]:
    """The release with the commits after `since` (by default the previous version) up to `until`
    (by default HEAD), and the web address of the repository, empty if unknown. Raises GitError for
    an unknown revision.
    """
    repository = repositories.read_repository(git, remote=section.remote)
    if not repository.head:
        raise GitError(
            "the repository has no commit yet", code="git-no-commit", hint="commit something first"
        )
    clone = RepositoryClone(git, repository, repositories.tags(git), fetch)
    if repository.shallow:
        clone = with_complete_history(clone, section)
    target = repositories.read_commit(git, _existing(git, until) if until else repository.head)
    title = _title(clone, section, target)
    since = since or _version_before(clone, section, target)
    start = [_existing(git, since)] if since else []
    commits = repositories.log(git, target.sha, since=start, paths=section.paths)
    end = title if title in clone.tags else (until or target.sha[:12])
    release = Release.of(title, target.time, since, end, commits)
    release = replace(release, headings=section.changelog)
    return release, repositories.web_address(repository.url)


def _existing(git: Git, revision: str) -> str:
    if sha := repositories.resolve(git, revision):
        return sha
    raise GitError(
        f"there is no commit {revision!r}",
        code="git-commit-missing",
        hint="see git log and git tag",
    )


def _title(clone: RepositoryClone, section: TagsSection, target: Commit) -> str:
    """The version tag of the commit; for HEAD the tag it would get."""
    section = section.releasing()
    (rule,) = section.rules
    if tag := tag_of_commit(rule, section, Situation(Event(), target, clone.tags)):
        return tag
    if target.sha != clone.repository.head:
        return _UNRELEASED
    situation = survey(clone.git, section, Event(ref="HEAD"), fetch=clone.fetch)
    return propose(rule, section, situation).git_tag or _UNRELEASED


def _version_before(clone: RepositoryClone, section: TagsSection, target: Commit) -> str:
    older = {tag: sha for tag, sha in clone.tags.items() if sha != target.sha}
    return last_version(replace(clone, tags=older), section, target.sha)
