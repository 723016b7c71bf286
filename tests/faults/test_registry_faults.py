"""Broken connections, errors and lies between the client and two real registries.

Docker's loses a session with its connection, so that an upload starts again; one that follows the
specification resumes it.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from images import make_image, make_layer
from registries import REGISTRY, docker_registry
from spec_registry import Spec, spec_registry

from proxy import (
    Answer,
    CutRequest,
    CutResponse,
    Fault,
    FaultProxy,
    FlipBit,
    LoseResponse,
    SetHeader,
)
from shipline.content import LocalStore, MemoryStore, Reader, chunks, copy_graph
from shipline.errors import DigestMismatch, RegistryError
from shipline.oci import Descriptor, Reference
from shipline.registry import Client, HostSettings, RemoteRepository

needs_docker = pytest.mark.skipif(REGISTRY is None, reason="docker-registry is not installed")
SIZE = 3_000_000


@pytest.fixture(scope="module")
def docker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    with docker_registry(tmp_path_factory.mktemp("registry")) as port:
        yield port


@pytest.fixture
def broken(docker: int) -> Iterator[FaultProxy]:
    """A proxy before docker-registry."""
    with FaultProxy(docker) as proxy:
        yield proxy


@pytest.fixture
def spec() -> Iterator[tuple[Spec, FaultProxy]]:
    with spec_registry() as (spec, served), FaultProxy(served.port) as proxy:
        yield spec, proxy


@pytest.fixture
def store(tmp_path: Path) -> LocalStore:
    return LocalStore(tmp_path / "store")


def through(client: Client, proxy: FaultProxy) -> RemoteRepository:
    return client.repository(Reference.parse(f"127.0.0.1:{proxy.port}/team/app"))


def read_back(repository: RemoteRepository, target: Descriptor) -> bytes:
    with repository.fetch(target) as reader:
        return reader.read()


LOSSES: list[tuple[str, Fault]] = [
    ("PUT", CutRequest(after=0)),
    ("PUT", CutRequest(after=2_000_000)),
    ("PUT", LoseResponse()),
    ("PUT", Answer(503, (("Retry-After", "0"),))),
    ("PUT", Answer(500, after=1_000_000)),
    ("POST", Answer(429, (("Retry-After", "0"),), b'{"details":"too many"}')),
    ("POST", LoseResponse()),
    ("HEAD", Answer(502)),
]


@needs_docker
@pytest.mark.peers
@pytest.mark.parametrize(("method", "fault"), LOSSES)
def test_a_push_survives(broken: FaultProxy, store: LocalStore, method: str, fault: Fault) -> None:
    layer = make_layer(store, SIZE)
    broken.break_next(fault, method=method)
    moved: list[int] = []
    with Client() as client:
        through(client, broken).push(layer, store, moved.append)
        assert read_back(through(client, broken), layer) == store.path(layer.digest).read_bytes()
    assert sum(moved) == SIZE


@needs_docker
@pytest.mark.peers
def test_a_whole_image_survives_a_bad_line(broken: FaultProxy, store: LocalStore) -> None:
    image = make_image(store, SIZE, SIZE, 100)
    broken.break_next(CutRequest(after=500_000), method="PUT", target="blobs", times=3)
    broken.break_next(Answer(500), method="PUT", target="manifests")
    broken.break_next(CutResponse(after=1_000_000), method="GET", target="blobs", times=2)
    pulled = MemoryStore()
    with Client() as client:
        copy_graph(store, through(client, broken), image)
        copy_graph(through(client, broken), pulled, image)
    assert len(pulled.blobs) == 5


@needs_docker
@pytest.mark.peers
def test_bytes_changed_on_their_way_up_are_not_stored(
    broken: FaultProxy, store: LocalStore
) -> None:
    layer = make_layer(store, SIZE)
    broken.break_next(FlipBit(at=1_000_000, request=True), method="PUT", times=2)
    with Client() as client:
        with pytest.raises(DigestMismatch):
            through(client, broken).push(layer, store)
        assert not through(client, broken).exists(layer)
        broken.break_next(FlipBit(at=1_000_000, request=True), method="PUT")  # once is no matter
        through(client, broken).push(layer, store)
        assert through(client, broken).exists(layer)


@needs_docker
@pytest.mark.peers
@pytest.mark.parametrize("fault", [CutRequest(after=1_500_000), LoseResponse(), Answer(500)])
@pytest.mark.parametrize("method", ["PATCH", "PUT"])
def test_an_ingest_survives(
    broken: FaultProxy, store: LocalStore, method: str, fault: Fault
) -> None:
    layer = make_layer(store, SIZE)
    broken.break_next(fault, method=method)
    with Client() as client:
        with through(client, broken).ingest() as ingest, store.fetch(layer) as reader:
            for data in chunks(reader, 100_000):
                ingest.write(data)
            ingest.commit(layer)
        assert through(client, broken).exists(layer)


def test_a_push_goes_on_where_it_broke(spec: tuple[Spec, FaultProxy], store: LocalStore) -> None:
    registry, proxy = spec
    layer = make_layer(store, SIZE)
    proxy.break_next(CutRequest(after=2_000_000), method="PUT")
    moved: list[int] = []
    with Client() as client:
        through(client, proxy).push(layer, store, moved.append)
    (chunk,) = proxy.seen("PATCH")
    start = SIZE - int(chunk.headers["content-length"])
    assert chunk.headers["content-range"] == f"{start}-{SIZE - 1}" and start > 1_900_000
    assert registry.blobs[str(layer.digest)] == store.path(layer.digest).read_bytes()
    assert sum(moved) == SIZE and registry.count == 1


def test_a_push_that_gets_on_never_gives_up(
    spec: tuple[Spec, FaultProxy], store: LocalStore
) -> None:
    registry, proxy = spec
    layer = make_layer(store, SIZE)
    proxy.break_next(CutRequest(after=250_000), method="PUT")
    proxy.break_next(CutRequest(after=250_000), method="PATCH", times=7)
    with Client(tries=3) as client:
        through(client, proxy).push(layer, store)
    assert str(layer.digest) in registry.blobs and registry.count == 1


def test_a_stream_goes_on_where_it_broke(spec: tuple[Spec, FaultProxy], store: LocalStore) -> None:
    registry, proxy = spec
    size = 40_000_000
    layer = make_layer(store, size)
    proxy.break_next(CutRequest(after=30_000_000), method="PATCH")
    with (
        Client() as client,
        through(client, proxy).ingest() as ingest,
        store.fetch(layer) as reader,
    ):
        for data in chunks(reader):
            ingest.write(data)
        ingest.commit(layer)
    assert str(layer.digest) in registry.blobs and registry.count == 1
    assert len(proxy.seen("PATCH")) == 2


@needs_docker
@pytest.mark.peers
def test_a_long_stream_that_cannot_go_on_says_so(broken: FaultProxy, store: LocalStore) -> None:
    layer = make_layer(store, 40_000_000)
    broken.break_next(CutRequest(after=30_000_000), method="PATCH")
    with Client() as client:
        with (
            pytest.raises(RegistryError, match="cannot be resumed") as raised,
            through(client, broken).ingest() as ingest,
            store.fetch(layer) as reader,
        ):
            for data in chunks(reader):
                ingest.write(data)
            ingest.commit(layer)
        assert raised.value.retriable
        assert not through(client, broken).exists(layer)


@needs_docker
@pytest.mark.peers
def test_a_download_goes_on_where_it_broke(broken: FaultProxy, store: LocalStore) -> None:
    layer = make_layer(store, SIZE)
    with Client() as client:
        through(client, broken).push(layer, store)
        broken.break_next(CutResponse(after=2_000_000), method="GET", target="blobs")
        assert read_back(through(client, broken), layer) == store.path(layer.digest).read_bytes()
    first, second = broken.seen("GET", "blobs/sha256")
    assert "range" not in first.headers and second.headers["range"] == "bytes=2000000-"


@needs_docker
@pytest.mark.peers
def test_a_range_that_was_not_asked_for_is_not_used(broken: FaultProxy, store: LocalStore) -> None:
    layer = make_layer(store, SIZE)
    with Client() as client:
        through(client, broken).push(layer, store)
        broken.break_next(CutResponse(after=2_000_000), method="GET", target="blobs")
        wrong = SetHeader("Content-Range", f"bytes 1000000-{SIZE - 1}/{SIZE}")
        broken.break_next(wrong, method="GET", target="blobs")
        assert read_back(through(client, broken), layer) == store.path(layer.digest).read_bytes()
    assert len(broken.seen("GET", "blobs/sha256")) == 3


@needs_docker
@pytest.mark.peers
def test_a_changed_bit_never_reaches_the_reader_as_the_end(
    broken: FaultProxy, store: LocalStore
) -> None:
    layer = make_layer(store, SIZE)
    with Client() as client:
        through(client, broken).push(layer, store)
        broken.break_next(FlipBit(at=2_500_000), method="GET", target="blobs")
        with pytest.raises(DigestMismatch):
            read_back(through(client, broken), layer)


@needs_docker
@pytest.mark.peers
def test_a_registry_that_stays_down_is_reported(broken: FaultProxy, store: LocalStore) -> None:
    layer = make_layer(store, 100)
    broken.break_next(Answer(503, body=b"<html>nginx</html>"), times=100)
    with Client(tries=2) as client, pytest.raises(RegistryError) as raised:
        through(client, broken).push(layer, store)
    assert raised.value.status == 503 and raised.value.retriable
    assert "html" not in raised.value.message
    assert len(broken.requests) == 2


class BrokenSource:
    """Content whose origin goes away in the middle; another attempt could help there."""

    @contextmanager
    def fetch(self, target: Descriptor) -> Iterator[Reader]:
        yield self

    def read(self, size: int = -1, /) -> bytes:
        raise RegistryError("connection lost", host="elsewhere.example", retriable=True)


@needs_docker
@pytest.mark.peers
def test_a_source_that_breaks_off_is_not_waited_for_at_the_destination(
    broken: FaultProxy, store: LocalStore
) -> None:
    """The registry has nothing to answer: it waits for the rest of the body."""
    start = time.monotonic()
    with Client(tries=1) as client, pytest.raises(RegistryError) as caught:
        through(client, broken).push(make_layer(store, SIZE), BrokenSource())
    assert caught.value.host == "elsewhere.example"
    assert time.monotonic() - start < HostSettings().read_s / 2
