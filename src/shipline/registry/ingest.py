"""Content that streams up while it is made, its digest known only at the end."""

from __future__ import annotations

from collections import deque
from contextlib import suppress
from typing import TYPE_CHECKING

from shipline.content import MemoryStore
from shipline.errors import AuthError, Cancelled, DigestMismatch, RegistryError, ShiplineError
from shipline.oci import Descriptor, Digest, Hasher
from shipline.registry.channel import Channel
from shipline.registry.failures import failure
from shipline.registry.http import pause
from shipline.registry.upload import (
    OCTETS,
    UploadState,
    cancel,
    finish,
    is_there,
    open_session,
    push_blob,
    resume,
)

if TYPE_CHECKING:
    from shipline.registry.transport import OpenRequest

_SMALL = 1 << 20  # bytes; up to here nothing is sent before the commit
_REMEMBERED = 16 << 20  # bytes; more than sockets and proxies hold on their way


class _Tail:
    """The last bytes written, from `start` to `end`; pieces are kept as they came."""

    def __init__(self) -> None:
        self._pieces: deque[bytes] = deque()
        self.start = 0
        self.end = 0

    def append(self, data: bytes) -> None:
        self._pieces.append(data)
        self.end += len(data)
        while self.end - self.start - len(self._pieces[0]) >= _REMEMBERED:
            self.start += len(self._pieces.popleft())

    def since(self, offset: int) -> list[bytes | memoryview]:
        """What stands at `offset` and behind; it must not be before `start`."""
        position, found = self.start, list[bytes | memoryview]()
        for piece in self._pieces:
            behind = position + len(piece)
            if behind > offset:
                found.append(memoryview(piece)[max(0, offset - position) :])
            position = behind
        return found


class RemoteIngest:
    """An upload of unknown length: POST, one streamed PATCH, PUT. For one thread at a time.

    `write` goes at the pace of the network. A broken connection is resumed from the last bytes
    written; where that is impossible a retriable RegistryError says that all must be sent again.
    """

    def __init__(self, channel: Channel) -> None:
        self._channel = channel
        self._tail = _Tail()
        self._session: UploadState | None = None
        self._exchange: OpenRequest | None = None
        self._done = False
        self._failures = 0
        self._seen = Hasher()

    @property
    def digest(self) -> Digest:
        return self._seen.digest

    @property
    def size(self) -> int:
        return self._seen.size

    def write(self, data: bytes) -> None:
        """Append; `data` must not change afterwards."""
        if not data:
            return
        self._seen.update(data)
        self._tail.append(data)
        if self._session is None and self._tail.end <= _SMALL:
            return
        try:
            if self._exchange is None:
                self._start()
            else:
                self._exchange.write(data)
        except (RegistryError, AuthError) as error:
            self._recover(error)

    def commit(self, target: Descriptor) -> None:
        """Give the bytes their digest. Raises DigestMismatch if they, or the registry's, differ."""
        other = target.digest.algorithm == "sha256" and target.digest != self.digest
        if other or target.size != self.size:
            raise DigestMismatch(
                expected=f"{target.digest} ({target.size} bytes)",
                got=f"{self.digest} ({self.size} bytes)",
                where=self._channel.host,
            )
        if self._session is None and self._tail.end <= _SMALL:
            whole = MemoryStore()
            whole.blobs[target.digest] = b"".join(self._tail.since(0))
            push_blob(self._channel, target, whole)
        else:
            self._commit_streamed(target)
        self._done = True

    def close(self) -> None:
        """End the upload; what was not committed is given up.

        The stream is ended in order, because Docker's registry knows a session only by the
        Location that follows its last byte.
        """
        if self._session is not None and not self._done:
            with suppress(ShiplineError, Cancelled):
                self._end_stream()
                cancel(self._channel, self._session)
        if self._exchange is not None:
            self._exchange.close()
            self._exchange = None

    def _commit_streamed(self, target: Descriptor) -> None:
        while True:
            try:
                self._end_stream()
                assert self._session is not None
                finish(self._channel, self._session, target)
                return
            except (RegistryError, AuthError) as error:
                if error.retriable and is_there(self._channel, target):
                    return
                self._recover(error)

    def _start(self) -> None:
        """Open the request, and send what the registry does not have yet."""
        if self._session is None:
            self._session = open_session(self._channel)
        if self._session.offset < self._tail.end:
            self._exchange = self._channel.open("PATCH", self._session.url, OCTETS)
            for piece in self._tail.since(self._session.offset):
                self._exchange.write(piece)

    def _end_stream(self) -> None:
        """Take the answer to the PATCH; the session is then at the end of what was written."""
        if self._exchange is None:
            return
        answer = self._exchange.answer()
        self._exchange = None  # the answer owns it now
        if answer.status not in (201, 202, 204):
            raise failure(answer, "streaming an upload")
        assert self._session is not None
        url = self._channel.location(answer, self._session.url)
        self._session = UploadState(url, self._tail.end, self._session.least)
        answer.close()

    def _recover(self, error: RegistryError | AuthError) -> None:
        """Go on where the registry stands. Raises when that is behind what is remembered."""
        while True:
            error = self._meant(error)
            self._failures += 1
            expired = isinstance(error, AuthError) and error.status == 401
            if not (error.retriable or expired) or self._failures >= self._channel.gate.tries:
                raise error
            pause(self._failures, error)
            before = self._session.offset if self._session else 0
            self._session = self._session and resume(self._channel, self._session)
            if self._session and self._session.offset > before:
                self._failures = 0
            if self._session is None and self._tail.start:
                raise RegistryError(
                    f"{self._channel.host}: the upload broke off and cannot be resumed there",
                    host=self._channel.host,
                    hint="all of it must be sent again",
                    retriable=True,
                ) from error
            try:
                self._start()
                return
            except (RegistryError, AuthError) as again:
                error = again

    def _meant(self, error: RegistryError | AuthError) -> RegistryError | AuthError:
        """The answer of a server that stopped reading says more than the broken connection."""
        exchange, self._exchange = self._exchange, None
        if exchange is None:
            return error
        answer = exchange.early() if error.retriable else None
        if answer is None:
            exchange.close()
            return error
        if answer.status < 400:
            answer.close()
            return error
        meant = failure(answer, "streaming an upload")
        return meant if isinstance(meant, RegistryError | AuthError) else error
