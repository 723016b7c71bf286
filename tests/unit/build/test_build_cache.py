"""A hit is as good as doing the work again, or it is a miss."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from layers_for_tests import items_of, make_layer

from shipline.build.assembly import PLAIN, Recoder
from shipline.build.blobs import Blobs
from shipline.build.cache import Cache, LayerResult
from shipline.build.request import OutputFormat
from shipline.content import LocalStore, MemoryStore, fetch_all
from shipline.errors import DigestMismatch
from shipline.events import Event, Started, Stream, silent
from shipline.layer import Layer, decompress, read_tar
from shipline.metadata import SqliteRecords
from shipline.oci import Digest, media


@pytest.fixture
def records(tmp_path: Path) -> Iterator[SqliteRecords]:
    found = SqliteRecords(tmp_path / "cache.db")
    yield found
    found.close()


def layer_in(store: LocalStore | MemoryStore, compression: str = "gzip") -> Layer:
    return make_layer(store, items_of({"a": "content" * 100}), compression)


def test_what_was_put_is_got_under_its_key(records: SqliteRecords, tmp_path: Path) -> None:
    store = MemoryStore()
    made = LayerResult(layer_in(store), "2026-01-01T00:00:00Z", 6)
    cache = Cache(records, store, tmp_path)
    cache.put("one", made)
    assert cache.get("one") == made
    assert cache.get("two") is None


def test_a_hit_whose_content_has_gone_is_a_miss(records: SqliteRecords, tmp_path: Path) -> None:
    store = MemoryStore()
    cache = Cache(records, store, tmp_path)
    made = LayerResult(layer_in(store), "")
    cache.put("key", made)
    del store.blobs[made.layer.descriptor.digest]
    assert cache.get("key") is None


def test_a_file_of_another_size_is_gone_too(records: SqliteRecords, tmp_path: Path) -> None:
    store = LocalStore(tmp_path / "content")
    cache = Cache(records, store, tmp_path)
    made = LayerResult(layer_in(store), "")
    cache.put("key", made)
    store.path(made.layer.descriptor.digest).chmod(0o644)
    store.path(made.layer.descriptor.digest).write_bytes(b"cut")
    assert cache.get("key") is None


def test_layers_made_in_another_way_are_kept_apart(records: SqliteRecords, tmp_path: Path) -> None:
    store = MemoryStore()
    Cache(records, store, tmp_path).put("key", LayerResult(layer_in(store), ""))
    assert Cache(records, store, tmp_path, "until 7").get("key") is None


def test_a_layer_is_compressed_anew_once_and_found_again(
    records: SqliteRecords, tmp_path: Path
) -> None:
    store = LocalStore(tmp_path / "content")
    seen: list[Event] = []
    with Stream(seen.append) as stream, stream.step("build") as step:
        blobs = Blobs(store, step)
        layer = layer_in(store)
        made = LayerResult(layer, "", 1)
        format = OutputFormat("zstd")
        form = Recoder(blobs, Cache(records, blobs, tmp_path), step).recode(layer, made, format)
        again = Recoder(blobs, Cache(records, blobs, tmp_path), step).recode(layer, made, format)
        assert (
            Recoder(blobs, Cache(records, blobs, tmp_path), step).recode(layer, made, PLAIN)
            is layer
        )
    assert again == form
    assert form.diff_id == layer.diff_id
    assert form.descriptor.media_type == media.OCI_LAYER_ZSTD
    with store.fetch(form.descriptor) as blob:
        assert [entry.path for entry, _ in read_tar(decompress(blob, "zstd"))] == ["a"]
    assert len([one for one in seen if isinstance(one, Started) and "zstd" in one.name]) == 1


def test_a_forced_base_layer_is_read_from_its_registry_without_being_kept(
    records: SqliteRecords, tmp_path: Path
) -> None:
    remote = MemoryStore()
    layer = layer_in(remote)
    store = LocalStore(tmp_path / "content")
    with silent() as step:
        blobs = Blobs(store, step)
        blobs.offer(layer.descriptor, remote, "h/base")
        recoder = Recoder(blobs, Cache(records, blobs, tmp_path), step)
        form = recoder.recode(layer, None, OutputFormat("uncompressed", force=True))
    assert Digest.of(fetch_all(store, form.descriptor, 1 << 20)) == layer.diff_id
    assert not store.exists(layer.descriptor)


def test_a_layer_that_is_not_its_diff_id_is_refused(records: SqliteRecords, tmp_path: Path) -> None:
    store = LocalStore(tmp_path / "content")
    wrong = Layer(layer_in(store).descriptor, Digest.of(b"other"))
    with silent() as step, pytest.raises(DigestMismatch):
        blobs = Blobs(store, step)
        recoder = Recoder(blobs, Cache(records, blobs, tmp_path), step)
        recoder.recode(wrong, None, OutputFormat("zstd", force=True))
