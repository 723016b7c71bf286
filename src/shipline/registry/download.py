"""Blobs of a registry as they arrive: resumed with Range after a broken connection, at the next
mirror too.
"""

from __future__ import annotations

import re
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

from shipline.errors import AuthError, DigestMismatch, NotFound, RegistryError, ShiplineError
from shipline.oci import Descriptor
from shipline.registry.errors import Unreachable
from shipline.registry.repository_api import RepositoryApi
from shipline.registry.retries import Retries

if TYPE_CHECKING:
    from shipline.registry.transport import ClientResponse

_SKIP_CHUNK = 1 << 20  # bytes


class Download:
    """Unverified bytes of one blob, in order, over as many connections as it takes.

    Wrap it in a VerifiedReader, which checks the digest of the whole. When one of `apis` fails, the
    next takes over at the same offset; all but the last are mirrors.
    """

    def __init__(self, apis: Sequence[RepositoryApi], target: Descriptor, start: int = 0) -> None:
        """From byte `start` on."""
        self._apis = list(apis)
        self._target = target
        self._position = start
        self._retries = Retries(self.api.http.tries)
        self._retried = False
        self._errors: list[ShiplineError] = []
        self._use_ranges = True
        self._etag = ""  # of the current source
        self._response: ClientResponse | None = None
        self._opened = self._waited_s = 0.0
        self._contributors: list[RepositoryApi] = []

    @property
    def api(self) -> RepositoryApi:
        """The current source."""
        return self._apis[0]

    def open(self) -> None:
        """Send the request. Raises NotFound if no source has the blob."""
        while self._response is None:
            try:
                self._response = self._request()
                self._opened, self._waited_s = time.monotonic(), 0.0
            except (RegistryError, AuthError, NotFound) as error:
                if len(self._apis) == 1:
                    with noting_mirrors(self._errors):
                        raise
                self._next_source(error)

    def read(self, size: int = -1, /) -> bytes:
        while True:
            self.open()
            try:
                data = self._read(size)
            except RegistryError as error:
                self._retry_or_next(error)
                continue
            if data or not size or self._position >= self._target.size:
                self._position += len(data)
                self._retries.failures = 0 if data else self._retries.failures
                return data
            if self._retries.failures and len(self._apis) == 1:
                return b""  # truncated twice at the same offset: there is no more
            if self._retries.failures:
                end = f"{self.api.host}: {self._target.digest} ends at byte {self._position}"
                self._leave(RegistryError(end, code="connection-lost", host=self.api.host))
                continue
            self._retries.failures += 1
            self._drop()

    def distrust(self, error: DigestMismatch) -> None:
        """The bytes were wrong: the mirrors that sent some of them are set aside."""
        for api in self._contributors:
            if api.endpoint.mirrored:
                api.failed(error)
                error.retriable = True

    def verified(self) -> None:
        """The bytes were right, if they were all read."""
        if self._position == self._target.size:
            self.api.delivered()

    def close(self) -> None:
        self._drop()

    def _read(self, size: int) -> bytes:
        assert self._response is not None
        if not self._contributors or self._contributors[-1] is not self.api:
            self._contributors.append(self.api)
        if not self.api.measured:
            return self._response.read(size)
        begin = time.monotonic()
        data = self.api.http.mirrors.read(self.api.endpoint, self._response.read, size)
        self._waited_s += time.monotonic() - begin
        return data

    def _request(self) -> ClientResponse:
        """A response positioned at the current offset."""
        start = self._position if self._use_ranges else 0
        response = self.api.call(
            "GET",
            self.api.blob(self._target.digest),
            expect={200, 206, 404, 416} if start else {200, 404},
            operation=f"fetching {self._target.digest}",
            headers=self._range(start) if start else None,
            limit="read",
        )
        etag = response.header("ETag")
        self._etag = etag if etag.startswith('"') else ""
        try:
            return self._at_position(response, start)
        except BaseException:
            response.close()
            raise

    def _range(self, start: int) -> dict[str, str]:
        """Headers for the rest; for all, if a proxy has another content now (RFC 9110, 13.1.5)."""
        same = {"If-Range": self._etag} if self._etag else {}
        return {"Range": f"bytes={start}-", **same}

    def _at_position(self, response: ClientResponse, start: int) -> ClientResponse:
        if response.status == 404:
            raise _missing(self.api, self._target)
        if response.status == 206 and _range_start(response.header("Content-Range")) == start:
            return response
        if response.status != 200:  # not the requested range: fetch the whole blob
            self._use_ranges = False
            response.close()
            return self._request()
        left = self._position
        while left and (data := response.read(min(_SKIP_CHUNK, left))):
            left -= len(data)
        return response

    def _retry_or_next(self, error: RegistryError) -> None:
        self._drop()
        if len(self._apis) > 1:
            self._retries.failures += 1
            if self._retried or isinstance(error, Unreachable) or not error.retriable:
                self._leave(error)
            self._retried = True  # a connection may break, once
        else:
            with noting_mirrors(self._errors):
                self._retries.failed(error)

    def _leave(self, error: RegistryError) -> None:
        self.api.failed(error)
        self._next_source(error)

    def _next_source(self, error: ShiplineError) -> None:
        self._errors.append(error)
        self._drop()
        self._apis.pop(0)
        self._retries.failures = 0
        self._retried = False
        self._use_ranges = True
        self._etag = ""

    def _drop(self) -> None:
        if self._response is None:
            return
        self._response.close()
        self._response = None
        if self.api.measured:
            waited = 2 * self._waited_s >= time.monotonic() - self._opened
            self.api.http.mirrors.closed(self.api.endpoint, waited=waited)


@contextmanager
def noting_mirrors(failures: Sequence[ShiplineError]) -> Iterator[None]:
    """Adds the failures of the mirrors as notes to an error that leaves the block."""
    try:
        yield
    except ShiplineError as error:
        for failure in failures:
            error.add_note(f"a mirror failed before: {failure.message}")
        absent = failures and all(isinstance(failure, NotFound) for failure in failures)
        if absent and isinstance(error, RegistryError) and not error.status:
            error.hint = f"no mirror has it: check the name and the connection to {error.host}"
        raise


def _missing(api: RepositoryApi, target: Descriptor) -> NotFound:
    hint = ""
    if target.urls:
        hint = "the descriptor points to other urls, which are not fetched"
    return NotFound(
        f"{target.digest} is not in {api.host}/{api.repository}", code="content-gone", hint=hint
    )


def _range_start(content_range: str) -> int:
    match = re.match(r"bytes ([0-9]{1,18})-", content_range)
    return int(match[1]) if match else -1
