"""One blob on its way in: a file that grows, and the digest of what is in it."""

from __future__ import annotations

import hashlib
import os
import re
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, Future
from contextlib import contextmanager, suppress
from pathlib import Path

from shipline.oci import Digest
from shipline.server.http import READ, ClientGone, Steps
from shipline.server.problems import out_of_order, size_invalid, upload_unknown

_BLOCK = 1 << 20  # bytes
_SYNC = 16 << 20  # bytes after which the disk begins to take them
_CHUNK_RANGE = re.compile(r"([0-9]{1,18})-([0-9]{1,18})\Z")


class UploadSession:
    """One unfinished upload. Between requests it holds no descriptor; its methods are called by one
    request at a time, inside `opened`.
    """

    def __init__(self, path: Path, identity: str, algorithm: str) -> None:
        """The file may hold bytes of an earlier process. Raises FileNotFoundError."""
        self.identity = identity
        self.path = path
        self.lock = threading.Lock()
        self.cancelled = False
        self.rooted = False  # its record and the name of its file are on the disk
        self.fd = -1
        self.size = path.stat().st_size
        self.kept = self.size  # bytes that are on the disk
        self._algorithm = algorithm
        self._hash: hashlib._Hash | None = None if self.size else hashlib.new(algorithm)

    @contextmanager
    def opened(self) -> Iterator[None]:
        """Have the file open. Raises FileNotFoundError once the session has ended."""
        self.fd = os.open(self.path, os.O_RDWR | os.O_CLOEXEC)
        try:
            yield
        finally:
            os.close(self.fd)
            self.fd = -1

    def append(
        self, promised: int | None, threads: Executor, check: Callable[[int, bool], None]
    ) -> Steps[int]:
        """Add what comes; returns the number of bytes. `check`: see `uploads.Check`.

        Raises Problem, and leaves the session as it was, for more than `promised` bytes; ClientGone
        where the rest does not come, and what came is kept.
        """
        start, before = self.mark()
        seen = self._seen()
        writer = UploadWriter(self.fd, start, threads)
        try:
            while block := (yield READ):
                if self.cancelled:
                    raise upload_unknown(self.identity)
                if promised is not None and self.size + len(block) > start + promised:
                    raise size_invalid(f"more than the promised {promised} bytes came")
                check(self.size + len(block) - start, False)
                writer.write(block)
                seen.update(block)
                self.size += len(block)
            check(self.size - start, True)
            writer.finish()
        except ClientGone:
            self._finish(writer, start, before)
            raise
        except BaseException:
            writer.abandon()
            self.rewind(start, before)
            raise
        return self.size - start

    def _finish(self, writer: UploadWriter, start: int, before: hashlib._Hash) -> None:
        try:
            writer.finish()
        except BaseException:
            writer.abandon()
            self.rewind(start, before)
            raise

    def keep(self) -> None:
        """Make what came durable."""
        if self.kept != self.size:
            os.fdatasync(self.fd)
            self.kept = self.size

    def mark(self) -> tuple[int, hashlib._Hash]:
        """Where `rewind` can go back to."""
        return self.size, self._seen().copy()

    def rewind(self, size: int, state: hashlib._Hash) -> None:
        self.size, self._hash = size, state
        self.kept = min(self.kept, size)
        os.ftruncate(self.fd, size)

    def digest(self, algorithm: str) -> Digest:
        """Of all bytes; read again only for another algorithm than the session began with."""
        state = self._seen() if algorithm == self._algorithm else self._hashed(algorithm)
        return Digest(algorithm, state.hexdigest())

    def _seen(self) -> hashlib._Hash:
        if self._hash is None:
            self._hash = self._hashed(self._algorithm)
        return self._hash

    def _hashed(self, algorithm: str) -> hashlib._Hash:
        state = hashlib.new(algorithm)
        for position in range(0, self.size, _BLOCK):
            state.update(os.pread(self.fd, min(_BLOCK, self.size - position), position))
        return state


class UploadWriter:
    """Writes to a file from a position on, and has the disk take what is there meanwhile, so that
    the last sync is short. Through the page cache: what was pushed is what will be pulled next.

    End it with `finish`, or with `abandon`, also after a `finish` that failed.
    """

    def __init__(self, fd: int, position: int, threads: Executor) -> None:
        self._fd = fd
        self._position = self._synced = position
        self._threads = threads
        self._syncing: Future[None] | None = None

    def write(self, data: bytes) -> None:
        """Raises OSError where the disk refuses these bytes or earlier ones."""
        view = memoryview(data)
        while view:
            written = os.pwrite(self._fd, view, self._position)
            self._position += written
            view = view[written:]
        if self._position - self._synced >= _SYNC:
            self._sync()

    def finish(self) -> None:
        """Raises OSError where the disk refused some bytes."""
        if self._syncing is not None:
            self._syncing.result()

    def abandon(self) -> None:
        """Stop writing; the file is left as it is."""
        with suppress(OSError):  # the caller has a failure of its own
            self.finish()

    def _sync(self) -> None:
        if self._syncing is None or self._syncing.done():
            self.finish()
            self._syncing = self._threads.submit(os.fdatasync, self._fd)
            self._synced = self._position


def promised_size(size: int, span: str | None, length: int | None) -> int | None:
    """How many bytes a chunk must have. Raises Problem 416 unless it begins at `size` (end-5)."""
    if span is None:
        return length
    match = _CHUNK_RANGE.match(span)
    if match is None:
        raise out_of_order(size, f"Content-Range must look like 0-1023, not {span[:60]!r}")
    first, last = int(match[1]), int(match[2])
    if first != size or last < first:
        raise out_of_order(size, f"the next chunk begins at {size}, not at {first}")
    if length is not None and length != last - first + 1:
        raise out_of_order(size, f"a chunk {span} does not have {length} bytes")
    return last - first + 1
