"""File trees to tar: deterministic, and written into large blocks without copying contents."""

from __future__ import annotations

import io
import os
from collections.abc import Iterable, Iterator

from shipline.content import Reader
from shipline.errors import ContentError
from shipline.layer.entry import Content, Entry, Item, Source
from shipline.layer.tar_header import BLOCK, encode

PIECE = 1 << 20  # bytes; a multiple of BLOCK
_BLANK = bytes(PIECE)
# a name that became a pipe since it was listed must not make open(2) wait for a writer
_FLAGS = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC


def write_tar(items: Iterable[Item]) -> Iterator[bytes]:
    """The archive of `items` in their order, in pieces of exactly PIECE bytes but the last.

    Ends with two zero blocks. Raises ContentError when a file cannot be read or is not as long as
    its entry says, before the piece that would hold the wrong bytes is passed on.
    """
    piece = _Piece()
    for entry, content in items:
        if piece.room < BLOCK:
            yield piece.take()
        header = encode(entry)
        if len(header) <= piece.room:
            piece.put(header)
        else:
            yield from piece.spill(header)
        size = entry[5]
        if not size:
            continue
        if type(content) is Source and size + BLOCK <= piece.room:
            piece.put_file(content, entry)
        else:
            yield from _write_long(piece, content, entry)
    yield from piece.spill(bytes(2 * BLOCK))
    if piece.position:
        yield piece.take()


class _Piece:
    """The piece being filled. It is zero where nothing was put, which is the padding of tar."""

    def __init__(self) -> None:
        self._renew()
        self._probe = bytearray(1)

    def _renew(self) -> None:
        # BytesIO hands its bytes object out without a copy when nothing else changes its size
        self._bytes = io.BytesIO(_BLANK)
        self._view = self._bytes.getbuffer()
        self.position = 0
        self.room = PIECE

    def take(self) -> bytes:
        self._view.release()
        data = self._bytes.getvalue()
        data = data if self.room == 0 else data[: self.position]
        self._renew()
        return data

    def put(self, data: bytes | memoryview) -> None:
        """Add what fits into the room."""
        end = self.position + len(data)
        self._view[self.position : end] = data
        self.position = end
        self.room = PIECE - end

    def put_file(self, source: Source, entry: Entry) -> None:
        """Add a file that fits into the room, and its padding."""
        start, size = self.position, entry[5]
        try:
            fd = os.open(source[1], _FLAGS, dir_fd=source[0].fd)
            try:
                # one byte more, to see growth: nearly always the only read
                seen = os.readv(fd, (self._view[start : start + size], self._probe))
                if seen != size:
                    seen = self._read_on(fd, start, size, seen)
            finally:
                os.close(fd)
        except OSError as error:
            raise unreadable(source, error) from error
        if seen != size:
            raise changed(entry)
        self.position = start + size + -size % BLOCK
        self.room = PIECE - self.position

    def _read_on(self, fd: int, start: int, size: int, seen: int) -> int:
        while seen < size:
            read = os.readv(fd, (self._view[start + seen : start + size], self._probe))
            if not read:
                break
            seen += read
        return seen

    def spill(self, data: bytes) -> Iterator[bytes]:
        """Add `data`, passing full pieces on."""
        view = memoryview(data)
        while view:
            if not self.room:
                yield self.take()
            part = view[: self.room]
            self.put(part)
            view = view[len(part) :]

    def read_file(self, source: Source, entry: Entry) -> Iterator[bytes]:
        """Add a file of any length, passing full pieces on."""
        left = entry.size
        try:
            fd = os.open(source.name, _FLAGS, dir_fd=source.root.fd)
            try:
                while left:
                    if not self.room:
                        yield self.take()
                    end = self.position + min(self.room, left)
                    read = os.readv(fd, (self._view[self.position : end],))
                    if not read:
                        raise changed(entry)
                    left -= read
                    self.position += read
                    self.room -= read
                if os.read(fd, 1):
                    raise changed(entry)
            finally:
                os.close(fd)
        except OSError as error:
            raise unreadable(source, error) from error


def _write_long(piece: _Piece, content: Content, entry: Entry) -> Iterator[bytes]:
    if isinstance(content, Source):
        yield from piece.read_file(content, entry)
    else:
        yield from _write_pieces(piece, content, entry)
    yield from piece.spill(bytes(-entry.size % BLOCK))


def _write_pieces(piece: _Piece, content: bytes | Reader | None, entry: Entry) -> Iterator[bytes]:
    left = entry.size
    for data in (content,) if isinstance(content, bytes) else _read(content):
        left -= len(data)
        if left < 0:
            raise changed(entry)
        yield from piece.spill(data)
    if left:
        raise changed(entry)


def _read(reader: Reader | None) -> Iterator[bytes]:
    while reader is not None and (data := reader.read(PIECE)):
        yield data


def changed(entry: Entry) -> ContentError:
    return ContentError(
        f"{entry.path}: is not {entry.size} bytes long any more, it changed while it was read",
        hint="stop what writes to it during the build, or exclude it in .dockerignore",
    )


def unreadable(source: Source, error: OSError) -> ContentError:
    return ContentError(
        f"{source.name}: {error.strerror}",
        hint="the file must exist and be readable until the build has ended",
    )
