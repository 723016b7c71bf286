"""One blob upload: a growing file, and the hash of its content."""

from __future__ import annotations

import hashlib
import os
import re
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path

from shipline.files import WriteBehind, write_in_pieces
from shipline.oci import Digest
from shipline.server.http import READ, ClientGone, Coro
from shipline.server.problems import out_of_order, size_invalid, upload_unknown

_BLOCK = 1 << 20  # bytes
_FLUSH = 4 << 20  # bytes
_WRITE_THREADS = 4
_ASIDE = 512 << 10  # bytes; fewer are hashed in the time it takes to wake a thread
_QUEUED = 4  # blocks of an upload that were received, and not yet written or hashed
_ALL_QUEUED = 16  # blocks of all uploads
_STALLED_S = 5.0
_CHUNK_RANGE = re.compile(r"([0-9]{1,18})-([0-9]{1,18})\Z")


Checkpoint = tuple[int, "hashlib._Hash"]
"""The size of a session, and the hash of its bytes."""


def no_client() -> None:
    """Disconnects nobody."""


class UploadSession:
    """An unfinished upload. It holds no descriptor between requests; use it from one request at a
    time, inside `opened`.
    """

    def __init__(self, path: Path, upload_id: str, algorithm: str) -> None:
        """The file may already hold bytes. Raises FileNotFoundError."""
        self.upload_id = upload_id
        self.path = path
        self.lock = threading.Lock()
        self.cancelled = False
        self.durable = False  # its record and file name are durable
        self.fd = -1
        self.size = path.stat().st_size
        self.synced_size = 0  # bytes that are known to be durable
        self.disconnect = no_client  # ends the connection of the client that fills it
        self._awaited: tuple[float, Callable[[], None]] | None = None  # since when, from whom
        self._algorithm = algorithm
        self._hash: hashlib._Hash | None = None if self.size else hashlib.new(algorithm)

    @contextmanager
    def opened(self) -> Iterator[None]:
        """Keep the file open inside the block. Raises Problem BLOB_UPLOAD_UNKNOWN once the session
        has ended.
        """
        try:
            self.fd = os.open(self.path, os.O_RDWR | os.O_CLOEXEC)
        except FileNotFoundError:
            raise upload_unknown(self.upload_id) from None
        try:
            yield
        finally:
            os.close(self.fd)
            self.fd = -1

    def append(
        self, expected: int | None, threads: UploadThreads, check: Callable[[int, bool], None]
    ) -> Coro[int]:
        """Append the request's body; returns the number of bytes. `check`: see `uploads.Check`.

        Raises Problem, with the session unchanged, for more than `expected` bytes; raises
        ClientGone if the connection breaks, keeping what arrived.
        """
        start, before = self.checkpoint()
        writer = UploadWriter(self.fd, start, self._hasher(), threads)
        try:
            while self._add((yield from self._next()), writer, start, expected, check):
                pass
            check(self.size - start, True)
            writer.finish()
        except ClientGone:
            self._finish_or_rewind(writer, start, before)
            raise
        except BaseException:
            writer.abandon()
            self.rewind(start, before)
            raise
        return self.size - start

    def _next(self) -> Coro[bytes]:
        self._awaited = (time.monotonic(), self.disconnect)
        try:
            return (yield READ)
        finally:
            self._awaited = None

    def disconnect_stalled(self) -> None:
        """End the connection of the client that fills the session if it has sent nothing for a
        while: another request shows that it may be gone. What arrived is kept.
        """
        awaited = self._awaited
        if awaited is not None and time.monotonic() - awaited[0] > _STALLED_S:
            awaited[1]()

    def _add(
        self,
        block: bytes,
        writer: UploadWriter,
        start: int,
        expected: int | None,
        check: Callable[[int, bool], None],
    ) -> bool:
        """Write a block; False at the end of the body. Not a part of `append`, which would keep the
        block while it waits for the next.
        """
        if not block:
            return False
        if self.cancelled:
            raise upload_unknown(self.upload_id)
        if expected is not None and self.size + len(block) > start + expected:
            raise size_invalid(f"the body exceeds the announced {expected} bytes")
        check(self.size + len(block) - start, False)
        writer.write(block)
        self.size += len(block)
        return True

    def _finish_or_rewind(self, writer: UploadWriter, start: int, before: hashlib._Hash) -> None:
        try:
            writer.finish()
        except BaseException:
            writer.abandon()
            self.rewind(start, before)
            raise

    def sync(self) -> None:
        """Make the bytes durable."""
        if self.synced_size != self.size:
            os.fdatasync(self.fd)
            self.synced_size = self.size

    def reopen(self) -> None:
        """Go on with the file that is at `path` now, and allow changes."""
        self.path.chmod(0o600)
        fd = os.open(self.path, os.O_RDWR | os.O_CLOEXEC)
        os.dup2(fd, self.fd, inheritable=False)
        os.close(fd)
        self.synced_size = 0

    def checkpoint(self) -> Checkpoint:
        """A state for `rewind`."""
        return self.size, self._hasher().copy()

    def rewind(self, size: int, state: hashlib._Hash) -> None:
        """Cut the file back to the state of a `checkpoint`."""
        self.size, self._hash = size, state
        self.synced_size = min(self.synced_size, size)
        os.ftruncate(self.fd, size)

    def digest(self, algorithm: str) -> Digest:
        """The digest of all bytes; reads the file again only for another algorithm than the
        session's.
        """
        state = self._hasher() if algorithm == self._algorithm else self._hash_file(algorithm)
        return Digest(algorithm, state.hexdigest())

    def _hasher(self) -> hashlib._Hash:
        if self._hash is None:
            self._hash = self._hash_file(self._algorithm)
        return self._hash

    def _hash_file(self, algorithm: str) -> hashlib._Hash:
        state = hashlib.new(algorithm)
        for position in range(0, self.size, _BLOCK):
            state.update(os.pread(self.fd, min(_BLOCK, self.size - position), position))
        return state


class UploadThreads:
    """Threads for the work on uploads that the handlers' threads do not wait for."""

    def __init__(self) -> None:
        self.write = BlockThreads(_WRITE_THREADS, "write")
        self.hash = BlockThreads(os.cpu_count() or 1, "hash")

    def close(self) -> None:
        for threads in (self.write, self.hash):
            threads.shutdown()


class BlockThreads(ThreadPoolExecutor):
    """Threads for blocks of uploads, with `room` for a number of them, however many uploads run."""

    def __init__(self, number: int, name: str) -> None:
        super().__init__(number, thread_name_prefix=name)
        self.room = threading.BoundedSemaphore(_ALL_QUEUED)


class SerialQueue:
    """Runs `work` on blocks in their order, one at a time, on threads that others use too. The
    next block waits in the queue, so that neither side waits for the other to wake up.
    """

    def __init__(self, threads: BlockThreads, work: Callable[[bytes], object]) -> None:
        self._threads, self._work = threads, work
        self._changed = threading.Condition()
        self._blocks: deque[bytes] = deque()  # the first is being worked on
        self._busy = False
        self._failure: BaseException | None = None

    def put(self, block: bytes) -> None:
        """Waits for room. Raises what `work` raised, or RuntimeError if there is no thread; then
        it is called no more.
        """
        with self._changed:
            self._changed.wait_for(lambda: len(self._blocks) < _QUEUED)
            self._check()
        self._threads.room.acquire()
        with self._changed:
            self._blocks.append(block)
            idle = len(self._blocks) == 1
        if idle:
            self._start()

    def finish(self) -> None:
        """Wait until the queue is empty. Raises what `work` raised, and RuntimeError as `put`."""
        with self._changed:
            self._changed.wait_for(lambda: not self._blocks)
            self._check()

    def _check(self) -> None:
        if self._failure is not None:
            raise self._failure

    def _start(self) -> None:
        """Have a thread take the first block. If none can, after shutdown or because none can be
        started, the queue ends with that error.
        """
        try:
            self._threads.submit(self._step)
        except RuntimeError as failure:
            with self._changed:
                self._failure = failure
                dropped = 0 if self._busy else len(self._blocks)
                if dropped:
                    self._blocks.clear()
                self._changed.notify()
            for _ in range(dropped):
                self._threads.room.release()

    def _step(self) -> None:
        """One block, then the threads are for others."""
        with self._changed:
            if self._busy or not self._blocks:  # `submit` failed, but had queued this step
                return
            self._busy = True
        try:
            if self._failure is None:
                self._work(self._blocks[0])
        except BaseException as failure:  # raised in the caller's thread
            self._failure = failure
        with self._changed:
            self._busy = False
            self._blocks.popleft()
            more = bool(self._blocks)
            self._changed.notify()
        self._threads.room.release()
        if more:
            self._start()


class UploadWriter:
    """Writes to a file from a position on. Receiving, writing and hashing overlap, and the disk
    begins to write at once, so that the final sync is short. Uses the page cache: a pushed blob is
    likely to be pulled next.

    End it with `finish`, or with `abandon`, even after `finish` failed.
    """

    def __init__(
        self, fd: int, position: int, digest: hashlib._Hash, threads: UploadThreads
    ) -> None:
        """`digest` is updated; do not use it before the end."""
        self._fd = fd
        self._position = position
        self._on_disk = WriteBehind(fd, position, _FLUSH)
        self._digest = digest
        self._writing = SerialQueue(threads.write, self._append)
        self._hashing = SerialQueue(threads.hash, digest.update)

    def write(self, data: bytes) -> None:
        """Raises OSError, also for earlier bytes."""
        if len(data) < _ASIDE:
            self._writing.finish()
            self._hashing.finish()
            self._digest.update(data)
            self._append(data)
        else:
            self._hashing.put(data)
            self._writing.put(data)

    def finish(self) -> None:
        """Wait for what runs in the background. Raises OSError."""
        self._writing.finish()
        self._on_disk.flush(self._position)
        self._hashing.finish()

    def abandon(self) -> None:
        """Stop writing; the file is left as is."""
        for queue in (self._writing, self._hashing):
            with suppress(OSError, RuntimeError):  # the caller already has an error
                queue.finish()

    def _append(self, data: bytes) -> None:
        self._position = write_in_pieces(self._fd, data, self._position)
        self._on_disk.grown(self._position)


def expected_size(size: int, content_range: str | None, length: int | None) -> int | None:
    """The size of a chunk, from its Content-Range or length. Raises Problem 416 unless it begins at
    `size` (end-5).
    """
    if content_range is None:
        return length
    match = _CHUNK_RANGE.match(content_range)
    if match is None:
        raise out_of_order(size, f"Content-Range must look like 0-1023, not {content_range[:60]!r}")
    first, last = int(match[1]), int(match[2])
    if first != size or last < first:
        raise out_of_order(size, f"the next chunk begins at {size}, not at {first}")
    if length is not None and length != last - first + 1:
        raise out_of_order(size, f"a chunk {content_range} does not have {length} bytes")
    return last - first + 1
