"""Wildcards in paths: `*`, `?`, `[a-z]`, and `**` where ignore patterns have it.

Source: Go path/filepath, Match, which COPY and ADD use for their sources; a class never matches a
slash here. moby/patternmatcher documents `**`.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache

from shipline.errors import DockerfileError

_WILD = re.compile(r"[*?\[]|\\(?:.|$)", re.DOTALL)


def has_wildcards(path: str) -> bool:
    """Whether `path` holds `*`, `?` or `[`, not counting escaped ones."""
    return any(not found[0].startswith("\\") for found in _WILD.finditer(path))


def split_wildcards(pattern: str) -> tuple[str, str]:
    """(directory, rest): the leading components without wildcards, and the others.

    The rest is empty for a plain path.
    """
    parts = pattern.split("/")
    plain = next((i for i, part in enumerate(parts) if has_wildcards(part)), len(parts))
    return "/".join(parts[:plain]), "/".join(parts[plain:])


@dataclass(frozen=True, slots=True)
class Wildcard:
    """A compiled source pattern of COPY or ADD; paths are relative, with slashes."""

    pattern: str
    whole: re.Pattern[str]
    components: tuple[re.Pattern[str], ...]

    @classmethod
    def parse(cls, pattern: str) -> Wildcard:
        """Raises DockerfileError for a bracket that is not closed and a lone escape at the end."""
        parts = tuple(component(part) for part in pattern.split("/"))
        return cls(pattern, re.compile(translate(pattern, deep=False)), parts)

    def matches(self, path: str) -> bool:
        return self.whole.fullmatch(path) is not None

    def may_match_below(self, directory: str) -> bool:
        """Whether a path inside `directory` can match: false prunes a walk."""
        parts = directory.split("/")
        return len(parts) < len(self.components) and all(
            expression.fullmatch(part)
            for expression, part in zip(self.components, parts, strict=False)
        )


@lru_cache(maxsize=1024)
def component(text: str) -> re.Pattern[str]:
    """One path component of a pattern, compiled."""
    return re.compile(translate(text, deep=False))


def translate(pattern: str, *, deep: bool) -> str:
    """A regular expression for all of a path; `deep` gives `**` its meaning.

    Raises DockerfileError for a pattern that is not well-formed.
    """
    out: list[str] = []
    position = 0
    while position < len(pattern):
        char = pattern[position]
        if deep and pattern.startswith("**", position):
            text, position = _deep(pattern, position)
        elif char == "[":
            text, position = _class(pattern, position)
        elif char == "\\":
            text, position = re.escape(_escaped(pattern, position)), position + 2
        else:
            text = {"*": "[^/]*", "?": "[^/]"}.get(char) or re.escape(char)
            position += 1
        out.append(text)
    return f"(?s:{''.join(out)})"


def _deep(pattern: str, position: int) -> tuple[str, int]:
    """`**`: any directories, none included; at the end everything.

    `**name` in front of plain text is any path that ends so, also within a component.
    """
    end = position + 2
    slash = pattern.startswith("/", end)
    rest = pattern[end + slash :]
    if not rest:
        return ".*", len(pattern)
    if position == 0 and not slash and not _WILD.search(rest):
        return ".*", end
    return "(?:.*/)?", end + slash


def _class(pattern: str, start: int) -> tuple[str, int]:
    """`[...]` from `start`: (expression, position after it)."""
    position = start + 1
    negated = pattern.startswith("^", position)
    position += negated
    ranges: list[str] = []
    while position < len(pattern) and (pattern[position] != "]" or not ranges):
        low, position = _class_character(pattern, position)
        high = low
        if pattern.startswith("-", position):
            high, position = _class_character(pattern, position + 1)
        if low <= high:
            ranges.append(f"{re.escape(low)}-{re.escape(high)}")
        else:
            ranges.append("")
    if not pattern.startswith("]", position):
        raise _malformed(pattern)
    inside = "".join(ranges)
    if negated:
        return f"[^/{inside}]", position + 1
    return f"(?!/)[{inside}]" if inside else "(?!)", position + 1


def _class_character(pattern: str, position: int) -> tuple[str, int]:
    char = pattern[position : position + 1]
    if char == "\\":
        return _escaped(pattern, position), position + 2
    if char in ("", "-", "]"):
        raise _malformed(pattern)
    return char, position + 1


def _escaped(pattern: str, position: int) -> str:
    char = pattern[position + 1 : position + 2]
    if not char:
        raise _malformed(pattern)
    return char


def _malformed(pattern: str) -> DockerfileError:
    return DockerfileError(
        f"syntax error in pattern: {pattern}", hint="close the bracket, or escape it with \\"
    )
