"""Decompression of layers and of archives for ADD, detected by their first bytes."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from typing import Literal, Protocol

from shipline.content import Reader
from shipline.errors import ContentError, InvalidArchive

Archive = Literal["gzip", "bzip2", "xz", "zstd", "uncompressed"]

_CHUNK = 1 << 18  # bytes of input
_OUTPUT = 1 << 20  # bytes
_NO_LIMIT = 1 << 50  # bytes
_RATIO = 2000  # above any real tree; deflate ends at 1032
_RATIO_FROM = 64 << 20  # bytes of output from which the ratio counts
_WINDOW_LOG = 27  # 128 MiB: zstd -19; what --long=31 made would take 2 GiB
_ZSTD_INPUT = 4 << 10  # bytes
_XZ_MEMORY = 256 << 20  # bytes
_MAGIC: dict[bytes, Archive] = {
    b"\x1f\x8b\x08": "gzip",
    b"BZh": "bzip2",
    b"\xfd7zXZ\0": "xz",
    b"\x28\xb5\x2f\xfd": "zstd",
}


def sniff(head: bytes) -> Archive | None:
    """The compression of an archive that begins with `head`; None if it is not an archive.

    `head` is its first 512 bytes. `uncompressed` is a plain tar, recognised by its checksum.
    """
    for magic, name in _MAGIC.items():
        if head.startswith(magic):
            return name
    if 0x184D2A50 <= int.from_bytes(head[:4], "little") <= 0x184D2A5F:
        return "zstd"  # RFC 8878, 3.1.2: a skippable frame may come first
    return "uncompressed" if _is_header(head[:512]) else None


def _is_header(block: bytes) -> bool:
    digits = block[148:156].rstrip(b" \0").lstrip(b" ")
    if len(block) < 512 or not digits or digits.strip(b"01234567"):
        return False
    return int(digits, 8) == sum(block[:148]) + sum(block[156:]) + 8 * 0x20


class _Decompressor(Protocol):
    @property
    def eof(self) -> bool: ...
    @property
    def needs_input(self) -> bool: ...
    @property
    def unused_data(self) -> bytes: ...
    def decompress(self, data: bytes, max_length: int = -1, /) -> bytes: ...


def decompress(
    reader: Reader, compression: str, *, limit: int = _NO_LIMIT, ratio: int = _RATIO
) -> Reader:
    """The decompressed content of `reader`, which is read to its end before the result ends.

    Reading raises ContentError for damaged bytes, for more than `limit` bytes, and for output of
    more than `ratio` times its input (a decompression bomb).
    """
    if compression == "uncompressed":
        return _BoundedReader(reader, None, limit, ratio)
    compressed = _CountingReader(reader)
    if compression in ("gzip", "bzip2", "xz", "zstd"):
        return _BoundedReader(
            _ConcatenatedStreams(compressed, compression), compressed, limit, ratio
        )
    raise ContentError(f"unknown compression: {compression!r}", code="compression-unknown")


class _CountingReader:
    """Counts the bytes read."""

    def __init__(self, source: Reader) -> None:
        self._source = source
        self.taken = 0

    def read(self, size: int = -1, /) -> bytes:
        data = self._source.read(size)
        self.taken += len(data)
        return data


class _BoundedReader:
    """Translates the errors of a decompressor, and stops decompression bombs."""

    def __init__(
        self, source: Reader, compressed: _CountingReader | None, limit: int, ratio: int
    ) -> None:
        self._source = source
        self._compressed = compressed
        self._limit = limit
        self._ratio = ratio
        self._total = 0

    def read(self, size: int = -1, /) -> bytes:
        if size < 0:
            return b"".join(iter(lambda: self.read(_OUTPUT), b""))
        errors = _errors()
        try:
            data = self._source.read(min(size, _OUTPUT))
        except errors as error:
            raise InvalidArchive(f"damaged archive: {error}") from error
        self._total += len(data)
        if self._total > self._limit:
            raise ContentError(
                f"archive unpacks to more than {self._limit} bytes", code="archive-too-large"
            )
        compressed = self._compressed
        if compressed and self._total > max(_RATIO_FROM, self._ratio * compressed.taken):
            raise ContentError(
                f"archive unpacks to more than {self._ratio} times its size",
                code="archive-too-large",
                hint="it may be a decompression bomb; do not trust its origin",
            )
        return data


@functools.cache
def _errors() -> tuple[type[Exception], ...]:
    """The exceptions of the decompressors for damaged input."""
    import lzma

    import zstandard
    from isal import igzip_lib

    isal_error: type[Exception] = igzip_lib.IsalError  # type: ignore[assignment]
    return OSError, EOFError, lzma.LZMAError, zstandard.ZstdError, isal_error


class _ConcatenatedStreams:
    """Concatenated streams, as all these formats allow; zeros may follow the last."""

    def __init__(self, source: Reader, compression: str) -> None:
        self._source = source
        self._compression = compression
        self._decompressor = _decompressor(compression)
        self._input = b""

    def read(self, size: int = -1, /) -> bytes:
        while True:
            if self._decompressor.eof and not self._next():
                return b""
            if self._decompressor.needs_input and not self._input:
                self._input = self._source.read(_CHUNK)
                if not self._input:
                    raise EOFError("it is truncated")
            held, self._input = self._input, b""
            if data := self._decompressor.decompress(held, size):
                return data

    def _next(self) -> bool:
        """Start the next stream; False at the end."""
        rest = self._decompressor.unused_data.lstrip(b"\0")
        while not rest:
            more = self._source.read(_CHUNK)
            if not more:
                return False
            rest = more.lstrip(b"\0")
        self._decompressor = _decompressor(self._compression)
        self._input = rest
        return True


def _decompressor(compression: str) -> _Decompressor:
    if compression == "gzip":
        from isal import igzip_lib

        gzip: _Decompressor = igzip_lib.IgzipDecompressor(flag=igzip_lib.DECOMP_GZIP)
        return gzip
    if compression == "bzip2":
        import bz2

        return bz2.BZ2Decompressor()
    if compression == "zstd":
        return _Zstd()
    import lzma

    return lzma.LZMADecompressor(lzma.FORMAT_XZ, memlimit=_XZ_MEMORY)


class _Zstd:
    """zstandard as the other decompressors are, telling a whole frame from one that is cut off.

    It cannot bound its output, so it gets little input at once: no 4 KiB hold more than 128 MiB.
    """

    def __init__(self) -> None:
        import zstandard

        self._stream = zstandard.ZstdDecompressor(max_window_size=1 << _WINDOW_LOG).decompressobj()
        self._input = memoryview(b"")
        self._output = memoryview(b"")

    @property
    def eof(self) -> bool:
        return self._stream.eof and not self._output

    @property
    def needs_input(self) -> bool:
        return not self._input and not self._output

    @property
    def unused_data(self) -> bytes:
        return self._stream.unused_data + bytes(self._input)

    def decompress(self, data: bytes, max_length: int = -1, /) -> bytes:
        if data:
            self._input = memoryview(data)
        if not self._output:
            self._output = memoryview(b"".join(self._parts()))
        end = len(self._output) if max_length < 0 else max_length
        output, self._output = bytes(self._output[:end]), self._output[end:]
        return output

    def _parts(self) -> Iterator[bytes]:
        size = 0
        while self._input and size < _CHUNK and not self._stream.eof:
            part = self._stream.decompress(self._input[:_ZSTD_INPUT])
            self._input = self._input[_ZSTD_INPUT:]
            size += len(part)
            yield part
