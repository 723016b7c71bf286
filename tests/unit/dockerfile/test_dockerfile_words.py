"""Laws of variable expansion and word splitting."""

from __future__ import annotations

from fnmatch import fnmatchcase

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shipline.dockerfile import process_word
from shipline.dockerfile.text import quote
from shipline.dockerfile.words import Mode
from shipline.errors import DockerfileError

ENV = {
    "HOME": "/root",
    "EMPTY": "",
    "V": "1.22.3",
    "LIST": "a b  c",
    "P": "lib/x/lib/y",
    "N_1": "n",
}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("plain", "plain"),
        ("$HOME/x", "/root/x"),
        ("${HOME}x", "/rootx"),
        ("$HOMEx", ""),
        ("$N_1-", "n-"),
        ("a$", "a$"),
        ("a$.b", "a$.b"),
        ("'$HOME'", "$HOME"),
        ('"$HOME"', "/root"),
        ("\\$HOME", "$HOME"),
        ('"\\$HOME\\n"', "$HOME\\n"),
        ("a\\", "a"),
        ("${X:-d}|${EMPTY:-d}|${EMPTY-d}|${X-d}", "d|d||d"),
        ("${HOME:+y}|${EMPTY:+y}|${EMPTY+y}|${X+y}", "y||y|"),
        ("${X:-${HOME:+${V}}}", "1.22.3"),
        ("${X:-'a }'}", "a }"),
        ("${HOME:?no}${EMPTY?no}", "/root"),
        ("${V#*.}|${V##*.}|${V%.*}|${V%%.*}", "22.3|3|1.22|1"),
        ("${V#?}|${V%??}|${V#9}", ".22.3|1.22|1.22.3"),
        ("${P/lib/L}|${P//lib/L}|${P//\\//-}", "L/x/lib/y|L/x/L/y|lib-x-lib-y"),
        ("${P//*/z}|${P/x*/}", "z|lib/"),
        ("${P/l?b/$HOME}", "/root/x/lib/y"),
        ("$1$@$?", ""),
        ("$N_1²|${V}³|$²", "n²|1.22.3³|$²"),
    ],
)
def test_each_form_means_what_the_shell_means(text: str, expected: str) -> None:
    assert process_word(text, ENV).text == expected


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("a  b\tc", ("a", "b", "c")),
        ("'a b' c", ("a b", "c")),
        ('x"$LIST"y', ("xa b  cy",)),
        ("x$LIST", ("xa", "b", "c")),
        ("a\\ b", ("a b",)),
        ("  $EMPTY  ", ()),
        ('""', ()),
    ],
)
def test_words_split_at_unquoted_space_only(text: str, words: tuple[str, ...]) -> None:
    assert process_word(text, ENV).words == words


def test_backtick_escapes_where_the_file_says_so() -> None:
    assert process_word("C:\\dir\\`$x`", {"x": "no"}, escape="`").text == "C:\\dir\\$x"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("'a", "single-quote"),
        ('"a', "double-quote"),
        ("${HOME", "missing '}'"),
        ("${", "missing '}'"),
        ("${HOME:-a", "missing '}'"),
        ("${HOME/a}", "missing '/'"),
        ("${HOME/a/b", "missing '}'"),
        ("${}", "bad substitution"),
        ("${{HOME}}", "bad substitution"),
        ("${HOME^}", "unsupported modifier (^)"),
        ("${HOME:=x}", "unsupported modifier (:=)"),
        ("${X:?wanted}", "X: wanted"),
        ("${X?}", "X: is not allowed to be unset"),
        ("${EMPTY:?}", "EMPTY: is not allowed to be empty"),
        ("${V#\\a}", "invalid escape"),
    ],
)
def test_broken_text_is_named(text: str, message: str) -> None:
    with pytest.raises(DockerfileError) as caught:
        process_word(text, ENV)
    assert message in caught.value.message
    assert quote(text) in caught.value.message


def test_used_and_undefined_variables_are_reported() -> None:
    expansion = process_word("$HOME ${X:-$Y} '$Z'", ENV)
    assert expansion.used == {"HOME"}
    assert expansion.undefined == {"X", "Y"}


def test_a_heredoc_keeps_its_quotes() -> None:
    assert process_word("'$V' \"\\$V\"", ENV, mode=Mode(quoting=False)).text == "'1.22.3' \"$V\""


@given(st.text().filter(lambda text: not set(text) & set("$'\"\\")))
def test_text_without_special_characters_is_unchanged(text: str) -> None:
    assert process_word(text, ENV).text == text


@given(st.text())
def test_single_quotes_protect_everything_but_themselves(text: str) -> None:
    plain = text.replace("'", "")
    assert process_word(f"'{plain}'", ENV).text == plain


@given(st.text(alphabet="$ab{}:-+?#%/*'\"\\ ", max_size=12))
def test_expansion_ends_or_raises_its_own_error(text: str) -> None:
    try:
        expansion = process_word(text, {"a": "b*", "ab": ""})
    except DockerfileError:
        return
    assert sum(map(len, expansion.words)) <= len(expansion.text)


@given(st.text(alphabet="abc", max_size=8), st.text(alphabet="abc*?", max_size=4))
def test_trimming_takes_the_shortest_or_the_longest_match_off_one_end(
    value: str, pattern: str
) -> None:
    def trimmed(operator: str) -> str:
        return process_word(f"${{v{operator}{pattern}}}", {"v": value}).text

    cuts = range(len(value) + 1)
    heads = [cut for cut in cuts if fnmatchcase(value[:cut], pattern)] or [0]
    tails = [cut for cut in cuts if fnmatchcase(value[cut:], pattern)] or [len(value)]
    assert (trimmed("#"), trimmed("##")) == (value[min(heads) :], value[max(heads) :])
    assert (trimmed("%"), trimmed("%%")) == (value[: max(tails)], value[: min(tails)])


def test_a_long_word_is_one_word() -> None:
    text = "x" * 3_000_000 + " " + "y" * 10
    assert process_word(text, {}).words == ("x" * 3_000_000, "y" * 10)


def test_variables_do_not_grow_without_end() -> None:
    value = "0123456789"
    with pytest.raises(DockerfileError, match="becomes longer than 16 MiB"):
        for _ in range(40):
            value = process_word("$A$A", {"A": value}).text
    assert len(value) <= 16 << 20
