"""Layers travel while they are made, each once, and never in vain."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from layers_for_tests import items_of, make_layer

from shipline.build.assembly import PLAIN, Recoder
from shipline.build.blobs import Blobs
from shipline.build.cache import Cache, LayerResult
from shipline.build.caching.document import CacheKey
from shipline.build.caching.export import CacheEntry, CacheExport
from shipline.build.publish import PushTarget, Uploads
from shipline.build.request import CacheBackend, CacheTarget, OutputFormat
from shipline.build.worker import Follower
from shipline.content import Fetcher, LocalStore, MemoryStore, RepositoryCache
from shipline.content.memory import MemoryIngest
from shipline.content.protocols import Advance
from shipline.errors import AuthError, ContentError, RegistryError
from shipline.events import Step, silent
from shipline.layer import Layer, codec
from shipline.metadata import SqliteRecords
from shipline.oci import Descriptor, Digest, media
from shipline.tasks import TaskGroup, check

PART = 3 << 20  # bytes; two of them are worth streaming


class Remote(MemoryStore):
    """A repository that tells what it is asked to do, and may break streams."""

    def __init__(self, *, breaks: bool = False, mounts: bool = False) -> None:
        super().__init__()
        self.asked: list[str] = []
        self.arrived = threading.Event()
        self.breaks = breaks
        self.mounts = mounts

    @contextmanager
    def ingest(self) -> Iterator[MemoryIngest]:
        self.asked.append("stream")
        yield _Streamed(self)

    def push(self, target: Descriptor, source: Fetcher, advance: Advance | None = None) -> None:
        self.asked.append("push")
        threading.Event().wait(0.05)  # others who would send the same come meanwhile
        super().push(target, source, advance)

    def mount(self, target: Descriptor, origin: object) -> bool:
        self.asked.append("mount")
        if self.mounts:
            self.blobs[target.digest] = b""
        return self.mounts


class _Streamed(MemoryIngest):
    def __init__(self, remote: Remote) -> None:
        super().__init__(remote.blobs)
        self._remote = remote

    def write(self, data: bytes) -> None:
        if self._remote.breaks:
            raise RegistryError("the connection broke", host="h")
        super().write(data)
        self._remote.arrived.set()


class Refusing(Remote):
    def push(self, target: Descriptor, source: Fetcher, advance: Advance | None = None) -> None:
        raise AuthError("denied", host="h")


@pytest.fixture
def step() -> Iterator[Step]:
    with silent() as quiet:
        yield quiet


@pytest.fixture
def blobs(tmp_path: Path, step: Step) -> Blobs:
    return Blobs(LocalStore(tmp_path / "content"), step)


@pytest.fixture
def recoder(tmp_path: Path, blobs: Blobs, step: Step) -> Iterator[Recoder]:
    records = SqliteRecords(tmp_path / "cache.db")
    yield Recoder(blobs, Cache(records, blobs, tmp_path), step)
    records.close()


def target(remote: MemoryStore, name: str = "a", format: OutputFormat = PLAIN) -> PushTarget:
    return PushTarget("h", name, remote, format)


def layer_in(blobs: Blobs, text: str = "content") -> Layer:
    return make_layer(blobs.store, items_of({"a": text}))


def test_bytes_arrive_before_the_layer_is_complete(
    blobs: Blobs, recoder: Recoder, step: Step
) -> None:
    remote = Remote()
    with TaskGroup() as group:
        uploads = Uploads(group, [target(remote)], blobs, recoder, codec("gzip"), step)
        with blobs.store.ingest() as ingest:
            uploads.follow(ingest)
            ingest.write(bytes(PART))
            ingest.write(bytes(PART))
            assert remote.arrived.wait(60)
            assert not remote.blobs
            ingest.write(b"end")
            layer = Descriptor(media.OCI_LAYER_GZIP, ingest.digest, ingest.size)
            ingest.commit(layer)
        uploads.completed(layer)
        uploads.send(Layer(layer, Digest.of(b"")), LayerResult(Layer(layer, Digest.of(b"")), "", 1))
    assert remote.asked == ["stream"]
    assert remote.blobs[layer.digest] == bytes(2 * PART) + b"end"


def test_a_cache_gets_the_bytes_of_a_layer_while_it_is_made(
    blobs: Blobs, recoder: Recoder, step: Step
) -> None:
    remote, pushed = Remote(), Remote()
    own = CacheTarget(CacheBackend("registry", {"ref": "a"}), "max")
    beside = CacheTarget(CacheBackend("registry", {"ref": "h/b:cache"}), "min")
    targets = [
        (own, RepositoryCache(remote, "tag")),
        (beside, RepositoryCache(pushed, "tag", name="h/b")),
    ]
    with TaskGroup() as group:
        export = CacheExport(targets, group, blobs, recoder, step, codec("gzip"), pushed={"h/b"})
        assert export.stream(published=False) is not None
        stream = export.stream(published=True)
        assert stream is not None
        with blobs.store.ingest() as ingest:
            stream.follow(ingest)
            ingest.write(bytes(2 * PART))
            assert remote.arrived.wait(60)
            assert not remote.blobs
            layer = Descriptor(media.OCI_LAYER_GZIP, ingest.digest, ingest.size)
            ingest.commit(layer)
        stream.completed(layer)
        made = Layer(layer, Digest.of(b""))
        export.send(((made, LayerResult(made, "", 1)),), published=True)
    assert remote.asked == ["stream"]
    assert remote.blobs[layer.digest] == bytes(2 * PART)
    assert pushed.asked == []  # the image is on its way there
    pushed.blobs[layer.digest] = remote.blobs[layer.digest]
    stored = ((made, LayerResult(made, "", 1)),)
    export.finish([CacheEntry((CacheKey("sha256:" + "0" * 64),), stored, True)])
    assert pushed.asked == ["push", "push"]  # the document and its manifest alone


def test_a_cache_whose_stream_breaks_gets_the_whole_layer(
    blobs: Blobs, recoder: Recoder, step: Step
) -> None:
    remote = Remote(breaks=True)
    target = CacheTarget(CacheBackend("registry", {"ref": "a"}), "max")
    with TaskGroup() as group:
        export = CacheExport(
            [(target, RepositoryCache(remote, "tag"))], group, blobs, recoder, step, codec("gzip")
        )
        stream = export.stream(published=False)
        assert stream is not None
        layer = follow(stream, blobs, bytes(2 * PART))
    assert remote.asked == ["stream", "push"]
    assert remote.blobs[layer.descriptor.digest] == bytes(2 * PART)


def follow(uploads: Follower, blobs: Blobs, content: bytes) -> Layer:
    with blobs.store.ingest() as ingest:
        uploads.follow(ingest)
        ingest.write(content)
        layer = Descriptor(media.OCI_LAYER_GZIP, ingest.digest, ingest.size)
        ingest.commit(layer)
    uploads.completed(layer)
    return Layer(layer, Digest.of(content))


def test_a_broken_stream_is_sent_again_whole(blobs: Blobs, recoder: Recoder, step: Step) -> None:
    remote = Remote(breaks=True)
    with TaskGroup() as group:
        uploads = Uploads(group, [target(remote)], blobs, recoder, codec("gzip"), step)
        layer = follow(uploads, blobs, bytes(2 * PART))
    assert remote.asked[-1] == "push"
    assert remote.blobs[layer.descriptor.digest] == bytes(2 * PART)


def test_a_small_layer_is_not_streamed(blobs: Blobs, recoder: Recoder, step: Step) -> None:
    remote = Remote()
    with TaskGroup() as group:
        uploads = Uploads(group, [target(remote)], blobs, recoder, codec("gzip"), step)
        follow(uploads, blobs, b"small")
    assert remote.asked == ["push"]


def test_a_layer_that_was_given_up_leaves_nothing(
    blobs: Blobs, recoder: Recoder, step: Step
) -> None:
    remote = Remote()
    with pytest.raises(ZeroDivisionError), TaskGroup() as group:
        uploads = Uploads(group, [target(remote)], blobs, recoder, codec("gzip"), step)
        with blobs.store.ingest() as ingest:
            uploads.follow(ingest)
            ingest.write(bytes(2 * PART))
            raise ZeroDivisionError
    assert not remote.blobs


@pytest.mark.parametrize("size", [10, 2 * PART])
def test_a_layer_that_was_given_up_does_not_interrupt_who_says_why(
    blobs: Blobs, recoder: Recoder, step: Step, size: int
) -> None:
    with pytest.raises(ContentError, match="full"), TaskGroup() as group:
        uploads = Uploads(group, [target(Remote())], blobs, recoder, codec("gzip"), step)
        with blobs.store.ingest() as ingest:
            uploads.follow(ingest)
            ingest.write(bytes(size))
        group.join()
        check()
        raise ContentError("the disk is full")


def test_equal_layers_are_sent_once_to_each_target(
    blobs: Blobs, recoder: Recoder, step: Step
) -> None:
    one, two = Remote(), Remote()
    layer = layer_in(blobs)
    with TaskGroup() as group:
        targets = [target(one), target(two, "b")]
        uploads = Uploads(group, targets, blobs, recoder, codec("gzip"), step)
        for _ in range(4):
            uploads.send(layer, None)
    assert (one.asked, two.asked) == (["push"], ["mount", "push"])


@pytest.mark.parametrize("size", [10, 2 * PART])
def test_a_layer_is_mounted_in_other_repositories_of_its_registry(
    blobs: Blobs, recoder: Recoder, step: Step, size: int
) -> None:
    first, second, elsewhere = Remote(), Remote(mounts=True), Remote(mounts=True)
    with TaskGroup() as group:
        others = [target(second, "b"), PushTarget("other", "a", elsewhere)]
        uploads = Uploads(group, [target(first), *others], blobs, recoder, codec("gzip"), step)
        with blobs.store.ingest() as ingest:
            uploads.follow(ingest)
            ingest.write(bytes(size))
            layer = Layer(Descriptor(media.OCI_LAYER_GZIP, ingest.digest, size), ingest.digest)
            ingest.commit(layer.descriptor)
        uploads.completed(layer.descriptor)
        uploads.send(layer, LayerResult(layer, "", 1))
    sent = "stream" if size > PART else "push"
    assert first.asked == elsewhere.asked == [sent]
    assert second.asked == ["mount"]


def test_what_is_there_is_not_sent(blobs: Blobs, recoder: Recoder, step: Step) -> None:
    remote = Remote()
    layer = layer_in(blobs)
    remote.blobs[layer.descriptor.digest] = b""
    with TaskGroup() as group:
        Uploads(group, [target(remote)], blobs, recoder, codec("gzip"), step).send(layer, None)
    assert remote.asked == []


@pytest.mark.parametrize("mounts", [True, False])
def test_a_base_layer_is_mounted_where_the_registry_can(
    blobs: Blobs, recoder: Recoder, step: Step, mounts: bool
) -> None:
    remote, origin = Remote(mounts=mounts), MemoryStore()
    layer = make_layer(origin, items_of({"a": "base"}))
    blobs.offer(layer.descriptor, origin, "h/base")
    with TaskGroup() as group:
        Uploads(group, [target(remote)], blobs, recoder, codec("gzip"), step).send(layer, None)
    assert remote.asked == (["mount"] if mounts else ["mount", "push"])
    assert layer.descriptor.digest in remote.blobs
    assert not blobs.store.exists(layer.descriptor)


def test_each_target_gets_its_own_form_and_only_those_that_take_it_follow(
    blobs: Blobs, recoder: Recoder, step: Step
) -> None:
    gzip, zstd = Remote(), Remote()
    layer = layer_in(blobs)
    with TaskGroup() as group:
        targets = [target(gzip), target(zstd, "b", OutputFormat("zstd"))]
        uploads = Uploads(group, targets, blobs, recoder, codec("gzip"), step)
        uploads.completed(layer.descriptor)
        uploads.send(layer, LayerResult(layer, "", 1))
    assert gzip.asked == []
    assert zstd.asked == ["push"]
    (sent,) = zstd.blobs.values()
    assert sent.startswith(b"\x28\xb5\x2f\xfd")


def test_a_refusal_reaches_whoever_waits_for_the_uploads(
    blobs: Blobs, recoder: Recoder, step: Step
) -> None:
    layer = layer_in(blobs)
    with pytest.raises(AuthError, match="denied"), TaskGroup() as group:
        uploads = Uploads(group, [target(Refusing())], blobs, recoder, codec("gzip"), step)
        uploads.send(layer, None)
