"""Text for terminals: harmless, and never wider than it may be."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from shipline.observe.text import cells, clean, clip, progress_text, size_text, wrap


@given(st.binary())
def test_nothing_that_a_program_writes_moves_the_cursor(data: bytes) -> None:
    text = clean(data)
    assert not [c for c in text if ord(c) < 32 or 127 <= ord(c) < 160 or c in "\u2028\u202e\u2066"]
    text.encode()


@given(st.text(), st.integers(0, 30))
def test_clipped_text_fits(text: str, width: int) -> None:
    assert cells(clip(text, width)) <= width


@given(st.text(alphabet="ab 世", max_size=60), st.integers(2, 20))
def test_wrapped_text_fits_and_keeps_its_letters(text: str, width: int) -> None:
    lines = wrap(text, width)
    assert all(cells(line) <= width for line in lines)
    assert "".join(lines).replace(" ", "") == text.replace(" ", "")


def test_indentation_survives_wrapping() -> None:
    assert wrap("  make all", 20) == ["  make all"]


def test_colours_and_movements_are_dropped_and_other_controls_shown() -> None:
    assert clean(b"\x1b[1;31mred\x1b[0m\x1b[2J\x1b]0;title\x07") == "red"
    assert clean(b"a\x00b\x7f") == "a\\x00b\\x7f"
    assert clean("a\u202eb") == "a\\u202eb"


def test_bytes_that_are_not_utf8_are_shown() -> None:
    assert clean(b"caf\xe9 \xc3\xa9") == "caf\\xe9 é"


def test_an_overwritten_line_shows_its_last_state() -> None:
    assert clean(b"10%\r50%\r100%\r") == "100%"


def test_wide_characters_take_two_cells() -> None:
    assert (cells("世界"), cells("e\u0301"), clip("世界世界", 5)) == (4, 1, "世界~")


def test_sizes_are_decimal() -> None:
    assert [size_text(n) for n in (0, 999, 1000, 12_340_000)] == ["0B", "999B", "1.00kB", "12.34MB"]
    assert progress_text(1_000_000, 0) == "1.00MB"
