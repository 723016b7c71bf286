"""An upload's file holds exactly the received bytes, from any offset and in any pieces."""

from __future__ import annotations

import errno
import hashlib
import os
import resource
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shipline.server.upload_session import (
    BlockThreads,
    SerialQueue,
    UploadSession,
    UploadThreads,
    UploadWriter,
)

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


def test_blocks_are_worked_on_in_order_and_one_at_a_time() -> None:
    seen, turn = list[bytes](), threading.Lock()

    def work(block: bytes) -> None:
        assert turn.acquire(blocking=False)
        seen.append(block)
        turn.release()

    blocks = [b"%d" % number for number in range(200)]
    queue = SerialQueue(_THREADS.hash, work)
    for block in blocks:
        queue.put(block)
    queue.finish()
    assert seen == blocks


def test_a_queue_has_room_for_few_blocks() -> None:
    slow, put = threading.Event(), threading.Semaphore(0)
    queue = SerialQueue(_THREADS.hash, lambda block: slow.wait())

    def fill() -> None:
        for _ in range(20):
            queue.put(b"block")
            put.release()

    filler = threading.Thread(target=fill)
    filler.start()
    for _ in range(4):
        put.acquire()
    assert not put.acquire(timeout=0.05)
    slow.set()
    filler.join()
    queue.finish()


def _failure_of(call: Callable[[], object]) -> BaseException | None:
    """What `call` raises; it must end."""
    raised = list[BaseException | None]()

    def run() -> None:
        try:
            call()
        except BaseException as failure:
            raised.append(failure)
        else:
            raised.append(None)

    caller = threading.Thread(target=run, daemon=True)
    caller.start()
    caller.join(20)
    (failure,) = raised
    return failure


def test_a_queue_whose_threads_are_shut_down_ends_with_the_error() -> None:
    slow, begun, threads, seen = threading.Event(), threading.Event(), BlockThreads(1, "t"), [b""]

    def work(block: bytes) -> None:
        begun.set()
        slow.wait()
        seen.append(block)

    queue = SerialQueue(threads, work)
    for block in (b"1", b"2", b"3"):
        queue.put(block)
    assert begun.wait(20)
    threads.shutdown(wait=False)
    slow.set()
    assert isinstance(_failure_of(queue.finish), RuntimeError)
    assert isinstance(_failure_of(lambda: queue.put(b"4")), RuntimeError)
    assert seen == [b"", b"1"]
    assert all(threads.room.acquire(blocking=False) for _ in range(16))


def test_an_upload_without_threads_is_refused_and_can_be_abandoned(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fd, threads = os.open(tmp_path / "file", os.O_RDWR | os.O_CREAT), UploadThreads()
    writer = UploadWriter(fd, 0, hashlib.sha256(), threads)
    for pool in (threads.write, threads.hash):
        monkeypatch.setattr(pool, "_adjust_thread_count", _no_thread)
    writer.write(_NOISE[:BLOCK])
    monkeypatch.undo()
    assert isinstance(_failure_of(writer.finish), RuntimeError)
    assert _failure_of(writer.abandon) is None
    other = SerialQueue(threads.write, lambda block: None)
    other.put(b"block")  # its thread also takes the step that was queued before
    assert _failure_of(other.finish) is None
    threads.close()
    assert os.fstat(fd).st_size == 0
    os.close(fd)


def _no_thread() -> None:
    raise RuntimeError("can't start new thread")


def test_all_uploads_together_have_room_for_few_blocks() -> None:
    slow, threads, put = threading.Event(), UploadThreads(), list[None]()
    queues = [SerialQueue(threads.write, lambda block: slow.wait()) for _ in range(50)]

    def fill(queue: SerialQueue) -> None:
        queue.put(b"block")
        put.append(None)

    fillers = [threading.Thread(target=fill, args=(queue,)) for queue in queues]
    for filler in fillers:
        filler.start()
    fillers[-1].join(0.05)
    room = len(put)
    slow.set()
    for filler, queue in zip(fillers, queues, strict=True):
        filler.join()
        queue.finish()
    threads.close()
    assert room <= 16


def test_an_upload_that_waits_for_its_client_keeps_no_block(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    session, block = UploadSession(tmp_path / "file", "id", "sha256"), _NOISE[: BLOCK - 1]
    with session.opened():
        upload = session.append(None, _THREADS, lambda size, complete: None)
        next(upload)
        unused = sys.getrefcount(block)
        upload.send(block)
        deadline = time.monotonic() + 60
        while sys.getrefcount(block) > unused and time.monotonic() < deadline:
            time.sleep(0.01)
        kept = sys.getrefcount(block) - unused
        upload.close()
    assert kept == 0


def test_after_a_failure_no_block_is_worked_on() -> None:
    seen = list[bytes]()

    def work(block: bytes) -> None:
        seen.append(block)
        raise OSError(errno.EIO, "broken")

    queue = SerialQueue(_THREADS.write, work)
    with pytest.raises(OSError, match="broken"):
        for _ in range(10):
            queue.put(b"block")
    for _ in range(2):
        with pytest.raises(OSError, match="broken"):
            queue.finish()
    assert len(seen) == 1


@contextmanager
def _longest_file(size: int) -> Iterator[None]:
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
