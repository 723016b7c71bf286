"""The patterns of `${v#p}`, `${v%p}` and `${v/p/r}`: `*` and `?`, no brackets.

Source: Dockerfile reference, "Environment replacement"; POSIX XCU 2.13.
"""

from __future__ import annotations

import re

from shipline.errors import DockerfileError


def trim_prefix(pattern: str, value: str, *, greedy: bool) -> str:
    """`value` without the shortest, or when `greedy` the longest, prefix that `pattern` matches."""
    found = _compile(pattern, greedy=greedy).match(value)
    return value[found.end() :] if found else value


def trim_suffix(pattern: str, value: str, *, greedy: bool) -> str:
    """`value` without the shortest or longest matching suffix.

    Both texts are reversed: leftmost matching cannot find the shortest rightmost match.
    """
    return trim_prefix(_reversed_pattern(pattern), value[::-1], greedy=greedy)[::-1]


def replace_matches(pattern: str, value: str, replacement: str, *, every: bool) -> str:
    """`value` with the first, or every, longest match replaced by the literal `replacement`."""
    expression = _compile(pattern, greedy=True)
    result: list[str] = []
    position = 0
    for found in expression.finditer(value):
        # An empty match that touches the one before it is not a second match.
        if result and found.start() == found.end() == position:
            continue
        result += [value[position : found.start()], replacement]
        position = found.end()
        if not every:
            break
    return "".join(result) + value[position:]


def _compile(pattern: str, *, greedy: bool) -> re.Pattern[str]:
    star = ".*" if greedy else ".*?"
    out: list[str] = []
    position = 0
    while position < len(pattern):
        char = pattern[position]
        position += 1
        if char == "\\":
            char = pattern[position : position + 1]
            position += 1
            if char not in ("*", "?", "\\", "}", "/"):
                raise DockerfileError(
                    f"invalid pattern ({pattern}) in substitution: invalid escape '\\{char}'"
                )
            out.append(re.escape(char))
        else:
            out.append({"*": star, "?": "."}.get(char) or re.escape(char))
    return re.compile("".join(out))


def _reversed_pattern(pattern: str) -> str:
    units = re.findall(r"\\.|.", pattern, re.DOTALL)
    return "".join(reversed(units))
