"""Blobs on their way up: one request where that works, the rest of one after a broken connection.

Distribution specification end-4 to end-6, end-13, end-14. A session that the registry still knows
is continued at the offset it names; one that it has lost is started again.
"""

from __future__ import annotations

import re
from contextlib import suppress
from dataclasses import dataclass

from shipline.content import Advance, Fetcher
from shipline.errors import AuthError, DigestMismatch, RegistryError
from shipline.oci import Descriptor
from shipline.registry.channel import WRITE, Channel
from shipline.registry.http import pause
from shipline.registry.origin import Url
from shipline.registry.request import BlobRange, Meter

OCTETS = {"Content-Type": "application/octet-stream"}
_LOST = frozenset({404, 416})  # the session is gone, or stands elsewhere
_TOO_BIG = 413  # some proxies take small requests only
_PIECE = 16 << 20  # bytes per numbered chunk, where there must be any


@dataclass(frozen=True, slots=True)
class UploadState:
    """An upload in progress: where it goes on, how many bytes are there, the smallest chunk."""

    url: Url
    offset: int = 0
    least: int = 0


def open_session(channel: Channel, target: Descriptor | None = None) -> UploadState:
    """POST: a new session."""
    url = channel.url("blobs", "uploads", "")
    if target is not None and target.digest.algorithm != "sha256":
        url = url.adding(("digest-algorithm", target.digest.algorithm))
    answer = channel.call("POST", url, expect={202}, doing="starting an upload", actions=WRITE)
    try:
        least = answer.header("OCI-Chunk-Min-Length")
        return UploadState(
            channel.location(answer), least=int(least) if re.fullmatch("[0-9]{1,12}", least) else 0
        )
    finally:
        answer.close()


def push_blob(
    channel: Channel,
    target: Descriptor,
    source: Fetcher,
    advance: Advance | None = None,
    session: UploadState | None = None,
) -> None:
    """Upload `target`. When this returns, the registry has it, verified by itself.

    `session` may be one that is open already. Raises DigestMismatch when the registry says that
    the bytes are others, RegistryError when it cannot be done.
    """
    _Upload(channel, target, source, Meter(advance), session).run()


class _Upload:
    """One blob on its way: tries until it is there, or until nothing moves any more."""

    def __init__(
        self,
        channel: Channel,
        target: Descriptor,
        source: Fetcher,
        meter: Meter,
        session: UploadState | None,
    ) -> None:
        self._channel = channel
        self._target = target
        self._source = source
        self._meter = meter
        self._session = session
        self._piece = 0  # bytes per numbered chunk; 0 for one request

    def run(self) -> None:
        failures = 0
        while True:
            try:
                self._send()
                break
            except (RegistryError, AuthError) as error:
                failures += 1
                if not self._continues(error, failures):
                    if self._session is not None:
                        cancel(self._channel, self._session)
                    raise
            before = self._session.offset if self._session else 0
            self._session = self._session and resume(self._channel, self._session)
            if self._session is None and is_there(self._channel, self._target):
                break
            if self._session is not None and self._session.offset > before:
                failures = 0
        self._meter.at(self._target.size)

    def _continues(self, error: RegistryError | AuthError, failures: int) -> bool:
        """Whether to go on after `error`; waits, and chooses smaller requests where it must."""
        if error.status == _TOO_BIG and not self._piece and self._session is not None:
            self._piece = min(self._channel.quirks.chunk, max(_PIECE, self._session.least))
            return True
        lost = self._session is not None and error.status in _LOST
        if failures >= self._channel.gate.tries or not (error.retriable or lost):
            return False
        pause(failures, error)
        return True

    def _send(self) -> None:
        """From the session's offset to the end, in one request or in numbered chunks."""
        if self._session is None:
            self._session = open_session(self._channel, self._target)
        start, size = self._session.offset, self._target.size
        if not self._piece and not start:
            finish(self._channel, self._session, self._target, self._part(0, size))
            return
        while start < size:
            end = min(start + self._piece, size) if self._piece else size
            self._session = patch(self._channel, self._session, self._part(start, end))
            start = end
        finish(self._channel, self._session, self._target)

    def _part(self, start: int, end: int) -> BlobRange:
        return BlobRange(self._source, self._target, start, end, self._meter)


def resume(channel: Channel, session: UploadState) -> UploadState | None:
    """GET: where the registry stands; None if the session is lost."""
    if not channel.quirks.resumes:
        return None
    try:
        answer = channel.call(
            "GET",
            session.url,
            expect={204, 404, 400, 416},
            doing="asking how far an upload got",
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
        if answer.status != 204:
            return None
        return UploadState(
            channel.location(answer, session.url), _received(answer.header("Range")), session.least
        )
    finally:
        answer.close()


def cancel(channel: Channel, session: UploadState) -> None:
    """DELETE: give the session up. The registry forgets it some day anyhow."""
    with suppress(RegistryError, AuthError):
        channel.call(
            "DELETE",
            session.url,
            expect={202, 204, 404},
            doing="giving an upload up",
            actions=WRITE,
            tries=1,
            redirects=0,
        ).close()


def finish(
    channel: Channel, session: UploadState, target: Descriptor, body: BlobRange | bytes = b""
) -> None:
    """PUT: the last bytes, or all or none of them, and the digest. Raises DigestMismatch."""
    headers = dict(OCTETS)
    if isinstance(body, BlobRange) and body.start:
        headers["Content-Range"] = f"{body.start}-{body.end - 1}"
    try:
        channel.call(
            "PUT",
            session.url.adding(("digest", str(target.digest))),
            expect={201, 204},
            doing=f"uploading {target.digest}",
            actions=WRITE,
            headers=headers,
            body=body,
            lane="write" if body else "small",
            tries=1,
        ).close()
    except RegistryError as error:
        if "DIGEST_INVALID" in error.diagnostics:
            raise DigestMismatch(
                expected=str(target.digest),
                got="other bytes, says the registry",
                where=channel.host,
                hint="the content was altered on its way, or in the local store; run again",
            ) from error
        raise


def patch(channel: Channel, session: UploadState, part: BlobRange) -> UploadState:
    """PATCH: one numbered chunk. The session afterwards."""
    answer = channel.call(
        "PATCH",
        session.url,
        expect={201, 202, 204},
        doing="uploading a chunk",
        actions=WRITE,
        headers={**OCTETS, "Content-Range": f"{part.start}-{part.end - 1}"},
        body=part,
        lane="write",
        tries=1,
    )
    try:
        return UploadState(channel.location(answer, session.url), part.end, session.least)
    finally:
        answer.close()


def is_there(channel: Channel, target: Descriptor) -> bool:
    """Whether the upload succeeded and only its answer was lost."""
    answer = channel.call(
        "HEAD",
        channel.blob(target.digest),
        expect={200, 404, 403},
        doing=f"looking for {target.digest}",
        actions=WRITE,
    )
    answer.close()
    return answer.status == 200


def _received(header: str) -> int:
    """Bytes that the registry has, from `Range: 0-<last>`; 0-0 is how most write none."""
    found = re.fullmatch(r"(?:bytes=)?0-([0-9]{1,18})", header.strip())
    last = int(found[1]) if found else 0
    return last + 1 if last else 0
