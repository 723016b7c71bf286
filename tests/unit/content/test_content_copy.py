"""copy_graph: few threads however wide the graph, and an error says which end failed."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from shipline.content import (
    Advance,
    Fetcher,
    MemoryStore,
    Reader,
    copy_graph,
    fetch_document,
    fetch_image,
)
from shipline.errors import ContentError, RegistryError
from shipline.oci import Descriptor, Index, Manifest, media


def wide(children: int) -> tuple[MemoryStore, Descriptor]:
    """An index of images that share a configuration and a layer."""
    config, layer = b"{}", b"layer"
    blobs = (Descriptor.of(config, media.OCI_CONFIG), Descriptor.of(layer, media.OCI_LAYER))
    images = [
        Manifest.make(config=blobs[0], layers=(blobs[1],), annotations={"n": str(number)})
        for number in range(children)
    ]
    index = Index.make([image.descriptor for image in images])
    store = MemoryStore(config, layer, *(image.raw for image in images), index.raw)
    return store, index.descriptor


class Watched(MemoryStore):
    """Counts the threads of the program at each push."""

    most = 0

    def push(self, target: Descriptor, source: Fetcher, advance: Advance | None = None) -> None:
        self.most = max(self.most, threading.active_count())
        super().push(target, source, advance)


def test_an_entry_of_an_index_is_an_image() -> None:
    store, root = wide(2)
    index = Index.make([root])
    with pytest.raises(ContentError, match="index inside an index"):
        fetch_image(store, index.manifests[0])
    inner = fetch_document(store, root)
    assert isinstance(inner, Index)
    assert fetch_image(store, inner.manifests[0]).descriptor.digest == inner.manifests[0].digest


def broken() -> RegistryError:
    return RegistryError("connection lost", host="registry.example")


class Unreadable:
    """A source that loses the connection in the middle of a layer."""

    def __init__(self, store: MemoryStore) -> None:
        self._store = store

    @contextmanager
    def fetch(self, target: Descriptor) -> Iterator[Reader]:
        with self._store.fetch(target) as reader:
            yield Cut() if target.media_type == media.OCI_LAYER else reader


class Cut:
    def read(self, size: int = -1, /) -> bytes:
        raise broken()


class Unwritable(MemoryStore):
    def push(self, target: Descriptor, source: Fetcher, advance: Advance | None = None) -> None:
        raise broken()


def test_an_index_of_many_images_is_copied_by_few_threads() -> None:
    source, root = wide(1500)
    destination, before = Watched(), threading.active_count()
    copy_graph(source, destination, root)
    assert destination.blobs.keys() == source.blobs.keys()
    assert destination.most <= before + 8


@pytest.mark.parametrize("lost", ["config", "manifest"])
def test_what_the_source_has_lost_is_the_fault_of_the_source(lost: str) -> None:
    source, root = wide(1)
    del source.blobs[[*source.blobs][0 if lost == "config" else 2]]
    with pytest.raises(Exception) as caught:
        copy_graph(source, MemoryStore(), root)
    (note,) = caught.value.__notes__
    assert note.startswith("while reading sha256:") and note.endswith("from the source")


def test_a_source_that_breaks_off_is_named() -> None:
    source, root = wide(1)
    with pytest.raises(RegistryError) as caught:
        copy_graph(Unreadable(source), MemoryStore(), root)
    assert caught.value.__notes__[0].endswith("from the source")


def test_a_document_that_cannot_be_read_is_the_fault_of_the_source() -> None:
    raw = b'{"layers": [], "manifests": []}'
    root = Descriptor.of(raw, media.OCI_MANIFEST)
    with pytest.raises(ContentError) as caught:
        copy_graph(MemoryStore(raw), MemoryStore(), root)
    assert caught.value.__notes__[0].endswith("from the source")


def test_a_destination_that_refuses_is_named() -> None:
    source, root = wide(1)
    with pytest.raises(RegistryError) as caught:
        copy_graph(source, Unwritable(), root)
    assert caught.value.__notes__[0].endswith("to the destination")
