"""Bytes on their way into a file: past the page cache, while the next ones are read and hashed.

A registry writes gigabytes that it does not read again soon. Through the page cache each of them is
copied once more, pushes out what pulls want, and makes every fsync of the small records beside them
wait. So whole blocks go to the disk directly (open(2), O_DIRECT), from a second thread once a body
is longer than one block. What direct writes cannot do is written the plain way: the bytes up to an
aligned position, those after the last one, small bodies, everything on file systems without
O_DIRECT, and what comes while so many others write that the blocks have run out.
"""

from __future__ import annotations

import errno
import fcntl
import mmap
import os
import queue
import threading
from collections import deque

from shipline.tasks import Task, TaskGroup

BLOCK = 1 << 20  # bytes written at a time
_ALIGNED = 4096  # bytes: positions and sizes of direct writes are multiples
_SMALL = 64 << 10  # bytes; less than this is cheaper through the page cache
_AHEAD = 3  # blocks of one upload: being filled, waiting, being written
_IDLE = 16  # blocks kept for uploads to come
_MOST = 96  # blocks in use: a crowd of uploads goes through the page cache

Block = mmap.mmap  # page aligned, as direct writes ask for


class Blocks:
    """At most `most` buffers of BLOCK bytes, used again. Safe to use from any thread."""

    def __init__(self, most: int = _MOST) -> None:
        self._idle: deque[Block] = deque(maxlen=_IDLE)
        self._left = threading.Semaphore(most)

    def take(self) -> Block | None:
        """A buffer to `give` back, None where all are in use."""
        if not self._left.acquire(blocking=False):
            return None
        try:
            return self._idle.pop()
        except IndexError:
            return mmap.mmap(-1, BLOCK)

    def give(self, block: Block) -> None:
        self._idle.append(block)
        self._left.release()


class Intake:
    """Writes to `fd` from `position` on; used by one thread. Until `finish` the file lacks some.

    End it with `finish`, or with `abandon`, also after a `finish` that failed.
    """

    def __init__(self, fd: int, position: int, blocks: Blocks) -> None:
        self._fd = fd
        self._position = position  # in the file, of the first byte that is staged
        self._blocks = blocks
        self._staged = blocks.take()
        self._fill = 0
        self._writer: _Writer | None = None
        self._full_blocks = 0
        self._ended = False

    def write(self, data: bytes) -> None:
        """Take bytes. Raises OSError where the disk refused these or earlier ones."""
        view = memoryview(data)
        if not self._fill and self._position % _ALIGNED:
            head, view = _cut(view, -self._position % _ALIGNED)
            _write_all(self._fd, head, self._position)
            self._position += len(head)
        while view and self._staged is not None:
            part, view = _cut(view, BLOCK - self._fill)
            self._staged[self._fill : self._fill + len(part)] = part
            self._fill += len(part)
            if self._fill == BLOCK:
                self._pass_on(self._staged)
        _write_all(self._fd, view, self._position)
        self._position += len(view)

    def finish(self) -> None:
        """Have everything in the file. Raises OSError where the disk refused some of it."""
        try:
            self._wait()
            rest = memoryview(self._staged or b"")[: self._fill]
            whole, tail = _cut(rest, self._fill - self._fill % _ALIGNED)
            if self._fill >= _SMALL:
                _write_direct(self._fd, whole, self._position)
            else:
                whole, tail = rest[:0], rest
            _write_all(self._fd, tail, self._position + len(whole))
        finally:
            self._release()

    def abandon(self) -> None:
        """Stop writing; the file is left as it is."""
        try:
            self._wait()
        except OSError:
            pass  # the caller has a failure of its own, and takes back what was written
        finally:
            self._release()

    def _pass_on(self, block: Block) -> None:
        """The first block is written here: most blobs are no longer than that."""
        position = self._position
        self._position += BLOCK
        self._fill = 0
        if self._full_blocks and self._writer is None:
            self._writer = _writer(self._fd, self._blocks)
        if self._writer is None:
            _write_direct(self._fd, memoryview(block), position)
        else:
            self._staged = self._writer.exchange(block, position)
            self._writer.check()
        self._full_blocks += 1

    def _wait(self) -> None:
        writer, self._writer = self._writer, None
        if writer is not None:
            writer.close()

    def _release(self) -> None:
        if not self._ended:
            self._ended = True
            if self._staged is not None:
                self._blocks.give(self._staged)


def _writer(fd: int, blocks: Blocks) -> _Writer | None:
    """A thread with blocks of its own, None where they have run out."""
    taken = [blocks.take() for _ in range(_AHEAD - 1)]
    free = [block for block in taken if block is not None]
    if len(free) == len(taken):
        return _Writer(fd, blocks, free)
    for block in free:
        blocks.give(block)
    return None


class _Writer:
    """A thread that writes blocks in the order in which they are handed to it."""

    def __init__(self, fd: int, blocks: Blocks, free: list[Block]) -> None:
        self._fd = fd
        self._blocks = blocks
        self._failure: OSError | None = None
        self._full: queue.SimpleQueue[tuple[Block, int] | None] = queue.SimpleQueue()
        self._free: queue.SimpleQueue[Block] = queue.SimpleQueue()
        for block in free:
            self._free.put(block)
        self._group = TaskGroup()
        self._task: Task[None] = self._group.start(self._run)

    def exchange(self, block: Block, position: int) -> Block:
        """Hand over a full block for an empty one."""
        self._full.put((block, position))
        return self._free.get()

    def check(self) -> None:
        """Raises the failure of an earlier write."""
        if self._failure is not None:
            raise self._failure

    def close(self) -> None:
        """Wait until all is written. Raises the failure of a write."""
        self._full.put(None)
        self._group.join()
        while not self._free.empty():
            self._blocks.give(self._free.get())
        self.check()

    def _run(self) -> None:
        while (job := self._full.get()) is not None:
            block, position = job
            if self._failure is None:
                try:
                    _write_direct(self._fd, memoryview(block), position)
                except OSError as failure:  # raised where the next block comes from
                    self._failure = failure
            self._free.put(block)


def _cut(view: memoryview, size: int) -> tuple[memoryview, memoryview]:
    return view[:size], view[size:]


def _write_direct(fd: int, view: memoryview, position: int) -> None:
    """Write aligned bytes at an aligned position, past the page cache where that is possible."""
    flags = fcntl.fcntl(fd, fcntl.F_GETFL)
    try:
        fcntl.fcntl(fd, fcntl.F_SETFL, flags | os.O_DIRECT)
        _write_all(fd, view, position)
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise
        fcntl.fcntl(fd, fcntl.F_SETFL, flags)
        _write_all(fd, view, position)
    finally:
        fcntl.fcntl(fd, fcntl.F_SETFL, flags)


def _write_all(fd: int, view: memoryview, position: int) -> None:
    """All of it; a short direct write may end unaligned, then the rest goes the plain way."""
    while view:
        written = os.pwrite(fd, view, position)
        position += written
        view = view[written:]
