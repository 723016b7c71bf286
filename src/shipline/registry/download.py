"""Blob downloads: mirrors first, resumed with Range after a broken connection."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

from shipline.errors import AuthError, NotFound, RegistryError, ShiplineError
from shipline.oci import Descriptor
from shipline.registry.http import back_off
from shipline.registry.repository_api import RepositoryApi

if TYPE_CHECKING:
    from shipline.registry.transport import Response

_SKIP_CHUNK = 1 << 20  # bytes


class Download:
    """Unverified bytes of one blob, in order, over as many connections as it takes.

    Wrap it in a VerifiedReader, which checks the digest of the whole. When one of `apis` fails, the
    next takes over.
    """

    def __init__(self, apis: Sequence[RepositoryApi], target: Descriptor) -> None:
        self._apis = list(apis)
        self._target = target
        self._position = 0
        self._failures = 0
        self._errors: list[ShiplineError] = []
        self._use_ranges = True
        self._response: Response | None = None

    @property
    def api(self) -> RepositoryApi:
        """The current source."""
        return self._apis[0]

    def open(self) -> None:
        """Send the request. Raises NotFound if no source has the blob."""
        while self._response is None:
            try:
                self._response = self._request()
            except (RegistryError, AuthError, NotFound) as error:
                if len(self._apis) == 1:
                    with noting_mirrors(self._errors):
                        raise
                self._next_source(error)

    def read(self, size: int = -1, /) -> bytes:
        while True:
            self.open()
            assert self._response is not None
            try:
                data = self._response.read(size)
            except RegistryError as error:
                self._retry_or_next(error)
                continue
            if data or not size or self._position >= self._target.size:
                self._position += len(data)
                self._failures = 0 if data else self._failures
                return data
            if self._failures:  # truncated twice at the same offset: there is no more
                return b""
            self._failures += 1
            self._drop()

    def close(self) -> None:
        self._drop()

    def _request(self) -> Response:
        """A response positioned at the current offset."""
        start = self._position if self._use_ranges else 0
        response = self.api.call(
            "GET",
            self.api.blob(self._target.digest),
            expect={200, 206, 404, 416} if start else {200, 404},
            operation=f"fetching {self._target.digest}",
            headers={"Range": f"bytes={start}-"} if start else None,
            limit="read",
        )
        try:
            return self._at_position(response, start)
        except BaseException:
            response.close()
            raise

    def _at_position(self, response: Response, start: int) -> Response:
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
        self._failures += 1
        if error.retriable and self._failures < self.api.http.tries:
            back_off(self._failures, error)
        elif len(self._apis) > 1:
            self._next_source(error)
        else:
            with noting_mirrors(self._errors):
                raise error

    def _next_source(self, error: ShiplineError) -> None:
        self._errors.append(error)
        self._drop()
        self._apis.pop(0)
        self._failures = 0
        self._use_ranges = True

    def _drop(self) -> None:
        if self._response is not None:
            self._response.close()
            self._response = None


@contextmanager
def noting_mirrors(failures: Sequence[ShiplineError]) -> Iterator[None]:
    """Adds the failures of the mirrors as notes to an error that leaves the block."""
    try:
        yield
    except ShiplineError as error:
        for failure in failures:
            error.add_note(f"a mirror failed before: {failure.message}")
        absent = failures and all(isinstance(one, NotFound) for one in failures)
        if absent and isinstance(error, RegistryError) and not error.status:
            error.hint = f"no mirror has it: check the name and the connection to {error.host}"
        raise


def _missing(api: RepositoryApi, target: Descriptor) -> NotFound:
    hint = ""
    if target.urls:
        hint = "the descriptor points to other urls, which are not fetched"
    return NotFound(f"{target.digest} is not in {api.host}/{api.repository}", hint=hint)


def _range_start(content_range: str) -> int:
    found = re.match(r"bytes ([0-9]{1,18})-", content_range)
    return int(found[1]) if found else -1
