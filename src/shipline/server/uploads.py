"""Blob uploads: sessions that survive the connection and the process.

The state of a session is its file. A request appends its whole body or leaves the file unchanged;
only a broken connection leaves a part, so that the client can resume.
"""

from __future__ import annotations

import json
import logging
import os
import threading
import time
import uuid
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from shipline.metadata import walk
from shipline.oci import Digest
from shipline.server.entries import pack
from shipline.server.http import PAUSE, ClientGone, Coro
from shipline.server.layout import sync_directory
from shipline.server.problems import Problem, digest_invalid, out_of_order, upload_unknown
from shipline.server.storage import Storage
from shipline.server.upload_session import (
    Checkpoint,
    UploadSession,
    UploadThreads,
    expected_size,
    no_client,
)

_log = logging.getLogger(__name__)
_MAX_SESSIONS = 2000  # unfinished uploads of one account
EXPIRY_S = 24 * 3600.0  # after the last byte arrived
_LOCK_TIMEOUT_S = 10.0  # for another request of the same session


Check = Callable[[int, bool], None]
"""Called with the bytes received so far and whether the body is complete; raises to refuse them."""


def _allow(received: int, complete: bool) -> None:
    return None


@dataclass(slots=True)
class _ReservedBytes:
    """Bytes of an unfinished upload, received or announced."""

    name: str
    actor: str
    size: int = 0


class UploadStore:
    """The upload sessions of a data directory."""

    def __init__(self, storage: Storage, *, max_size: int | None = None) -> None:
        """`max_size` of a blob in bytes."""
        self._storage = storage
        self._max_size = max_size
        self._lock = threading.Lock()
        self._open: dict[str, UploadSession] = {}
        self._threads = UploadThreads()
        self._reserved: dict[str, _ReservedBytes] = {}
        self._sessions: Counter[str] = Counter()  # by account
        self.in_flight = 0  # requests with a body in progress

    def start(self, name: str, algorithm: str, *, actor: str = "", upload_id: str = "") -> str:
        """Start a session; returns its id, a new one unless given. With `actor`, only that account
        can use it.

        It survives the process, and from its first byte on a crash of the machine.
        """
        upload_id = upload_id or str(uuid.uuid4())
        self._register(upload_id, name, actor)
        try:
            self._create(upload_id)
        except BaseException:
            self._unregister(upload_id)
            raise
        record = pack(repository=name, algorithm=algorithm, at=self._storage.clock(), by=actor)
        try:
            self._storage.records.write({("upload", upload_id): record}, durable=False)
        except BaseException:
            self._path(upload_id).unlink(missing_ok=True)
            self._unregister(upload_id)
            raise
        return upload_id

    def size(self, name: str, upload_id: str, *, actor: str = "") -> int:
        """The number of durable bytes, without those of a request that has not ended; it never
        gets smaller. Raises Problem BLOB_UPLOAD_UNKNOWN.
        """
        session = self._find(name, upload_id, actor)
        if session.synced_size != session.size and session.lock.acquire(blocking=False):
            with self._open_locked(session, no_client):
                return session.size
        return session.synced_size

    def settled_size(self, name: str, upload_id: str, *, actor: str = "") -> Coro[int]:
        """Like `size`, once the session's other request has ended, for which it waits a while: a
        client asks where to resume after its connection broke, often before the node knows that.
        """
        session, deadline = self._find(name, upload_id, actor), time.monotonic() + _LOCK_TIMEOUT_S
        while session.lock.locked() and time.monotonic() < deadline:
            session.disconnect_stalled()
            yield PAUSE
        return self.size(name, upload_id, actor=actor)

    def append(
        self,
        name: str,
        upload_id: str,
        content_range: str | None,
        length: int | None,
        *,
        actor: str = "",
        check: Check = _allow,
        disconnect: Callable[[], None] = no_client,
    ) -> Coro[int]:
        """Append the body as a chunk; returns the new size. `length` is its Content-Length.

        `disconnect` ends the client's connection, for another request of the session. Raises
        Problem 416 for a chunk that does not start at the current size.
        """
        with (yield from self._lock_session(name, upload_id, actor, disconnect)) as session:
            before = yield from self._receive(session, content_range, length, check)
            self._keep(session, before)
            return session.size

    def finish(
        self,
        name: str,
        upload_id: str,
        digest: Digest,
        content_range: str | None,
        length: int | None,
        *,
        actor: str = "",
        check: Check = _allow,
        disconnect: Callable[[], None] = no_client,
    ) -> Coro[None]:
        """Append the last chunk, if any, verify the digest, and add the blob to the repository.

        Raises Problem DIGEST_INVALID on a mismatch. After any failure the session is unchanged, so
        that the request can be repeated.
        """
        with (yield from self._lock_session(name, upload_id, actor, disconnect)) as session:
            before = yield from self._receive(session, content_range, length, check)
            actual = session.digest(digest.algorithm)
            if actual != digest:
                self._rewind(session, before)
                raise digest_invalid(f"the upload has digest {actual}, not {digest}")
            try:
                self._commit(session, name, digest, actor)
            except BaseException:
                self._undo(session, digest, before)
                raise
            self._forget(session)

    def put(
        self,
        name: str,
        digest: Digest,
        length: int | None,
        *,
        actor: str = "",
        check: Check = _allow,
    ) -> Coro[None]:
        """Upload a blob in one request (end-4b), without a visible session."""
        upload_id = f"single-{uuid.uuid4()}"
        self._register(upload_id, name, actor)
        try:
            self._create(upload_id)
            session = UploadSession(self._path(upload_id), upload_id, digest.algorithm)
            with session.opened(), self._in_flight():
                yield from self._append(session, None, length, check)
                actual = session.digest(digest.algorithm)
                if actual != digest:
                    raise digest_invalid(f"the content has digest {actual}, not {digest}")
                self._commit(session, name, digest, actor)
        except BaseException:
            self._path(upload_id).unlink(missing_ok=True)
            raise
        finally:
            self._unregister(upload_id)

    def cancel(self, name: str, upload_id: str, *, actor: str = "") -> None:
        """End a session, even while a request is writing to it. Raises Problem
        BLOB_UPLOAD_UNKNOWN.
        """
        self._find(name, upload_id, actor)
        self._end(upload_id)

    def expire(self, age_s: float = EXPIRY_S) -> int:
        """End sessions without new bytes for `age_s` seconds; returns their number.

        Disk errors are logged and retried by the next call.
        """
        ended = 0
        try:
            for (upload_id,), _ in walk(self._storage.records, ("upload",)):
                with suppress(FileNotFoundError):
                    if self._storage.clock() - self._path(upload_id).stat().st_mtime <= age_s:
                        continue
                self._end(upload_id)
                ended += 1
        except OSError as error:
            _log.error("cannot expire unfinished uploads: %s", error)
        return ended

    def recover(self) -> None:
        """Call before serving: deletes files without a session and sessions without a file, which a
        killed process leaves.
        """
        for file in self._storage.incoming.iterdir():
            if self._storage.records.get(("upload", file.name)) is None:
                file.unlink()
        for (upload_id,), value in walk(self._storage.records, ("upload",)):
            if not self._path(upload_id).exists():
                self._end(upload_id)
                continue
            record = json.loads(value)
            self._register(upload_id, record["repository"], record.get("by", ""), limit=None)
            self._set_size(upload_id, self._path(upload_id).stat().st_size)

    def close(self) -> None:
        """Call after all requests have ended."""
        with self._lock:
            self._open.clear()
        self._threads.close()

    def _path(self, upload_id: str) -> Path:
        return self._storage.incoming / upload_id

    def _create(self, upload_id: str) -> None:
        flags = os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC
        os.close(os.open(self._path(upload_id), flags, 0o600))

    def _register(
        self, upload_id: str, name: str, actor: str, *, limit: int | None = _MAX_SESSIONS
    ) -> None:
        """Raises Problem 429 for more than `limit` uploads of one account."""
        with self._lock:
            if limit is not None and self._sessions[actor] >= limit:
                raise Problem(
                    429,
                    "TOOMANYREQUESTS",
                    f"{actor or 'anonymous'} has {limit} unfinished uploads; finish or cancel some",
                    headers=(("Retry-After", "60"),),
                )
            self._sessions[actor] += 1
            self._reserved[upload_id] = _ReservedBytes(name, actor)

    def _set_size(self, upload_id: str, size: int) -> None:
        """Count an upload's received or announced bytes toward its project."""
        with self._lock:
            reserved = self._reserved.get(upload_id)
            if reserved is not None:
                self._storage.totals.upload(reserved.name, size - reserved.size)
                reserved.size = size

    def _unregister(self, upload_id: str) -> None:
        """An upload has ended: its bytes are a blob or deleted."""
        with self._lock:
            reserved = self._reserved.pop(upload_id, None)
            if reserved is not None:
                self._storage.totals.upload(reserved.name, -reserved.size)
                self._sessions -= Counter([reserved.actor])

    def _find(self, name: str, upload_id: str, actor: str) -> UploadSession:
        value = self._storage.records.get(("upload", upload_id))
        record = {} if value is None else json.loads(value)
        if record.get("repository") != name or record.get("by", actor) != actor:
            raise upload_unknown(upload_id)
        with self._lock:
            session = self._open.get(upload_id)
            if session is None:
                session = self._open[upload_id] = self._reopen(upload_id, record["algorithm"])
        return session

    def _reopen(self, upload_id: str, algorithm: str) -> UploadSession:
        try:
            return UploadSession(self._path(upload_id), upload_id, algorithm)
        except FileNotFoundError:
            raise upload_unknown(upload_id) from None

    def _end(self, upload_id: str) -> None:
        """Forgets the session last, so that no request opens it again."""
        with self._lock:
            session = self._open.get(upload_id)
            if session is not None:
                session.cancelled = True
        self._storage.records.write({("upload", upload_id): None}, durable=False)
        self._path(upload_id).unlink(missing_ok=True)
        with self._lock:
            self._open.pop(upload_id, None)
        self._unregister(upload_id)

    def _forget(self, session: UploadSession) -> None:
        with self._lock:
            self._open.pop(session.upload_id, None)
        session.cancelled = True
        self._unregister(session.upload_id)

    def _make_durable(self, session: UploadSession) -> None:
        """Make the bytes of a session durable, with its record and file name."""
        session.sync()
        if session.durable:
            return
        key = ("upload", session.upload_id)
        sync_directory(self._storage.incoming)
        self._storage.records.write({key: self._storage.records.get(key)})
        if session.cancelled:  # perhaps before its record was written again
            self._storage.records.write({key: None}, durable=False)
            raise upload_unknown(session.upload_id)
        session.durable = True

    def _keep(self, session: UploadSession, before: Checkpoint) -> None:
        """Make what a request has appended durable, or drop it."""
        try:
            self._make_durable(session)
        except BaseException:
            self._rewind(session, before)
            raise

    def _rewind(self, session: UploadSession, before: Checkpoint) -> None:
        session.rewind(*before)
        self._set_size(session.upload_id, session.size)

    def _undo(self, session: UploadSession, digest: Digest, before: Checkpoint) -> None:
        """Back to where the session was, perhaps after its file became the blob `digest`."""
        if session.cancelled:
            return
        try:
            if not session.path.exists():
                self._storage.take_back(digest, session.path)
                session.durable = False
            session.reopen()
            self._rewind(session, before)
        except OSError as error:
            _log.error("upload %s is lost: %s", session.upload_id, error)
            self._forget(session)

    def _lock_session(
        self, name: str, upload_id: str, actor: str, disconnect: Callable[[], None]
    ) -> Coro[AbstractContextManager[UploadSession]]:
        """The locked session; waits a while for another request that uses it, and ends one whose
        client sends nothing.
        """
        session = self._find(name, upload_id, actor)
        deadline = time.monotonic() + _LOCK_TIMEOUT_S
        while not session.lock.acquire(blocking=False):
            if time.monotonic() > deadline:
                raise Problem(
                    429,
                    "TOOMANYREQUESTS",
                    "another request is writing to this upload",
                    headers=(("Retry-After", "5"),),
                )
            session.disconnect_stalled()
            yield PAUSE
        return self._open_locked(session, disconnect)

    @contextmanager
    def _open_locked(
        self, session: UploadSession, disconnect: Callable[[], None]
    ) -> Iterator[UploadSession]:
        """Opens a session whose lock is held, and releases it. What it holds before is durable."""
        session.disconnect = disconnect
        try:
            if session.cancelled:
                raise upload_unknown(session.upload_id)
            with session.opened(), self._in_flight():
                if session.size:
                    self._make_durable(session)
                yield session
        finally:
            session.disconnect = no_client
            session.lock.release()

    @contextmanager
    def _in_flight(self) -> Iterator[None]:
        with self._lock:
            self.in_flight += 1
        try:
            yield
        finally:
            with self._lock:
                self.in_flight -= 1

    def _receive(
        self, session: UploadSession, content_range: str | None, length: int | None, check: Check
    ) -> Coro[Checkpoint]:
        """Append to a session that stays; returns its state before. What arrived before the client
        was gone is kept.
        """
        before = session.checkpoint()
        try:
            yield from self._append(session, content_range, length, check)
        except ClientGone:
            self._keep(session, before)
            raise
        return before

    def _append(
        self, session: UploadSession, content_range: str | None, length: int | None, check: Check
    ) -> Coro[None]:
        expected = expected_size(session.size, content_range, length)
        before = session.checkpoint()
        check_size = partial(self._check_size, session, session.size, expected or 0, check)
        try:
            check_size(expected or 0, False)
            received = yield from session.append(expected, self._threads, check_size)
        finally:
            self._set_size(session.upload_id, session.size)
        if expected is not None and received != expected:
            self._rewind(session, before)
            raise out_of_order(session.size, f"got {received} bytes instead of {expected}")

    def _check_size(
        self,
        session: UploadSession,
        before: int,
        expected: int,
        check: Check,
        received: int,
        complete: bool,
    ) -> None:
        if self._max_size is not None and before + received > self._max_size:
            raise Problem(413, "SIZE_INVALID", f"blobs are limited to {self._max_size} bytes")
        self._set_size(session.upload_id, before + max(received, expected))
        check(received, complete)

    def _commit(self, session: UploadSession, name: str, digest: Digest, actor: str) -> None:
        if session.cancelled:
            raise upload_unknown(session.upload_id)
        try:
            self._storage.add_blob(
                name,
                digest,
                file=session.path,
                fd=session.fd,
                size=session.size,
                actor=actor,
                extra={("upload", session.upload_id): None},
            )
        except FileNotFoundError:
            raise upload_unknown(session.upload_id) from None  # cancelled meanwhile
