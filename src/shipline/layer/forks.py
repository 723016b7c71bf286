"""Jobs whose results are in shared memory, by threads or by forked processes.

Python runs in one thread of a process at a time: where jobs are many small calls, only processes
use all cores. They are forked before the jobs are known, which this one goes on finding, and live
as long as the block. They use nothing that another thread may have held at that time: files, hashes
and compression, but no locks of this program and no imports. A job that fails there, or whose
process was killed, is done again here: processes change no result and no error.
"""

from __future__ import annotations

import ctypes
import gc
import marshal
import mmap
import os
import select
import signal
import socket
import struct
import warnings
from collections.abc import Callable, Collection, Generator, Iterable, Iterator
from contextlib import ExitStack, closing, contextmanager, suppress
from functools import partial
from itertools import count
from typing import Any, Generic, Protocol, TypeVar

from msgspec import Struct

from shipline.tasks import CPUS, check, on_cancel, ordered_map

_AHEAD = 4  # jobs that wait for a thread or process to be free
_DIE_WITH_PARENT = 1  # PR_SET_PDEATHSIG, prctl(2): with the thread that forked
_MESSAGE = 1 << 17  # bytes
_NUMBER = struct.Struct("<I")

Job = TypeVar("Job")


class JobWorker(Protocol[Job]):
    def make(self, job: Job, view: memoryview) -> bytes:
        """Do the job: fill the memory, and return what else there is to say."""

    def pack(self, job: Job) -> bytes:
        """The job, for another process."""

    def unpack(self, packed: memoryview) -> Job:
        """The job from `pack`."""


class _Process(Struct, frozen=True, eq=False):
    pid: int
    socket: socket.socket
    jobs: list[int]  # those that it has to do


class SharedJobs(Generic[Job]):
    """Jobs, each with `size` bytes of memory, which it has until as many jobs are released; the
    consumer may hold `lag` of them. They are read when there is memory for them.
    """

    def __init__(self, jobs: Iterable[Job], worker: JobWorker[Job], *, size: int, lag: int) -> None:
        self._jobs, self._worker, self._size = iter(jobs), worker, size
        self._slots = lag + CPUS + _AHEAD + 2
        self._memory = memoryview(mmap.mmap(-1, self._slots * size))
        self._released = self._next = 0
        self._processes: list[_Process] = []
        self._alive: list[_Process] = []
        self._held: dict[int, Job] = {}
        self._done: dict[int, bytes] = {}

    def release(self) -> None:
        """The memory of the next job is no longer used. From any one thread."""
        self._released += 1

    def on_threads(self) -> Generator[tuple[Job, memoryview, bytes], None, None]:
        """Each job, its memory and its message, in order."""
        with closing(ordered_map(self._do, enumerate(self._jobs), ahead=_AHEAD)) as done:
            yield from done

    def on_processes(
        self, files: Collection[int]
    ) -> Generator[tuple[Job, memoryview, bytes], None, None]:
        """The same, by processes, which keep these open `files`; by threads where none starts."""
        try:
            for _ in range(CPUS):
                self._processes.append(self._fork(files))
        except OSError:
            if not self._processes:
                yield from self.on_threads()
                return
        self._alive = list(self._processes)
        try:
            with on_cancel(self._kill):
                for number in count():
                    self._assign()
                    if number == self._next:
                        return
                    while number not in self._done:
                        self._receive()
                        check()
                        self._assign()
                    job, message = self._held.pop(number), self._done.pop(number)
                    yield (job, self._view(number), message) if message else self._do((number, job))
        finally:
            self._kill()
            for process in self._processes:
                process.socket.close()
                os.waitpid(process.pid, 0)

    def _view(self, number: int) -> memoryview:
        start = number % self._slots * self._size
        return self._memory[start : start + self._size]

    def _do(self, numbered: tuple[int, Job]) -> tuple[Job, memoryview, bytes]:
        number, job = numbered
        view = self._view(number)
        return job, view, self._worker.make(job, view)

    def _assign(self) -> None:
        """Give the processes jobs whose memory is free, or leave them to this one."""
        while self._next < self._released + self._slots:
            process = min(self._alive, key=lambda one: len(one.jobs), default=None)
            if process is not None and len(process.jobs) == _AHEAD:
                return
            job = next(self._jobs, None)
            if job is None:
                return
            self._held[self._next] = job
            packed = self._worker.pack(job)
            if process is None or len(packed) > self._size:
                self._done[self._next] = b""
            else:
                self._view(self._next)[: len(packed)] = packed
                process.jobs.append(self._next)
                with suppress(OSError):  # it was killed, which `_receive` sees
                    process.socket.send(_NUMBER.pack(self._next))
            self._next += 1

    def _receive(self) -> None:
        """Wait for processes, and take what they have done."""
        poll = select.poll()
        for process in self._alive:
            poll.register(process.socket, select.POLLIN)
        ready = {fd for fd, _ in poll.poll()}
        for process in [one for one in self._alive if one.socket.fileno() in ready]:
            message = b""
            with suppress(OSError):
                message = process.socket.recv(_MESSAGE)
            if message:
                (number,) = _NUMBER.unpack(message[: _NUMBER.size])
                process.jobs.remove(number)
                self._done[number] = message[_NUMBER.size :]
            else:
                self._alive.remove(process)
                self._done |= dict.fromkeys(process.jobs, b"")

    def _kill(self) -> None:
        for process in self._processes:
            os.kill(process.pid, signal.SIGKILL)

    def _fork(self, files: Collection[int]) -> _Process:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            try:
                pid = _fork(partial(self._serve, theirs), {theirs.fileno(), *files})
            except OSError:
                ours.close()
                raise
        return _Process(pid, ours, [])

    def _serve(self, jobs: socket.socket) -> None:
        """Do jobs until there are no more."""
        while job := jobs.recv(_NUMBER.size):
            message = b""
            with suppress(Exception):  # raised again by the other process
                view = self._view(*_NUMBER.unpack(job))
                message = self._worker.make(self._worker.unpack(view), view)
            jobs.send(job + message)


@contextmanager
def aside(compute: Callable[[], Any], files: Collection[int]) -> Iterator[Callable[[float], Any]]:
    """Compute a value that `marshal` knows in a forked process, which keeps these open `files`.

    Yields a function that waits for it so many seconds; None if there is none by then.
    """

    def serve() -> None:
        with open(memory, "wb", closefd=False) as file:
            marshal.dump(compute(), file)

    def result(timeout_s: float) -> Any:
        if ended is None:
            return None
        poll = select.poll()
        poll.register(ended, select.POLLIN)
        with on_cancel(lambda: os.kill(pid, signal.SIGKILL)):
            poll.poll(timeout_s * 1000)
        with open(memory, "rb", closefd=False) as file, suppress(EOFError, ValueError, TypeError):
            file.seek(0)
            return marshal.loads(file.read())
        return None

    ended: int | None = None
    with ExitStack() as stack:
        with suppress(OSError):  # some sandboxes have none of these calls
            memory = os.memfd_create("aside")
            stack.callback(os.close, memory)
            pid = _fork(serve, {memory, *files})
            stack.callback(os.waitpid, pid, 0)
            stack.callback(os.kill, pid, signal.SIGKILL)
            ended = os.pidfd_open(pid)
            stack.callback(os.close, ended)
        yield result


def _fork(work: Callable[[], object], files: Collection[int]) -> int:
    """Start a process that ends with this `work` or with the calling thread. Raises OSError.

    Returns its pid. What is open there but these `files` is closed, since it belongs to others.
    """
    parent = os.getpid()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of threads, see above
        pid = os.fork()
    if pid:
        return pid
    try:
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        gc.disable()
        _prctl(_DIE_WITH_PARENT, signal.SIGKILL)
        # not closerange: without close_range(2) it tries all numbers, a billion in some containers
        for file in set(map(int, os.listdir("/proc/self/fd"))) - {0, 1, 2, *files}:
            with suppress(OSError):  # that of the list itself
                os.close(file)
        if os.getppid() == parent:
            work()
    finally:
        os._exit(0)


_prctl = ctypes.CDLL(None).prctl
