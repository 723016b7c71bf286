"""Laws of the raw form: lines, comments, continuations, directives, heredocs."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shipline.dockerfile import detect_syntax
from shipline.dockerfile.arguments import json_strings, quoted_words, split_flags
from shipline.dockerfile.parser import Heredoc, parse, parse_heredoc
from shipline.errors import DockerfileError


def texts(content: bytes | str) -> list[str]:
    return [node.text for node in parse(content).nodes]


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("FROM a\nRUN b", ["FROM a", "RUN b"]),
        (b"\xef\xbb\xbfFROM a\r\n", ["FROM a"]),
        ("#!/usr/bin/env docker\nFROM a\n", ["FROM a"]),
        ("FROM \\\n  a\n", ["FROM   a"]),
        ("RUN a \\\n# note\n  # note\n && b\n", ["RUN a  && b"]),
        ("RUN a \\  \n b\n", ["RUN a  b"]),
        ("RUN a \\\\\nRUN b\n", ["RUN a \\\\", "RUN b"]),
        ("\\\nFROM a\n", ["FROM a"]),
        ("FROM a \\", ["FROM a "]),
        ("# escape=`\nRUN C:\\ `\n b\n", ["RUN C:\\  b"]),
        ("  \n\t\nFROM a\n\n", ["FROM a"]),
        ("RUN a # b\n", ["RUN a # b"]),
    ],
)
def test_logical_lines_are_joined(content: bytes | str, expected: list[str]) -> None:
    assert texts(content) == expected


def test_bytes_that_are_not_utf8_survive() -> None:
    assert parse(b"RUN \xff\n").nodes[0].rest.encode("utf-8", "surrogateescape") == b"\xff"


def test_spans_cover_continuations_and_heredocs() -> None:
    nodes = parse("# c\n  FROM a \\\n b\nRUN <<E\nx\nE\n", file="D").nodes
    assert [(n.span.line, n.span.end, n.span.column) for n in nodes] == [(2, 3, 3), (4, 6, 1)]
    assert nodes[0].span.text == "  FROM a \\"
    assert str(nodes[1].span) == "D:4"


def test_an_empty_continuation_line_warns_once() -> None:
    parsed = parse("FROM a\nRUN b \\\n\n\n  c\n")
    assert [(w.message, w.span.line) for w in parsed.warnings] == [("Empty continuation line", 5)]
    assert parsed.nodes[1].text == "RUN b   c"


def test_comments_above_belong_to_the_instruction_up_to_an_empty_one() -> None:
    content = "# syntax=x\n# far\n\n# near\nFROM a\n# cut\n#\n# kept\n\nRUN b\nRUN c\n"
    assert [n.comments for n in parse(content).nodes] == [("far", "near"), ("kept",), ()]


def test_directives_are_read_at_the_top_only() -> None:
    directives = parse("# Syntax = a/b:1 \n#escape=`\n# check=skip=all\nFROM x\n").directives
    assert (directives.syntax, directives.escape, directives.check) == ("a/b:1", "`", "skip=all")
    assert parse("# hello\n# escape=`\nFROM x\n").directives.escape == "\\"
    assert parse("\n# escape=`\nFROM x\n").directives.escape == "\\"
    assert parse("# unknown=1\n# escape=`\nFROM x\n").directives.escape == "\\"


def test_below_a_shebang_only_syntax_and_check_are_directives() -> None:
    directives = parse("#!/bin/x\n# escape=`\n# check=error=true\n# syntax=a\nFROM x\n").directives
    assert (directives.escape, directives.check, directives.syntax) == ("\\", "error=true", "a")


@pytest.mark.parametrize(
    ("content", "line", "message"),
    [
        ("", 1, "the Dockerfile cannot be empty"),
        ("# only\n\n", 2, "file with no instructions"),
        ("# escape=x\nFROM a", 1, "invalid escape token 'x'"),
        ("# syntax=a\n# syntax=b\nFROM a", 2, "only one syntax parser directive"),
        ("FROM a\nRUN <<E\nx\n", 2, "unterminated heredoc"),
    ],
)
def test_broken_files_are_refused_with_the_place(content: str, line: int, message: str) -> None:
    with pytest.raises(DockerfileError) as caught:
        parse(content)
    assert message in caught.value.message
    assert caught.value.span is not None
    assert caught.value.span.line == line
    assert caught.value.hint


@pytest.mark.parametrize(
    ("content", "syntax"),
    [
        ("# syntax=a:1 extra\nFROM x", "a:1"),
        ("#!/bin/x\n# syntax=a\n", "a"),
        ("// syntax=b\n{}", "b"),
        ('{"syntax": "c"}', "c"),
        ('{"syntax": 1}', ""),
        ("[1", ""),
        ("FROM x\n# syntax=a", ""),
        ("// escape=`\n// syntax = d", "d"),
    ],
)
def test_the_wanted_frontend_is_found(content: str, syntax: str) -> None:
    assert detect_syntax(content) == syntax


@pytest.mark.parametrize(
    ("word", "heredoc"),
    [
        ("<<EOF", Heredoc("EOF")),
        ("3<<EOF", Heredoc("EOF")),
        ("<<-EOF", Heredoc("EOF", chomp=True)),
        ('<<"EOF"', Heredoc("EOF", expand=False)),
        ("<<E'O'F", Heredoc("EOF", expand=False)),
        ("<<", None),
        ("<<<EOF", None),
        ("a<<EOF", None),
        ("<EOF", None),
    ],
)
def test_heredoc_words(word: str, heredoc: Heredoc | None) -> None:
    assert parse_heredoc(word) == heredoc


def test_several_heredocs_are_read_in_order() -> None:
    content = "RUN a <<X 3<<-'Y' && b\n$x\nX\n\ty\n\tY\nCOPY <<a b /\n1\r\na\nRUN done\n"
    run, copy, last = parse(content).nodes
    assert run.heredocs == (Heredoc("X", "$x\n"), Heredoc("Y", "\ty\n", expand=False, chomp=True))
    assert copy.heredocs == (Heredoc("a", "1\r\n"),)
    assert last.text == "RUN done"


@pytest.mark.parametrize(
    "line", ['RUN ["cat", "<<E"]', "ENV a=<<E", "RUN echo $((1<<2))", "RUN '<<E'", "RUN a <<<E"]
)
def test_what_only_looks_like_a_heredoc_is_none(line: str) -> None:
    assert len(parse(f"{line}\nFROM x\n").nodes) == 2


@pytest.mark.parametrize(
    ("text", "flags", "rest"),
    [
        ("--a=1 --b x", ("--a=1", "--b"), "x"),
        ("--a='1 2' x", ("--a=1 2",), "x"),
        ('--a="q\\"r" x', ('--a=q"r',), "x"),
        ("x --a=1", (), "x --a=1"),
        ("-- --a x", (), " --a x"),
        ("--a", ("--a",), ""),
    ],
)
def test_flags_come_before_the_arguments(text: str, flags: tuple[str, ...], rest: str) -> None:
    assert split_flags(text, "\\") == (flags, rest)


def test_the_escape_directive_holds_in_flags() -> None:
    parsed = parse("# escape=`\nFROM a\nRUN --mount=source=b\\c,target=d` e f\n")
    assert parsed.nodes[1].flags == ("--mount=source=b\\c,target=d e",)


def test_json_falls_back_to_the_shell_form() -> None:
    assert json_strings('["a", "b\\n"]') == ("a", "b\n")
    assert json_strings(" []") == ()
    for text in ("['a']", '["a",]', "[NaN]", '["a"] b', "[ -f x ]", "{}", "", "[" * 100_000):
        assert json_strings(text) is None
    with pytest.raises(DockerfileError, match="strings only"):
        json_strings('["a", 1]')


@given(st.lists(st.text(alphabet="ab $'\"\\", min_size=1, max_size=4), max_size=4))
def test_quoted_words_lose_no_word(words: list[str]) -> None:
    quoted = ["'" + word.replace("'", "") + "'" for word in words]
    assert list(quoted_words(" ".join(quoted), "\\")) == quoted


@given(st.binary(max_size=60))
def test_any_bytes_are_parsed_or_refused(content: bytes) -> None:
    try:
        parsed = parse(content)
    except DockerfileError as error:
        assert error.span is not None
    else:
        assert all(node.span.line <= node.span.end for node in parsed.nodes)


ARGUMENTS = st.text(alphabet="ab =/.-", min_size=1, max_size=8).map(str.strip).filter(bool)


@given(st.lists(st.tuples(st.sampled_from(["RUN", "env", "Copy", "XY"]), ARGUMENTS), min_size=1))
def test_printed_instructions_are_read_back(instructions: list[tuple[str, str]]) -> None:
    content = "".join(f"{keyword} -- {rest}\n" for keyword, rest in instructions)
    nodes = parse(content).nodes
    assert [(node.keyword, node.rest) for node in nodes] == instructions


@given(st.lists(st.text(alphabet="ab<\t$'", max_size=5), max_size=4))
def test_heredoc_content_is_kept_to_the_byte(lines: list[str]) -> None:
    content = "".join(f"{line}\n" for line in lines)
    nodes = parse(f"FROM a\nCOPY <<END /x\n{content}END\nRUN b\n").nodes
    assert nodes[1].heredocs[0].content == content
    assert len(nodes) == 3
