"""Store and Repository: whole or absent, equal bytes, valid names, whatever keeps them."""

from __future__ import annotations

import io
import itertools
import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import cast

import pytest

from contracts.conftest import REPOSITORIES
from shipline.content import (
    MemoryStore,
    Reader,
    Repository,
    Store,
    Swapper,
    VerifiedReader,
    copy_graph,
    fetch_all,
)
from shipline.errors import DigestMismatch, NotFound, ShiplineError
from shipline.oci import Descriptor, Digest, Index, Manifest, Platform, media, parse_manifest
from shipline.tasks import TaskGroup
from shipline.values import replace

BLOB = random.Random(1).randbytes(3_000_001)
TARGET = Descriptor.of(BLOB, media.OCI_LAYER)
SIZES = (0, 1, 4096, (1 << 20) - 1, 1 << 20, len(BLOB))


class Lying(MemoryStore):
    """Serves other bytes than were asked for, without checking them."""

    @contextmanager
    def fetch(self, target: Descriptor) -> Iterator[VerifiedReader]:
        altered = b"x" * target.size
        yield VerifiedReader(
            io.BytesIO(altered), Descriptor.of(altered, target.media_type), "a liar"
        )


def image() -> tuple[MemoryStore, Descriptor]:
    """An index of two platforms that share a layer."""
    shared = b"layer of both"
    contents, manifests = [shared], []
    for architecture in ("amd64", "arm64"):
        config = b'{"architecture":"%s"}' % architecture.encode()
        own = f"layer of {architecture}".encode()
        layers = [Descriptor.of(layer, media.OCI_LAYER) for layer in (shared, own)]
        manifest = Manifest.make(Descriptor.of(config, media.OCI_CONFIG), layers)
        contents += [config, own, manifest.raw]
        manifests.append(
            replace(manifest.descriptor, platform=Platform.parse(f"linux/{architecture}"))
        )
    index = Index.make(manifests)
    return MemoryStore(*contents, index.raw), index.descriptor


@pytest.mark.parametrize("size", SIZES)
def test_what_was_pushed_is_fetched_equal(store: Store, size: int) -> None:
    content = BLOB[:size]
    target = Descriptor.of(content, media.OCI_LAYER)
    store.push(target, MemoryStore(content))
    assert store.exists(target)
    assert fetch_all(store, target, size) == content


def test_absent_content_is_not_found(store: Store) -> None:
    assert not store.exists(TARGET)
    with pytest.raises(NotFound):
        fetch_all(store, TARGET, TARGET.size)


def test_content_that_exists_is_not_moved_again(store: Store) -> None:
    moved: list[int] = []
    for _ in range(2):
        store.push(TARGET, MemoryStore(BLOB), moved.append)
        assert sum(moved) == TARGET.size


def test_a_lying_source_leaves_nothing(store: Store) -> None:
    with pytest.raises(DigestMismatch):
        store.push(TARGET, Lying())
    assert not store.exists(TARGET)


def test_a_reader_given_up_early_harms_nothing(store: Store) -> None:
    store.push(TARGET, MemoryStore(BLOB))
    with store.fetch(TARGET) as reader:
        assert reader.read(1000) == BLOB[:1000]
    assert fetch_all(store, TARGET, TARGET.size) == BLOB


def test_reads_of_any_size_give_the_content(store: Store) -> None:
    store.push(TARGET, MemoryStore(BLOB))
    with store.fetch(TARGET) as reader:
        assert b"".join(_in_pieces(reader)) == BLOB


def _in_pieces(reader: Reader) -> Iterator[bytes]:
    for size in itertools.cycle((1, 4095, 65536, 1 << 20)):
        data = reader.read(size)
        assert len(data) <= size
        if not data:
            return
        yield data


def test_pushers_of_equal_content_all_succeed(store: Store) -> None:
    with TaskGroup() as group:
        for _ in range(4):
            group.start(store.push, TARGET, MemoryStore(BLOB))
    assert fetch_all(store, TARGET, TARGET.size) == BLOB


def test_a_name_is_what_it_was_given_last(repository: Repository) -> None:
    source, index = image()
    copy_graph(source, repository, index)
    named = parse_manifest(source.blobs[index.digest])
    assert isinstance(named, Index)
    for manifest in (*named.manifests, index):
        repository.tag(manifest, source, "v1")
        found = repository.resolve("v1")
        assert found.plain == manifest.plain
        assert repository.resolve(str(manifest.digest)).plain == manifest.plain


def test_a_name_is_swapped_only_if_it_is_what_it_was(repository: Repository) -> None:
    swapper = cast(Swapper, repository)
    source, index = image()
    copy_graph(source, repository, index)
    parsed = parse_manifest(source.blobs[index.digest])
    assert isinstance(parsed, Index)
    one, two = parsed.manifests
    assert not swapper.swap(one, source, "v1", two.digest)
    assert swapper.swap(one, source, "v1", None)
    assert not swapper.swap(two, source, "v1", None)
    assert not swapper.swap(two, source, "v1", two.digest)
    assert repository.resolve("v1").digest == one.digest
    assert swapper.swap(two, source, "v1", one.digest)
    assert repository.resolve("v1").digest == two.digest


def test_an_unknown_name_is_not_found(repository: Repository) -> None:
    for reference in ("v1", str(TARGET.digest)):
        with pytest.raises(NotFound):
            repository.resolve(reference)


@pytest.mark.parametrize("tag", ["", "-v1", "a/b", "../x", "ä", "v" * 129, "v1\n"])
def test_an_invalid_tag_is_refused(repository: Repository, tag: str) -> None:
    source, index = image()
    with pytest.raises(ShiplineError):
        repository.tag(index, source, tag)


def test_nothing_is_mounted_from_elsewhere(repository: Repository) -> None:
    assert not repository.mount(TARGET, MemoryStore(BLOB))
    assert not repository.exists(TARGET)


@pytest.mark.parametrize("there", REPOSITORIES)
@pytest.mark.parametrize("here", REPOSITORIES)
def test_an_image_goes_from_any_repository_to_any(
    open_by_name: Callable[[str], Repository], here: str, there: str
) -> None:
    source, index = image()
    origin, destination = open_by_name(here), open_by_name(there)
    copy_graph(source, origin, index)
    origin.tag(index, source, "v1")
    copy_graph(origin, destination, origin.resolve("v1"))
    pulled = MemoryStore()
    copy_graph(destination, pulled, index)
    assert pulled.blobs == source.blobs
    assert Digest.of(pulled.blobs[index.digest]) == index.digest
