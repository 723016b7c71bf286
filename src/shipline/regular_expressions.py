"""Regular expressions of Go: those of source policies, bake files and filters.

All ways to match are followed side by side, a character at a time (Pike's virtual machine): time
grows with the text and the size of the expression, never exponentially as with `re`, which tries
one way after the other. What Go refuses (look-around, references back) is refused. Names of
scripts, as `\\p{Greek}`, are unknown here. Source: Go, regexp and regexp/syntax.
"""

from __future__ import annotations

import re
import string
import unicodedata
from collections.abc import Callable, Iterator, Mapping
from functools import lru_cache

from msgspec import Struct

_MOST_REPEATS = 1000
_SIZE_LIMIT = 100_000  # instructions
_REPEAT = re.compile(r"\{([0-9]{1,9})(,?)([0-9]{0,9})\}")
_GROUP = re.compile(r"\(\?P?<(\w*)>", re.ASCII)
_FLAGS = re.compile(r"\(\?([imsU]*)(?:(-)([imsU]+))?([:)])")
_HEX = re.compile(r"\\x(?:\{([0-9a-fA-F]{1,8})\}|([0-9a-fA-F]{2}))")
_OCTAL = re.compile(r"\\(0[0-7]{0,2}|[1-7][0-7]{1,2})")
_PROPERTY = re.compile(r"\\([pP])(?:\{(\^?)([^}]*)\}|(.))", re.DOTALL)
_NAMED_CLASS = re.compile(r"\[:(\^?)([a-z]+):\]")
_CONTROLS = {"a": "\a", "f": "\f", "n": "\n", "r": "\r", "t": "\t", "v": "\v"}
_WORD = string.ascii_letters + string.digits + "_"
_PERL = {"d": string.digits, "s": "\t\n\f\r ", "w": _WORD}
_POSIX = {
    "alnum": string.ascii_letters + string.digits,
    "alpha": string.ascii_letters,
    "ascii": "".join(map(chr, range(128))),
    "blank": "\t ",
    "cntrl": "".join(map(chr, range(32))) + "\x7f",
    "digit": string.digits,
    "graph": "".join(map(chr, range(33, 127))),
    "lower": string.ascii_lowercase,
    "print": "".join(map(chr, range(32, 127))),
    "punct": string.punctuation,
    "space": "\t\n\v\f\r ",
    "upper": string.ascii_uppercase,
    "word": _WORD,
    "xdigit": string.hexdigits,
}
_CATEGORIES = re.compile("Any|C[cfos]?|L[lmotu]?|M[cen]?|N[dlo]?|P[cdefios]?|S[ckmo]?|Z[lps]?")

Test = Callable[[str], bool]
Saves = tuple[int, int, "Saves"] | None
"""Which place was saved where, the latest first."""


class _Take(Struct, frozen=True):
    """Takes a character that passes."""

    test: Test


class _Assert(Struct, frozen=True):
    holds: Callable[[str, int], bool]


class _Save(Struct, frozen=True):
    slot: int


class _Split(Struct, frozen=True):
    """Goes on at both places, counted from here; the first has priority."""

    first: int
    second: int


_Instruction = _Take | _Assert | _Save | _Split | None
_Code = list[_Instruction]


class Match(Struct, frozen=True):
    """What an expression matched; the groups as `re` numbers and names them."""

    text: str
    spans: tuple[tuple[int, int], ...]
    names: Mapping[str, int]

    def __getitem__(self, group: int | str) -> str | None:
        """None for a group that took no part. Raises IndexError, KeyError without such a group."""
        start, end = self.spans[self.names[group] if isinstance(group, str) else group]
        return None if start < 0 else self.text[start:end]

    def groups(self) -> tuple[str | None, ...]:
        return tuple(self[number] for number in range(1, len(self.spans)))

    def expand(self, template: str) -> str:
        """`template` with what groups matched for `$1`, `$name` and `${name}`, `$` for `$$`."""

        def value(found: re.Match[str]) -> str:
            name = found[1] or found[2]
            if name is None:
                return "$"
            try:
                return self[int(name) if name.isdecimal() else name] or ""
            except LookupError:
                return ""

        return _PLACEHOLDER.sub(value, template)


_PLACEHOLDER = re.compile(r"\$(?:\$|\{(\w+)\}|(\w+))", re.ASCII)


class RegularExpression(Struct, frozen=True):
    """A compiled expression; `names` are the numbers of its named groups."""

    code: tuple[_Instruction, ...]
    groups: int
    names: Mapping[str, int]

    def search(self, text: str, start: int = 0) -> Match | None:
        """The leftmost match; of several there, the one that Perl finds first."""
        found = _run(self.code, text, start)
        if found is None:
            return None
        places = [(-1, -1)] * (self.groups + 1)
        ends: dict[int, int] = {}
        while found is not None:
            slot, place, found = found
            if slot not in ends:
                ends[slot] = place
        for group in range(self.groups + 1):
            if 2 * group + 1 in ends:
                places[group] = (ends[2 * group], ends[2 * group + 1])
        return Match(text, tuple(places), self.names)

    def finditer(self, text: str) -> Iterator[Match]:
        """All matches that do not overlap; no empty one right after another."""
        start, last = 0, -1
        while start <= len(text) and (found := self.search(text, start)):
            begin, end = found.spans[0]
            if begin != end or begin != last:
                yield found
            last = end
            start = end if end > begin else end + 1

    def sub(self, template: str, text: str) -> str:
        """`text` with `template`, expanded, in the place of each match."""
        parts, done = [], 0
        for found in self.finditer(text):
            begin, end = found.spans[0]
            parts += [text[done:begin], found.expand(template)]
            done = end
        return "".join([*parts, text[done:]])


def _run(code: tuple[_Instruction, ...], text: str, start: int) -> Saves:
    """Where the groups of the first match are, as (slot, place) pairs; None without a match."""
    matched: Saves = None
    threads: list[tuple[int, Saves]] = []
    seen: set[int] = set()
    for place in range(start, len(text) + 1):
        if matched is None:
            _follow(code, 0, None, text, place, threads, seen)
        elif not threads:
            break
        following: list[tuple[int, Saves]] = []
        seen = set()
        for position, saves in threads:
            if position == len(code):
                matched = saves
                break
            step = code[position]
            assert isinstance(step, _Take)
            if place < len(text) and step.test(text[place]):
                _follow(code, position + 1, saves, text, place + 1, following, seen)
        threads = following
    return matched


def _follow(
    code: tuple[_Instruction, ...],
    position: int,
    saves: Saves,
    text: str,
    place: int,
    threads: list[tuple[int, Saves]],
    seen: set[int],
) -> None:
    """Add what can take a character, or has matched, after `position` to `threads`."""
    todo = [(position, saves)]
    while todo:
        position, saves = todo.pop()
        if position in seen:
            continue
        seen.add(position)
        step = code[position] if position < len(code) else None
        if isinstance(step, _Split):
            todo.append((position + step.second, saves))
            todo.append((position + step.first, saves))
        elif isinstance(step, _Save):
            todo.append((position + 1, (step.slot, place, saves)))
        elif isinstance(step, _Assert):
            if step.holds(text, place):
                todo.append((position + 1, saves))
        else:
            threads.append((position, saves))


@lru_cache(256)
def compiled(pattern: str) -> RegularExpression:
    """Raises ValueError, with Go's reason, for what is not a regular expression."""
    return _Parser(pattern).parse()


class _Piece(Struct):
    """Code of a part of the expression. `repeats` is by how much counts in it multiply."""

    code: _Code
    nullable: bool
    repeats: int = 1
    repeated: str = ""


class _Open(Struct):
    """A group that is being read: finished alternatives, and the pieces of the last one."""

    flags: frozenset[str]
    number: int
    alternatives: list[list[_Piece]]


class _Parser:
    def __init__(self, pattern: str) -> None:
        self.pattern, self.position = pattern, 0
        self.flags: frozenset[str] = frozenset()
        self.groups, self.names = 0, dict[str, int]()
        self.open = [_Open(self.flags, 0, [[]])]

    def parse(self) -> RegularExpression:
        while self.position < len(self.pattern):
            self._read()
        if len(self.open) > 1:
            raise _wrong("missing closing )", self.pattern)
        code = _either(self.open[0].alternatives).code
        return RegularExpression((_Save(0), *code, _Save(1)), self.groups, self.names)

    def _read(self) -> None:
        character = self.pattern[self.position]
        pieces = self.open[-1].alternatives[-1]
        if character == "(":
            self._open()
        elif character == ")":
            self._close()
        elif character == "|":
            self.position += 1
            self.open[-1].alternatives.append([])
        elif operator := self._operator():
            if not pieces:
                raise _wrong("missing argument to repetition operator", operator)
            pieces.append(self._repeat(pieces.pop(), operator))
        elif self.pattern.startswith("\\Q", self.position):
            literal, _, _ = self.pattern[self.position + 2 :].partition("\\E")
            self.position += 2 + len(literal)
            self.position += 2 * self.pattern.startswith("\\E", self.position)
            pieces += [_taking(self._folded(_one(each))) for each in literal]
        else:
            pieces.append(self._atom())

    def _atom(self) -> _Piece:
        rest = self.pattern[self.position : self.position + 2]
        if rest[0] == "[":
            return _taking(self._class())
        sign = rest if rest[0] == "\\" else rest[0]
        if sign in _ASSERTIONS:
            self.position += len(sign)
            asserted = _LINE_ASSERTIONS if "m" in self.flags else _ASSERTIONS
            return _Piece([_Assert(asserted.get(sign, _ASSERTIONS[sign]))], True)
        if rest[0] == ".":
            self.position += 1
            return _taking(_anything if "s" in self.flags else _on_line)
        return _taking(self._folded(self._member()))

    def _folded(self, test: Test) -> Test:
        """Also for the other case, where that does not count; what is excluded is so in any."""
        if "i" not in self.flags:
            return test
        return _Negated(_folding(test.test)) if isinstance(test, _Negated) else _folding(test)

    def _open(self) -> None:
        rest = self.pattern[self.position : self.position + 2]
        flags, number = self.flags, 0
        if found := _FLAGS.match(self.pattern, self.position):
            self.position = found.end()
            self.flags = (self.flags | set(found[1])) - set(found[3] or "")
            if found[4] == ")":
                for piece in self.open[-1].alternatives[-1][-1:]:
                    piece.repeated = ""
                return
        elif found := _GROUP.match(self.pattern, self.position):
            self.position = found.end()
            if not found[1]:
                raise _wrong("invalid named capture", found[0])
            if found[1] in self.names:
                raise _wrong("duplicate capture group name", found[1])
            self.groups = number = self.groups + 1
            self.names[found[1]] = number
        elif rest == "(?":
            raise _wrong("invalid or unsupported Perl syntax", self.pattern[self.position :][:3])
        else:
            self.position += 1
            self.groups = number = self.groups + 1
        self.open.append(_Open(flags, number, [[]]))

    def _close(self) -> None:
        if len(self.open) == 1:
            raise _wrong("unexpected )", self.pattern)
        self.position += 1
        group = self.open.pop()
        self.flags = group.flags
        piece = _either(group.alternatives)
        if group.number:
            slot = 2 * group.number
            piece.code = [_Save(slot), *piece.code, _Save(slot + 1)]
        self.open[-1].alternatives[-1].append(piece)

    def _operator(self) -> str:
        """The operator of repetition here, taken; "" if there is none."""
        found = self.pattern[self.position]
        if found == "{" and (count := _REPEAT.match(self.pattern, self.position)):
            found = count[0]
        elif found not in "*+?":
            return ""
        self.position += len(found)
        if self.pattern.startswith("?", self.position):
            self.position += 1
            found += "?"
        return found

    def _repeat(self, piece: _Piece, operator: str) -> _Piece:
        if piece.repeated:
            raise _wrong("invalid nested repetition operator", piece.repeated + operator)
        lazy = operator[1:].endswith("?") is not ("U" in self.flags)
        least, most = {"*": (0, -1), "+": (1, -1), "?": (0, 1)}.get(operator[0], (0, 0))
        repeats = piece.repeats
        if count := _REPEAT.match(operator):
            least = int(count[1])
            most = int(count[3]) if count[3] else -1 if count[2] else least
            repeats *= max(least, most, 1)
            if repeats > _MOST_REPEATS or -1 < most < least:
                raise _wrong("invalid repeat count", operator)
        code = _repeated(piece, least, most, lazy)
        if len(code) > _SIZE_LIMIT:
            raise _wrong("expression too large", self.pattern[:80])
        return _Piece(code, piece.nullable or not least, repeats, operator)

    def _class(self) -> Test:
        begin = self.position
        self.position += 1
        negated = self.pattern.startswith("^", self.position)
        self.position += negated
        tests: list[Test] = []
        first = True
        while first or not self.pattern.startswith("]", self.position):
            if self.position >= len(self.pattern):
                raise _wrong("missing closing ]", self.pattern[begin:])
            first = False
            if found := _NAMED_CLASS.match(self.pattern, self.position):
                if found[2] not in _POSIX:
                    raise _wrong("invalid character class range", found[0])
                self.position = found.end()
                test = _any_of(_POSIX[found[2]], negated=bool(found[1]))
            else:
                test = self._range()
            tests.append(self._folded(test))
        self.position += 1
        return _remembering(tests, negated)

    def _range(self) -> Test:
        begin = self.position
        low = self._member()
        rest = self.pattern[self.position : self.position + 2]
        if not isinstance(low, _Character) or rest[:1] != "-" or rest in ("-", "-]"):
            return low
        self.position += 1
        high = self._member()
        if not isinstance(high, _Character) or high.character < low.character:
            raise _wrong("invalid character class range", self.pattern[begin : self.position])
        return _between(low.character, high.character)

    def _member(self) -> Test:
        """What the character or escape here stands for, taken."""
        rest = self.pattern[self.position : self.position + 2]
        if rest[0] != "\\":
            self.position += 1
            return _one(rest[0])
        if rest == "\\":
            raise _wrong("trailing backslash at end of expression", "")
        if found := _PROPERTY.match(self.pattern, self.position):
            self.position = found.end()
            return _property(found[3] or found[4] or "", (found[1] == "P") is not bool(found[2]))
        if (found := _HEX.match(self.pattern, self.position)) and (
            int(found[1] or found[2], 16) < 0x110000
        ):
            self.position = found.end()
            return _one(chr(int(found[1] or found[2], 16)))
        if found := _OCTAL.match(self.pattern, self.position):
            self.position = found.end()
            return _one(chr(int(found[1], 8)))
        self.position += 2
        if rest[1].lower() in _PERL:
            return _any_of(_PERL[rest[1].lower()], negated=rest[1].isupper())
        if rest[1] in _CONTROLS:
            return _one(_CONTROLS[rest[1]])
        if not rest[1].isascii() or rest[1].isalnum():
            raise _wrong("invalid escape sequence", rest)
        return _one(rest[1])


def _wrong(reason: str, part: str) -> ValueError:
    return ValueError(f"{reason}: `{part}`" if part else reason)


def _joined(pieces: list[_Piece]) -> _Piece:
    code = [one for piece in pieces for one in piece.code]
    if len(code) > _SIZE_LIMIT:
        raise ValueError("expression too large")
    repeats = max((piece.repeats for piece in pieces), default=1)
    return _Piece(code, all(piece.nullable for piece in pieces), repeats)


def _either(alternatives: list[list[_Piece]]) -> _Piece:
    pieces = [_joined(one) for one in alternatives]
    size = sum(len(one.code) + 2 for one in pieces) - 2
    code: _Code = []
    for one in pieces[:-1]:
        code += [_Split(1, len(one.code) + 2), *one.code]
        code.append(_jump(size - len(code)))
    nullable = any(one.nullable for one in pieces)
    return _Piece(code + pieces[-1].code, nullable, max(one.repeats for one in pieces))


def _jump(distance: int) -> _Split:
    return _Split(distance, distance)


def _split(distance: int, lazy: bool) -> _Split:
    return _Split(distance, 1) if lazy else _Split(1, distance)


def _repeated(piece: _Piece, least: int, most: int, lazy: bool) -> _Code:
    """`piece` so often; without end where `most` is negative."""
    code, size = piece.code, len(piece.code)
    if (size + 1) * max(least, most, 1) > _SIZE_LIMIT:
        raise ValueError("expression too large")
    if most >= 0:
        left = (size + 1) * (most - least)
        optional = [[_split(left - done, lazy), *code] for done in range(0, left, size + 1)]
        return code * least + [one for each in optional for one in each]
    again = _Split(1, -size) if lazy else _Split(-size, 1)
    if least:
        return [*code * least, again]
    if piece.nullable:
        return [_split(size + 2, lazy), *code, again]
    return [_split(size + 2, lazy), *code, _jump(-size - 1)]


class _Character(Struct, frozen=True):
    character: str

    def __call__(self, character: str) -> bool:
        return character == self.character


_one = _Character


def _anything(_: str) -> bool:
    return True


def _on_line(character: str) -> bool:
    return character != "\n"


class _Negated(Struct, frozen=True):
    test: Test

    def __call__(self, character: str) -> bool:
        return not self.test(character)


def _any_of(characters: str, *, negated: bool = False) -> Test:
    test = frozenset(characters).__contains__
    return _Negated(test) if negated else test


def _between(low: str, high: str) -> Test:
    return lambda character: low <= character <= high


def _property(name: str, negated: bool) -> Test:
    if not _CATEGORIES.fullmatch(name):
        raise _wrong("unknown class of characters", name)
    start = "" if name == "Any" else name

    def test(character: str) -> bool:
        return unicodedata.category(character).startswith(start)

    return _Negated(test) if negated else test


def _taking(test: Test) -> _Piece:
    return _Piece([_Take(test)], False)


def _remembering(tests: list[Test], negated: bool) -> Test:
    return lru_cache(1024)(lambda character: any(one(character) for one in tests) is not negated)


def _folding(test: Test) -> Test:
    """The test for any case of a character."""

    def holds(character: str) -> bool:
        return any(test(one) for one in _cases(character))

    return holds


@lru_cache(1024)
def _cases(character: str) -> tuple[str, ...]:
    folded = character.casefold()
    found = {character, character.lower(), character.upper(), folded, folded.upper()}
    found |= {"k": {"\u212a"}, "s": {"\u017f"}, "\xe5": {"\u212b"}}.get(folded, set())
    return tuple(one for one in found if len(one) == 1)


def _at_word_edge(text: str, place: int) -> bool:
    before = place > 0 and text[place - 1] in _WORD
    return before != (place < len(text) and text[place] in _WORD)


_ASSERTIONS: Mapping[str, Callable[[str, int], bool]] = {
    "^": lambda _, place: place == 0,
    "$": lambda text, place: place == len(text),
    "\\A": lambda _, place: place == 0,
    "\\z": lambda text, place: place == len(text),
    "\\b": _at_word_edge,
    "\\B": lambda text, place: not _at_word_edge(text, place),
}
_LINE_ASSERTIONS: Mapping[str, Callable[[str, int], bool]] = {
    "^": lambda text, place: place == 0 or text[place - 1] == "\n",
    "$": lambda text, place: place == len(text) or text[place] == "\n",
}
