"""Writing tar: deterministic, in blocks, without copying contents."""

from __future__ import annotations

import io
import os
from collections.abc import Iterable, Iterator

from shipline.content import Reader
from shipline.errors import ContentError
from shipline.layer.blocks import LONGEST, ends_block
from shipline.layer.entry import Content, Entry, Item, Source
from shipline.layer.tar_header import BLOCK, encode

# O_NONBLOCK: open(2) must not block on a file that has become a FIFO
_OPEN_FLAGS = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC


def write_tar(items: Iterable[Item]) -> Iterator[bytes]:
    """The archive of `items` in order, in the blocks of `cut_tar`.

    Ends with two zero blocks. Raises ContentError if a file cannot be read or its size differs from
    its entry, before the block with the wrong bytes is yielded.
    """
    buffer = _BlockBuffer()
    previous = 0
    for entry, content in items:
        header, size = encode(entry), entry[5]
        length = len(header) + size + -size % BLOCK
        if ends_block(header, length, previous, buffer.position):
            yield buffer.take()
        previous = length
        if length <= LONGEST and (type(content) is Source or not size):
            buffer.put(header)
            if size:
                buffer.put_file(content, entry)  # type: ignore[arg-type]
        else:
            yield from buffer.put_all(header)
            yield from _write_streamed(buffer, content, entry)
    for _ in range(2):
        yield from buffer.put_all(bytes(BLOCK))
    yield buffer.take()


class _BlockBuffer:
    """The block being filled. Its unused bytes are zero, which is tar's padding."""

    def __init__(self) -> None:
        self._reset()
        self._extra_byte = bytearray(1)

    def _reset(self) -> None:
        # BytesIO fills what it skips with zeros, and returns its bytes without a copy
        self._bytes = io.BytesIO()
        self._bytes.seek(LONGEST - 1)
        self._bytes.write(b"\0")
        self._view = self._bytes.getbuffer()
        self.position = 0
        self.free = LONGEST

    def take(self) -> bytes:
        self._view.release()
        if self.free:
            self._bytes.truncate(self.position)
        data = self._bytes.getvalue()
        self._reset()
        return data

    def put(self, data: bytes | memoryview) -> None:
        """Add data that fits into the block."""
        end = self.position + len(data)
        self._view[self.position : end] = data
        self.position = end
        self.free = LONGEST - end

    def put_file(self, source: Source, entry: Entry) -> None:
        """Add a file that fits into the block, and its padding."""
        start, size = self.position, entry[5]
        try:
            fd = os.open(source[1], _OPEN_FLAGS, dir_fd=source[0].fd)
            try:
                # one extra byte to detect growth: nearly always the only read
                seen = os.readv(fd, (self._view[start : start + size], self._extra_byte))
                if seen != size:
                    seen = self._read_on(fd, start, size, seen)
                if (digests := source[2]) is not None:
                    data = self._view[start : start + size]
                    digests.add(source[1], fd, digests.hasher(data).digest())
            finally:
                os.close(fd)
        except OSError as error:
            raise unreadable(source, error) from error
        if seen != size:
            raise changed(entry)
        self.position = start + size + -size % BLOCK
        self.free = LONGEST - self.position

    def _read_on(self, fd: int, start: int, size: int, seen: int) -> int:
        while seen < size:
            read = os.readv(fd, (self._view[start + seen : start + size], self._extra_byte))
            if not read:
                break
            seen += read
        return seen

    def put_all(self, data: bytes) -> Iterator[bytes]:
        """Add `data`, yielding full blocks."""
        view = memoryview(data)
        while view:
            if not self.free:
                yield self.take()
            part = view[: self.free]
            self.put(part)
            view = view[len(part) :]

    def read_file(self, source: Source, entry: Entry) -> Iterator[bytes]:
        """Add a file of any length, yielding full blocks."""
        left, digests = entry.size, source.digests
        hasher = None if digests is None else digests.hasher()
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
                    if hasher is not None:
                        hasher.update(self._view[self.position : self.position + read])
                    left -= read
                    self.position += read
                    self.free -= read
                if os.read(fd, 1):
                    raise changed(entry)
                if digests is not None and hasher is not None:
                    digests.add(source.name, fd, hasher.digest())
            finally:
                os.close(fd)
        except OSError as error:
            raise unreadable(source, error) from error


def _write_streamed(buffer: _BlockBuffer, content: Content, entry: Entry) -> Iterator[bytes]:
    if isinstance(content, Source):
        yield from buffer.read_file(content, entry)
    else:
        yield from _write_chunks(buffer, content, entry)
    yield from buffer.put_all(bytes(-entry.size % BLOCK))


def _write_chunks(
    buffer: _BlockBuffer, content: bytes | Reader | None, entry: Entry
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
    while reader is not None and (data := reader.read(LONGEST)):
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
