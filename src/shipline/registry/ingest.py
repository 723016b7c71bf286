"""Streaming uploads, whose digest is known only at the end."""

from __future__ import annotations

from collections import deque
from contextlib import suppress
from typing import TYPE_CHECKING

from shipline.content import MemoryStore
from shipline.errors import AuthError, Cancelled, DigestMismatch, RegistryError, ShiplineError
from shipline.oci import Descriptor, Digest, Hasher
from shipline.registry.errors import response_error
from shipline.registry.repository_api import RepositoryApi
from shipline.registry.retries import Retries
from shipline.registry.upload import (
    OCTET_STREAM,
    UploadState,
    cancel,
    finish,
    is_there,
    open_session,
    push_blob,
    resume,
)

if TYPE_CHECKING:
    from shipline.registry.transport import RequestWriter

_BUFFERED = 1 << 20  # bytes; smaller content is sent at the commit
_REPLAYABLE = 16 << 20  # bytes; more than sockets and proxies buffer


class _ReplayBuffer:
    """The last bytes written, from `start` to `end`, to send again after a failure."""

    def __init__(self) -> None:
        self._pieces: deque[bytes] = deque()
        self.start = 0
        self.end = 0

    def append(self, data: bytes) -> None:
        self._pieces.append(data)
        self.end += len(data)
        while self.end - self.start - len(self._pieces[0]) >= _REPLAYABLE:
            self.start += len(self._pieces.popleft())

    def since(self, offset: int) -> list[bytes | memoryview]:
        """The bytes from `offset`, which must not be before `start`."""
        position, rest = self.start, list[bytes | memoryview]()
        for piece in self._pieces:
            end = position + len(piece)
            if end > offset:
                rest.append(memoryview(piece)[max(0, offset - position) :])
            position = end
        return rest


class RemoteUpload:
    """An upload of unknown length: POST, one streamed PATCH, PUT. Not thread-safe.

    `write` blocks on the network. After a broken connection the last bytes are sent again; where
    that is impossible, a retriable RegistryError asks for the whole content again. The registry
    alone compares the bytes with their digest.
    """

    def __init__(self, api: RepositoryApi) -> None:
        self._api = api
        self._replay = _ReplayBuffer()
        self._session: UploadState | None = None
        self._stream: RequestWriter | None = None
        self._done = False
        self._retries = Retries(api.http.tries)

    @property
    def size(self) -> int:
        return self._replay.end

    def write(self, data: bytes) -> None:
        """Append; `data` must not change afterwards."""
        if not data:
            return
        self._replay.append(data)
        if self._session is None and self._replay.end <= _BUFFERED:
            return
        try:
            if self._stream is None:
                self._start()
            else:
                self._stream.write(data)
        except (RegistryError, AuthError) as error:
            self._recover(error)

    def commit(self, target: Descriptor) -> None:
        """Complete the upload as `target`. Raises DigestMismatch if the bytes differ."""
        if target.size != self.size:
            raise DigestMismatch(
                expected=f"{target.digest} ({target.size} bytes)",
                got=f"{self.size} bytes",
                where=self._api.host,
            )
        if self._session is None and self._replay.end <= _BUFFERED:
            whole = MemoryStore()
            whole.blobs[target.digest] = b"".join(self._replay.since(0))
            push_blob(self._api, target, whole)
        else:
            self._commit_streamed(target)
        self._done = True

    def close(self) -> None:
        """End the upload, cancelling it unless committed.

        The stream is ended first, because Docker's registry accepts only the Location that it
        returns after the last byte.
        """
        if self._session is not None and not self._done:
            with suppress(ShiplineError, Cancelled):
                self._end_stream()
                cancel(self._api, self._session)
        if self._stream is not None:
            self._stream.close()
            self._stream = None

    def _commit_streamed(self, target: Descriptor) -> None:
        while True:
            try:
                self._end_stream()
                assert self._session is not None
                finish(self._api, self._session, target)
                return
            except (RegistryError, AuthError) as error:
                if error.retriable and is_there(self._api, target):
                    return
                self._recover(error)

    def _start(self) -> None:
        """Open the PATCH request and send what the registry does not have yet."""
        if self._session is None:
            self._session = open_session(self._api)
        if self._session.offset < self._replay.end:
            self._stream = self._api.open("PATCH", self._session.url, OCTET_STREAM)
            for piece in self._replay.since(self._session.offset):
                self._stream.write(piece)

    def _end_stream(self) -> None:
        """Read the response to the PATCH, which advances the session."""
        if self._stream is None:
            return
        response = self._stream.response()
        self._stream = None  # owned by the response now
        self._api.http.note(response)
        if response.status not in (201, 202, 204):
            raise response_error(response, "streaming an upload")
        assert self._session is not None
        url = self._api.location(response, self._session.url)
        self._session = UploadState(url, self._replay.end, self._session.min_chunk)
        response.close()

    def _recover(self, error: RegistryError | AuthError) -> None:
        """Resume at the registry's offset. Raises if that precedes the replay buffer."""
        while True:
            error = self._server_error(error)
            expired = isinstance(error, AuthError) and error.status == 401
            self._retries.failed(error, retriable=expired)
            before = self._session.offset if self._session else 0
            if self._session is not None:
                resumes = self._api.quirks.resumes
                self._session = resume(self._api, self._session) if resumes else None
            if self._session and self._session.offset > before:
                self._retries.failures = 0
            if self._session is None and self._replay.start:
                raise RegistryError(
                    f"{self._api.host}: the upload was interrupted and cannot be resumed",
                    code="upload-interrupted",
                    host=self._api.host,
                    hint="send the whole content again",
                    retriable=True,
                ) from error
            try:
                self._start()
                return
            except (RegistryError, AuthError) as again:
                error = again

    def _server_error(self, error: RegistryError | AuthError) -> RegistryError | AuthError:
        """The error response of a server that stopped reading, else `error`."""
        stream, self._stream = self._stream, None
        if stream is None:
            return error
        response = stream.early_response() if error.retriable else None
        if response is None:
            stream.close()
            return error
        self._api.http.note(response)
        if response.status < 400:
            response.close()
            return error
        error_response = response_error(response, "streaming an upload")
        return error_response if isinstance(error_response, RegistryError | AuthError) else error


class RemoteIngest(RemoteUpload):
    """An upload that knows the digest of its bytes."""

    def __init__(self, api: RepositoryApi) -> None:
        super().__init__(api)
        self._hasher = Hasher()

    @property
    def digest(self) -> Digest:
        return self._hasher.digest

    def write(self, data: bytes) -> None:
        self._hasher.update(data)
        super().write(data)

    def commit(self, target: Descriptor) -> None:
        if target.digest.algorithm == "sha256" and target.digest != self.digest:
            raise DigestMismatch(
                expected=str(target.digest), got=str(self.digest), where=self._api.host
            )
        super().commit(target)
