"""The box of cosign's key files is NaCl's, bit by bit, and opens only unaltered."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shipline.errors import ContentError
from shipline.supply.secretbox import KEY_SIZE, NONCE_SIZE, _derive, seal, unseal

# Bernstein, "Cryptography in NaCl", sections 8 and 10: the vectors of NaCl's own tests.
SHARED = bytes.fromhex("4a5d9d5ba4ce2de1728e3bf480350f25e07e21c947d19e3376f09b3c1e161742")
KEY = bytes.fromhex("1b27556473e985d462cd51197a9a46c76009549eac6474f206c4ee0844f68389")
NONCE = bytes.fromhex("69696ee955b62b73cd62bda875fc73d68219e0036b7a0b37")
MESSAGE = bytes.fromhex(
    "be075fc53c81f2d5cf141316ebeb0c7b5228c52a4c62cbd44b66849b64244ffc"
    "e5ecbaaf33bd751a1ac728d45e6c61296cdc3c01233561f41db66cce314adb31"
    "0e3be8250c46f06dceea3a7fa1348057e2f6556ad6b1318a024a838f21af1fde"
    "048977eb48f59ffd4924ca1c60902e52f0a089bc76897040e082f93776384864"
    "5e0705"
)
BOX = bytes.fromhex(
    "f3ffc7703f9400e52a7dfb4b3d3305d9"
    "8e993b9f48681273c29650ba32fc76ce48332ea7164d96a4476fb8c531a1186a"
    "c0dfc17c98dce87b4da7f011ec48c97271d2c20f9b928fe2270d6fb863d51738"
    "b48eeee314a7cc8ab932164548e526ae90224368517acfeabd6bb3732bc0e9da"
    "99832b61ca01b6de56244a9e88d5f9b37973f622a43d14a6599b1f654cb45a74"
    "e355a5"
)


def test_the_first_key_is_that_of_the_paper() -> None:
    assert _derive(SHARED, bytes(16)) == KEY


def test_the_box_is_that_of_the_paper() -> None:
    assert seal(MESSAGE, NONCE, KEY) == BOX
    assert unseal(BOX, NONCE, KEY) == MESSAGE


@settings(max_examples=40, deadline=None)
@given(
    st.binary(max_size=300),
    st.binary(min_size=NONCE_SIZE, max_size=NONCE_SIZE),
    st.binary(min_size=KEY_SIZE, max_size=KEY_SIZE),
)
def test_what_was_sealed_comes_out(message: bytes, nonce: bytes, key: bytes) -> None:
    assert unseal(seal(message, nonce, key), nonce, key) == message


@settings(max_examples=60, deadline=None)
@given(st.integers(0, len(BOX) * 8 - 1))
def test_one_flipped_bit_closes_the_box(bit: int) -> None:
    altered = bytearray(BOX)
    altered[bit // 8] ^= 1 << bit % 8
    with pytest.raises(ContentError, match="does not open"):
        unseal(bytes(altered), NONCE, KEY)


@pytest.mark.parametrize("size", [0, 1, 15])
def test_a_box_that_is_cut_off_does_not_open(size: int) -> None:
    with pytest.raises(ContentError):
        unseal(BOX[:size], NONCE, KEY)


def test_sizes_are_checked() -> None:
    with pytest.raises(ContentError, match="32 bytes"):
        seal(b"x", NONCE, KEY[:31])
    with pytest.raises(ContentError, match="nonce"):
        seal(b"x", NONCE + b"x", KEY)
