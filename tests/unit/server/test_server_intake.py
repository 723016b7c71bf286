"""What arrives is what the file holds, wherever it begins and however it is cut."""

from __future__ import annotations

import errno
import fcntl
import os
import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shipline.server.intake import BLOCK, Blocks, Intake

_NOISE = os.urandom(6 * BLOCK)


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
    path = tmp_path_factory.mktemp("intake") / "file"
    path.write_bytes(_NOISE[:start])
    fd = os.open(path, os.O_RDWR)
    end = start + sum(cuts)
    source = (_NOISE * 3)[:end]
    intake = Intake(fd, start, Blocks())
    position = start
    for size in cuts:
        intake.write(source[position : position + size])
        position += size
    intake.finish()
    assert not fcntl.fcntl(fd, fcntl.F_GETFL) & os.O_DIRECT
    os.close(fd)
    assert path.read_bytes() == source


@pytest.mark.parametrize("blocks_written", [0, 1, 4])
def test_refusal_of_the_disk_reaches_the_writer(tmp_path: Path, blocks_written: int) -> None:
    pool = Blocks()
    fd = os.open(tmp_path / "file", os.O_RDWR | os.O_CREAT)
    intake = Intake(fd, 0, pool)
    with _longest_file(blocks_written * BLOCK + 8192), pytest.raises(OSError) as refused:
        for _ in range(6):
            intake.write(_NOISE[:BLOCK])
        intake.finish()
    intake.abandon()
    os.close(fd)
    assert refused.value.errno == errno.EFBIG
    kept = [pool.take() for _ in range(8)]
    assert len({id(block) for block in kept}) == len(kept)  # no buffer was handed back twice


def test_abandoned_intake_leaves_no_thread_and_no_flag(tmp_path: Path) -> None:
    fd = os.open(tmp_path / "file", os.O_RDWR | os.O_CREAT)
    intake = Intake(fd, 0, Blocks())
    intake.write(_NOISE)
    intake.abandon()
    assert not fcntl.fcntl(fd, fcntl.F_GETFL) & os.O_DIRECT
    os.close(fd)


def test_file_system_without_direct_writes_will_do(tmp_path: Path) -> None:
    fd = os.memfd_create("intake")
    intake = Intake(fd, 0, Blocks())
    intake.write(_NOISE)
    intake.finish()
    assert os.pread(fd, len(_NOISE), 0) == _NOISE
    os.close(fd)


@contextmanager
def _longest_file(size: int) -> Iterator[None]:
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_blocks_run_out_and_come_back(tmp_path: Path) -> None:
    """Without a block bytes go the plain way; a file is as it must be either way."""
    pool, paths = Blocks(most=4), [tmp_path / str(number) for number in range(4)]
    fds = [os.open(path, os.O_RDWR | os.O_CREAT) for path in paths]
    intakes = [Intake(fd, 0, pool) for fd in fds]
    assert pool.take() is None
    for first in range(0, len(_NOISE), 300_000):
        for intake in intakes:
            intake.write(_NOISE[first : first + 300_000])
    more = Intake(fds[0], 0, pool)  # while all blocks are in use
    more.write(_NOISE[:100_000])
    more.write(_NOISE[100_000:200_000])
    more.finish()
    for intake in intakes:
        intake.finish()
    for fd, path in zip(fds, paths, strict=True):
        os.close(fd)
        assert path.read_bytes() == _NOISE
    assert all(pool.take() is not None for _ in range(4))
