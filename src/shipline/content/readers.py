"""Verified reading: length and digest of incoming content are checked as it is read."""

from __future__ import annotations

import errno
import hashlib
import os
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Protocol, Self, TypeVar

from shipline.content.protocols import Fetcher, Reader, RestFetcher
from shipline.errors import ContentError, DigestMismatch
from shipline.oci import Descriptor, Hasher

CHUNK = 1 << 20  # bytes
T = TypeVar("T")


class _Closable(Reader, Protocol):
    def close(self) -> object: ...


class VerifiedReader:
    """Passes bytes through, and raises DigestMismatch instead of the end if they do not match.

    Never reads past the expected size, so that an endless source cannot exhaust memory.
    """

    def __init__(self, source: _Closable, target: Descriptor, where: str) -> None:
        self._source = source
        self._target = target
        self._where = where
        self._hasher = Hasher(target.digest.algorithm)
        self._done = False

    def read(self, size: int = -1, /) -> bytes:
        left = self._target.size - self._hasher.size
        if size < 0:
            return b"".join(iter(lambda: self.read(CHUNK), b""))
        data = self._source.read(min(size, left)) if left else b""
        self._hasher.update(data)
        if size and (not data or len(data) == left):
            self._finish()
        return data

    def _finish(self) -> None:
        if self._done:
            return
        self._done = True
        if self._hasher.size == self._target.size and self._source.read(1):
            raise self._mismatch(f"more than {self._target.size} bytes")
        if self._hasher.size != self._target.size:
            raise self._mismatch(f"{self._hasher.size} bytes instead of {self._target.size}")
        if self._hasher.digest != self._target.digest:
            raise self._mismatch(str(self._hasher.digest))

    def _mismatch(self, got: str) -> DigestMismatch:
        return DigestMismatch(
            expected=str(self._target.digest),
            got=got,
            where=self._where,
            hint="the content was corrupted in transit; try another mirror or run again",
        )

    def close(self) -> None:
        self._source.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


def read_file(path: Path) -> bytes:
    """The bytes of a regular file. Raises OSError for anything else, and never waits."""
    flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    with open(path, "rb", opener=lambda name, _: os.open(name, flags)) as file:
        if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            raise OSError(errno.EINVAL, "not a regular file", str(path))
        return file.read()


def write_file(path: Path, data: bytes) -> None:
    """Write a regular file. Raises OSError for anything else, and never waits."""
    flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    with open(path, "wb", opener=lambda name, _: os.open(name, flags, 0o644)) as file:
        file.write(data)


def seal(kind: bytes, data: bytes) -> bytes:
    """`data` with a checksum, for storage under a name that is not its digest; `kind` tags it."""
    return kind + hashlib.sha256(data).digest() + data


def unseal(kind: bytes, sealed: bytes) -> memoryview | None:
    """The data of `seal`; None if damaged, or of another kind."""
    start = len(kind) + hashlib.sha256().digest_size
    data = memoryview(sealed)[start:]
    if sealed[:start] != kind + hashlib.sha256(data).digest():
        return None
    return data


def chunks(reader: Reader, size: int = CHUNK) -> Iterator[bytes]:
    """The rest of `reader`, in chunks of at most `size` bytes."""
    while data := reader.read(size):
        yield data


def again_elsewhere(read: Callable[[], T]) -> T:
    """What `read` returns, which begins again as long as it finds wrong bytes whose source knows
    another one: `DigestMismatch.retriable`.
    """
    while True:
        try:
            return read()
        except DigestMismatch as error:
            if not error.retriable:
                raise


@contextmanager
def fetch_rest(source: Fetcher, target: Descriptor, start: int) -> Iterator[Reader]:
    """Open the content from byte `start` on. It is verified if `start` is 0; else verify the whole.

    What comes before is read and dropped where the source cannot begin there.
    """
    if start and isinstance(source, RestFetcher):
        with source.fetch_rest(target, start) as reader:
            yield reader
        return
    with source.fetch(target) as reader:
        while start and (data := reader.read(min(CHUNK, start))):
            start -= len(data)
        yield reader


def fetch_all(source: Fetcher, target: Descriptor, limit: int) -> bytes:
    """The whole content, verified. Raises ContentError before reading more than `limit` bytes."""
    if target.size > limit:
        raise ContentError(
            f"{target.digest} has {target.size} bytes, more than {limit}", code="document-too-large"
        )

    def read() -> bytes:
        with source.fetch(target) as reader:
            return reader.read()

    return again_elsewhere(read)
