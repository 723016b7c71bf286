"""The version of a commit, with the reason: from its own tag, or the next one after the last
version.
"""

from __future__ import annotations

from dataclasses import dataclass

from shipline.tags.event import CommitHistory, Situation
from shipline.tags.section import TagRule, TagsSection
from shipline.tags.versions import Bump, Change, Levels, Version, read_changes, version_of

_SHOWN = 12  # digits of a commit in a reason


@dataclass(frozen=True, slots=True)
class Proposal:
    """The version, or None with the reason. `git_tag` is its tag, `new` whether it must still be
    created. `clashes` are tags that the version would have had, but that belong to other commits.
    """

    version: Version | None
    reason: str
    git_tag: str = ""
    new: bool = False
    level: Bump = Bump.NONE
    clashes: tuple[str, ...] = ()


def propose(rule: TagRule, section: TagsSection, situation: Situation) -> Proposal:
    """The version of the commit according to `rule`."""
    prefix = section.tag_prefix
    if tag := situation.event.tag:
        version = version_of(tag, prefix)
        problem = "was pushed" if version else f"is not a version after the prefix {prefix!r}"
        return Proposal(version, f"the git tag {tag} {problem}", tag)
    if tag := tag_of_commit(rule, section, situation):
        return Proposal(version_of(tag, prefix), f"the commit has the git tag {tag}", tag)
    history = situation.history or CommitHistory()
    following = _following(rule, section, history)
    if following.version is None:
        return following
    return _free(following, rule, section, situation, history)


def tag_of_commit(rule: TagRule, section: TagsSection, situation: Situation) -> str:
    """The highest version tag on the commit that the rule accepts; empty if there is none."""
    versions = [
        (version, not version.build, tag)
        for tag, commit in situation.tags.items()
        if commit == situation.commit.sha
        and (version := version_of(tag, section.tag_prefix)) is not None
        and (not version.prerelease or version.prerelease[0] == rule.prerelease)
    ]
    return max(versions)[-1] if versions else ""


def _following(rule: TagRule, section: TagsSection, history: CommitHistory) -> Proposal:
    """The version that the commits since the last one ask for."""
    last = version_of(history.last, section.tag_prefix)
    pending = version_of(history.pending, section.tag_prefix)
    if last is None:
        version = max(Version.parse(section.initial), pending.base if pending else Version(0, 0, 0))
        return Proposal(version, "the first version: there is none yet")
    if not history.commits:
        where = f"touches {', '.join(section.paths)} " if section.paths else "was made "
        return Proposal(None, f"no commit {where}since {history.last}")
    level, reason = _level(rule, section, history)
    if level is Bump.NONE:
        return Proposal(None, reason)
    if level is Bump.MAJOR and last.major == 0 and not section.major_on_zero:
        level, reason = Bump.MINOR, f"{reason} (minor, before 1.0.0)"
    version = last.base.bumped(level)
    if pending is not None and pending.base > version:
        version, reason = pending.base, f"{history.pending} announces it"
    return Proposal(version, reason, level=level)


def _level(rule: TagRule, section: TagsSection, history: CommitHistory) -> tuple[Bump, str]:
    level, change = highest(read_changes(history.commits), section.levels)
    number = len(history.commits)
    count = f"{number} commit{'s' * (number != 1)} since {history.last}"
    if change is not None and level is not Bump.NONE:
        example = f"{change.commit.sha[:_SHOWN]} “{_short(change.line)}”"
        return level, f"{count}; {example} asks for a {level.name.lower()} version"
    if (rule.none_releasable or section.none_releasable) == "none":
        return level, f"{count}; none of them asks for a version"
    return Bump.PATCH, f"{count}; none of them asks for a version, so this is a patch"


def highest(changes: list[Change], levels: Levels) -> tuple[Bump, Change | None]:
    """The largest bump that a change requires, and the oldest such change."""
    change = max(reversed(changes), key=levels.of, default=None)
    return (levels.of(change) if change else Bump.NONE), change


def _free(
    proposal: Proposal,
    rule: TagRule,
    section: TagsSection,
    situation: Situation,
    history: CommitHistory,
) -> Proposal:
    """The first version, from the proposed one on, that belongs to no other commit."""
    version, reason, clashes = proposal.version, proposal.reason, list[str]()
    if rule.prerelease and version is not None:
        version = Version(version.major, version.minor, version.patch, (rule.prerelease, "1"))
    while (tag := f"{section.tag_prefix}{version}") in situation.tags:
        clashes.append(tag)
        holder = situation.tags[tag][:_SHOWN]
        if tag in history.later:
            problem = f"{tag} belongs to {holder}, which contains this commit"
            return Proposal(None, problem, clashes=tuple(clashes))
        if not _is_earlier(version, rule):
            reason += f"; {tag} belongs to {holder}"
        version = _next(version)
    return Proposal(version, reason, tag, True, proposal.level, tuple(clashes))


def _is_earlier(version: Version | None, rule: TagRule) -> bool:
    """Whether this version follows directly from the last one, so that the reason need not mention
    it.
    """
    return bool(rule.prerelease and version and version.prerelease)


def _next(version: Version | None) -> Version:
    assert version is not None
    if version.prerelease:
        word, number = version.prerelease
        return Version(version.major, version.minor, version.patch, (word, str(int(number) + 1)))
    return version.bumped(Bump.PATCH)


def _short(subject: str) -> str:
    return subject if len(subject) <= 60 else subject[:59] + "…"
