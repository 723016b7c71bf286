"""Lines of logs from pieces as they came."""

from __future__ import annotations

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from shipline.history import LogLine
from shipline.ui.logs import page_of, raw_lines, tail, text


def pieces(*parts: tuple[int, bytes]) -> list[LogLine]:
    return [LogLine(0.0, stream, data) for stream, data in parts]


@given(st.text("a\n", max_size=60), st.lists(st.integers(0, 60), max_size=6))
def test_lines_do_not_depend_on_how_the_output_came(written: str, cuts: list[int]) -> None:
    data, places = written.encode(), sorted({0, *cuts, len(written)})
    parts = [(1, data[a:b]) for a, b in pairwise(places)]
    lines = [line for _, line in raw_lines(pieces(*parts))]
    assert lines == (
        data.split(b"\n")[:-1] + ([data.split(b"\n")[-1]] if data.split(b"\n")[-1] else [])
    )


def test_the_streams_do_not_mix_within_a_line() -> None:
    parts = pieces((1, b"one "), (2, b"err\n"), (1, b"two\n"), (2, b"end"))
    assert list(raw_lines(parts)) == [(2, b"err"), (1, b"one two"), (2, b"end")]


def test_escape_codes_and_control_characters_are_not_shown() -> None:
    data = b"\x1b[31mred\x1b[0m \x1b]8;;http://x\x07link\x1b]8;;\x07 \x00\xff\rlast \xe2\x80\xae.\n"
    assert page_of(pieces((1, data)), 1).lines == ((1, "last \\u202e."),)


def test_a_page_and_a_tail_know_their_place() -> None:
    parts = pieces((1, b"".join(b"%d\n" % number for number in range(1, 31))))
    page = page_of(parts, 11, 5)
    assert (page.start, page.end, page.total) == (11, 15, 30)
    assert page.lines[0] == (1, "11")
    last = tail(parts, 4)
    assert (last.start, last.end, last.total, last.lines[0]) == (27, 30, 30, (1, "27"))
    assert page_of(parts, -5, 1).lines == ((1, "1"),)
    assert page_of(parts, 99).lines == ()
    assert tail([], 4).total == 0


def test_an_endless_line_is_broken() -> None:
    parts = pieces(*[(1, b"x" * 4096)] * 64)
    lines = list(raw_lines(parts))
    assert b"".join(line for _, line in lines) == b"x" * (4096 * 64)
    assert max(len(line) for _, line in lines) < 80_000


def test_the_whole_log_is_given_in_pieces() -> None:
    parts = pieces(*[(1, b"y" * 1023 + b"\n")] * 1000)
    sent = list(text(parts))
    assert b"".join(sent) == (b"y" * 1023 + b"\n") * 1000
    assert max(map(len, sent)) < 300_000
