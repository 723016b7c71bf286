"""What `--chmod` asks for: octal digits, or the symbolic notation of chmod(1) as BuildKit reads it.

BuildKit's notation is that of BSD: beside permissions a class can be given those of another
(`g=u`), and `t` goes with every class but `o` alone.
"""

from __future__ import annotations

import re
from collections.abc import Callable

from shipline.errors import DockerfileError

Change = Callable[[int, bool], int]
"""From a mode, and whether it is a directory's, to the mode after the change."""

_CLAUSE = re.compile(r"([ugoa]*)((?:[+=-][rwxXstugo]*)+)")
_ACTION = re.compile(r"([+=-])([rwxXstugo]*)")
_RUN = re.compile(r"[rwxXst]+|[ugo]")
_BITS = {"r": 0o444, "w": 0o222, "x": 0o111, "s": 0o6000, "t": 0o1000}
_WHO = {"u": 0o4700, "g": 0o2070, "o": 0o007, "a": 0o6777}
_SHIFT = {"u": 6, "g": 3, "o": 0}


def octal_mode(text: str) -> int | None:
    """The mode that `text` is, None where it is not made of octal digits."""
    if not re.fullmatch("[0-7]+", text) or int(text, 8) > 0o7777:
        return None
    return int(text, 8)


def parse_mode(text: str) -> Change | None:
    """The change that `text` describes, None for no text.

    Raises DockerfileError for anything else.
    """
    if not text:
        return None
    octal = octal_mode(text)
    if octal is not None:
        return lambda mode, is_directory: octal
    clauses = [_CLAUSE.fullmatch(clause) for clause in text.split(",")]
    if not all(clauses):
        raise DockerfileError(
            f"not a mode: --chmod={text}", hint="use octal digits like 755, or u=rwX,go=rX"
        )
    steps = [
        (clause[1], sign, run)
        for clause in clauses
        if clause is not None
        for sign, letters in _ACTION.findall(clause[2])
        for run in _RUN.findall(letters) or [""]
    ]

    def change(old: int, is_directory: bool) -> int:
        mode, executable = old, is_directory or bool(old & 0o111)
        for who, sign, run in steps:
            if run in _SHIFT:
                mode = _copy(mode, who, sign, run)
            else:
                mode = _permit(mode, executable, who, sign, run)
        return mode

    return change


def _copy(mode: int, who: str, sign: str, source: str) -> int:
    """Treat the permissions of the class `source` as those that were written."""
    bits = mode >> _SHIFT[source] & 0o7
    for one in _SHIFT:
        if not who or "a" in who or one in who:
            shift = _SHIFT[one]
            if sign == "=":
                mode &= ~(0o7 << shift)
            mode = mode & ~(bits << shift) if sign == "-" else mode | bits << shift
    return mode


def _permit(mode: int, executable: bool, who: str, sign: str, letters: str) -> int:
    reach = 0
    for one in who or "a":
        reach |= _WHO[one]
    bits = 0
    for letter in letters:
        bits |= _BITS.get(letter, 0o111 if executable else 0)
    if "t" in letters and set(who) != {"o"}:
        reach = reach | 0o1000 if who else 0o1000
    bits &= reach
    if sign == "+":
        return mode | bits
    return mode & ~bits if sign == "-" else mode & ~reach | bits
