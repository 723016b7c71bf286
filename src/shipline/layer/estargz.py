"""eStargz: gzip layers whose files can be fetched one by one (stargz-snapshotter, docs/estargz.md).

The tar is cut where the content of a file begins, and each piece is a gzip member, so that any
gzip reader gets the whole tar. Behind the end of the tar comes one more archive with one file, the
table of contents, which tar readers do not look at; the last member, the footer, says where it is.
BuildKit writes the same table, and like this one no landmarks, which would be files of the image.
"""

from __future__ import annotations

import hashlib
import os
import struct
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from datetime import datetime, timedelta
from typing import Any

import msgspec
from msgspec import Struct

from shipline.errors import ContentError
from shipline.layer.codecs import TOC_DIGEST
from shipline.layer.entry import Entry
from shipline.layer.tar_reader import RawMember, RawTar
from shipline.layer.tar_writer import write_tar
from shipline.tasks import ordered_map

UNCOMPRESSED_SIZE = "io.containers.estargz.uncompressed-size"
ANNOTATIONS = (TOC_DIGEST, UNCOMPRESSED_SIZE)
"""Those of a layer: without the first one it is not mounted, but downloaded."""

_TOC_NAME = "stargz.index.json"
_CHUNK = 4 << 20  # bytes of a file that are fetched at once, in BuildKit too
_BATCH = 1 << 20  # bytes compressed by one thread at a time
_SECOND = 1_000_000_000  # nanoseconds
_EPOCH = datetime(1970, 1, 1)
_FIRST_SECOND, _LAST_SECOND = -62_135_596_800, 253_402_300_799  # of the years 1 to 9999
_FOOTER_HEADER = bytes((0x1F, 0x8B, 8, 4, 0, 0, 0, 0, 0, 255))  # RFC 1952: with an extra field
_FOOTER_END = b"\x01\x00\x00\xff\xff" + bytes(8)  # an empty stored block; checksum and size 0


class Ending(Struct, frozen=True):
    """What a codec adds to a tar: bytes of uncompressed content behind it, and annotations of the
    layer.
    """

    appended: bytes = b""
    annotations: Mapping[str, str] = {}


class _Piece(Struct):
    """The content of one gzip member; `row` is that of the file whose content it begins with, the
    first `size` bytes.
    """

    parts: list[bytes]
    row: dict[str, Any] | None = None
    size: int = 0

    def __len__(self) -> int:
        return sum(map(len, self.parts))


def seekable(
    chunks: Iterable[bytes], member: Callable[[bytes], bytes], *, workers: int
) -> Generator[bytes, None, Ending]:
    """The layer of the tar `chunks`; `member` compresses to one gzip member.

    Raises ContentError for what is not a tar, for sparse files, and for a file with the name of
    the table of contents.
    """
    table = _Table()
    position, size = 0, 0

    def compress(batch: list[_Piece]) -> list[tuple[_Piece, bytes, str, int]]:
        return [_compressed(piece, member) for piece in batch]

    for batch in ordered_map(compress, _batches(table.pieces(chunks)), workers=workers):
        for piece, data, digest, length in batch:
            if piece.row is not None:
                _place(piece.row, position, digest)
            position += len(data)
            size += length
        yield b"".join(data for _, data, _, _ in batch)
    toc = table.document()
    appended = b"".join(write_tar([(Entry(_TOC_NAME, "file", 0, size=len(toc)), toc)]))
    yield member(appended) + _footer(position)
    notes = {
        TOC_DIGEST: f"sha256:{hashlib.sha256(toc).hexdigest()}",
        UNCOMPRESSED_SIZE: str(size + len(appended)),
    }
    return Ending(appended, notes)


def _compressed(piece: _Piece, member: Callable[[bytes], bytes]) -> tuple[_Piece, bytes, str, int]:
    plain = b"".join(piece.parts)
    piece.parts = []
    digest = hashlib.sha256(memoryview(plain)[: piece.size]).hexdigest() if piece.row else ""
    return piece, member(plain), f"sha256:{digest}", len(plain)


def _place(row: dict[str, Any], position: int, digest: str) -> None:
    """Complete the row of a chunk."""
    row["offset"], row["chunkDigest"] = position, digest
    if row["type"] == "reg":
        row.setdefault("digest", digest)


def _batches(pieces: Iterable[_Piece]) -> Iterator[list[_Piece]]:
    batch: list[_Piece] = []
    size = 0
    for piece in pieces:
        batch.append(piece)
        size += len(piece)
        if size >= _BATCH:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


class _Table:
    """The rows of the table of contents, made while the tar passes through `pieces`."""

    def __init__(self) -> None:
        self._rows: list[dict[str, Any]] = []
        self._owners: tuple[dict[int, str], dict[int, str]] = ({}, {})

    def pieces(self, chunks: Iterable[bytes]) -> Iterator[_Piece]:
        """The tar, cut at the beginning of each chunk of a file."""
        tar = RawTar(_Chunks(chunks))
        piece = _Piece([])
        for one in tar.members():
            if one.entry.path == _TOC_NAME:
                raise ContentError(
                    f"a layer with a file {_TOC_NAME!r} cannot be made an eStargz one",
                    code="estargz",
                    hint="it is the name of the table of contents: give the file another name, or"
                    " choose another compression",
                )
            row = self._row(one)
            self._rows.append(row)
            piece.parts.append(one.header)
            for chunk, chunk_row in self._chunks(one, row):
                yield piece
                piece = _Piece([chunk], chunk_row, len(chunk))
            piece.parts.append(one.padding.read())
        for data in tar.rest():
            piece.parts.append(data)
            if len(piece) >= _CHUNK:
                yield piece
                piece = _Piece([])
        yield piece

    def _row(self, member: RawMember) -> dict[str, Any]:
        """A row with the fields that are not empty."""
        entry, seconds = member.entry, (member.entry.mtime_ns + _SECOND // 2) // _SECOND
        user, group = map(self._if_new, (entry.uid, entry.gid), member.owner, self._owners)
        row = {
            "name": _shown(entry.path) + ("/" if entry.kind == "dir" else ""),
            "type": "reg" if entry.kind == "file" else entry.kind,
            "size": entry.size,
            "modtime": _time(seconds) if entry.mtime_ns // _SECOND else "",
            "linkName": _shown(entry.link),
            "mode": entry.mode,
            "uid": entry.uid,
            "gid": entry.gid,
            "userName": user,
            "groupName": group,
            "devMajor": entry.major,
            "devMinor": entry.minor,
            "xattrs": dict(entry.xattrs),
        }
        found = {key: value for key, value in row.items() if value}
        if entry.kind == "file" and not entry.size:
            found["digest"] = f"sha256:{hashlib.sha256().hexdigest()}"
        return found

    def _if_new(self, number: int, name: str, known: dict[int, str]) -> str:
        """A name of a user or group where it is not what rows before said."""
        if not name or known.get(number) == name:
            return ""
        known[number] = name
        return name

    def _chunks(
        self, member: RawMember, row: dict[str, Any]
    ) -> Iterator[tuple[bytes, dict[str, Any]]]:
        """The content of a file in chunks, each with its row: its own, or one of type chunk."""
        size, offset = member.content.left, 0
        whole = hashlib.sha256()
        if size > _CHUNK:
            row["digest"] = ""  # known when all of it was read
        chunk_row = row
        while offset < size:
            length = min(_CHUNK, size - offset)
            data = member.content.take(length)
            if offset:
                chunk_row = {"name": row["name"], "type": "chunk", "chunkOffset": offset}
                self._rows.append(chunk_row)
            if length == _CHUNK:
                chunk_row["chunkSize"] = length
            if size > _CHUNK:
                whole.update(data)
            offset += length
            yield data, chunk_row
        if size > _CHUNK:
            row["digest"] = f"sha256:{whole.hexdigest()}"

    def document(self) -> bytes:
        """The table of contents, when all pieces are placed."""
        return msgspec.json.encode({"version": 1, "entries": self._rows})


def _shown(path: str) -> str:
    """A path as JSON can have it, as Go writes it: bytes that are not UTF-8 are replaced."""
    return path if path.isascii() else os.fsencode(path).decode("utf-8", "replace")


def _time(seconds: int) -> str:
    clamped = min(max(seconds, _FIRST_SECOND), _LAST_SECOND)
    return (_EPOCH + timedelta(seconds=clamped)).strftime("%Y-%m-%dT%H:%M:%SZ")


def _footer(position: int) -> bytes:
    """The last 51 bytes of a layer, which say where the table of contents begins."""
    extra = b"%016xSTARGZ" % position
    field = b"SG" + struct.pack("<H", len(extra)) + extra
    return _FOOTER_HEADER + struct.pack("<H", len(field)) + field + _FOOTER_END


def without_toc(tar: Iterable[bytes]) -> Iterator[bytes]:
    """The tar without a table of contents, behind its end or in it; other tars as they are."""
    raw = RawTar(_Chunks(tar))
    for member in raw.members():
        if member.entry.path == _TOC_NAME:
            member.content.read()
            member.padding.read()
            continue
        yield member.header
        while member.content.left:
            yield member.content.read(_CHUNK)
        yield member.padding.read()
    yield from _without_appended(raw.rest())


def _without_appended(end: Iterator[bytes]) -> Iterator[bytes]:
    for data in end:
        found = data.lstrip(b"\0")
        yield data[: len(data) - len(found)]
        if not found:
            continue
        while len(found) <= len(_TOC_NAME) and (more := next(end, b"")):
            found += more
        if not found.startswith(_TOC_NAME.encode() + b"\0"):
            yield found
            yield from end
        for _ in end:  # to the end, where verified readers check the digest
            pass


class _Chunks:
    """Chunks as a reader, each as it comes."""

    def __init__(self, chunks: Iterable[bytes]) -> None:
        self._chunks = iter(chunks)

    def read(self, size: int = -1, /) -> bytes:
        """The next chunk, whatever its size; none at the end."""
        return next(filter(None, self._chunks), b"")
