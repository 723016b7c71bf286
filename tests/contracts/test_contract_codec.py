"""Codec: every compression is undone by our reader and by its own program, and is deterministic."""

from __future__ import annotations

import io
import itertools
import random
import subprocess
from collections.abc import Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shipline.layer import Codec, cut_tar, decompress, sniff
from shipline.oci import media

CODECS = [
    Codec("gzip", 0), Codec("gzip", 1), Codec("gzip", 3), Codec("gzip", 4), Codec("gzip", 9),
    Codec("zstd", 1), Codec("zstd", 3), Codec("uncompressed", 0),
]  # fmt: skip
PROGRAMS = {"gzip": ("gzip", "-dc"), "zstd": ("zstd", "-dcq"), "uncompressed": ("cat",)}
SUFFIXES = {"gzip": "+gzip", "zstd": "+zstd", "uncompressed": ""}
WORDS = random.Random(1).randbytes(64)
TEXT = b"".join(random.Random(2).choices([WORDS[at : at + 4] for at in range(60)], k=700_000))
SIZES = (0, 1, (1 << 20) - 1, 1 << 20, (1 << 20) + 1, len(TEXT))
pytestmark = pytest.mark.parametrize("codec", CODECS, ids=str)


@pytest.mark.parametrize("size", SIZES)
def test_what_was_compressed_is_decompressed(codec: Codec, size: int) -> None:
    content = TEXT[:size]
    compressed = b"".join(codec.compress(cut_tar([content])))
    assert decompress(io.BytesIO(compressed), codec.name).read() == content
    if codec.level and size > 1000:
        assert len(compressed) < size * 0.9


def test_the_program_of_the_format_reads_it(codec: Codec) -> None:
    compressed = b"".join(codec.compress(cut_tar([TEXT])))
    done = subprocess.run(
        PROGRAMS[codec.name], input=compressed, stdout=subprocess.PIPE, check=True
    )
    assert done.stdout == TEXT


def test_the_media_type_names_the_format(codec: Codec) -> None:
    assert codec.media_type == f"{media.OCI_LAYER}{SUFFIXES[codec.name]}"
    if codec.name != "uncompressed":
        assert sniff(next(iter(codec.compress(cut_tar([TEXT]))))[:512]) == codec.name


@settings(max_examples=3)
@given(st.lists(st.integers(0, len(TEXT)), max_size=12), st.integers(1, 5))
def test_bytes_do_not_depend_on_cuts_or_threads(
    codec: Codec, cuts: list[int], workers: int
) -> None:
    edges = [0, *sorted(cuts), len(TEXT)]
    pieces = [TEXT[a:b] for a, b in itertools.pairwise(edges)]
    whole = b"".join(codec.compress(cut_tar([TEXT]), workers=2))
    assert b"".join(codec.compress(cut_tar(pieces), workers=workers)) == whole


@settings(max_examples=15)
@given(st.binary(max_size=5000))
def test_any_bytes_come_back(codec: Codec, content: bytes) -> None:
    packed = b"".join(codec.compress(cut_tar([content])))
    assert decompress(io.BytesIO(packed), codec.name).read() == content


def test_a_source_that_breaks_off_is_no_shorter_content(codec: Codec) -> None:
    def broken() -> Iterator[bytes]:
        yield TEXT
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        b"".join(codec.compress(broken()))
