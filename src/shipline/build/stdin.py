"""Standard input as the context: a tar archive, compressed or not, or the Dockerfile alone."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path

from shipline.build.request import BuildRequest, Context, ContextKind
from shipline.content import Reader
from shipline.errors import UsageError
from shipline.layer import Item, decompress, read_tar, sniff, unpack

_HEAD = 512  # bytes that tell an archive
_SECOND = 1_000_000_000  # nanoseconds


def open_stdin(
    request: BuildRequest, stdin: Reader | None, scratch: Path
) -> tuple[BuildRequest, Reader | None]:
    """The request, its context unpacked below `scratch` where it is an archive on `stdin`, and
    what is then left to read. Raises UsageError for nothing, ContentError for a damaged archive.
    """
    if request.context.kind is not ContextKind.STDIN:
        return request, stdin
    if stdin is None:
        raise UsageError("the context was to come from standard input, which is closed")
    joined = _Joined(_head(stdin), stdin)
    if not joined.head:
        raise UsageError("standard input is empty", hint="send a Dockerfile or a tar archive")
    compression = sniff(joined.head)
    if compression is None:
        if request.dockerfile is not None:
            raise UsageError(
                "standard input is no tar archive, so --file has nothing to be found in",
                hint="send the Dockerfile without --file, or an archive with the file in it",
            )
        return request, joined
    place = scratch / "context"
    place.mkdir()
    times: list[int] = []
    items = _noting(read_tar(decompress(joined, compression)), times)
    unpack(items, place, whiteouts="keep", owner=False)
    newest = max(times) // _SECOND if times else None
    return replace(request, context=Context(ContextKind.STDIN, str(place), newest)), None


def _noting(items: Iterable[Item], times: list[int]) -> Iterator[Item]:
    """`items`; the time of each file is added to `times`."""
    for entry, content in items:
        if entry.kind == "file":
            times.append(entry.mtime_ns)
        yield entry, content


def _head(stdin: Reader) -> bytes:
    head = b""
    while len(head) < _HEAD and (data := stdin.read(_HEAD - len(head))):
        head += data
    return head


class _Joined:
    """What was read to look at it, and then the rest."""

    def __init__(self, head: bytes, rest: Reader) -> None:
        self.head = head
        self._waiting = head
        self._rest = rest

    def read(self, size: int = -1, /) -> bytes:
        if size < 0:
            return b"".join(iter(lambda: self.read(1 << 20), b""))
        if not self._waiting:
            return self._rest.read(size)
        data, self._waiting = self._waiting[:size], self._waiting[size:]
        return data
