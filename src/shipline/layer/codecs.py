"""Compression of layers: deterministic for any number of threads.

gzip 1-3 is isal: blocks compressed independently and joined into one stream, as pigz does. gzip 4-9
is libdeflate, one gzip member for each block (RFC 1952, 2.2). zstd is zstandard. estargz is gzip
with a member for each piece of each file (estargz.py). The output of gzip depends on where blocks
end, that of isal on the CPU architecture, too.
"""

from __future__ import annotations

import os
import struct
import zlib
from collections.abc import Generator, Iterable
from functools import partial
from typing import TYPE_CHECKING, Literal, NamedTuple

from msgspec import Struct

from shipline.errors import UsageError
from shipline.oci import Descriptor, Digest, media
from shipline.tasks import CPUS, ordered_map

if TYPE_CHECKING:
    from shipline.layer.estargz import Ending

Compression = Literal["gzip", "estargz", "zstd", "uncompressed"]

TOC_DIGEST = "containerd.io/snapshot/stargz/toc.digest"
"""The annotation of a layer whose gzip is eStargz."""

_GZIP_HEADER = bytes((0x1F, 0x8B, 8, 0, 0, 0, 0, 0, 4, 255))  # no name, time 0, fast, any system
_LAST_BLOCK = b"\x03\x00"  # RFC 1951, 3.2.6: final, fixed codes, empty
_STORED_LIMIT = 65535  # bytes (RFC 1951, 3.2.4)
_FORM = 2  # of blocks; a change of how they are compressed is a new one
_FIRST = 4  # bytes of a block, the fewest that isal hashes
_LEVELS = {"gzip": range(10), "estargz": range(10), "zstd": range(1, 23), "uncompressed": range(1)}
_DEFAULT_LEVELS = {"gzip": 1, "estargz": 1, "zstd": 3, "uncompressed": 0}
_MEDIA_TYPES = {
    ("gzip", False): media.OCI_LAYER_GZIP,
    ("gzip", True): media.DOCKER_LAYER_GZIP,
    ("estargz", False): media.OCI_LAYER_GZIP,
    ("zstd", False): media.OCI_LAYER_ZSTD,
    ("zstd", True): media.DOCKER_LAYER_ZSTD,
    ("uncompressed", False): media.OCI_LAYER,
    ("uncompressed", True): media.DOCKER_LAYER,
}


class Layer(Struct, frozen=True):
    """A compressed layer, and the digest of its tar (image specification, config.md, "DiffID").
    That of a layer for `windows` is read as `from_windows` does.
    """

    descriptor: Descriptor
    diff_id: Digest
    windows: bool = False

    @property
    def files_id(self) -> Digest:
        """Identifies its files: the diff ID, or another digest where the tar is read otherwise."""
        return Digest.of(f"windows {self.diff_id}".encode()) if self.windows else self.diff_id


class CompressedBlock(NamedTuple):
    """A compressed block, with crc and length of what it holds."""

    data: bytes
    crc: int
    length: int


class Codec(Struct, frozen=True):
    """A compression of layers; `docker` selects the media types of Docker's manifest format.

    Raises UsageError for an unknown name, an invalid level, or estargz for Docker.
    """

    name: Compression = "gzip"
    level: int = 1
    docker: bool = False

    def __post_init__(self) -> None:
        levels = _LEVELS.get(self.name)
        if levels is None:
            raise UsageError(
                f"unknown compression {self.name!r}",
                code="compression-unknown",
                hint=f"choose one of {', '.join(_LEVELS)}",
            )
        if self.level not in levels:
            raise UsageError(
                f"{self.name} has no level {self.level}",
                code="compression-unknown",
                hint=f"choose a level from {levels[0]} to {levels[-1]}",
            )
        if (self.name, self.docker) not in _MEDIA_TYPES:
            raise UsageError(
                f"Docker's manifest format has no {self.name} layers",
                code="compression-unknown",
                hint="use OCI media types, or gzip",
            )

    @property
    def media_type(self) -> str:
        """The media type of the compressed layer."""
        return _MEDIA_TYPES[self.name, self.docker]

    @property
    def indexed(self) -> bool:
        """Whether the layer ends with a table of contents, so that its diff ID is another one."""
        return self.name == "estargz"

    @property
    def blocks_id(self) -> str:
        """What else compressed blocks depend on; empty where blocks are not compressed alone."""
        if self.name != "gzip" or not self.level:
            return ""
        from importlib.metadata import version  # slow to import

        library = version("isal" if self.level <= 3 else "deflate")
        return f"{self.name} {self.level} {library} {_FORM} {os.uname().machine}"

    def compress(
        self, blocks: Iterable[bytes], *, workers: int = CPUS
    ) -> Generator[bytes, None, Ending | None]:
        """The compressed bytes, which depend on `blocks` alone, not on `workers`; estargz
        compresses tars only, and returns what it added.
        """
        if self.name == "uncompressed":
            return _as_they_are(blocks)
        if self.indexed:
            member = partial(_member, level=self.level)
            from shipline.layer.estargz import seekable  # few layers are that

            return seekable(blocks, member, workers=workers)
        if self.name == "zstd":
            return _zstd(blocks, self.level, workers)
        return self.join_blocks(ordered_map(self.compress_block, blocks, workers=workers))

    def compress_block(self, block: bytes | memoryview) -> CompressedBlock:
        """A block by itself, for `join_blocks`; of gzip alone."""
        if not self.level:
            return _stored_part(block)
        if self.level <= 3:
            return _deflate_part(block, level=self.level)
        return CompressedBlock(_member(block, level=self.level), zlib.crc32(block), len(block))

    def join_blocks(self, blocks: Iterable[CompressedBlock]) -> Generator[bytes, None, None]:
        """The compressed bytes of the blocks, each as it is."""
        return _gzip_members(blocks, self.level) if self.level > 3 else _gzip_joined(blocks)


def codec(name: str, level: int | None = None, *, docker: bool = False) -> Codec:
    """The codec by name, at its default level unless given. Raises UsageError if unknown."""
    default = _DEFAULT_LEVELS.get(name, 0)
    return Codec(name, default if level is None else level, docker)  # type: ignore[arg-type]


def codec_of_layer(layer: Descriptor, level: int | None = None) -> Codec | None:
    """The codec that made a layer; None if it is not one. Raises UsageError for a wrong level."""
    name = media.compression(layer.media_type)
    if name is None:
        return None
    return codec("estargz" if name == "gzip" and TOC_DIGEST in layer.annotations else name, level)


def _as_they_are(blocks: Iterable[bytes]) -> Generator[bytes, None, None]:
    yield from blocks


def _gzip_joined(blocks: Iterable[CompressedBlock]) -> Generator[bytes, None, None]:
    """One gzip member of independent deflate blocks that end on byte boundaries."""
    from isal import isal_zlib

    checksum, size = 0, 0
    yield _GZIP_HEADER
    for data, crc, length, *_ in blocks:
        checksum = isal_zlib.crc32_combine(checksum, crc, length)
        size += length
        yield data
    yield _LAST_BLOCK + struct.pack("<LL", checksum, size & 0xFFFFFFFF)


def _deflate_part(block: bytes | memoryview, *, level: int) -> CompressedBlock:
    from isal import isal_zlib

    data = _isal(block, level, -15, isal_zlib.Z_SYNC_FLUSH)
    return CompressedBlock(data, isal_zlib.crc32(block), len(block))


def _isal(content: bytes | memoryview, level: int, form: int, end: int) -> bytes:
    """`content` as a deflate stream, whose `form` is what zlib calls `wbits` (31: with a gzip
    header), flushed by `end`.

    The first bytes are flushed by themselves. isal 2.31 hashes the address of the stream instead of
    the third byte of what begins with a match search (write_first_byte in
    igzip_icf_body_h1_gr_bt.asm), so that one stream of some thousands had other bytes in another
    process.
    """
    from isal import isal_zlib

    stream = isal_zlib.compressobj(level, isal_zlib.DEFLATED, form)
    first = stream.compress(content[:_FIRST]) + stream.flush(isal_zlib.Z_SYNC_FLUSH)
    return first + stream.compress(content[_FIRST:]) + stream.flush(end)


def _stored_part(block: bytes | memoryview) -> CompressedBlock:
    parts: list[bytes | memoryview] = []
    for start in range(0, len(block), _STORED_LIMIT):
        part = block[start : start + _STORED_LIMIT]
        parts += (struct.pack("<BHH", 0, len(part), len(part) ^ 0xFFFF), part)
    return CompressedBlock(b"".join(parts), zlib.crc32(block), len(block))


def _gzip_members(blocks: Iterable[CompressedBlock], level: int) -> Generator[bytes, None, None]:
    empty = True
    for block in blocks:
        empty = False
        yield block.data
    if empty:
        yield _member(b"", level=level)


def _member(content: bytes | memoryview, *, level: int) -> bytes:
    """One gzip member."""
    if level > 3:
        import deflate

        return bytes(deflate.gzip_compress(content, level))
    if not level:
        data, checksum, size, *_ = _stored_part(content)
        return _GZIP_HEADER + data + _LAST_BLOCK + struct.pack("<LL", checksum, size)
    from isal import isal_zlib

    return _isal(content, level, 31, isal_zlib.Z_FINISH)


def _zstd(blocks: Iterable[bytes], level: int, workers: int) -> Generator[bytes, None, None]:
    import zstandard

    # one thread gives other bytes than any larger number
    parameters = zstandard.ZstdCompressionParameters.from_level(
        level, threads=max(workers, 2), write_content_size=False, write_checksum=True
    )
    stream = zstandard.ZstdCompressor(compression_params=parameters).compressobj()
    for block in blocks:
        if data := stream.compress(block):
            yield data
    yield stream.flush()
