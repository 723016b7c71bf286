"""Blob uploads: in one request if possible, resumed after a broken connection.

Distribution specification end-4 to end-6, end-13, end-14. A session that the registry still has is
resumed at the offset it reports; a lost one is started again.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

from msgspec import Struct

from shipline.content import Advance, Fetcher, LocalStore, chunks
from shipline.errors import AuthError, DigestMismatch, RegistryError, ShiplineError
from shipline.oci import Descriptor, Digest, InvalidDigest
from shipline.registry.errors import InvalidResponse
from shipline.registry.repository_api import WRITE, RepositoryApi
from shipline.registry.request import BlobRange, UploadProgress, Url
from shipline.registry.retries import Retries

if TYPE_CHECKING:
    from shipline.registry.transport import ClientResponse

OCTET_STREAM = {"Content-Type": "application/octet-stream"}
_SESSION_LOST = frozenset({404, 416})  # the session is gone, or at another offset
_TOO_LARGE = 413  # some proxies limit the size of requests
_CHUNK = 16 << 20  # bytes per chunk, where chunks are needed
_PROGRESS = 1 << 20  # bytes, or a hundredth of the blob: what an attempt that got on has added


class UploadState(Struct, frozen=True):
    """An upload session: its Location, bytes received, and OCI-Chunk-Min-Length."""

    url: Url
    offset: int = 0
    min_chunk: int = 0


def open_session(api: RepositoryApi, target: Descriptor | None = None) -> UploadState:
    """POST: open a session."""
    url = api.url("blobs", "uploads", "")
    if target is not None and target.digest.algorithm != "sha256":
        url = url.with_query(("digest-algorithm", target.digest.algorithm))
    response = api.call("POST", url, expect={202}, operation="starting an upload", actions=WRITE)
    try:
        return session_of(api, response)
    finally:
        response.close()


def post(api: RepositoryApi, target: Descriptor, body: BlobRange) -> UploadState | None:
    """POST of a whole blob (end-4b): None if the registry stored it, else the session that it
    opened. Raises DigestMismatch.
    """
    url = api.url("blobs", "uploads", "").with_query(("digest", str(target.digest)))
    with _refusing_digest(api, target):
        response = api.call(
            "POST",
            url,
            expect={201, 202},
            operation=f"uploading {target.digest}",
            actions=WRITE,
            headers=OCTET_STREAM,
            body=body,
            limit="write",
            tries=1,
        )
    try:
        if response.status == 202:
            return session_of(api, response)
        check_stored(api, response, target)
        return None
    finally:
        response.close()


def session_of(api: RepositoryApi, response: ClientResponse) -> UploadState:
    """The session that a POST opened."""
    min_chunk = response.header("OCI-Chunk-Min-Length")
    return UploadState(
        api.location(response),
        min_chunk=int(min_chunk) if re.fullmatch("[0-9]{1,12}", min_chunk) else 0,
    )


def push_blob(
    api: RepositoryApi,
    target: Descriptor,
    source: Fetcher,
    advance: Advance | None = None,
    session: UploadState | None = None,
    *,
    posted: bool = False,
) -> None:
    """Upload `target`. When this returns, the registry has stored and verified it.

    `session` may be open already. If `posted`, the first request has all bytes. Raises
    DigestMismatch if the registry reports another digest, RegistryError if the upload fails.
    """
    _Upload(api, target, source, UploadProgress(advance), session, posted=posted).run()


class _Upload:
    """The upload of one blob, retried as long as it makes progress."""

    def __init__(
        self,
        api: RepositoryApi,
        target: Descriptor,
        source: Fetcher,
        meter: UploadProgress,
        session: UploadState | None,
        *,
        posted: bool,
    ) -> None:
        self._api = api
        self._posted = posted
        self._target = target
        self._source = source
        self._meter = meter
        self._session = session
        self._chunk = 0  # bytes per chunk; 0 for one request
        self._was_refused = False  # for another digest
        self._resumes = api.quirks.resumes
        self._retries = Retries(api.http.tries)

    def run(self) -> None:
        furthest = 0
        while True:
            try:
                self._send()
                break
            except DigestMismatch as error:
                self._restart(error)
                continue
            except (RegistryError, AuthError) as error:
                if not self._begin_chunks(error):
                    self._failed(error)
            if self._session is not None:
                self._session = resume(self._api, self._session) if self._resumes else None
            if self._session is None and is_there(self._api, self._target):
                break
            offset = self._session.offset if self._session else 0
            if offset >= furthest + max(1, min(self._target.size // 100, _PROGRESS)):
                self._retries.failures, furthest = 0, offset
        self._meter.at(self._target.size)

    def _restart(self, error: DigestMismatch) -> None:
        """Send all of it once more, in one request, after a registry found another digest: bytes
        may have been changed on their way, or be others than those that it said to have. Raises
        `error` if that was done, and a DigestMismatch of the store if its file is wrong.
        """
        if self._was_refused:
            raise error
        if isinstance(self._source, LocalStore):  # whose file is sent unread
            with self._source.fetch(self._target) as reader:
                for _ in chunks(reader):
                    pass
        self._was_refused, self._session = True, None
        self._chunk, self._resumes = 0, False

    def _begin_chunks(self, error: RegistryError | AuthError) -> bool:
        """Whether a 413 asks for chunks, which are sent from now on."""
        if error.status != _TOO_LARGE or self._chunk or not self._session or not self._resumes:
            return False
        chunk = max(_CHUNK, self._session.min_chunk)
        self._chunk = min(chunk, self._api.quirks.chunk or chunk)
        return True

    def _failed(self, error: RegistryError | AuthError) -> None:
        """Wait before another attempt. Raises `error`, with the session cancelled, for none."""
        lost = self._session is not None and error.status in _SESSION_LOST
        try:
            self._retries.failed(error, retriable=lost)
        except ShiplineError:
            if self._session is not None:
                cancel(self._api, self._session)
            raise

    def _send(self) -> None:
        """Send from the session's offset to the end, in one request or in chunks."""
        if self._posted:
            self._posted = False  # what it left unstored is sent as by others
            self._session = post(self._api, self._target, self._range(0, self._target.size))
            if self._session is None:
                return
        if self._session is None:
            self._session = open_session(self._api, self._target)
        size = self._target.size
        if self._session.offset > size:
            self._session = open_session(self._api, self._target)  # it lies
        if not self._chunk and not self._session.offset:
            finish(self._api, self._session, self._target, self._range(0, size))
            return
        chunk = self._chunk or self._api.quirks.chunk or size
        while (start := self._session.offset) < size:
            end = min(start + chunk, size)
            self._session = patch(self._api, self._session, self._range(start, end))
            if self._session.offset <= start:
                self._chunk, self._resumes = 0, False
                raise InvalidResponse(self._api.host, "it drops chunks", retriable=True)
        finish(self._api, self._session, self._target)

    def _range(self, start: int, end: int) -> BlobRange:
        return BlobRange(self._source, self._target, start, end, self._meter)


def resume(api: RepositoryApi, session: UploadState) -> UploadState | None:
    """GET: the state of the session; None if it is lost."""
    try:
        response = api.call(
            "GET",
            session.url,
            expect={204, 404, 400, 416},
            operation="checking an upload",
            actions=WRITE,
            redirects=0,
        )
    except AuthError:
        raise
    except RegistryError as error:
        if error.retriable:
            raise
        return None
    try:
        if response.status != 204:
            return None
        return UploadState(
            api.location(response, session.url),
            _received(response.header("Range")),
            session.min_chunk,
        )
    finally:
        response.close()


def cancel(api: RepositoryApi, session: UploadState) -> None:
    """DELETE: cancel the session, best effort; registries expire abandoned ones."""
    with suppress(RegistryError, AuthError):
        api.call(
            "DELETE",
            session.url,
            expect={202, 204, 404},
            operation="cancelling an upload",
            actions=WRITE,
            tries=1,
            redirects=0,
        ).close()


def finish(
    api: RepositoryApi, session: UploadState, target: Descriptor, body: BlobRange | bytes = b""
) -> None:
    """PUT: close the session with the digest and the rest of the bytes. Raises DigestMismatch."""
    headers = dict(OCTET_STREAM)
    if isinstance(body, BlobRange) and body.start:
        headers["Content-Range"] = f"{body.start}-{body.end - 1}"
    with _refusing_digest(api, target):
        response = api.call(
            "PUT",
            session.url.with_query(("digest", str(target.digest))),
            expect={201, 204},
            operation=f"uploading {target.digest}",
            actions=WRITE,
            headers=headers,
            body=body,
            limit="write" if body else "small",
            tries=1,
        )
        response.close()
    check_stored(api, response, target)


@contextmanager
def _refusing_digest(api: RepositoryApi, target: Descriptor) -> Iterator[None]:
    """Raises DigestMismatch where the registry says that what it got has another digest."""
    try:
        yield
    except RegistryError as error:
        if "DIGEST_INVALID" in error.diagnostics:
            raise DigestMismatch(
                expected=str(target.digest),
                got="another digest, according to the registry",
                where=api.host,
                hint="the content was corrupted in transit or in the local store; run again",
            ) from error
        raise


def check_stored(api: RepositoryApi, response: ClientResponse, target: Descriptor) -> None:
    """Raises DigestMismatch where the registry says that it stored something else. A digest of
    another algorithm says nothing, and some registries send what is none.
    """
    with suppress(InvalidDigest):
        told = Digest.parse(response.header("Docker-Content-Digest"))
        if told.algorithm == target.digest.algorithm and told != target.digest:
            raise DigestMismatch(
                expected=str(target.digest),
                got=str(told),
                where=f"{api.host} stored something else",
                hint="a proxy or the registry changes what is pushed: what it has is not the same",
            )


def patch(api: RepositoryApi, session: UploadState, blob_range: BlobRange) -> UploadState:
    """PATCH: one chunk. Returns the new state of the session, which may hold less than was sent."""
    response = api.call(
        "PATCH",
        session.url,
        expect={201, 202, 204},
        operation="uploading a chunk",
        actions=WRITE,
        headers={**OCTET_STREAM, "Content-Range": f"{blob_range.start}-{blob_range.end - 1}"},
        body=blob_range,
        limit="write",
        tries=1,
    )
    try:
        held = response.header("Range")
        end = min(_received(held), blob_range.end) if held else blob_range.end
        return UploadState(api.location(response, session.url), end, session.min_chunk)
    finally:
        response.close()


def is_there(api: RepositoryApi, target: Descriptor) -> bool:
    """Whether the upload succeeded and only the response was lost."""
    response = api.call(
        "HEAD",
        api.blob(target.digest),
        expect={200, 404, 403},
        operation=f"looking for {target.digest}",
        actions=WRITE,
    )
    response.close()
    return response.status == 200


def _received(header: str) -> int:
    """Bytes received, from `Range: 0-<last>`; most registries write 0-0 for none."""
    match = re.fullmatch(r"(?:bytes=)?0-([0-9]{1,18})", header.strip())
    last = int(match[1]) if match else 0
    return last + 1 if last else 0
