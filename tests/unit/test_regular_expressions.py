"""Expressions match as Go's do, in a time that grows with the text alone."""

from __future__ import annotations

import re
import time

import pytest
import re2
from hypothesis import example, given, settings
from hypothesis import strategies as st

from shipline.regular_expressions import compiled

PARTS = (
    *"abcK.^$|()*+?{},",
    *re.findall(r"\S+", r"[ab] [^a] [a-c] []a] [-a] [[:alpha:]] [^\d] \b \w \d \D \pL \P{Lu} \x41"),
    *re.findall(
        r"\S+", r"\n \A \z \. \Qa.\E (?: (?i) (?s: (?m) (?U) {2} {1,3} {0,2}? {2,} *? +? ?? é"
    ),
)
QUIET = re2.Options()
QUIET.log_errors = False


@settings(max_examples=10 * settings().max_examples)
@given(
    st.lists(st.sampled_from(PARTS), max_size=9).map("".join), st.text("aabcKk.d1 \né_", max_size=8)
)
@example(r"(?i)\P{Lu}", "a")
@example(r"(?i)[^\P{Lu}]", "a")
@example("(?i)[[:^upper:]]", "a")
@example(r"(?i)\W", "\u212a")
def test_expressions_match_what_those_of_re2_match(pattern: str, text: str) -> None:
    try:
        expected = re2.compile(pattern, QUIET)
    except re2.error:
        with pytest.raises(ValueError):
            compiled(pattern)
        return
    found, wanted = compiled(pattern).search(text), expected.search(text)
    assert (found is None) == (wanted is None)
    if found:
        assert found.spans == tuple(wanted.span(group) for group in range(expected.groups + 1))


@pytest.mark.parametrize("pattern", ["(a+)+$", "(a|a)*$", "(.*)*b", "(x?a?){20}a{20}$"])
def test_time_does_not_grow_exponentially(pattern: str) -> None:
    def seconds(size: int) -> float:
        start = time.thread_time()
        compiled(pattern).search("a" * size + "/c")
        return time.thread_time() - start

    assert seconds(320) < 20, "2^300 steps if it did"


@pytest.mark.parametrize(
    ("pattern", "reason"),
    [
        ("(", r"missing closing \): `\(`"),
        ("a)", r"unexpected \): `a\)`"),
        ("[a", r"missing closing \]: `\[a`"),
        ("*", r"missing argument to repetition operator: `\*`"),
        ("a**", r"invalid nested repetition operator: `\*\*`"),
        ("a{1001}", r"invalid repeat count: `\{1001\}`"),
        ("((a{100}){10}){2}", r"invalid repeat count"),
        ("[b-a]", r"invalid character class range: `b-a`"),
        (r"(a)\1", r"invalid escape sequence: `\\1`"),
        (r"a\Z", r"invalid escape sequence: `\\Z`"),
        ("a(?=b)", r"invalid or unsupported Perl syntax: `\(\?=`"),
        ("(?P<n>a)(?P<n>b)", "duplicate capture group name: `n`"),
        ("a{1000}" * 200, "expression too large"),
        ("a\\", "trailing backslash"),
    ],
)
def test_what_is_no_expression_has_the_reason_of_go(pattern: str, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        compiled(pattern)


def test_groups_nest_as_deep_as_go_allows() -> None:
    found = compiled("(" * 900 + "a" + ")" * 900).search("ba")
    assert found and set(found.groups()) == {"a"}


def test_matches_do_not_overlap_and_empty_ones_are_apart() -> None:
    assert compiled("x*").sub("-", "abxd") == "-a-b-d-"
    assert [one[0] for one in compiled("a|ab").finditer("abab")] == ["a", "a"]
    assert compiled("a(?P<kind>x?)(c)?").sub("<${kind}$2$$$9>", "axac") == "<x$><c$>"
