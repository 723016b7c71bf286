"""Ignore rules: `.dockerignore`, and the patterns of COPY --exclude and --parents.

Source: Docker's "Build context" manual, ".dockerignore files"; moby/patternmatcher. A pattern
holds for a path and all below it; the last pattern that holds decides. As in BuildKit's walk a `!`
pattern holds below a directory only if it re-included that directory or matches the path itself.
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Iterable
from dataclasses import dataclass, replace

from shipline.dockerfile.wildcards import component, translate
from shipline.errors import DockerfileError, Span


@dataclass(frozen=True, slots=True)
class Match:
    """What the rules say of one path; pass it on to the entries of that directory.

    Bit n of `hits` is set where pattern n holds; the highest one decides.
    """

    ignored: bool
    hits: int


UNMATCHED = Match(ignored=False, hits=0)


@dataclass(frozen=True, slots=True)
class Pattern:
    """One rule; `text` is clean and without the `!` that makes it `negated`; `place` is where it
    stands, `.dockerignore:3`.
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
        """Raises DockerfileError for a lone `!` and a malformed pattern."""
        negated = line.startswith("!")
        text = _clean(line[negated:].strip())
        if negated and not text:
            raise DockerfileError('illegal exclusion pattern: "!"', hint="name a path after the !")
        expression = re.compile(translate(text, deep=True))
        components = tuple(text.split("/"))
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


@dataclass(frozen=True, slots=True)
class IgnoreRules:
    """Compiled rules, false when there are none. Paths are relative, clean, with slashes."""

    patterns: tuple[Pattern, ...] = ()
    expression: re.Pattern[str] | None = None

    @classmethod
    def parse(cls, text: str, *, file: str = ".dockerignore") -> IgnoreRules:
        """The rules of an ignore file: `#` comments in the first column, blank lines skipped.

        Raises DockerfileError with the line for a pattern that cannot be.
        """
        patterns: list[Pattern] = []
        for number, line in enumerate(text.removeprefix("\ufeff").split("\n"), 1):
            if line.startswith("#") or not line.strip():
                continue
            try:
                pattern = Pattern.parse(line.strip())
                patterns.append(replace(pattern, place=f"{file}:{number}"))
            except DockerfileError as error:
                span = Span(file, number, number, text=line.rstrip("\r"))
                raise DockerfileError(error.message, span=span, hint=error.hint) from None
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

    def match(self, path: str, parent: Match | None = None) -> Match:
        """What the rules say of `path`, given what they say of the directory that holds it.

        Without `parent` the directories of `path` are looked at as well.
        """
        if self.expression is None:
            return UNMATCHED
        if parent is None:
            parent = self._parents(path)
        # Most paths match no pattern themselves: one look at the union of all settles those.
        if not self.expression.fullmatch(path):
            return parent
        ignored, hits = False, parent.hits
        for index, pattern in enumerate(self.patterns):
            if not hits >> index & 1:
                if pattern.negated != ignored or not pattern.expression.fullmatch(path):
                    continue
                hits |= 1 << index
            ignored = not pattern.negated
        return Match(ignored, hits)

    def _parents(self, path: str) -> Match:
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
        """The rule that leaves `path` out, or a directory it is in; None where it is not."""
        match = self.match(path)
        return self.patterns[match.hits.bit_length() - 1] if match.ignored else None

    def may_reinclude(self, directory: str, match: Match) -> bool:
        """Whether something inside an ignored `directory` can be re-included.

        `match` is what the rules say of the directory. False: a walk need not enter it.
        """
        later = self.patterns[match.hits.bit_length() :]
        return any(p.negated and p.may_match_below(directory) for p in later)

    def may_match_below(self, directory: str) -> bool:
        """Whether a pattern that is not negated can match inside `directory`: for includes."""
        return any(not p.negated and p.may_match_below(directory) for p in self.patterns)
