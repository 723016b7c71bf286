"""An upload's file holds exactly the received bytes, from any offset and in any pieces."""

from __future__ import annotations

import errno
import hashlib
import os
import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shipline.server.upload_session import UploadThreads, UploadWriter

BLOCK = 1 << 20
_NOISE = os.urandom(6 * BLOCK)
_THREADS = UploadThreads()


@settings(max_examples=40, deadline=None)
@given(
    start=st.sampled_from([0, 1, 4095, 4096, 100_000, BLOCK, BLOCK + 7]),
    cuts=st.lists(
        st.sampled_from(
            [1, 7, 4096, 65_535, 65_536, 300_000, BLOCK - 1, BLOCK, BLOCK + 1, 2 << 20]
        ),
        max_size=5,
    ),
)
def test_file_holds_what_was_written(
    tmp_path_factory: pytest.TempPathFactory, start: int, cuts: list[int]
) -> None:
    path = tmp_path_factory.mktemp("session") / "file"
    path.write_bytes(_NOISE[:start])
    fd = os.open(path, os.O_RDWR)
    end = start + sum(cuts)
    source = (_NOISE * 3)[:end]
    digest = hashlib.sha256()
    writer = UploadWriter(fd, start, digest, _THREADS)
    position = start
    for size in cuts:
        writer.write(source[position : position + size])
        position += size
    writer.finish()
    os.close(fd)
    assert path.read_bytes() == source
    assert digest.digest() == hashlib.sha256(source[start:]).digest()


@pytest.mark.parametrize("blocks_written", [0, 1, 4])
def test_refusal_of_the_disk_reaches_the_writer(tmp_path: Path, blocks_written: int) -> None:
    fd = os.open(tmp_path / "file", os.O_RDWR | os.O_CREAT)
    writer = UploadWriter(fd, 0, hashlib.sha256(), _THREADS)
    with _longest_file(blocks_written * BLOCK + 8192), pytest.raises(OSError) as refused:
        for _ in range(6):
            writer.write(_NOISE[:BLOCK])
        writer.finish()
    writer.abandon()
    os.close(fd)
    assert refused.value.errno == errno.EFBIG


def test_nothing_is_written_after_the_writer_was_abandoned(tmp_path: Path) -> None:
    fd = os.open(tmp_path / "file", os.O_RDWR | os.O_CREAT)
    for _ in range(20):
        writer = UploadWriter(fd, 0, hashlib.sha256(), _THREADS)
        for _ in range(20):
            writer.write(_NOISE[:BLOCK])
        writer.abandon()
        os.ftruncate(fd, 0)
        assert os.fstat(fd).st_size == 0
    os.close(fd)


@contextmanager
def _longest_file(size: int) -> Iterator[None]:
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
