"""Blobs on their way in: sessions that survive the connection and the process.

The state of a session is its file. A request either appends all that it brought, or leaves the file
as it was; only a broken connection leaves a part, so that the client can go on from there.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import threading
import uuid
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from shipline.metadata import walk
from shipline.oci import Digest
from shipline.server.disk import start_writeback
from shipline.server.problems import (
    Problem,
    digest_invalid,
    out_of_order,
    size_invalid,
    upload_unknown,
)
from shipline.server.storage import Storage, pack

EXPIRY_S = 24 * 3600.0  # since the last byte of an upload came
_PATIENCE_S = 10.0  # one request waits this long for another one of the same session
_BLOCK = 1 << 20  # bytes
_WRITEBACK = 8 << 20  # bytes
_CHUNK_RANGE = re.compile(r"([0-9]{1,18})-([0-9]{1,18})\Z")


class Session:
    """One unfinished upload; its methods are called by one request at a time (see `held`)."""

    def __init__(self, path: Path, identity: str, algorithm: str, *, new: bool) -> None:
        """Open the file; one that is not new may hold bytes of an earlier process."""
        self.identity = identity
        self.path = path
        self.lock = threading.Lock()
        self.cancelled = False
        flags = os.O_CREAT | os.O_EXCL if new else 0
        self.fd = os.open(path, os.O_RDWR | os.O_CLOEXEC | flags, 0o600)
        self.size = os.fstat(self.fd).st_size
        self.kept = self.size  # bytes that are on the disk
        self._sent = self.size  # bytes that the disk was told to write
        self._algorithm = algorithm
        self._hash = self._hashed(algorithm)

    def append(self, data: Iterable[bytes], promised: int | None) -> int:
        """Add what comes and sync it; returns the number of bytes, fewer only if cut off.

        Raises Problem, and leaves the session as it was, for more than `promised` bytes.
        """
        start, before = self.size, self._hash.copy()
        try:
            for block in data:
                if self.cancelled:
                    raise upload_unknown(self.identity)
                if promised is not None and self.size + len(block) > start + promised:
                    raise size_invalid(f"more than the promised {promised} bytes came")
                self._write(block)
            if self.size > start:
                os.fdatasync(self.fd)
        except BaseException:
            self.rewind(start, before)
            raise
        self.kept = self.size
        return self.size - start

    def mark(self) -> tuple[int, hashlib._Hash]:
        """Where `rewind` can go back to."""
        return self.size, self._hash.copy()

    def rewind(self, size: int, state: hashlib._Hash) -> None:
        self.size, self._hash = size, state
        self.kept, self._sent = min(self.kept, size), min(self._sent, size)
        os.ftruncate(self.fd, size)

    def digest(self, algorithm: str) -> Digest:
        """Of all bytes; read again only for another algorithm than the session began with."""
        state = self._hash if algorithm == self._algorithm else self._hashed(algorithm)
        return Digest(algorithm, state.hexdigest())

    def close(self) -> None:
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1

    def _write(self, block: bytes) -> None:
        view = memoryview(block)
        while view:
            written = os.pwrite(self.fd, view, self.size)
            self._hash.update(view[:written])
            self.size += written
            view = view[written:]
        if self.size - self._sent >= _WRITEBACK:
            start_writeback(self.fd, self._sent, self.size - self._sent)
            self._sent = self.size

    def _hashed(self, algorithm: str) -> hashlib._Hash:
        state = hashlib.new(algorithm)
        for position in range(0, self.size, _BLOCK):
            state.update(os.pread(self.fd, min(_BLOCK, self.size - position), position))
        return state


class Uploads:
    """All sessions of a data directory."""

    def __init__(self, storage: Storage) -> None:
        self._storage = storage
        self._lock = threading.Lock()
        self._open: dict[str, Session] = {}
        self.in_flight = 0  # requests that bring bytes

    def start(self, name: str, algorithm: str) -> str:
        """Open a session for a repository; returns its id."""
        identity = str(uuid.uuid4())
        session = Session(self._path(identity), identity, algorithm, new=True)
        record = pack(repository=name, algorithm=algorithm, at=self._storage.clock())
        try:
            self._storage.records.write({("upload", identity): record})
        except BaseException:
            self._discard(session)
            raise
        with self._lock:
            self._open[identity] = session
        return identity

    def size(self, name: str, identity: str) -> int:
        """The number of bytes that are kept. Raises Problem BLOB_UPLOAD_UNKNOWN."""
        return self._find(name, identity).kept

    def append(
        self, name: str, identity: str, data: Iterable[bytes], span: str | None, length: int | None
    ) -> int:
        """Add a chunk; returns the new size. `span` is its Content-Range, `length` its size.

        Raises Problem 416 for a chunk that does not continue what is there.
        """
        with self._held(name, identity) as session:
            self._append(session, data, span, length)
            return session.size

    def finish(
        self,
        name: str,
        identity: str,
        digest: Digest,
        data: Iterable[bytes],
        span: str | None,
        length: int | None,
    ) -> None:
        """Add the last chunk, if any, verify, and let the repository have the blob.

        Raises Problem DIGEST_INVALID, with the session as it was, for another digest.
        """
        with self._held(name, identity) as session:
            size, state = session.mark()
            self._append(session, data, span, length)
            seen = session.digest(digest.algorithm)
            if seen != digest:
                session.rewind(size, state)
                raise digest_invalid(f"the upload has digest {seen}, not {digest}")
            self._commit(session, name, digest)
            with self._lock:
                self._open.pop(identity, None)
            session.cancelled = True

    def put(self, name: str, digest: Digest, data: Iterable[bytes], length: int | None) -> None:
        """A whole blob in one request (end-4b), without a session that others could see."""
        identity = f"single-{uuid.uuid4()}"
        session = Session(self._path(identity), identity, digest.algorithm, new=True)
        try:
            with self._counted():
                self._append(session, data, None, length)
            seen = session.digest(digest.algorithm)
            if seen != digest:
                raise digest_invalid(f"the content has digest {seen}, not {digest}")
            self._commit(session, name, digest)
        except BaseException:
            self._discard(session)
            raise
        session.close()

    def cancel(self, name: str, identity: str) -> None:
        """End a session, also while a request fills it. Raises Problem BLOB_UPLOAD_UNKNOWN."""
        self._find(name, identity)
        self._end(identity)

    def expire(self, age_s: float = EXPIRY_S) -> int:
        """End the sessions without a new byte for `age_s` seconds; returns their number."""
        ended = 0
        for (identity,), _ in walk(self._storage.records, ("upload",)):
            with suppress(FileNotFoundError):
                if self._storage.clock() - self._path(identity).stat().st_mtime <= age_s:
                    continue
            self._end(identity)
            ended += 1
        return ended

    def recover(self) -> None:
        """At start, before requests come: delete files that belong to no session."""
        known = {key[0] for key, _ in walk(self._storage.records, ("upload",))}
        for file in self._storage.incoming.iterdir():
            if file.name not in known:
                file.unlink()

    def close(self) -> None:
        with self._lock:
            for session in self._open.values():
                session.close()
            self._open.clear()

    def _path(self, identity: str) -> Path:
        return self._storage.incoming / identity

    def _find(self, name: str, identity: str) -> Session:
        record = self._storage.records.get(("upload", identity))
        if record is None or json.loads(record)["repository"] != name:
            raise upload_unknown(identity)
        with self._lock:
            session = self._open.get(identity)
            if session is None:
                session = self._open[identity] = self._reopen(identity, record)
        return session

    def _reopen(self, identity: str, record: bytes) -> Session:
        algorithm = json.loads(record)["algorithm"]
        try:
            return Session(self._path(identity), identity, algorithm, new=False)
        except FileNotFoundError:
            raise upload_unknown(identity) from None

    def _end(self, identity: str) -> None:
        with self._lock:
            session = self._open.pop(identity, None)
        if session is not None:
            session.cancelled = True
        self._storage.records.write({("upload", identity): None})
        self._path(identity).unlink(missing_ok=True)
        if session is not None and session.lock.acquire(blocking=False):
            session.close()
            session.lock.release()

    @contextmanager
    def _held(self, name: str, identity: str) -> Iterator[Session]:
        session = self._find(name, identity)
        if not session.lock.acquire(timeout=_PATIENCE_S):
            raise Problem(
                429,
                "TOOMANYREQUESTS",
                "another request is filling this upload",
                headers=(("Retry-After", "5"),),
            )
        try:
            if session.cancelled:
                raise upload_unknown(identity)
            with self._counted():
                yield session
        finally:
            if session.cancelled:
                session.close()
            session.lock.release()

    @contextmanager
    def _counted(self) -> Iterator[None]:
        with self._lock:
            self.in_flight += 1
        try:
            yield
        finally:
            with self._lock:
                self.in_flight -= 1

    def _append(
        self, session: Session, data: Iterable[bytes], span: str | None, length: int | None
    ) -> None:
        promised = _promised(session.size, span, length)
        mark = session.mark()
        came = session.append(data, promised)
        if promised is None or came == promised:
            return
        if length is None:
            session.rewind(*mark)
            raise out_of_order(session.size, f"{came} bytes came instead of {promised}")
        raise size_invalid(f"{came} bytes came instead of {promised}")

    def _commit(self, session: Session, name: str, digest: Digest) -> None:
        if session.cancelled:
            raise upload_unknown(session.identity)
        changes = self._storage.blob_records(name, digest, session.size)
        changes[("upload", session.identity)] = None
        self._storage.admit(session.path, session.fd, digest, changes)

    def _discard(self, session: Session) -> None:
        session.close()
        session.path.unlink(missing_ok=True)


def _promised(size: int, span: str | None, length: int | None) -> int | None:
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
