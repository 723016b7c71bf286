"""eStargz: every file can be had alone, by the table of contents, and the whole is a plain tar."""

from __future__ import annotations

import hashlib
import io
import itertools
import json
import random
import struct
import tarfile
import zlib
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shipline.content import MemoryStore
from shipline.errors import ContentError
from shipline.layer import (
    Codec,
    Entry,
    Item,
    Layer,
    codec,
    codec_of_layer,
    decompress,
    read_tar,
    stream_layer,
    without_toc,
    write_tar,
)
from shipline.layer.codecs import TOC_DIGEST
from shipline.layer.estargz import UNCOMPRESSED_SIZE
from shipline.oci import Digest

LEVELS = (0, 1, 6)
BIG = random.Random(3).randbytes((9 << 20) + 5)
TIME_NS = 1_700_000_000_000_000_000
ITEMS: list[Item] = [
    (Entry("d", "dir", 0o755, 1, 2, mtime_ns=TIME_NS), None),
    (Entry("d/a", "file", 0o4711, size=5, mtime_ns=TIME_NS + 999), b"hello"),
    (Entry("d/big", "file", size=len(BIG)), BIG),
    (Entry("d/none", "file"), b""),
    (Entry("link", "symlink", 0o777, link="d/a"), None),
    (Entry("hard", "hardlink", link="d/a"), None),
    (Entry("null", "char", major=1, minor=3), None),
    (Entry("n" * 150, "file", size=2, xattrs=(("security.capability", b"\1\2"),)), b"ok"),
    (Entry("caf\udce9", "file", size=1), b"x"),
]


def made(items: list[Item], compression: Codec) -> tuple[Layer, bytes]:
    store = MemoryStore()
    with store.ingest() as ingest:
        layer = stream_layer(write_tar(items), ingest, compression)
    with store.fetch(layer.descriptor) as reader:
        return layer, reader.read()


def table_of(blob: bytes) -> tuple[bytes, dict[str, Any]]:
    """The table, by the footer alone: the last 51 bytes, a gzip member with an extra field."""
    footer = blob[-51:]
    assert footer[:4] == b"\x1f\x8b\x08\x04"
    assert footer[10:16] == struct.pack("<H", 26) + b"SG" + struct.pack("<H", 22)
    assert footer[32:38] == b"STARGZ"
    assert zlib.decompress(footer, 31) == b""
    raw = zlib.decompress(blob[int(footer[16:32], 16) : -51], 31)
    with tarfile.open(fileobj=io.BytesIO(raw)) as tar:
        file = tar.extractfile("stargz.index.json")
        assert file is not None
        document = file.read()
    return document, json.loads(document)


def file_of(blob: bytes, rows: list[dict[str, Any]], name: str) -> bytes:
    """A file, from its own gzip members alone."""
    found = b""
    for row in rows:
        if row["name"] == name:
            plain = zlib.decompressobj(31).decompress(blob[row["offset"] :])
            size = row.get("chunkSize") or rows_size(rows, name) - row.get("chunkOffset", 0)
            chunk = plain[:size]
            assert row["chunkDigest"] == str(Digest.of(chunk))
            found += chunk
    return found


def rows_size(rows: list[dict[str, Any]], name: str) -> int:
    size = next(row["size"] for row in rows if row["name"] == name)
    assert isinstance(size, int)
    return size


@pytest.mark.parametrize("level", LEVELS)
def test_each_file_is_read_by_the_table_alone(level: int) -> None:
    layer, blob = made(ITEMS, Codec("estargz", level))
    document, toc = table_of(blob)
    assert toc["version"] == 1
    assert layer.descriptor.annotations[TOC_DIGEST] == str(Digest.of(document))
    rows = toc["entries"]
    for entry, content in ITEMS:
        if entry.kind == "file" and entry.size:
            name = entry.path if entry.path.isprintable() else "caf\ufffd"
            assert file_of(blob, rows, name) == content
            row = next(row for row in rows if row["name"] == name)
            assert isinstance(content, bytes)
            assert row["digest"] == str(Digest.of(content))


def test_rows_have_the_fields_of_the_specification() -> None:
    _, blob = made(ITEMS, codec("estargz"))
    rows = {row["name"]: row for row in table_of(blob)[1]["entries"] if row["type"] != "chunk"}
    assert rows["d/"] == {
        "name": "d/",
        "type": "dir",
        "modtime": "2023-11-14T22:13:20Z",
        "mode": 0o755,
        "uid": 1,
        "gid": 2,
    }
    assert rows["d/a"]["mode"] == 0o4711
    assert rows["link"] == {"name": "link", "type": "symlink", "linkName": "d/a", "mode": 0o777}
    assert rows["hard"]["linkName"] == "d/a"
    assert (rows["null"]["devMajor"], rows["null"]["devMinor"]) == (1, 3)
    assert rows["d/none"]["digest"] == f"sha256:{hashlib.sha256().hexdigest()}"
    assert rows["n" * 150]["xattrs"] == {"security.capability": "AQI="}
    chunks = [row for row in table_of(blob)[1]["entries"] if row["name"] == "d/big"]
    assert [row.get("chunkOffset", 0) for row in chunks] == [0, 4 << 20, 8 << 20]
    assert [row.get("chunkSize") for row in chunks] == [4 << 20, 4 << 20, None]


@pytest.mark.parametrize("level", LEVELS)
def test_the_layer_is_the_tar_and_its_diff_id_counts_the_table(level: int) -> None:
    layer, blob = made(ITEMS, Codec("estargz", level))
    plain = decompress(io.BytesIO(blob), "gzip").read()
    tar = b"".join(write_tar(ITEMS))
    assert plain.startswith(tar)
    assert layer.diff_id == Digest.of(plain)
    assert layer.descriptor.annotations[UNCOMPRESSED_SIZE] == str(len(plain))
    assert [entry for entry, _ in read_tar(io.BytesIO(plain))] == [entry for entry, _ in ITEMS]
    assert b"".join(without_toc([plain])) == tar
    assert codec_of_layer(layer.descriptor, level) == Codec("estargz", level)


def test_a_table_within_the_tar_is_left_out_too() -> None:
    toc: Item = (Entry("stargz.index.json", "file", size=2), b"{}")
    assert b"".join(without_toc(write_tar([*ITEMS, toc]))) == b"".join(write_tar(ITEMS))
    padded = b"".join(write_tar(ITEMS)) + bytes(7 << 10)
    assert b"".join(without_toc([padded])) == padded


@settings(max_examples=8)
@given(st.lists(st.integers(0, 1 << 20), max_size=8), st.integers(1, 4))
def test_bytes_do_not_depend_on_cuts_or_threads(cuts: list[int], workers: int) -> None:
    tar = b"".join(write_tar(ITEMS))
    edges = [0, *sorted(cuts), len(tar)]
    pieces = [tar[a:b] for a, b in itertools.pairwise(edges)]
    whole = b"".join(codec("estargz").compress([tar], workers=2))
    assert b"".join(codec("estargz").compress(pieces, workers=workers)) == whole


def test_an_empty_layer_has_an_empty_table() -> None:
    _, blob = made([], codec("estargz"))
    assert table_of(blob)[1] == {"version": 1, "entries": []}


@pytest.mark.parametrize(
    ("tar", "named"),
    [
        (b"".join(write_tar([(Entry("stargz.index.json", "file"), b"")])), "stargz.index.json"),
        (b"".join(write_tar(ITEMS))[:700], "truncated"),
        (b"no tar" * 200, "tar: not"),
    ],
)
def test_what_cannot_be_indexed_is_refused(tar: bytes, named: str) -> None:
    with pytest.raises(ContentError, match=named):
        b"".join(codec("estargz").compress([tar]))
