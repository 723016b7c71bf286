"""Expressions of globs match what the plain ones do, and do not hang."""

from __future__ import annotations

import re
import time
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shipline.dockerfile import IgnoreRules, Wildcard, process_word
from shipline.globs import DEEP, DIRECTORIES, STAR, glob, joined, sought

PIECES = st.lists(st.sampled_from([STAR, DEEP, DIRECTORIES, "a", "b", "/", "[^/]"]), max_size=9)
TEXT = st.text("aab/\n", max_size=10)


@given(PIECES, TEXT)
def test_joined_pieces_match_what_they_match_in_a_row(pieces: list[str], text: str) -> None:
    try:
        found = joined(pieces)
    except ValueError:
        return
    plain = re.fullmatch("".join(pieces), text, re.DOTALL)
    assert bool(re.fullmatch(found, text, re.DOTALL)) == bool(plain)


@given(st.lists(st.sampled_from([".*", ".", "a", "b", "\n"]), max_size=9), TEXT)
def test_sought_pieces_match_the_same_prefix(pieces: list[str], text: str) -> None:
    for last in (".*", ".*?"):
        plain = re.match("".join(last if one == ".*" else one for one in pieces), text)
        found = re.match(sought(pieces, ".*", last=last), text)
        assert (found and found[0]) == (plain and plain[0])


@pytest.mark.parametrize(
    "match",
    [
        lambda count, name: IgnoreRules.parse("*a" * count + "b").ignores(name),
        lambda count, name: IgnoreRules.parse("**/a/" * count + "b").ignores("a/" * 60 + "c"),
        lambda count, name: IgnoreRules.parse("**/*a*/" * count + "b").ignores("a/" * 60 + "c"),
        lambda count, name: Wildcard.parse("*a" * count + "b").matches(name),
        lambda count, name: glob("**a*" * count + "b").fullmatch(name),
        lambda count, name: process_word("${v#" + "*a" * count + "b}", {"v": name}),
        lambda count, name: process_word("${v%b" + "a*" * count + "}", {"v": name}),
        lambda count, name: process_word("${v//" + "*a" * count + "b/x}", {"v": name}),
    ],
)
def test_many_wildcards_do_not_hang(match: Callable[[int, str], object]) -> None:
    """With backtracking forty of them would take longer than the universe is old."""
    started = time.process_time()
    match(40, "a" * 120)
    assert time.process_time() - started < 5


def test_double_stars_that_follow_names_are_limited() -> None:
    with pytest.raises(ValueError, match="too often"):
        joined(["x", DIRECTORIES] * 6)
