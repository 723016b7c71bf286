"""What a runtime says after it has entered the root is told from what the command says."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shipline.sandbox.runtime import _FirstWords

PREFIXES = (b'{"msg":"exec ',)
COMPLAINT = b'{"msg":"exec container process `/s`: No such file","level":"error"}\n'


def heard(*pieces: tuple[bytes, int]) -> tuple[bytes, list[tuple[bytes, int]]]:
    """The complaint, and what was passed on before the end."""
    passed: list[tuple[bytes, int]] = []
    words = _FirstWords(lambda data, stream: passed.append((data, stream)), PREFIXES)
    for data, stream in pieces:
        words(data, stream)
    return words.complaint, passed


@given(st.lists(st.integers(1, len(COMPLAINT) - 1), unique=True))
def test_a_complaint_may_come_in_pieces(cuts: list[int]) -> None:
    ends = [0, *sorted(cuts), len(COMPLAINT)]
    pieces = [(COMPLAINT[a:b], 2) for a, b in pairwise(ends)]
    assert heard(*pieces) == (COMPLAINT, [])


@pytest.mark.parametrize(
    "pieces",
    [
        ((b"{", 2),),
        ((b'{"msg":"other', 2),),
        ((b"out", 1), (COMPLAINT, 2)),
        ((COMPLAINT, 2), (b"more", 2)),
        ((COMPLAINT, 2), (b"more", 1)),
        ((COMPLAINT[:5], 2), (b"x" * 70_000, 2)),
    ],
)
def test_what_a_command_says_is_no_complaint(pieces: tuple[tuple[bytes, int], ...]) -> None:
    complaint, passed = heard(*pieces)
    assert complaint == b"" and (not passed or passed == list(pieces))
