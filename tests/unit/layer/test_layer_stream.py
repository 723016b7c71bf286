"""codec and stream: bytes depend on the content alone; what is broken leaves nothing behind."""

from __future__ import annotations

import gzip
import hashlib
import os
import random
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import zstandard
from isal import isal_zlib

from shipline.content import LocalStore, MemoryStore
from shipline.errors import ContentError, UsageError
from shipline.layer import Codec, Entry, codec, read_tar, stream_layer, write_tar
from shipline.oci import Digest, media

CODECS = [
    Codec("gzip", 0), Codec("gzip", 1), Codec("gzip", 3), Codec("gzip", 4), Codec("gzip", 9),
    Codec("zstd", 1), Codec("zstd", 3), Codec("uncompressed", 0),
]  # fmt: skip
WORDS = random.Random(1).randbytes(64)
TEXT = b"".join(random.Random(2).choices([WORDS[at : at + 4] for at in range(60)], k=100_000)) * 7


def plain(compressed: bytes, name: str) -> bytes:
    if name == "gzip":
        return gzip.decompress(compressed)
    if name == "zstd":
        return zstandard.ZstdDecompressor().stream_reader(compressed).read()
    return compressed


def test_a_codec_that_cannot_be_is_refused() -> None:
    for name, level in (("gzip", 10), ("gzip", -1), ("zstd", 0), ("zstd", 23), ("lzma", None)):
        with pytest.raises(UsageError):
            codec(name, level)
    with pytest.raises(UsageError):
        codec("estargz", docker=True)
    assert codec("gzip").media_type == media.OCI_LAYER_GZIP
    assert codec("gzip", docker=True).media_type == media.DOCKER_LAYER_GZIP


def test_blocks_do_not_depend_on_where_in_memory_they_are_compressed() -> None:
    draw = random.Random(3)
    one, two = (bytes(draw.choices(b"abcdefghijklmnop", k=300)) for _ in range(2))
    starts = [draw.randbytes(8) for _ in range(40_000)]
    blocks = [start + one + start + two for start in starts]  # a match with the first bytes
    made = [codec("gzip").compress_block(block) for block in blocks]
    streams = [isal_zlib.compressobj(1, isal_zlib.DEFLATED, -15) for _ in range(8)]
    assert [codec("gzip").compress_block(block) for block in blocks] == made
    assert streams  # had the addresses of those before


@pytest.mark.parametrize("codec", CODECS, ids=str)
def test_a_layer_is_what_its_digests_say(tmp_path: Path, codec: Codec) -> None:
    entries = [(Entry(f"f{index}", "file", size=70_000), TEXT[:70_000]) for index in range(40)]
    tar = b"".join(write_tar(entries))
    aside: list[bytes] = []
    for store in (LocalStore(tmp_path), MemoryStore()):
        with store.ingest() as ingest:
            layer = stream_layer(write_tar(entries), ingest, codec, also=aside.append)
        assert layer.diff_id == Digest("sha256", hashlib.sha256(tar).hexdigest())
        assert layer.descriptor.media_type == codec.media_type
        with store.fetch(layer.descriptor) as reader:
            assert plain(reader.read(), codec.name) == tar
    assert b"".join(aside) == tar * 2


def test_a_failure_anywhere_stores_nothing_and_ends_all_threads(tmp_path: Path) -> None:
    store = LocalStore(tmp_path)
    before = threading.active_count()

    def broken_tar() -> Iterator[bytes]:
        yield TEXT
        raise ContentError("source")

    def broken_sink(_: bytes) -> None:
        raise ContentError("sink")

    endless = (os.urandom(100_000) for _ in iter(int, 1))
    with pytest.raises(ContentError, match="source"), store.ingest() as ingest:
        stream_layer(broken_tar(), ingest, Codec())
    with pytest.raises(ContentError, match="sink"), store.ingest() as ingest:
        stream_layer(endless, ingest, Codec(), also=broken_sink)
    with pytest.raises(OSError), store.ingest() as ingest:
        os.close(ingest._fd)
        try:
            stream_layer([TEXT] * 20, ingest, Codec("gzip", 1))
        except ContentError as error:
            raise error.__cause__ or error from None
        finally:
            ingest._fd = os.open("/dev/null", os.O_WRONLY)
    assert threading.active_count() == before
    assert list((tmp_path / "blobs/sha256").iterdir()) == []


def test_a_layer_is_read_while_it_is_written(tmp_path: Path) -> None:
    entries = [(Entry("f", "file", size=len(TEXT)), TEXT)]
    with LocalStore(tmp_path).ingest() as ingest:
        layer = stream_layer(write_tar(entries), ingest, Codec("uncompressed", 0))
        with LocalStore(tmp_path).fetch(layer.descriptor) as reader:
            assert [entry for entry, _ in read_tar(reader)] == [entries[0][0]]
