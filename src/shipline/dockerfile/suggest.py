"""Guesses what a misspelt name was meant to be."""

from __future__ import annotations

from collections.abc import Iterable

_CLOSE = 3  # edits, exclusive


def nearest(word: str, options: Iterable[str]) -> str:
    """The option fewer than three edits away from `word`, letter case ignored; else empty.

    An option that `word` equals but for letter case is the best one.
    """
    scored = [(_distance(word.lower(), option.lower()), option) for option in options]
    distance, best = min(scored, default=(_CLOSE, ""))
    return best if distance < _CLOSE and best != word else ""


def did_you_mean(word: str, options: Iterable[str]) -> str:
    """` (did you mean X?)` for the end of a message, or an empty string."""
    found = nearest(word, options)
    return f" (did you mean {found}?)" if found else ""


def _distance(a: str, b: str) -> int:
    """Edits between two words: one character put in, left out, replaced, or two swapped."""
    before, row = [0] * (len(b) + 1), list(range(len(b) + 1))
    for i, char in enumerate(a, 1):
        above, before, row = before, row, [i]
        for j, other in enumerate(b, 1):
            edits = min(before[j] + 1, row[j - 1] + 1, before[j - 1] + (char != other))
            if i > 1 and j > 1 and char == b[j - 2] and a[i - 2] == other:
                edits = min(edits, above[j - 2] + 1)
            row.append(edits)
    return row[-1]
