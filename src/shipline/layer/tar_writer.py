"""Writing tar: deterministic, in blocks, without copying contents."""

from __future__ import annotations

import errno
import io
import marshal
import os
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, NamedTuple

from shipline.content import Reader
from shipline.errors import ContentError
from shipline.layer.blocks import LONGEST, ends_block
from shipline.layer.entry import Content, ContentDigests, Entry, Item, Source
from shipline.layer.tar_header import BLOCK, encode
from shipline.tasks import check

if TYPE_CHECKING:
    from blake3 import blake3

_STOP = "stop writing to it during the build, or exclude it in .dockerignore"
_IDENTITY = 32  # bytes of a digest; a capability may follow, which the header has


def write_tar(items: Iterable[Item]) -> Iterator[bytes]:
    """The archive of `items` in order, in the blocks of `cut_tar`.

    Ends with two zero blocks. Raises ContentError if a file cannot be read or its size differs from
    its entry, before the block with the wrong bytes is yielded.
    """
    large = LargeFiles()
    for block in plan_tar(items):
        # BytesIO fills what it skips with zeros, and returns its bytes without a copy
        held = io.BytesIO()
        held.seek(block.length - 1)
        held.write(b"\0")
        with held.getbuffer() as view:
            block.fill(view)
            large.see(block, view)
        yield held.getvalue()


class FilePart(NamedTuple):
    """The bytes of a file from `start` to `end`; padding follows what ends the file."""

    source: Source
    entry: Entry
    start: int
    end: int


class TarBlock(NamedTuple):
    """A block of a tar whose files are not read yet. What is not part of a file is in it as it is,
    padding included. `entries` are those with a part in it; the first may have begun before.
    """

    length: int
    pieces: list[bytes | FilePart]
    entries: list[Entry]

    def fill(self, view: memoryview) -> None:
        """Write the block to `view`. Files that are in it as a whole tell their digests.

        Raises ContentError if a file cannot be read, or has not the size of its entry.
        """
        position = 0
        for piece in self.pieces:
            if isinstance(piece, bytes):
                end = position + len(piece)
                view[position:end] = piece
                position = end
                continue
            source, entry, start, stop = piece
            end = position + stop - start
            with view[position:end] as target:
                _read(source, entry, start, target)
            position = end + -end % BLOCK
            if position != end:
                view[end:position] = bytes(position - end)

    def key(self) -> bytes:
        """What identifies the bytes of the block, from headers and the digests of files; empty
        while one is unknown.
        """
        from blake3 import blake3

        seen: list[object] = []
        for piece in self.pieces:
            if isinstance(piece, bytes):
                seen.append(piece)
                continue
            source, _, start, end = piece
            identity = source.identity()
            if identity is None:
                return b""
            seen.append((identity[:_IDENTITY], start, end))
        return blake3(marshal.dumps(seen, 2)).digest()  # version 2: equal values, equal bytes

    def identities(self) -> list[bytes]:
        """The identifiers of the files that are in it as a whole, as `fill` has noted them."""
        return [digests.get(name) or b"" for digests, name in self._whole()]

    def note(self, identities: Iterable[bytes]) -> None:
        """Note what `identities` gave in another process; none if no file was read."""
        for (digests, name), identity in zip(self._whole(), identities, strict=False):
            digests.note(name, identity)

    def parts(self) -> Iterator[FilePart]:
        """The parts of files in it."""
        return (piece for piece in self.pieces if isinstance(piece, FilePart))

    def _whole(self) -> Iterator[tuple[ContentDigests, str]]:
        for (_, name, digests, _), entry, start, end in self.parts():
            if digests is not None and end - start == entry[5]:
                yield digests, name


def plan_tar(items: Iterable[Item]) -> Iterator[TarBlock]:
    """The blocks of the archive of `items`, of which no Source is read yet."""
    pieces: list[bytes | FilePart] = []
    entries: list[Entry] = []
    position = previous = 0
    for entry, content in items:
        header, size = encode(entry), entry[5]
        length = len(header) + size + -size % BLOCK
        if ends_block(header, length, previous, position):
            yield TarBlock(position, pieces, entries)
            pieces, entries, position = [], [], 0
        previous = length
        entries.append(entry)
        if length <= LONGEST and (type(content) is Source or not size):
            pieces.append(header)
            if size:
                pieces.append(FilePart(content, entry, 0, size))  # type: ignore[arg-type]
            position += length
            continue
        for piece in _cut(header, entry, content, LONGEST - position):
            if position == LONGEST:
                yield TarBlock(position, pieces, entries)
                pieces, entries, position = [], [entry], 0
            pieces.append(piece)
            added = len(piece) if isinstance(piece, bytes) else piece.end - piece.start
            position += added + -added % BLOCK
    for _ in range(2):
        if position == LONGEST:
            yield TarBlock(position, pieces, entries)
            pieces, entries, position = [], [], 0
        pieces.append(bytes(BLOCK))
        position += BLOCK
    yield TarBlock(position, pieces, entries)


def _cut(header: bytes, entry: Entry, content: Content, free: int) -> Iterator[bytes | FilePart]:
    """The pieces of an entry, cut where blocks end, `free` bytes from here and every LONGEST."""
    start = 0
    while start < len(header):
        yield header[start : start + free]
        start, free = start + free, LONGEST
    free = start - len(header) or LONGEST
    start, size = 0, entry.size
    while start < size:
        end = min(start + free, size)
        if isinstance(content, Source):
            yield FilePart(content, entry, start, end)
        else:
            yield _given(content, entry, start, end)
        start, free = end, LONGEST


def _given(content: bytes | Reader | None, entry: Entry, start: int, end: int) -> bytes:
    """A part of bytes, or of a reader whose parts before have been read, and its padding."""
    is_last = end == entry.size
    if isinstance(content, bytes):
        data, goes_on = content[start:end], len(content) > end
    else:
        data = _read_exactly(content, end - start)
        goes_on = is_last and content is not None and content.read(1) != b""
    if len(data) != end - start or (is_last and goes_on):
        raise changed(entry)
    return data + bytes(-len(data) % BLOCK) if is_last else data


def _read_exactly(reader: Reader | None, size: int) -> bytes:
    """So many bytes, fewer at the end."""
    read: list[bytes] = []
    while reader is not None and size and (data := reader.read(size)):
        read.append(data)
        size -= len(data)
    return b"".join(read)


def _read(source: Source, entry: Entry, start: int, target: memoryview) -> None:
    """Read a part of a file. One extra byte detects growth: nearly always one read suffices."""
    root, name, digests, _ = source
    size, extra = len(target), bytearray(1)
    is_last = start + size == entry[5]
    into = (target, extra) if is_last else (target,)
    try:
        fd = root.open(name)
        try:
            # a FIFO cannot be read elsewhere than from where it is
            seen = os.preadv(fd, into, start) if start else os.readv(fd, into)
            while seen < size:
                more = os.preadv(fd, (target[seen:], extra)[: 1 + is_last], start + seen)
                if not more:
                    break
                seen += more
            if digests is not None and not start and is_last and seen == size:
                digests.add(name, fd, digests.hasher(target).digest())
        finally:
            os.close(fd)
    except OSError as error:
        raise unreadable(source, error) from error
    if seen != size:
        raise changed(entry)


def identify_large(block: TarBlock) -> None:
    """Read the file that is longer than a block, begins in this one and has no digest yet, if any,
    so that its blocks have a key. Raises ContentError.
    """
    last = block.pieces[-1]
    if isinstance(last, FilePart) and (digests := _unknown(last)) is not None:
        _identify(last.source, digests)


def _unknown(part: FilePart) -> ContentDigests | None:
    """Who wants the digest of a file of several parts, of which this is the first."""
    if part.start or part.end == part.entry.size or part.source.identity() is not None:
        return None
    return part.source.digests


def _identify(source: Source, digests: ContentDigests) -> None:
    seen = digests.hasher()
    try:
        fd = source.root.open(source.name)
        try:
            while data := os.read(fd, LONGEST):
                check()
                seen.update(data)
            digests.add(source.name, fd, seen.digest())
        finally:
            os.close(fd)
    except OSError as error:
        raise unreadable(source, error) from error


class LargeFiles:
    """Notes the digests of files that are longer than a block, from their blocks in order, or
    compares them with those that were known before: keys of blocks name them.
    """

    def __init__(self) -> None:
        self._hasher: blake3 | None = None

    def see(self, block: TarBlock, view: memoryview) -> None:
        """Take the next block, which is filled. Raises ContentError as `fill` does, and for a file
        with other bytes than before.
        """
        first, last = block.pieces[0], block.pieces[-1]
        if isinstance(first, FilePart) and first.start:
            self._see(first, view[: first.end - first.start])
        if isinstance(last, FilePart) and not last.start:
            wanted = last.source.digests if last.end != last.entry.size else None
            self._hasher = None if wanted is None else wanted.hasher()
            self._see(last, view[block.length - last.end :])

    def _see(self, part: FilePart, data: memoryview) -> None:
        if self._hasher is None:
            return
        source = part.source
        assert source.digests is not None
        self._hasher.update(data)
        if part.end == part.entry.size:
            digest, before = self._hasher.digest(), source.identity()
            if before is not None:
                if before[:_IDENTITY] != digest:
                    raise ContentError(
                        f"{part.entry.path} changed while it was read",
                        code="file-changed",
                        hint=_STOP,
                    )
                return
            try:
                path = f"{source.root.path}/{source.name}"
                source.digests.add(source.name, path, digest)
            except OSError as error:
                raise unreadable(source, error) from error


def changed(entry: Entry) -> ContentError:
    return ContentError(
        f"{entry.path}: no longer {entry.size} bytes long: it changed while it was read",
        code="file-changed",
        hint=_STOP,
    )


def unreadable(source: Source, error: OSError) -> ContentError:
    if error.errno == errno.ELOOP:
        return ContentError(
            f"{source.name} is a symbolic link now, or a directory above it is: it changed while it"
            " was read",
            code="file-changed",
            hint=_STOP,
        )
    return ContentError(
        f"cannot read {source.name}: {error.strerror}",
        code="content-unreadable",
        hint="the file must exist and be readable until the build ends",
    )
