"""Blobs on their way in: sessions that survive the connection and the process.

The state of a session is its file. A request either appends all that it brought, or leaves the file
as it was; only a broken connection leaves a part, so that the client can go on from there.
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
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from shipline.metadata import walk
from shipline.oci import Digest
from shipline.server.entries import pack
from shipline.server.http import PAUSE, ClientGone, Steps
from shipline.server.layout import sync_directory
from shipline.server.problems import (
    Problem,
    digest_invalid,
    out_of_order,
    upload_unknown,
)
from shipline.server.session import UploadSession, promised_size
from shipline.server.storage import Storage

_log = logging.getLogger(__name__)
_SESSIONS = 2000  # uploads of one account that have not ended
_SYNCS = 4  # threads
EXPIRY_S = 24 * 3600.0  # since the last byte of an upload came
_PATIENCE_S = 10.0  # one request waits this long for another one of the same session


Check = Callable[[int, bool], None]
"""Called with the bytes of a body so far and whether that is all; raises to refuse them."""


def _no_check(came: int, whole: bool) -> None:
    return None


@dataclass(slots=True)
class _Brought:
    """What an upload brings, or has promised to, in bytes."""

    name: str
    actor: str
    size: int = 0


class Uploads:
    """All sessions of a data directory."""

    def __init__(self, storage: Storage, *, largest: int | None = None) -> None:
        """`largest` is the most that a blob may have, in bytes."""
        self._storage = storage
        self._largest = largest
        self._lock = threading.Lock()
        self._open: dict[str, UploadSession] = {}
        self._threads = ThreadPoolExecutor(_SYNCS, thread_name_prefix="sync")
        self._brought: dict[str, _Brought] = {}
        self._sessions: Counter[str] = Counter()  # by the account that began them
        self.in_flight = 0  # requests that bring bytes

    def start(self, name: str, algorithm: str, *, actor: str = "") -> str:
        """Open a session for a repository; returns its id. Where `actor` is given, the session is
        unknown to everyone else.

        It outlives this process; it outlives the machine from its first byte on.
        """
        identity = str(uuid.uuid4())
        self._begin(identity, name, actor)
        try:
            self._create(identity)
        except BaseException:
            self._settle(identity)
            raise
        record = pack(repository=name, algorithm=algorithm, at=self._storage.clock(), by=actor)
        try:
            self._storage.records.write({("upload", identity): record}, durable=False)
        except BaseException:
            self._path(identity).unlink(missing_ok=True)
            self._settle(identity)
            raise
        return identity

    def size(self, name: str, identity: str, *, actor: str = "") -> int:
        """The number of bytes that are kept. Raises Problem BLOB_UPLOAD_UNKNOWN."""
        return self._find(name, identity, actor).kept

    def append(
        self,
        name: str,
        identity: str,
        span: str | None,
        length: int | None,
        *,
        actor: str = "",
        check: Check = _no_check,
    ) -> Steps[int]:
        """Add a chunk, the body; returns the new size. `span` is its Content-Range, `length` its
        size.

        Raises Problem 416 for a chunk that does not continue what is there.
        """
        with (yield from self._held(name, identity, actor)) as session:
            yield from self._append(session, span, length, check)
            session.keep()
            self._root(session)
            return session.size

    def finish(
        self,
        name: str,
        identity: str,
        digest: Digest,
        span: str | None,
        length: int | None,
        *,
        actor: str = "",
        check: Check = _no_check,
    ) -> Steps[None]:
        """Add the last chunk, if any, verify, and let the repository have the blob.

        Raises Problem DIGEST_INVALID, with the session as it was, for another digest.
        """
        with (yield from self._held(name, identity, actor)) as session:
            size, state = session.mark()
            yield from self._append(session, span, length, check)
            seen = session.digest(digest.algorithm)
            if seen != digest:
                session.rewind(size, state)
                raise digest_invalid(f"the upload has digest {seen}, not {digest}")
            self._commit(session, name, digest, actor)
            self._forget(session)

    def put(
        self,
        name: str,
        digest: Digest,
        length: int | None,
        *,
        actor: str = "",
        check: Check = _no_check,
    ) -> Steps[None]:
        """A whole blob in one request (end-4b), without a session that others could see."""
        identity = f"single-{uuid.uuid4()}"
        self._begin(identity, name, actor)
        try:
            self._create(identity)
            session = UploadSession(self._path(identity), identity, digest.algorithm)
            with session.opened(), self._counted():
                yield from self._append(session, None, length, check)
                seen = session.digest(digest.algorithm)
                if seen != digest:
                    raise digest_invalid(f"the content has digest {seen}, not {digest}")
                self._commit(session, name, digest, actor)
        except BaseException:
            self._path(identity).unlink(missing_ok=True)
            raise
        finally:
            self._settle(identity)

    def cancel(self, name: str, identity: str, *, actor: str = "") -> None:
        """End a session, also while a request fills it. Raises Problem BLOB_UPLOAD_UNKNOWN."""
        self._find(name, identity, actor)
        self._end(identity)

    def expire(self, age_s: float = EXPIRY_S) -> int:
        """End the sessions without a new byte for `age_s` seconds; returns their number.

        A disk that fails is logged: the next call tries again.
        """
        ended = 0
        try:
            for (identity,), _ in walk(self._storage.records, ("upload",)):
                with suppress(FileNotFoundError):
                    if self._storage.clock() - self._path(identity).stat().st_mtime <= age_s:
                        continue
                self._end(identity)
                ended += 1
        except OSError as error:
            _log.error("unfinished uploads cannot be ended: %s", error)
        return ended

    def recover(self) -> None:
        """At start, before requests come: what a killed process left half is deleted, files that
        belong to no session and sessions without a file.
        """
        for file in self._storage.incoming.iterdir():
            if self._storage.records.get(("upload", file.name)) is None:
                file.unlink()
        for (identity,), value in walk(self._storage.records, ("upload",)):
            if not self._path(identity).exists():
                self._end(identity)
                continue
            record = json.loads(value)
            self._begin(identity, record["repository"], record.get("by", ""), most=None)
            self._account(identity, self._path(identity).stat().st_size)

    def close(self) -> None:
        """No request may be under way any more."""
        with self._lock:
            self._open.clear()
        self._threads.shutdown()

    def _path(self, identity: str) -> Path:
        return self._storage.incoming / identity

    def _create(self, identity: str) -> None:
        flags = os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC
        os.close(os.open(self._path(identity), flags, 0o600))

    def _begin(self, identity: str, name: str, actor: str, *, most: int | None = _SESSIONS) -> None:
        """Count an upload. Raises Problem 429 for more than `most` of one account."""
        with self._lock:
            if most is not None and self._sessions[actor] >= most:
                raise Problem(
                    429,
                    "TOOMANYREQUESTS",
                    f"{actor or 'anonymous'} has {most} uploads that have not ended; end some",
                    headers=(("Retry-After", "60"),),
                )
            self._sessions[actor] += 1
            self._brought[identity] = _Brought(name, actor)

    def _account(self, identity: str, size: int) -> None:
        """What an upload holds, or has promised to bring, counts for its project."""
        with self._lock:
            brought = self._brought.get(identity)
            if brought is not None:
                self._storage.totals.upload(brought.name, size - brought.size)
                brought.size = size

    def _settle(self, identity: str) -> None:
        """An upload has ended: what it brought is a blob, or gone."""
        with self._lock:
            brought = self._brought.pop(identity, None)
            if brought is not None:
                self._storage.totals.upload(brought.name, -brought.size)
                self._sessions -= Counter([brought.actor])

    def _find(self, name: str, identity: str, actor: str) -> UploadSession:
        value = self._storage.records.get(("upload", identity))
        record = {} if value is None else json.loads(value)
        if record.get("repository") != name or record.get("by", actor) != actor:
            raise upload_unknown(identity)
        with self._lock:
            session = self._open.get(identity)
            if session is None:
                session = self._open[identity] = self._reopen(identity, record["algorithm"])
        return session

    def _reopen(self, identity: str, algorithm: str) -> UploadSession:
        try:
            return UploadSession(self._path(identity), identity, algorithm)
        except FileNotFoundError:
            raise upload_unknown(identity) from None

    def _end(self, identity: str) -> None:
        with self._lock:
            session = self._open.pop(identity, None)
        if session is not None:
            session.cancelled = True
        self._storage.records.write({("upload", identity): None}, durable=False)
        self._path(identity).unlink(missing_ok=True)
        self._settle(identity)

    def _forget(self, session: UploadSession) -> None:
        with self._lock:
            self._open.pop(session.identity, None)
        session.cancelled = True
        self._settle(session.identity)

    def _root(self, session: UploadSession) -> None:
        """From the first byte that was taken, a session must survive the machine."""
        if session.rooted:
            return
        key = ("upload", session.identity)
        sync_directory(self._storage.incoming)
        self._storage.records.write({key: self._storage.records.get(key)})
        session.rooted = True

    def _held(
        self, name: str, identity: str, actor: str
    ) -> Steps[AbstractContextManager[UploadSession]]:
        """The session, open; waits a little while another request is at it."""
        session = self._find(name, identity, actor)
        deadline = time.monotonic() + _PATIENCE_S
        while not session.lock.acquire(blocking=False):
            if time.monotonic() > deadline:
                raise Problem(
                    429,
                    "TOOMANYREQUESTS",
                    "another request is filling this upload",
                    headers=(("Retry-After", "5"),),
                )
            yield PAUSE
        return self._using(session)

    @contextmanager
    def _using(self, session: UploadSession) -> Iterator[UploadSession]:
        """A session whose lock is held."""
        try:
            if session.cancelled:
                raise upload_unknown(session.identity)
            with session.opened(), self._counted():
                yield session
        finally:
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
        self, session: UploadSession, span: str | None, length: int | None, check: Check
    ) -> Steps[None]:
        promised, mark = promised_size(session.size, span, length), session.mark()
        bounded = partial(self._check_size, session, session.size, promised or 0, check)
        try:
            bounded(promised or 0, False)
            came = yield from session.append(promised, self._threads, bounded)
        except ClientGone:
            session.keep()
            raise
        finally:
            self._account(session.identity, session.size)
        if promised is not None and came != promised:
            session.rewind(*mark)
            self._account(session.identity, session.size)
            raise out_of_order(session.size, f"{came} bytes came instead of {promised}")

    def _check_size(
        self,
        session: UploadSession,
        before: int,
        promised: int,
        check: Check,
        came: int,
        whole: bool,
    ) -> None:
        if self._largest is not None and before + came > self._largest:
            raise Problem(
                413, "SIZE_INVALID", f"a blob may have {self._largest} bytes here at most"
            )
        self._account(session.identity, before + max(came, promised))
        check(came, whole)

    def _commit(self, session: UploadSession, name: str, digest: Digest, actor: str) -> None:
        if session.cancelled:
            raise upload_unknown(session.identity)
        try:
            self._storage.add_blob(
                name,
                digest,
                file=session.path,
                fd=session.fd,
                size=session.size,
                actor=actor,
                also={("upload", session.identity): None},
            )
        except FileNotFoundError:
            raise upload_unknown(session.identity) from None  # it was cancelled meanwhile
        except BaseException:
            if session.path.exists():
                os.fchmod(session.fd, 0o600)  # it can be tried again
            else:  # its bytes are a blob already, which must not change
                self._forget(session)
            raise
