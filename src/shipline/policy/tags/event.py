"""Why a pipeline runs: the event, as every CI system tells it in its own words."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, Self

from shipline.errors import UsageError

Kind = Literal["push", "tag", "pull-request", "schedule"]
KINDS: tuple[Kind, ...] = ("push", "tag", "pull-request", "schedule")
_HEADS, _TAGS = "refs/heads/", "refs/tags/"


@dataclass(frozen=True, slots=True)
class Event:
    """What happened, and to which ref. Fields that nobody told are empty.

    `sha` is the commit that the pipeline was started for, `head` that of a pull request's branch,
    `base` the branch it goes into, `source` who told it ("GitHub Actions", "--ref", ...).
    """

    kind: Kind = "push"
    ref: str = ""
    sha: str = ""
    number: str = ""
    head: str = ""
    head_branch: str = ""
    base: str = ""
    default_branch: str = ""
    source: str = ""
    ci: bool = False
    title: str = ""
    description: str = ""
    url: str = ""
    licenses: str = ""

    @property
    def branch(self) -> str:
        """The branch that was pushed; empty on other refs."""
        return self.ref.removeprefix(_HEADS) if self.ref.startswith(_HEADS) else ""

    @property
    def tag(self) -> str:
        """The git tag that was pushed; empty on other refs."""
        return self.ref.removeprefix(_TAGS) if self.ref.startswith(_TAGS) else ""

    @classmethod
    def of(cls, ref: str, kind: str = "", number: str = "") -> Self:
        """The event that the options of a command line name; `ref` may leave out `refs/heads/`.

        Raises UsageError for words that are no event, or a pull request without a number.
        """
        if kind and kind not in KINDS:
            raise UsageError(f"not an event: {kind}", hint=f"one of {', '.join(KINDS)}")
        found = ref_of(ref, tag=kind == "tag") if ref else ""
        number = number or pull_number(found)
        meant = next((one for one in KINDS if one == kind), _kind(found, number))
        if meant == "pull-request" and not number:
            raise UsageError(
                "a pull request needs its number", hint="--ref refs/pull/NUMBER/merge, or --pr"
            )
        return cls(meant, found, number=number, source="the command line")


def ref_of(name: str, *, tag: bool = False) -> str:
    """A full ref name for what people and CI systems write."""
    return name if name.startswith("refs/") else (_TAGS if tag else _HEADS) + name


def pull_number(ref: str) -> str:
    """The number in `refs/pull/N/merge` and `refs/merge-requests/N/head`, else empty."""
    parts = ref.split("/")
    wanted = len(parts) > 2 and parts[0] == "refs" and parts[1] in {"pull", "merge-requests"}
    return parts[2] if wanted and parts[2].isdecimal() else ""


def _kind(ref: str, number: str) -> Kind:
    if number:
        return "pull-request"
    return "tag" if ref.startswith(_TAGS) else "push"
