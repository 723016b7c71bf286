"""Ignore rules: `.dockerignore`, the patterns of COPY --exclude and --parents, and wildcards in
paths.

Source: Go path/filepath, Match, for sources of COPY and ADD, where a class never matches a slash;
Docker's "Build context" manual, ".dockerignore files", and moby/patternmatcher. An ignore pattern
matches a path and everything below it; the last match decides. As in BuildKit, a `!` pattern
applies below a directory only if it re-included that directory or matches the path itself.
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Callable, Iterable
from functools import lru_cache

from msgspec import Struct

from shipline.errors import DockerfileError, Span, located
from shipline.globs import DEEP, DIRECTORIES, STAR, joined
from shipline.values import replace

_WILD = re.compile(r"[*?\[]|\\(?:.|$)", re.DOTALL)
_ESCAPED = re.compile(r"\\.", re.DOTALL)


def has_wildcards(path: str) -> bool:
    """Whether `path` holds `*`, `?` or `[`, not counting escaped ones."""
    return any(not found[0].startswith("\\") for found in _WILD.finditer(path))


class Wildcard(Struct, frozen=True):
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
            text = {"*": STAR, "?": "[^/]"}.get(char) or re.escape(char)
            position += 1
        out.append(text)
    try:
        return f"(?s:{joined(out)})"
    except ValueError as error:
        raise DockerfileError(
            f"pattern cannot be used: {pattern}: {error}", code="dockerignore"
        ) from None


def _deep(pattern: str, position: int) -> tuple[str, int]:
    """`**`: any directories, none included; at the end everything.

    `**name` in front of plain text is any path that ends so, also within a component.
    """
    end = position + 2
    slash = pattern.startswith("/", end)
    rest = pattern[end + slash :]
    if not rest:
        return DEEP, len(pattern)
    if position == 0 and not slash and not _WILD.search(rest):
        return DEEP, end
    return DIRECTORIES, end + slash


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
        f"syntax error in pattern: {pattern}",
        code="dockerignore",
        hint="close the bracket, or escape it with \\",
    )


class IgnoreResult(Struct, frozen=True):
    """The result for one path; pass it to the entries of that directory.

    Bit n of `hits` is set if pattern n matches; the highest one decides.
    """

    ignored: bool
    hits: int


UNMATCHED = IgnoreResult(ignored=False, hits=0)


class Pattern(Struct, frozen=True):
    """One rule; `text` is clean and without the `!` that makes it `negated`; `place` is its
    position, such as `.dockerignore:3`.
    """

    text: str
    negated: bool
    components: tuple[str, ...]
    expression: re.Pattern[str]
    place: str = ""

    def __str__(self) -> str:
        return "!" * self.negated + self.text

    @classmethod
    def parse(cls, line: str) -> Pattern:
        """Raises DockerfileError for a lone `!`, also before slashes, and a malformed pattern.

        As in BuildKit, the clean pattern is read once more: `/!name` is an exception, too.
        """
        negated = line.startswith("!")
        text = "!" * negated + _clean(line[negated:].strip())
        text = posixpath.normpath(text.strip()) if text.strip() else ""
        negated = text.startswith("!")
        text = text[negated:]
        if negated and not text:
            raise DockerfileError(
                'illegal exclusion pattern: "!"',
                code="dockerignore",
                hint="name a path after the !",
            )
        expression = re.compile(translate(text, deep=True))
        plain = _ESCAPED.sub(lambda found: found[0].replace("\\/", "/"), text)
        components = tuple(plain.split("/"))
        for part in components:
            component(part)
        return cls(text, negated, components, expression)

    def may_match_below(self, directory: str) -> bool:
        """Whether a path inside `directory` can match, `directory` itself aside."""
        parts = directory.split("/")
        for index, text in enumerate(self.components):
            if "**" in text or index == len(parts):
                return True
            if not component(text).fullmatch(parts[index]):
                return False
        return False


def _clean(text: str) -> str:
    """As Go's filepath.Clean, then relative."""
    if not text:
        return ""
    path = posixpath.normpath(re.sub("^/+", "/", text))
    return path[1:] if len(path) > 1 and path.startswith("/") else path


class IgnoreRules(Struct, frozen=True):
    """Compiled rules, false when there are none. Paths are relative, clean, with slashes."""

    patterns: tuple[Pattern, ...] = ()
    expression: re.Pattern[str] | None = None

    @classmethod
    def parse(cls, text: str, *, file: str = ".dockerignore") -> IgnoreRules:
        """The rules of an ignore file: `#` comments in the first column, blank lines skipped.

        Raises DockerfileError with the line for an invalid pattern.
        """
        patterns: list[Pattern] = []
        for number, line in enumerate(text.removeprefix("\ufeff").split("\n"), 1):
            if line.startswith("#") or not line.strip():
                continue
            with located(Span(file, number, number, text=line.rstrip("\r"))):
                pattern = Pattern.parse(line.strip())
                patterns.append(replace(pattern, place=f"{file}:{number}"))
        return cls._compile(patterns)

    @classmethod
    def of(cls, patterns: Iterable[str]) -> IgnoreRules:
        """The rules that `patterns` spell, one each; blank ones are skipped."""
        return cls._compile([Pattern.parse(text.strip()) for text in patterns if text.strip()])

    @classmethod
    def _compile(cls, patterns: list[Pattern]) -> IgnoreRules:
        if not patterns:
            return cls()
        union = "|".join(pattern.expression.pattern for pattern in patterns)
        return cls(tuple(patterns), re.compile(union))

    def __bool__(self) -> bool:
        return bool(self.patterns)

    def match(self, path: str, parent: IgnoreResult | None = None) -> IgnoreResult:
        """The result for `path`, given that of its directory.

        Without `parent`, the directories of `path` are matched as well.
        """
        if self.expression is None:
            return UNMATCHED
        if parent is None:
            parent = self._parents(path)
        # Most paths match no pattern: the union of all rules them out at once.
        if not self.expression.fullmatch(path):
            return parent
        ignored, hits = False, parent.hits
        for index, pattern in enumerate(self.patterns):
            if not hits >> index & 1:
                if pattern.negated != ignored or not pattern.expression.fullmatch(path):
                    continue
                hits |= 1 << index
            ignored = not pattern.negated
        return IgnoreResult(ignored, hits)

    def _parents(self, path: str) -> IgnoreResult:
        match = UNMATCHED
        position = path.find("/")
        while position > 0:
            match = self.match(path[:position], match)
            position = path.find("/", position + 1)
        return match

    def ignores(self, path: str) -> bool:
        """Whether `path`, or a directory it is in, is ignored. The root `.` never is."""
        return path != "." and self.match(path).ignored

    def rule_of(self, path: str) -> Pattern | None:
        """The rule that ignores `path`, or a directory it is in; None if it is not ignored."""
        match = self.match(path)
        return self.patterns[match.hits.bit_length() - 1] if match.ignored else None

    def may_reinclude(self, directory: str, match: IgnoreResult) -> bool:
        """Whether something inside an ignored `directory` can be re-included.

        `match` is the result for the directory. If False, a walk need not enter it.
        """
        later = self.patterns[match.hits.bit_length() :]
        return any(p.negated and p.may_match_below(directory) for p in later)

    def may_match_below(self, directory: str) -> bool:
        """Whether a pattern that is not negated can match inside `directory`: for includes."""
        return any(not p.negated and p.may_match_below(directory) for p in self.patterns)

    def prune(self) -> Callable[[str, bool], bool | None] | None:
        """The function that leaves out what is ignored from a walk, directories before their
        content; None without rules. See `shipline.layer.Prune`.
        """
        if not self:
            return None
        seen: dict[str, IgnoreResult] = {"": UNMATCHED}

        def prune(path: str, is_directory: bool) -> bool | None:
            match = self.match(path, seen.get(posixpath.dirname(path)))
            if is_directory:
                seen[path] = match
            if match.ignored and is_directory and self.may_reinclude(path, match):
                return None
            return match.ignored

        return prune
