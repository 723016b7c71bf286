"""What caches know of a build: results that fit together, on the base that there is."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from layers_for_tests import AMD64, items_of, make_layer

from shipline.build.base_images import BaseImage
from shipline.build.blobs import Blobs, BrokenCache
from shipline.build.cache import LayerResult
from shipline.build.caching.document import CacheDocument
from shipline.build.caching.export import CacheEntry, cached_result, inline_cache
from shipline.build.caching.keys import KeyMaker
from shipline.build.caching.lookup import CacheLookup, RemoteCache, read_caches
from shipline.build.graph import CopyOp, ImageOp, MakeDirectoryOp, RunOp, Vertex
from shipline.build.request import SHM_SIZE, CacheBackend
from shipline.content import LocalStore, MemoryStore, RepositoryCache, inline_documents
from shipline.errors import NotFound
from shipline.events import Step, silent
from shipline.layer import Layer
from shipline.oci import Descriptor, Digest, ImageConfig, Reference, media
from shipline.tasks import sleep
from shipline.values import replace

T1, T2 = "2026-01-01T00:00:00Z", "2026-01-02T00:00:00Z"
ROOT = ImageOp(Digest.of(b"manifest"))


def run(base: Vertex, text: str, *inputs: Vertex, fresh: bool = False) -> Vertex:
    op = RunOp((text,), (), "/", "", str(AMD64), network="none", shm_size=SHM_SIZE)
    return Vertex(op, (base, *inputs), fresh=fresh)


@dataclass
class Machine:
    """A machine without anything, a cache, and a base image of one layer."""

    step: Step
    blobs: Blobs
    store: MemoryStore = field(default_factory=MemoryStore)
    document: CacheDocument = field(default_factory=CacheDocument)

    def __post_init__(self) -> None:
        self.base = self.layer("base").layer
        config = ImageConfig(AMD64, diff_ids=(self.base.diff_id,))
        name = Reference.parse("base").at(Digest.of(b"index"))
        self.images = {ROOT: BaseImage(name, ROOT, config, (self.base,))}

    @property
    def maker(self) -> KeyMaker:
        return KeyMaker(self.images, {})

    def layer(self, text: str, created: str = T1) -> LayerResult:
        return LayerResult(make_layer(self.store, items_of({"file": text})), created)

    def know(self, vertex: Vertex, *layers: LayerResult) -> None:
        """The cache has a result: the layers on top of the base."""
        found = cached_result([(self.base, None), *((one.layer, one) for one in layers)])
        for key in self.maker.keys(vertex):
            self.document.add(key, found)

    def find(self, *roots: Vertex) -> Mapping[Vertex, LayerResult]:
        cache = RemoteCache("cache", RepositoryCache(self.store, "tag"), self.document)
        return CacheLookup([cache], self.maker, self.images, self.blobs, self.step).results(*roots)


@pytest.fixture
def machine(tmp_path: Path) -> Iterator[Machine]:
    with silent() as step:
        yield Machine(step, Blobs(LocalStore(tmp_path / "content"), step))


BASE = Vertex(ROOT)
ONE = run(BASE, "one")
TWO = run(ONE, "two")


def test_a_result_makes_everything_below_it_known(machine: Machine) -> None:
    one, two = machine.layer("1"), machine.layer("2")
    machine.know(TWO, one, two)
    assert machine.find(TWO) == {ONE: one, TWO: two}


def test_what_is_missing_at_the_top_is_found_below(machine: Machine) -> None:
    one = machine.layer("1")
    machine.know(ONE, one)
    assert machine.find(TWO) == {ONE: one}


def test_a_result_on_another_base_is_a_miss(machine: Machine) -> None:
    machine.know(ONE, machine.layer("1"))
    other = machine.layer("other base").layer
    machine.images[ROOT] = replace(machine.images[ROOT], layers=(other,))
    assert machine.find(ONE) == {}


def test_a_result_with_too_few_or_too_many_layers_is_a_miss(machine: Machine) -> None:
    machine.know(TWO, machine.layer("1"))
    machine.know(ONE, machine.layer("1"), machine.layer("2"))
    assert machine.find(TWO) == {}


def test_stages_on_one_step_get_one_result_for_it(machine: Machine) -> None:
    """Two builds of the step gave two layers; a result on the second one is not mixed in."""
    left, right = run(ONE, "left"), run(ONE, "right")
    first, second = machine.layer("1"), machine.layer("another 1")
    machine.know(left, first, machine.layer("l"))
    machine.know(right, second, machine.layer("r"))
    copy = Vertex(CopyOp(("/x",), "/"), (left, right))
    found = machine.find(copy)
    assert found[ONE] == first and left in found and right not in found


def test_a_layer_that_is_gone_is_a_miss(machine: Machine) -> None:
    one, two = machine.layer("1"), machine.layer("2")
    machine.know(ONE, one)
    machine.know(TWO, one, two)
    del machine.store.blobs[two.layer.descriptor.digest]
    assert machine.find(TWO) == {ONE: one}


def test_what_is_built_from_a_stage_without_cache_is_not_looked_up(machine: Machine) -> None:
    fresh = run(BASE, "other", fresh=True)
    top = Vertex(CopyOp(("/x",), "/"), (ONE, fresh))
    machine.know(top, machine.layer("1"), machine.layer("t"))
    assert machine.find(top) == {}
    above = run(fresh, "two")
    machine.know(above, machine.layer("o"), machine.layer("2"))
    assert machine.find(above) == {}


def test_the_newest_result_that_can_be_had_is_used(machine: Machine) -> None:
    old, new = machine.layer("old"), machine.layer("new", T2)
    machine.know(ONE, old)
    (key,) = machine.maker.keys(ONE)
    machine.document.add(key, cached_result([(machine.base, None), (new.layer, new)]))
    assert machine.find(ONE) == {ONE: new}


def test_a_layer_that_caches_describe_differently_is_checked_for_what_is_used(
    machine: Machine,
) -> None:
    one = machine.layer("1")
    lie = LayerResult(replace(one.layer, diff_id=Digest.of(b"a lie")), T2)
    machine.know(ONE, lie)
    found = machine.find(ONE)
    assert found == {ONE: lie}
    with pytest.raises(BrokenCache, match="cache"):
        machine.blobs.require(lie.layer.descriptor)
    assert not machine.blobs.claim(one.layer, "another cache")


def test_a_base_that_cannot_be_had_is_no_fault_of_a_cache(machine: Machine) -> None:
    absent = Descriptor.of(b"nowhere", media.OCI_LAYER_GZIP)
    with pytest.raises(NotFound):
        machine.blobs.require(absent)


def test_what_an_image_carries_is_read_again(machine: Machine) -> None:
    directory = Vertex(MakeDirectoryOp("/d"), (TWO,))
    one, two, made = machine.layer("1"), machine.layer("2"), machine.layer("d")
    stack = ((machine.base, None), (one.layer, one), (two.layer, two), (made.layer, made))
    entries = [
        CacheEntry(machine.maker.keys(vertex), stack[: number + 2], published=True)
        for number, vertex in enumerate((ONE, TWO, directory))
    ]
    layers: list[Layer] = [layer for layer, _ in stack]
    text = inline_cache(entries, layers)
    config = ImageConfig(
        AMD64,
        diff_ids=tuple(layer.diff_id for layer in layers),
        extra={"moby.buildkit.cache.v0": text},
    )
    (raw,) = inline_documents(config, tuple(layer.descriptor for layer in layers))
    machine.document = CacheDocument.parse(raw)
    found = machine.find(directory)
    assert [found[one].layer for one in (ONE, TWO, directory)] == layers[1:]


def test_caches_that_cannot_be_read_are_left_out(machine: Machine) -> None:
    class Damaged(RepositoryCache):
        def documents(self) -> tuple[bytes, ...]:
            return (b"{", b"}")

    readers = (RepositoryCache(machine.store, "none"), Damaged(machine.store, "damaged"))
    backends = (CacheBackend("local", {"src": name}) for name in ("none", "damaged"))
    found = read_caches(zip(backends, readers, strict=True), machine.step)
    assert [one.name for one in found] == ["local cache none"]


def test_a_cache_that_does_not_answer_is_waited_for_only_so_long(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Silent(RepositoryCache):
        def documents(self) -> tuple[bytes, ...]:
            sleep(600)
            return ()

        def exists(self, target: Descriptor) -> bool:
            sleep(600)
            return True

    monkeypatch.setattr("shipline.build.caching.lookup.PATIENCE_S", 0.05)
    quiet = Silent(machine.store, "quiet")
    assert read_caches([(CacheBackend("local", {"src": "quiet"}), quiet)], machine.step) == []
    machine.know(ONE, machine.layer("one"))
    cache = RemoteCache("quiet", quiet, machine.document)
    lookup = CacheLookup([cache], machine.maker, machine.images, machine.blobs, machine.step)
    assert lookup.results(ONE, TWO) == {}
