"""Laws of ignore rules and wildcards."""

from __future__ import annotations

import fnmatch

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shipline.dockerfile import IgnoreRules, Wildcard, has_wildcards
from shipline.dockerfile.ignore import UNMATCHED
from shipline.errors import DockerfileError


@pytest.mark.parametrize(
    ("rules", "path", "ignored"),
    [
        ("**/x\n!src", "src/x", True),
        ("*\n**/x\n!src", "src/x", False),
        ("*\n!src\n**/x\n!src/x", "src/x", False),
        ("a", "a", True),
        ("a", "a/b/c", True),
        ("a", "b/a", False),
        ("/a/", "a", True),
        ("./a/../b//c", "b/c", True),
        ("  a  ", "a", True),
        ("\ufeffa", "a", True),
        ("a\r\nb\r\n", "b", True),
        ("#a", "#a", False),
        (" #a", "#a", True),
        ("*", "a/b", True),
        ("*", ".hidden", True),
        ("*/b", "a/b", True),
        ("*/b", "a/x/b", False),
        ("a?c", "abc", True),
        ("a?c", "a/c", False),
        ("[a-c]x", "bx", True),
        ("[^a-c]x", "bx", False),
        ("[^a-c]x", "dx", True),
        ("\\*", "a", False),
        ("\\*", "*", True),
        ("**", "a/b/c", True),
        ("**/a", "a", True),
        ("**/a", "x/y/a/z", True),
        ("**/a", "ba", False),
        ("**a", "ba", True),
        ("**.go", "x/y.go", True),
        ("a/**", "a", False),
        ("a/**", "a/b", True),
        ("a/**/b", "a/b", True),
        ("a/**/b", "a/x/y/b", True),
        ("a/**/*.md", "a/x/y.md", True),
        ("a.b", "aXb", False),
        ("a+(b)|{c}$", "a+(b)|{c}$", True),
        ("*\n!a", "a", False),
        ("*\n!a", "a/b", False),
        ("*\n!a\na/b", "a/b/c", True),
        ("!a\n*", "a", True),
        ("a\n!a/b", "a/b/c", False),
        ("a\n!a/b", "a/c", True),
        ("**/*.md\n!README.md", "docs/README.md", True),
        ("*.md\n! README.md", "README.md", False),
        ("a", ".", False),
        ("*", ".", False),
        ("", "a", False),
        ("a\\/b", "a/b/c", True),
        ("a/\\\\/b", "a/\\/b", True),
        ("*\n/!a", "a", False),
        ("/!a", "!a", False),
        ("!../a", "a", False),
        ("!x/../../a\n!../b/../c", "c", False),
    ],
)
def test_the_last_pattern_that_holds_decides(rules: str, path: str, ignored: bool) -> None:
    assert IgnoreRules.parse(rules).ignores(path) is ignored


@pytest.mark.parametrize(
    ("text", "line", "message"),
    [
        ("a\n!\n", 2, "illegal exclusion"),
        ("! //", 1, "illegal exclusion"),
        ("a\n./!/", 2, "illegal exclusion"),
        ("a[", 1, "syntax error"),
        ("x\ny\\", 2, "syntax error"),
    ],
)
def test_a_wrong_rule_is_reported_with_its_line(text: str, line: int, message: str) -> None:
    with pytest.raises(DockerfileError) as caught:
        IgnoreRules.parse(text)
    assert message in caught.value.message
    assert caught.value.span is not None
    assert caught.value.span.line == line
    assert caught.value.hint


def test_no_rules_are_false_and_match_nothing() -> None:
    rules = IgnoreRules.parse("# nothing\n\n")
    assert not rules
    assert rules.match("a/b") is UNMATCHED


NAMES = st.sampled_from(["a", "b", "ab", "c.x"])
PATHS = st.lists(NAMES, min_size=1, max_size=4).map("/".join)
PIECES = st.sampled_from(["a", "b", "*", "a*", "?", "**", "c.x", "*.x"])
LINES = st.tuples(st.sampled_from(["", "!"]), st.lists(PIECES, min_size=1, max_size=3)).map(
    lambda line: line[0] + "/".join(line[1])
)


def naive_match(pattern: list[str], path: list[str]) -> bool:
    """The definition of a pattern, one component after the other."""
    if pattern in ([], ["**"]):
        return bool(path) == bool(pattern)
    if pattern[0] == "**":
        return any(naive_match(pattern[1:], path[i:]) for i in range(len(path) + 1))
    first = bool(path) and fnmatch.fnmatchcase(path[0], pattern[0])
    return first and naive_match(pattern[1:], path[1:])


def naive_holds(lines: list[str], index: int, parts: list[str]) -> bool:
    """A rule holds for what it matches and all below, if it had something to change there."""
    negated = lines[index].startswith("!")
    if len(parts) > 1 and naive_holds(lines, index, parts[:-1]):
        return True
    matches = naive_match(lines[index].removeprefix("!").split("/"), parts)
    return matches and naive_verdict(lines[:index], parts) is negated


def naive_verdict(lines: list[str], parts: list[str]) -> bool:
    for index in reversed(range(len(lines))):
        if naive_holds(lines, index, parts):
            return not lines[index].startswith("!")
    return False


@given(st.lists(LINES, max_size=5), PATHS)
def test_rules_agree_with_their_definition(lines: list[str], path: str) -> None:
    assert IgnoreRules.of(lines).ignores(path) is naive_verdict(lines, path.split("/"))


@given(st.lists(LINES, max_size=5), PATHS)
def test_a_walk_agrees_with_asking_for_the_path_alone(lines: list[str], path: str) -> None:
    rules = IgnoreRules.of(lines)
    match = UNMATCHED
    parts = path.split("/")
    for end in range(1, len(parts) + 1):
        match = rules.match("/".join(parts[:end]), match)
    assert match == rules.match(path)


@given(st.lists(LINES, max_size=5), PATHS)
def test_a_pruned_directory_holds_nothing_that_is_wanted(lines: list[str], path: str) -> None:
    rules = IgnoreRules.of(lines)
    parts = path.split("/")
    for end in range(1, len(parts)):
        directory = "/".join(parts[:end])
        match = rules.match(directory)
        if match.ignored and not rules.may_reinclude(directory, match):
            assert rules.ignores(path)


@given(st.lists(LINES.filter(lambda line: line[0] != "!"), max_size=4), PATHS)
def test_an_included_path_is_reached_through_its_directories(lines: list[str], path: str) -> None:
    rules = IgnoreRules.of(lines)
    parts = path.split("/")
    for end in range(1, len(parts)):
        directory = "/".join(parts[:end])
        if rules.ignores(path) and not rules.ignores(directory):
            assert rules.may_match_below(directory)


@pytest.mark.parametrize(
    ("pattern", "path", "matches"),
    [
        ("*.txt", "a.txt", True),
        ("*.txt", "d/a.txt", False),
        ("d/*", "d/a", True),
        ("d/*", "d/a/b", False),
        ("**", "a", True),
        ("**", "a/b", False),
        ("a[b-d]e", "ace", True),
        ("a[^b-d]e", "ace", False),
        ("a[^b]e", "a/e", False),
        ("a[\\]]", "a]", True),
        ("[d-b]", "c", False),
        ("a\\[b", "a[b", True),
        ("*?", "é", True),
        ("ho[m]e", "home", True),
    ],
)
def test_wildcards_match_within_a_component(pattern: str, path: str, matches: bool) -> None:
    assert Wildcard.parse(pattern).matches(path) is matches


@pytest.mark.parametrize("pattern", ["[", "[]", "[a", "[a-]", "[-a]", "a\\", "[^]"])
def test_malformed_wildcards_are_refused(pattern: str) -> None:
    with pytest.raises(DockerfileError, match="syntax error in pattern"):
        Wildcard.parse(pattern)


def test_a_walk_enters_only_directories_that_can_match() -> None:
    wildcard = Wildcard.parse("src/*/x?")
    assert wildcard.may_match_below("src")
    assert wildcard.may_match_below("src/any")
    assert not wildcard.may_match_below("lib")
    assert not wildcard.may_match_below("src/any/xy")


@pytest.mark.parametrize(
    ("pattern", "has"), [("a/b", False), ("a/b*/c", True), ("*", True), ("a\\*/b", False)]
)
def test_escaped_characters_are_no_wildcards(pattern: str, has: bool) -> None:
    assert has_wildcards(pattern) is has


@given(PATHS)
def test_a_plain_path_matches_itself_only(path: str) -> None:
    assert Wildcard.parse(path).matches(path)
    assert not Wildcard.parse(path).matches(path + "x")
