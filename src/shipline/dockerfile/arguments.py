"""The forms of an instruction's arguments: JSON, words, pairs, flags.

Source: Dockerfile reference, "Format", "Shell and exec form", "ENV", "LABEL".
"""

from __future__ import annotations

import json
import re
from typing import NoReturn

from shipline.dockerfile.text import SPACES, quote
from shipline.errors import DockerfileError

BLANKS = re.compile(r"[\t\v\f\r ]+")
_SURROGATE = re.compile("[\ud800-\udfff]")  # also a byte that is not UTF-8


def split_instruction(line: str, escape: str) -> tuple[str, tuple[str, ...], str]:
    """(keyword, flags, rest) of a logical line, the rest without surrounding space."""
    keyword, _, rest = _cut_blank(line.strip(SPACES))
    flags, rest = split_flags(rest, escape)
    return keyword, flags, rest.strip(SPACES)


def _cut_blank(text: str) -> tuple[str, str, str]:
    found = BLANKS.search(text)
    return (text[: found.start()], found[0], text[found.end() :]) if found else (text, "", "")


def split_flags(text: str, escape: str) -> tuple[tuple[str, ...], str]:
    """The leading `--flag` words, unquoted, and the text after them; a lone `--` ends them."""
    flags: list[str] = []
    position = 0
    while True:
        while position < len(text) and text[position] in SPACES:
            position += 1
        if not text.startswith("--", position):
            return tuple(flags), text[position:]
        flag, position = _flag_word(text, position, escape)
        if flag == "--":
            return tuple(flags), text[position:]
        flags.append(flag)


def _flag_word(text: str, position: int, escape: str) -> tuple[str, int]:
    """One unquoted word."""
    word: list[str] = []
    quote = ""
    while position < len(text):
        char = text[position]
        if not quote and char in SPACES:
            break
        position += 1
        if char == quote:
            quote = ""
        elif not quote and char in "'\"":
            quote = char
        elif char == escape:
            word.append(text[position : position + 1])
            position += 1
        else:
            word.append(char)
    return "".join(word), position


def json_strings(text: str) -> tuple[str, ...] | None:
    """The strings of a JSON array; None if `text` is not one, and so is in shell form. What is not
    Unicode in them, such as `\\ud800`, becomes U+FFFD, as in Go.

    Raises DockerfileError for an array with other values than strings.
    """
    if not text.lstrip(SPACES).startswith("["):
        return None
    try:
        value = json.loads(text, parse_constant=_no_constant)
    except (ValueError, RecursionError):
        return None
    if not all(isinstance(item, str) for item in value):
        raise DockerfileError(
            "when using JSON array syntax, arrays must be comprised of strings only",
            hint="put every element in double quotes",
        )
    return tuple(_SURROGATE.sub("\ufffd", item) for item in value)


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"not JSON: {name}")


def quoted_words(text: str, escape: str) -> tuple[str, ...]:
    """Words separated by unquoted space; quotes and escapes are kept for the expansion."""
    words: list[str] = []
    word: list[str] = []
    quote = ""
    position = 0
    while position < len(text):
        char = text[position]
        position += 1
        if not quote and char in SPACES:
            if word:
                words.append("".join(word))
                word = []
            continue
        if char == escape and quote != "'":
            if position == len(text):
                break
            word.append(char)
            char = text[position]
            position += 1
        elif char == quote:
            quote = ""
        elif not quote and char in "'\"":
            quote = char
        word.append(char)
    if word:
        words.append("".join(word))
    return tuple(words)


def key_values(text: str, keyword: str, escape: str) -> tuple[tuple[str, str, bool], ...]:
    """(key, value, legacy) of ENV and LABEL: `k=v ...`, or `k rest of the line` (legacy).

    Raises DockerfileError for a key without value and for a word without `=`.
    """
    words = quoted_words(text, escape)
    if not words:
        return ()
    if "=" not in words[0]:
        key, blank, value = _cut_blank(text)
        if not blank:
            raise DockerfileError(
                f"{keyword} must have two arguments", hint=f"write {keyword} {key}=value"
            )
        return ((key, value, True),)
    pairs = []
    for word in words:
        key, equals, value = word.partition("=")
        if not equals:
            raise DockerfileError(
                f"Syntax error - can't find = in {quote(word)}. Must be of the form: name=value",
                hint="quote a value that contains spaces",
            )
        pairs.append((key, value, False))
    return tuple(pairs)


def blank_separated(text: str) -> tuple[str, ...]:
    """Words separated by blanks; quotes are literal."""
    return tuple(BLANKS.split(text)) if text else ()
