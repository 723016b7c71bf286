"""Semantic versions (semver.org), and the bumps that conventional commits ask for.

A squashed commit counts as each of the commits that its body lists. A commit and its revert do not
count.
"""

from __future__ import annotations

import enum
import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from functools import total_ordering
from typing import Self

from shipline.git import Commit
from shipline.values import replace

_NUMBER = r"0|[1-9]\d*"
_WORD = rf"(?:{_NUMBER}|\d*[A-Za-z-][0-9A-Za-z-]*)"
_SEMVER = re.compile(
    rf"(?P<major>{_NUMBER})\.(?P<minor>{_NUMBER})\.(?P<patch>{_NUMBER})"
    rf"(?:-(?P<pre>{_WORD}(?:\.{_WORD})*))?(?:\+(?P<build>[0-9A-Za-z-]+(?:\.[0-9A-Za-z-]+)*))?",
    re.ASCII,
)
_LONGEST = 256  # characters, as node-semver has it


class Bump(enum.IntEnum):
    """How much a change affects users: which part of the version it bumps."""

    NONE = 0
    PATCH = 1
    MINOR = 2
    MAJOR = 3


@total_ordering
@dataclass(frozen=True, slots=True)
class Version:
    """A semantic version. Ordered and equal by precedence (section 11), without build metadata."""

    major: int
    minor: int
    patch: int
    prerelease: tuple[str, ...] = ()
    build: tuple[str, ...] = field(default=(), compare=False)

    @classmethod
    def parse(cls, text: str) -> Self:
        """Raises ValueError for anything but a semantic version."""
        match = _SEMVER.fullmatch(text) if len(text) <= _LONGEST else None
        if not match:
            raise ValueError(f"not a semantic version: {text!r}")
        pre, build = match["pre"], match["build"]
        return cls(
            int(match["major"]),
            int(match["minor"]),
            int(match["patch"]),
            tuple(pre.split(".")) if pre else (),
            tuple(build.split(".")) if build else (),
        )

    @property
    def base(self) -> Self:
        """Without prerelease and build metadata."""
        return replace(self, prerelease=(), build=())

    def bumped(self, level: Bump) -> Self:
        """The next release after this one for a change of `level`."""
        if level is Bump.MAJOR:
            return type(self)(self.major + 1, 0, 0)
        if level is Bump.MINOR:
            return type(self)(self.major, self.minor + 1, 0)
        return type(self)(self.major, self.minor, self.patch + (level is Bump.PATCH))

    def __lt__(self, other: Version) -> bool:
        return self._rank() < other._rank()

    def _rank(self) -> tuple[object, ...]:
        words = tuple(
            (0, int(identifier), "") if identifier.isdecimal() else (1, 0, identifier)
            for identifier in self.prerelease
        )
        return (self.major, self.minor, self.patch, not words, words)

    def __str__(self) -> str:
        text = f"{self.major}.{self.minor}.{self.patch}"
        text += f"-{'.'.join(self.prerelease)}" if self.prerelease else ""
        return text + (f"+{'.'.join(self.build)}" if self.build else "")


def version_of(name: str, prefix: str) -> Version | None:
    """The version of the git tag `name`; None if it is not a version tag."""
    if not name.startswith(prefix):
        return None
    try:
        return Version.parse(name.removeprefix(prefix))
    except ValueError:
        return None


_HEADER = re.compile(
    r"(?P<type>[A-Za-z][\w-]*)(?:\((?P<scope>[^()\r\n]*)\))?(?P<breaking>!)?:[ \t]+(?P<text>\S.*)"
)
_BREAKING = re.compile(
    r"^BREAKING[ -]CHANGE(?::[ \t]+|[ \t]+#)"
    r"(?P<text>\S[^\r\n]*(?:\r?\n(?!\s*$|[\w-]+(?:: | #))[^\r\n]+)*)",  # to the next footer
    re.MULTILINE,
)


_ITEM = re.compile(r"^[*-][ \t]+(?P<line>\S.*?)[ \t\r]*$", re.MULTILINE)
_LISTING = re.compile(r"\s*[*-][ \t]+\S")  # as GitHub and GitLab begin the body of a squash
_INDENT = re.compile(r"^ {4}", re.MULTILINE)  # of messages in a log
_LOGGED = re.compile(r"^ {4}(?P<line>\S.*?)[ \t\r]*$", re.MULTILINE)
_SQUASHED = "Squashed commit of the following:"  # as git merge --squash has it, with a log
_REVERT = re.compile(r"Revert \"(?P<text>.+)\"(?: \(#\d+\))?")
_REVERTED = re.compile(r"^This reverts commit ([0-9a-f]{7,64})\b", re.MULTILINE)
_PULL = re.compile(r" \((?:#|!)\d+\)\Z")


@dataclass(frozen=True, slots=True)
class Change:
    """A change described by a commit. `type` is lower case, empty if the message has none.
    `breaking` is the note about the breaking change, or the description if there is only `!`.
    `line` is the text it was parsed from: the subject, or a line of the body.
    """

    commit: Commit
    type: str
    scope: str
    description: str
    breaking: str = ""
    line: str = ""


@dataclass(frozen=True, slots=True)
class Levels:
    """The types of changes that ask for a minor and for a patch release."""

    minor: Collection[str] = ("feat",)
    patch: Collection[str] = ("fix", "perf", "revert")

    def of(self, change: Change) -> Bump:
        if change.breaking:
            return Bump.MAJOR
        if change.type in self.minor:
            return Bump.MINOR
        return Bump.PATCH if change.type in self.patch else Bump.NONE


def read_changes(commits: Sequence[Commit]) -> list[Change]:
    """The changes of the commits, in their order (newest first), without reverted ones."""
    return [change for commit in unreverted(commits) for change in _changes(commit)]


def unreverted(commits: Sequence[Commit]) -> list[Commit]:
    """The commits, newest first, without those reverted by others of them and without their
    reverts.
    """
    known, gone = {commit.sha for commit in commits}, set[str]()
    for commit in commits:
        if commit.sha in gone or "This reverts commit" not in commit.message:
            continue
        reverted = [_whole(sha, known) for sha in _REVERTED.findall(commit.message)]
        if reverted and known.issuperset(reverted):
            gone.update((commit.sha, *reverted))
    return [commit for commit in commits if commit.sha not in gone]


def _whole(sha: str, known: Collection[str]) -> str:
    """The commit with this abbreviated SHA; the text itself if there is none."""
    matches = [sha] if sha in known else [commit for commit in known if commit.startswith(sha)]
    return matches[0] if len(matches) == 1 else sha


def read_change(commit: Commit) -> Change:
    """The change that a commit message describes."""
    body = commit.message.partition("\n")[2]
    if _SQUASHED in commit.message:
        body = _INDENT.sub("", body)
    note = _BREAKING.search(body) if "BREAKING" in body else None
    return _change(commit, commit.subject, " ".join(note["text"].split()) if note else "")


def _changes(commit: Commit) -> tuple[Change, ...]:
    """The change of the commit, or those of the commits that were squashed into it."""
    change, body = read_change(commit), commit.message.partition("\n")[2]
    logged = _SQUASHED in commit.message
    if len(commit.parents) > 1 or not (logged or _LISTING.match(body)):
        return (change,)
    lines = dict.fromkeys(match["line"] for match in (_LOGGED if logged else _ITEM).finditer(body))
    title = _PULL.sub("", change.line)
    listed = (_change(commit, line) for line in lines if _PULL.sub("", line) != title)
    return (change, *(change for change in listed if change.type))


def _change(commit: Commit, line: str, breaking: str = "") -> Change:
    header = _HEADER.fullmatch(line)
    if header:
        breaking = breaking or (header["text"] if header["breaking"] else "")
        scope, text = (header["scope"] or "").strip(), header["text"].strip()
        return Change(commit, header["type"].lower(), scope, text, breaking, line)
    if taken_back := _REVERT.fullmatch(line):
        return Change(commit, "revert", "", taken_back["text"], breaking, line)
    return Change(commit, "", "", line, breaking, line)
