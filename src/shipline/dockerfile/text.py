"""Text as Go and BuildKit treat it: white space, quoting, and suggestions for misspelt names.

Source: Go packages unicode, IsSpace, and strconv, Quote.
"""

from __future__ import annotations

from collections.abc import Iterable

SPACES = "\t\n\v\f\r \x85\xa0\u1680\u2028\u2029\u202f\u205f\u3000" + "".join(
    map(chr, range(0x2000, 0x200B))
)
"""White space. Python's `str.isspace` also has the separators \\x1c to \\x1f."""

_ESCAPES = {
    "\a": r"\a",
    "\b": r"\b",
    "\f": r"\f",
    "\n": r"\n",
    "\r": r"\r",
    "\t": r"\t",
    "\v": r"\v",
    "\\": r"\\",
    '"': r"\"",
}


def quote(text: str) -> str:
    """`text` in double quotes, with unprintable characters escaped."""
    return f'"{"".join(_quoted(char) for char in text)}"'


def quote_character(code: int) -> str:
    """The character with this number in single quotes, as Go prints numbers with `%q`."""
    valid = 0 <= code < 0xD800 or 0xE000 <= code <= 0x10FFFF
    char = chr(code) if valid else "\ufffd"
    return {"'": r"'\''", '"': "'\"'"}.get(char) or f"'{_quoted(char)}'"


def _quoted(char: str) -> str:
    if char in _ESCAPES:
        return _ESCAPES[char]
    if char.isprintable() and char != "\u00ad":
        return char
    code = ord(char)
    if code < 0x80:
        return f"\\x{code:02x}"
    return f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"


_MAX_EDITS = 3  # edits, exclusive


def nearest(word: str, options: Iterable[str]) -> str:
    """The option fewer than three edits away from `word`, ignoring letter case; else empty.

    An option that differs only in letter case is best.
    """
    scored = [(_distance(word.lower(), option.lower()), option) for option in options]
    distance, best = min(scored, default=(_MAX_EDITS, ""))
    return best if distance < _MAX_EDITS and best != word else ""


def did_you_mean(word: str, options: Iterable[str]) -> str:
    """` (did you mean X?)` for the end of a message, or an empty string."""
    found = nearest(word, options)
    return f" (did you mean {found}?)" if found else ""


def _distance(a: str, b: str) -> int:
    """The edits between two words: insertions, deletions, replacements and transpositions."""
    before, row = [0] * (len(b) + 1), list(range(len(b) + 1))
    for i, char in enumerate(a, 1):
        above, before, row = before, row, [i]
        for j, other in enumerate(b, 1):
            edits = min(before[j] + 1, row[j - 1] + 1, before[j - 1] + (char != other))
            if i > 1 and j > 1 and char == b[j - 2] and a[i - 2] == other:
                edits = min(edits, above[j - 2] + 1)
            row.append(edits)
    return row[-1]
