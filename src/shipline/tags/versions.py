"""Semantic versions (semver.org 2.0.0), and how changes bump them."""

from __future__ import annotations

import enum
import re
from dataclasses import dataclass, field, replace
from functools import total_ordering
from typing import Self

_NUMBER = r"0|[1-9]\d*"
_WORD = rf"(?:{_NUMBER}|\d*[A-Za-z-][0-9A-Za-z-]*)"
_SEMVER = re.compile(
    rf"(?P<major>{_NUMBER})\.(?P<minor>{_NUMBER})\.(?P<patch>{_NUMBER})"
    rf"(?:-(?P<pre>{_WORD}(?:\.{_WORD})*))?(?:\+(?P<build>[0-9A-Za-z-]+(?:\.[0-9A-Za-z-]+)*))?",
    re.ASCII,
)
_LONGEST = 256  # characters, as node-semver has it


class Bump(enum.IntEnum):
    """How much a change asks of those who use the software."""

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
