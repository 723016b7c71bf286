"""decompress: every archive that ADD takes, and an end to those that are damaged or bombs."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import os
import random
import tarfile
import time
from collections.abc import Callable
from functools import cache, partial

import pytest
import zstandard

from shipline.errors import ContentError
from shipline.layer import Entry, decompress, sniff, write_tar

CONTENT = b"".join(
    write_tar([(Entry("f", "file", size=1_000_000), random.Random(3).randbytes(1_000_000))])
)
NAMES = ("gzip", "bzip2", "xz", "zstd", "uncompressed")


@cache
def packed_as(name: str) -> bytes:
    compressors: dict[str, Callable[[bytes], bytes]] = {
        "gzip": partial(gzip.compress, compresslevel=1),
        "bzip2": partial(bz2.compress, compresslevel=1),
        "xz": partial(lzma.compress, preset=0),
        "zstd": zstandard.ZstdCompressor(1, write_checksum=True).compress,
        "uncompressed": bytes,
    }
    return compressors[name](CONTENT)


@pytest.mark.parametrize("name", NAMES)
def test_archives_are_recognised_and_unpacked(name: str) -> None:
    packed = packed_as(name)
    assert sniff(packed[:512]) == name
    assert decompress(io.BytesIO(packed), name).read() == CONTENT
    source = io.BytesIO(packed)
    reader = decompress(source, name)
    while reader.read(100_001):
        pass
    assert source.read() == b""


@pytest.mark.parametrize("name", ["gzip", "bzip2", "xz", "zstd"])
def test_members_follow_each_other(name: str) -> None:
    assert decompress(io.BytesIO(packed_as(name) * 2), name).read() == CONTENT * 2


@pytest.mark.parametrize("name", ["gzip", "xz"])
def test_zeros_may_follow(name: str) -> None:
    assert decompress(io.BytesIO(packed_as(name) + bytes(1024)), name).read() == CONTENT


@pytest.mark.parametrize("name", ["gzip", "bzip2", "xz", "zstd"])
def test_damage_is_an_error(name: str) -> None:
    packed = packed_as(name)
    middle = len(packed) // 2
    flipped = packed[:middle] + bytes((packed[middle] ^ 255,)) + packed[middle + 1 :]
    for damaged in (packed[:-4], packed[:middle], b"", flipped, packed + b"rubbish!"):
        with pytest.raises(ContentError):
            decompress(io.BytesIO(damaged), name).read()


def test_14_bombs_are_stopped() -> None:
    bomb = zstandard.compress(bytes(200 << 20))
    with pytest.raises(ContentError, match="times its size"):
        decompress(io.BytesIO(bomb), "zstd").read()
    for name in NAMES:
        packed = packed_as(name)
        assert len(decompress(io.BytesIO(packed), name, limit=len(CONTENT)).read()) == len(CONTENT)
        with pytest.raises(ContentError, match="more than"):
            decompress(io.BytesIO(packed), name, limit=len(CONTENT) - 1).read()


def test_14_a_window_that_takes_gigabytes_of_memory_is_refused() -> None:
    parameters = zstandard.ZstdCompressionParameters(window_log=30, enable_ldm=True)
    packed = zstandard.ZstdCompressor(compression_params=parameters).compressobj()
    frame = packed.compress(os.urandom(1 << 20)) + packed.flush()
    with pytest.raises(ContentError):
        decompress(io.BytesIO(frame), "zstd").read()


def test_small_reads_of_a_long_run_copy_no_more_than_they_return() -> None:
    packed = zstandard.compress(bytes(64 << 20))

    def cost(read: Callable[[], object]) -> float:
        began = time.thread_time()
        read()
        return time.thread_time() - began

    def in_pieces() -> None:
        reader = decompress(io.BytesIO(packed), "zstd", ratio=1 << 20)
        while reader.read(1 << 14):
            pass

    at_once = min(cost(lambda: zstandard.decompress(packed)) for _ in range(3))
    pieces = min(cost(in_pieces) for _ in range(3))
    assert pieces < 100 * at_once, "2,000 times if each copies the rest"


def test_what_is_no_archive_is_not_taken_for_one() -> None:
    for head in (b"", b"#!/bin/sh", bytes(512), b"x" * 512, CONTENT[:511]):
        assert sniff(head) is None
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        archive.addfile(tarfile.TarInfo("f"))
    assert sniff(buffer.getvalue()[:512]) == "uncompressed"
    assert sniff(b"\x50\x2a\x4d\x18" + bytes(8)) == "zstd"
