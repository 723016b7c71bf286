"""Commit messages that say what they change (conventionalcommits.org 1.0.0)."""

from __future__ import annotations

import re
from collections.abc import Collection
from dataclasses import dataclass

from shipline.git import Commit
from shipline.policy.tags.versions import Level

_HEADER = re.compile(
    r"(?P<type>[A-Za-z][\w-]*)(?:\((?P<scope>[^()\r\n]*)\))?(?P<breaking>!)?:[ \t]+(?P<text>\S.*)"
)
_BREAKING = re.compile(
    r"^BREAKING[ -]CHANGE(?::[ \t]+|[ \t]+#)"
    r"(?P<text>\S[^\r\n]*(?:\r?\n(?!\s*$|[\w-]+(?:: | #))[^\r\n]+)*)",  # to the next footer
    re.MULTILINE,
)


@dataclass(frozen=True, slots=True)
class Change:
    """What a commit says of itself. `type` is lower case, empty where the message has none.

    `breaking` is the note on what breaks, the description itself where `!` is all that is said.
    """

    commit: Commit
    type: str
    scope: str
    description: str
    breaking: str = ""


@dataclass(frozen=True, slots=True)
class Levels:
    """Which types of change ask for a minor, and which for a patch release."""

    minor: Collection[str] = ("feat",)
    patch: Collection[str] = ("fix", "perf", "revert")

    def of(self, change: Change) -> Level:
        if change.breaking:
            return Level.MAJOR
        if change.type in self.minor:
            return Level.MINOR
        return Level.PATCH if change.type in self.patch else Level.NONE


def read_change(commit: Commit) -> Change:
    """The change that a commit's message tells; every message is one."""
    header = _HEADER.fullmatch(commit.subject)
    body = commit.message.partition("\n")[2]
    note = _BREAKING.search(body) if "BREAKING" in body else None
    breaking = " ".join(note["text"].split()) if note else ""
    if not header:
        return Change(commit, "", "", commit.subject, breaking)
    if header["breaking"] and not breaking:
        breaking = header["text"]
    scope = (header["scope"] or "").strip()
    return Change(commit, header["type"].lower(), scope, header["text"].strip(), breaking)
