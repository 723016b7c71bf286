"""Large blobs in pieces, several at once: ranges that are resumed, parts that are sent again."""

from __future__ import annotations

import re
from collections.abc import Callable, Generator, Iterator
from contextlib import closing
from functools import partial
from typing import TYPE_CHECKING, TypeVar

from shipline.content import CHUNK, Reader
from shipline.content.cache_store import CACHE_DOCUMENT_LIMIT
from shipline.errors import RegistryError
from shipline.registry.retries import TRIES, Retries
from shipline.tasks import check, ordered_map, time_limit

if TYPE_CHECKING:
    from shipline.registry.transport import ClientResponse

PIECE = 8 << 20  # bytes of one request
PATIENCE_S = 600.0  # for a piece, or a small object: a cache that trickles is worth less
_PROGRESS = 64 << 10  # bytes: after fewer, a break is one more failure in a row
AT_ONCE = 4  # requests for one blob, so that it takes at most 40 MiB of memory

_T = TypeVar("_T")
GetRange = Callable[[int, int], "ClientResponse"]
"""The response to a request for the bytes from a position up to another: status 200, 206, 416."""


class RangedReader:
    """The bytes of an object, in order, of requests for `PIECE` bytes of which several run.

    Nothing is verified. An object that is shorter than `size` ends early.
    """

    def __init__(self, get: GetRange, size: int) -> None:
        starts = range(0, size, PIECE)
        pieces = ordered_map(
            lambda start: _timely(partial(_fetch, get, start, min(start + PIECE, size))),
            starts,
            workers=min(AT_ONCE, len(starts)),
            ahead=0,
        )
        self._pieces: Iterator[bytearray] = pieces
        # the first one now: what is wrong with the object is raised here
        self._piece = memoryview(next(pieces, bytearray()))

    def read(self, size: int = -1, /) -> bytes:
        if size < 0:
            return b"".join(iter(lambda: self.read(CHUNK), b""))
        if size and not self._piece:
            self._piece = memoryview(next(self._pieces, bytearray()))
        data, self._piece = bytes(self._piece[:size]), self._piece[size:]
        return data

    def close(self) -> None:
        if isinstance(self._pieces, Generator):
            self._pieces.close()


def _timely(read: Callable[[], _T]) -> _T:
    """What `read` returns. Raises RegistryError if it takes too long."""
    try:
        with time_limit(PATIENCE_S):
            return read()
    except TimeoutError:
        raise RegistryError(
            f"the cache did not send {PIECE >> 20} MiB within {PATIENCE_S:.0f} seconds",
            code="cache-unreachable",
            host="",
            hint="the service or the network is slow",
        ) from None


def _fetch(get: GetRange, start: int, end: int) -> bytearray:
    """The bytes up to `end`, fewer where the object ends; a broken response is continued."""
    data, retries = bytearray(), Retries(TRIES)
    while len(data) < end - start:
        check()
        before = len(data)
        response = get(start + before, end)
        try:
            with closing(response):
                _append(data, response, start + before, end - start - before)
        except RegistryError as error:
            if len(data) - before >= _PROGRESS:
                retries.failures = 0
            retries.failed(error)
        else:
            if len(data) == before:
                break
    return data


def _append(data: bytearray, response: ClientResponse, start: int, left: int) -> None:
    if response.status == 416:
        return
    found = re.match(r"bytes ([0-9]{1,18})-", response.header("Content-Range"))
    if (int(found[1]) if found else 0) != start:
        host = response.url.origin.authority
        raise RegistryError(
            f"{host}: returned another range than requested", code="cache-refused", host=host
        )
    while left and (more := response.read(min(left, CHUNK))):
        data += more
        left -= len(more)


def read_document(get: Callable[[], ClientResponse]) -> tuple[bytes, str]:
    """Content and ETag of a document; a response that breaks off is asked for again.

    Raises RegistryError if it is larger than `CACHE_DOCUMENT_LIMIT`, or comes too slowly.
    """
    return _timely(partial(_read_document, get))


def _read_document(get: Callable[[], ClientResponse]) -> tuple[bytes, str]:
    retries = Retries(TRIES)
    while True:
        response = get()
        try:
            with closing(response):
                return response.content(CACHE_DOCUMENT_LIMIT), response.header("ETag")
        except RegistryError as error:
            retries.failed(error)


def parts(reader: Reader, size: int) -> Iterator[bytes]:
    """What `reader` gives, in pieces of `size` bytes of which the last may be shorter."""
    while part := b"".join(_exactly(reader, size)):
        yield part


def _exactly(reader: Reader, size: int) -> Iterator[bytes]:
    while size and (data := reader.read(min(size, CHUNK))):
        yield data
        size -= len(data)
