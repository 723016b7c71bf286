"""Work for an upstream, done once for all requests that wait for it; blobs as they arrive.

A blob is written to a file of the directory's `uploads`, and sent to every client from there while
it grows. Its last bytes are held back until the digest is right, so that no client can complete
other content. Then it becomes a blob of the repository as if it had been pushed.
"""

from __future__ import annotations

import contextvars
import os
import threading
import time
import uuid
from collections.abc import Callable, Hashable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

from shipline.content import Fetcher
from shipline.files import write_in_pieces
from shipline.oci import Descriptor
from shipline.server.http import Beyond, Coro, Growing, GrowingNumber
from shipline.server.upstreams.cached import CachedContent

HELD_BACK = 64 << 10  # bytes of a blob that wait for its digest
_FIRST_READ, _LARGEST_READ = 64 << 10, 1 << 20  # bytes
_CHECK_EVERY = 16 << 20  # bytes between two looks at the free space
_QUICK_S, _SLOW_S = 0.005, 0.05  # of one read: larger, smaller ones follow


class Flight:
    """Work that runs once; `progress` ends with it, and `result` is what it returned."""

    def __init__(self, work: Callable[[], object]) -> None:
        self.progress = GrowingNumber()
        self.result: Any = None
        self._work = work

    def run(self) -> None:
        """Raises nothing: those that wait do."""
        try:
            self.result = self._work()
        except BaseException as error:
            self.progress.end(error)
        else:
            self.progress.end()

    def wait(self, beyond: int | None = None) -> Coro[BaseException | None]:
        """Wait for the end, or for more than `beyond`, without a thread; returns the error.

        Others may get the same error, so none is raised.
        """
        while not self.progress.ended and (beyond is None or self.progress.value <= beyond):
            yield Beyond(self.progress, self.progress.value)
        return self.progress.error


class Fill(Flight):
    """A blob on its way into a repository; `progress` is the number of bytes that may be sent."""

    def __init__(
        self,
        cached: CachedContent,
        name: str,
        target: Descriptor,
        source: Fetcher,
        call: Callable[[Callable[[], None]], None],
        exists: Callable[[], int | None],
        check_room: Callable[[int], None],
    ) -> None:
        """`call` calls what asks the upstream; `exists` returns the size if the repository has it
        now; `check_room` raises Problem if so many bytes are too many.
        """
        super().__init__(self._fill)
        self._cached, self._name, self._target = cached, name, target
        self._source, self._call, self._exists = source, call, exists
        self._check_room, self._size = check_room, target.size
        self._lock = threading.Lock()
        self._fd = -1
        self._names = {name}

    def add_to(self, name: str) -> None:
        """Add the blob to another repository, too, which is known to have it."""
        with self._lock:
            self._names.add(name)

    def part(self) -> Growing:
        """All of it, to be sent."""
        return Growing(self._open, 0, self._size, self.progress)

    def _open(self) -> int:
        with self._lock:
            if self._fd >= 0:
                return os.dup(self._fd)
        path = self._cached.storage.store.path(self._target.digest)
        return os.open(path, os.O_RDONLY | os.O_CLOEXEC)

    def _fill(self) -> None:
        storage, size = self._cached.storage, self._target.size
        stored = self._exists()
        if stored is None:
            self._check_room(size)
            path = storage.incoming / f"fill-{uuid.uuid4()}"
            self._fd = os.open(path, os.O_CREAT | os.O_EXCL | os.O_RDWR | os.O_CLOEXEC, 0o600)
            try:
                self._call(self._receive)
                self.progress.advance(size)
                self._cached.add_blob(self._name, self._target, path, self._fd)
                with self._lock:
                    others = self._names - {self._name}
                for name in others:
                    self._cached.mount_blob(name, self._target.digest, self._name.__eq__)
            except BaseException:
                path.unlink(missing_ok=True)
                raise
            finally:
                with self._lock:
                    fd, self._fd = self._fd, -1
                os.close(fd)
        else:  # whatever the upstream says
            self._size = stored
        self.progress.advance(self._size)

    def _receive(self) -> None:
        """Small reads while bytes come slowly, so that clients get them soon."""
        size, position, checked, step = self._target.size, 0, 0, _FIRST_READ
        sendable = size - HELD_BACK
        with self._source.fetch(self._target) as reader:
            began = time.monotonic()
            while data := reader.read(step):
                if position - checked >= _CHECK_EVERY:  # others write, too
                    self._check_room(size - position)
                    checked = position
                position = write_in_pieces(self._fd, data, position)
                self.progress.advance(max(0, min(position, sendable)))
                now = time.monotonic()
                if now - began < _QUICK_S:
                    step = min(step * 2, _LARGEST_READ)
                elif now - began > _SLOW_S:
                    step = max(step // 2, _FIRST_READ)
                began = now


F = TypeVar("F", bound=Flight)


class Flights:
    """The flights in progress, one per key, each on a thread. Safe to use from any thread."""

    def __init__(self, threads: int) -> None:
        self._threads = ThreadPoolExecutor(threads, thread_name_prefix="upstream")
        self._context = contextvars.copy_context()
        self._lock = threading.Lock()
        self._flights: dict[Hashable, Flight] = {}

    def __len__(self) -> int:
        return len(self._flights)

    def attach(self) -> None:
        """Interrupt flights when the calling thread's scope is cancelled."""
        self._context = contextvars.copy_context()

    def close(self) -> None:
        """Wait for the flights in progress; others do not start."""
        self._threads.shutdown(cancel_futures=True)

    def join(self, key: Hashable, make: Callable[[], F]) -> tuple[F, bool]:
        """The flight for the key, and whether it was in progress; else the one that `make` returns
        is started. Raises RuntimeError after `close`.
        """
        with self._lock:
            known = self._flights.get(key)
            if known is not None and not known.progress.ended:
                return known, True  # type: ignore[return-value]  # a key has one kind
            flight = self._flights[key] = make()
            self._threads.submit(self._context.copy().run, self._run, key, flight)
            return flight, False

    def _run(self, key: Hashable, flight: Flight) -> None:
        try:
            flight.run()
        finally:
            with self._lock:
                if self._flights.get(key) is flight:  # no later one
                    del self._flights[key]
