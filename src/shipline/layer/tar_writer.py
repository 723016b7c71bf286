"""Writing tar: deterministic, in large chunks, without copying contents."""

from __future__ import annotations

import io
import os
from collections.abc import Iterable, Iterator

from shipline.content import Reader
from shipline.errors import ContentError
from shipline.layer.entry import Content, Entry, Item, Source
from shipline.layer.tar_header import BLOCK, encode

CHUNK = 1 << 20  # bytes; a multiple of BLOCK
_ZEROS = bytes(CHUNK)
# O_NONBLOCK: open(2) must not block on a file that has become a FIFO
_OPEN_FLAGS = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC


def write_tar(items: Iterable[Item]) -> Iterator[bytes]:
    """The archive of `items` in order, in chunks of exactly CHUNK bytes except the last.

    Ends with two zero blocks. Raises ContentError if a file cannot be read or its size differs from
    its entry, before the chunk with the wrong bytes is yielded.
    """
    buffer = _ChunkBuffer()
    for entry, content in items:
        if buffer.free < BLOCK:
            yield buffer.take()
        header = encode(entry)
        if len(header) <= buffer.free:
            buffer.put(header)
        else:
            yield from buffer.put_all(header)
        size = entry[5]
        if not size:
            continue
        if type(content) is Source and size + BLOCK <= buffer.free:
            buffer.put_file(content, entry)
        else:
            yield from _write_streamed(buffer, content, entry)
    yield from buffer.put_all(bytes(2 * BLOCK))
    if buffer.position:
        yield buffer.take()


class _ChunkBuffer:
    """The chunk being filled. Its unused bytes are zero, which is tar's padding."""

    def __init__(self) -> None:
        self._reset()
        self._extra_byte = bytearray(1)

    def _reset(self) -> None:
        # BytesIO returns its buffer without a copy unless it was resized
        self._bytes = io.BytesIO(_ZEROS)
        self._view = self._bytes.getbuffer()
        self.position = 0
        self.free = CHUNK

    def take(self) -> bytes:
        self._view.release()
        data = self._bytes.getvalue()
        data = data if self.free == 0 else data[: self.position]
        self._reset()
        return data

    def put(self, data: bytes | memoryview) -> None:
        """Add data that fits into the chunk."""
        end = self.position + len(data)
        self._view[self.position : end] = data
        self.position = end
        self.free = CHUNK - end

    def put_file(self, source: Source, entry: Entry) -> None:
        """Add a file that fits into the chunk, and its padding."""
        start, size = self.position, entry[5]
        try:
            fd = os.open(source[1], _OPEN_FLAGS, dir_fd=source[0].fd)
            try:
                # one extra byte to detect growth: nearly always the only read
                seen = os.readv(fd, (self._view[start : start + size], self._extra_byte))
                if seen != size:
                    seen = self._read_on(fd, start, size, seen)
            finally:
                os.close(fd)
        except OSError as error:
            raise unreadable(source, error) from error
        if seen != size:
            raise changed(entry)
        self.position = start + size + -size % BLOCK
        self.free = CHUNK - self.position

    def _read_on(self, fd: int, start: int, size: int, seen: int) -> int:
        while seen < size:
            read = os.readv(fd, (self._view[start + seen : start + size], self._extra_byte))
            if not read:
                break
            seen += read
        return seen

    def put_all(self, data: bytes) -> Iterator[bytes]:
        """Add `data`, yielding full chunks."""
        view = memoryview(data)
        while view:
            if not self.free:
                yield self.take()
            part = view[: self.free]
            self.put(part)
            view = view[len(part) :]

    def read_file(self, source: Source, entry: Entry) -> Iterator[bytes]:
        """Add a file of any length, yielding full chunks."""
        left = entry.size
        try:
            fd = os.open(source.name, _OPEN_FLAGS, dir_fd=source.root.fd)
            try:
                while left:
                    if not self.free:
                        yield self.take()
                    end = self.position + min(self.free, left)
                    read = os.readv(fd, (self._view[self.position : end],))
                    if not read:
                        raise changed(entry)
                    left -= read
                    self.position += read
                    self.free -= read
                if os.read(fd, 1):
                    raise changed(entry)
            finally:
                os.close(fd)
        except OSError as error:
            raise unreadable(source, error) from error


def _write_streamed(buffer: _ChunkBuffer, content: Content, entry: Entry) -> Iterator[bytes]:
    if isinstance(content, Source):
        yield from buffer.read_file(content, entry)
    else:
        yield from _write_chunks(buffer, content, entry)
    yield from buffer.put_all(bytes(-entry.size % BLOCK))


def _write_chunks(
    buffer: _ChunkBuffer, content: bytes | Reader | None, entry: Entry
) -> Iterator[bytes]:
    left = entry.size
    for data in (content,) if isinstance(content, bytes) else _read(content):
        left -= len(data)
        if left < 0:
            raise changed(entry)
        yield from buffer.put_all(data)
    if left:
        raise changed(entry)


def _read(reader: Reader | None) -> Iterator[bytes]:
    while reader is not None and (data := reader.read(CHUNK)):
        yield data


def changed(entry: Entry) -> ContentError:
    return ContentError(
        f"{entry.path}: no longer {entry.size} bytes long: it changed while it was read",
        hint="stop writing to it during the build, or exclude it in .dockerignore",
    )


def unreadable(source: Source, error: OSError) -> ContentError:
    return ContentError(
        f"{source.name}: {error.strerror}",
        hint="the file must exist and be readable until the build ends",
    )
