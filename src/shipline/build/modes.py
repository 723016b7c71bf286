"""What `--chmod` asks for: octal digits, or the symbolic notation of chmod(1)."""

from __future__ import annotations

import re
from collections.abc import Callable

from shipline.errors import UsageError

Change = Callable[[int, bool], int]
"""From a mode, and whether it is a directory's, to the mode after the change."""

_CLAUSE = re.compile(r"(?P<who>[ugoa]*)(?P<actions>(?:[+=-][rwxXst]*)+)\Z")
_ACTION = re.compile(r"([+=-])([rwxXst]*)")
_BITS = {"r": 0o444, "w": 0o222, "x": 0o111}
_WHO = {"u": 0o4700, "g": 0o2070, "o": 0o1007}


def parse_mode(text: str) -> Change | None:
    """The change that `text` describes, None for no text. Raises UsageError for anything else."""
    if not text:
        return None
    if re.fullmatch("[0-7]{1,4}", text):
        return lambda mode, is_directory: int(text, 8)
    clauses = [_CLAUSE.match(clause) for clause in text.split(",")]
    if not all(clauses):
        raise UsageError(
            f"not a mode: --chmod={text}", hint="use octal digits like 755, or u=rwX,go=rX"
        )
    steps = [
        (clause["who"], sign, letters)
        for clause in clauses
        if clause is not None
        for sign, letters in _ACTION.findall(clause["actions"])
    ]

    def change(mode: int, is_directory: bool) -> int:
        for who, sign, letters in steps:
            mode = _apply(mode, is_directory, who, sign, letters)
        return mode

    return change


def _apply(mode: int, is_directory: bool, who: str, sign: str, letters: str) -> int:
    everyone = not who or "a" in who
    reach = 0o7777 if everyone else sum(_WHO[one] for one in set(who))
    bits = sum(_BITS.get(letter, 0) for letter in set(letters)) & reach
    if "X" in letters and (is_directory or mode & 0o111):
        bits |= 0o111 & reach
    if "s" in letters:
        bits |= 0o6000 & reach
    if "t" in letters and (everyone or "o" in who):
        bits |= 0o1000
    if sign == "+":
        return mode | bits
    if sign == "-":
        return mode & ~bits
    kept = 0o7000 if is_directory and "s" not in letters else 0
    return (mode & ~(reach & ~kept)) | bits
