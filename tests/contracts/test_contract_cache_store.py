"""CacheStore: blobs equal or absent, one document that many write, faults that end in an error."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from pathlib import Path

import pytest

from caches import CachePlace, azure_place, directory_place, github_place, registry_place, s3_place
from proxy import Answer, CutRequest, CutResponse, FaultProxy, FlipBit, LoseResponse
from shipline.content import MemoryStore, fetch_all
from shipline.content.cache_store import CacheStore
from shipline.errors import (
    AuthError,
    ContentError,
    DigestMismatch,
    NotFound,
    RegistryError,
    ShiplineError,
)
from shipline.oci import Descriptor, Digest, media
from shipline.registry import Client
from shipline.tasks import TaskGroup
from shipline.values import replace

pytestmark = pytest.mark.peers
LARGE = random.Random(1).randbytes((9 << 20) + 7)  # two pieces, the last one short
SMALL = b"a small layer"
SIZES = (0, 1, 8 << 20, (8 << 20) + 1, len(LARGE))


def layer(content: bytes) -> Descriptor:
    return Descriptor.of(content, media.OCI_LAYER)


SERVICES = ("s3", "azblob", "gha")  # which are asked with the same requests, and break alike


def place_of(kind: str, request: pytest.FixtureRequest, tmp_path: Path) -> CachePlace:
    """A cache of this kind, empty."""
    if kind == "s3":
        return s3_place(request.getfixturevalue("s3_service"))
    if kind == "azblob":
        return azure_place(request.getfixturevalue("azure_account"))
    if kind == "gha":
        return github_place(request.getfixturevalue("github_cache"))
    if kind == "registry":
        return registry_place(request.getfixturevalue("node_address"))
    return directory_place(tmp_path / "cache")


@pytest.fixture(params=[*SERVICES, "registry", "local"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> CachePlace:
    """Every kind of cache."""
    return place_of(request.param, request, tmp_path)


@pytest.fixture
def store(place: CachePlace) -> Iterator[CacheStore]:
    with Client() as client:
        yield place.open(client)


@pytest.fixture(params=SERVICES)
def service(request: pytest.FixtureRequest, tmp_path: Path) -> CachePlace:
    """Every cache in a service."""
    return place_of(request.param, request, tmp_path)


@pytest.fixture
def whole(service: CachePlace) -> Iterator[CacheStore]:
    """The store of `service`, reached directly."""
    with Client() as client:
        yield service.open(client)


@pytest.fixture
def proxy(service: CachePlace) -> Iterator[FaultProxy]:
    with FaultProxy(service.port) as running:
        yield running


@pytest.fixture
def broken(service: CachePlace, proxy: FaultProxy) -> Iterator[CacheStore]:
    """The store of `service` behind `proxy`."""
    with Client() as client:
        yield service.open(client, proxy.port)


def add(store: CacheStore, name: str) -> None:
    """Push a layer and add it to the document."""
    target = layer(name.encode())
    store.push(target, MemoryStore(name.encode()))

    def merge(present: bytes | None) -> bytes:
        names = {*names_in(present), name}
        listed = [
            {
                "blob": str(layer(one.encode()).digest),
                "parent": -1,
                "annotations": {
                    "mediaType": media.OCI_LAYER,
                    "diffID": str(layer(one.encode()).digest),
                    "size": len(one),
                },
            }
            for one in sorted(names)
        ]
        records = [{"digest": str(Digest.of(one.encode())), "layers": []} for one in sorted(names)]
        return json.dumps({"layers": listed, "records": records}).encode()

    store.update(merge)


NAMES = tuple(f"writer{number}" for number in range(5))


def names_in(document: bytes | None) -> set[str]:
    """Which of `NAMES` a document lists."""
    listed = json.loads(document)["layers"] if document else []
    blobs = {one["blob"] for one in listed}
    return {name for name in NAMES if str(layer(name.encode()).digest) in blobs}


@pytest.mark.parametrize("size", SIZES)
def test_what_was_pushed_is_fetched_equal(store: CacheStore, size: int) -> None:
    content, sent = LARGE[:size], [0]
    assert not store.exists(layer(content))
    store.push(layer(content), MemoryStore(content), lambda more: sent.append(more))
    assert sum(sent) == size
    assert store.exists(layer(content))
    assert fetch_all(store, layer(content), size) == content


def test_an_empty_cache_has_no_documents_and_no_blobs(store: CacheStore) -> None:
    assert list(store.documents()) == []
    with pytest.raises(NotFound), store.fetch(layer(SMALL)) as reader:
        reader.read()


def test_a_document_replaces_the_one_before(store: CacheStore) -> None:
    add(store, NAMES[0])
    add(store, NAMES[1])
    assert [names_in(one) for one in store.documents()] == [{*NAMES[:2]}]


def test_writers_at_once_lose_nothing(place: CachePlace) -> None:
    with Client() as client, TaskGroup() as group:
        for name in NAMES:
            group.start(add, place.open(client), name)
    with Client() as client:
        assert [names_in(one) for one in place.open(client).documents()] == [{*NAMES}]


def test_writers_of_one_blob_at_once_agree(place: CachePlace) -> None:
    with Client() as client, TaskGroup() as group:
        for _ in range(4):
            group.start(place.open(client).push, layer(LARGE), MemoryStore(LARGE))
    with Client() as client:
        assert fetch_all(place.open(client), layer(LARGE), len(LARGE)) == LARGE


def test_a_blob_that_the_source_has_damaged_is_not_stored(store: CacheStore) -> None:
    lying = MemoryStore()
    lying.blobs[layer(LARGE).digest] = LARGE[:-1] + b"x"
    with pytest.raises(DigestMismatch):
        store.push(layer(LARGE), lying)
    with pytest.raises(NotFound), store.fetch(layer(LARGE)) as reader:
        reader.read()


def test_a_cut_download_is_continued_where_it_was_cut(
    whole: CacheStore, broken: CacheStore, proxy: FaultProxy
) -> None:
    whole.push(layer(LARGE), MemoryStore(LARGE))
    broken.exists(layer(LARGE))
    proxy.break_next(CutResponse(after=500_000), method="GET", times=2)
    assert fetch_all(broken, layer(LARGE), len(LARGE)) == LARGE
    starts = [one.headers["range"] for one in proxy.seen("GET")]
    pieces = {f"bytes={start}-" for start in range(0, len(LARGE), 8 << 20)}
    again = [one for one in starts if not any(one.startswith(piece) for piece in pieces)]
    assert len(again) == 2


def test_a_cut_document_is_read_again(
    whole: CacheStore, broken: CacheStore, proxy: FaultProxy
) -> None:
    whole.update(lambda _: SMALL)
    proxy.break_next(CutResponse(after=5), method="GET")
    assert list(broken.documents()) == [SMALL]


@pytest.mark.parametrize("fault", [CutRequest(after=1_000_000), LoseResponse(), Answer(503)])
def test_a_broken_upload_is_sent_again(
    whole: CacheStore,
    broken: CacheStore,
    proxy: FaultProxy,
    fault: CutRequest | LoseResponse | Answer,
) -> None:
    proxy.break_next(fault, method="PUT", times=2)
    broken.push(layer(LARGE), MemoryStore(LARGE))
    assert fetch_all(whole, layer(LARGE), len(LARGE)) == LARGE


def test_other_bytes_than_the_digest_says_are_not_delivered(
    whole: CacheStore, broken: CacheStore, proxy: FaultProxy
) -> None:
    whole.push(layer(LARGE), MemoryStore(LARGE))
    proxy.break_next(FlipBit(at=1000), method="GET")
    with pytest.raises(DigestMismatch):
        fetch_all(broken, layer(LARGE), len(LARGE))


def test_a_blob_that_is_shorter_than_it_should_be_is_not_delivered(whole: CacheStore) -> None:
    whole.push(layer(LARGE), MemoryStore(LARGE))
    longer = replace(layer(LARGE), size=len(LARGE) + (9 << 20))
    with pytest.raises(ContentError), whole.fetch(longer) as reader:
        reader.read()


def test_a_service_that_asks_to_wait_is_asked_again(broken: CacheStore, proxy: FaultProxy) -> None:
    wait = Answer(429, headers=(("Retry-After", "0"),))
    proxy.break_next(wait, times=3)
    broken.push(layer(SMALL), MemoryStore(SMALL))
    broken.update(lambda _: SMALL)
    assert list(broken.documents()) == [SMALL]


@pytest.mark.parametrize("status", [401, 403])
def test_a_refusal_is_an_error_at_once(broken: CacheStore, proxy: FaultProxy, status: int) -> None:
    proxy.break_next(Answer(status), times=100)
    for work in (
        lambda: broken.push(layer(SMALL), MemoryStore(SMALL)),
        lambda: broken.update(lambda _: SMALL),
        lambda: list(broken.documents()),
    ):
        seen = len(proxy.requests)
        with pytest.raises(AuthError) as caught:
            work()
        assert caught.value.hint
        assert len(proxy.requests) == seen + 1


def test_a_service_that_fails_for_good_is_an_error(service: CachePlace, proxy: FaultProxy) -> None:
    proxy.break_next(Answer(500), times=100)
    with Client(tries=1) as client, pytest.raises(RegistryError):
        service.open(client, proxy.port).exists(layer(SMALL))


def test_no_error_shows_a_secret(service: CachePlace, proxy: FaultProxy) -> None:
    given = service.attributes(proxy.port)
    secrets = [given[name] for name in ("token", "secret_access_key") if name in given]
    secrets += ["sig=", "secret1"]
    texts = []
    for fault in (Answer(403), Answer(500), CutRequest(after=0)):
        for method in ("GET", "HEAD", "PUT", "POST"):
            proxy.forget()
            proxy.break_next(fault, method=method, times=100)
            with Client(tries=1) as client:
                store = service.open(client, proxy.port)
                for content in (SMALL, LARGE):
                    try:
                        store.push(layer(content), MemoryStore(content))
                        fetch_all(store, layer(content), len(content))
                    except ShiplineError as error:
                        texts += [repr(error), str(error.__cause__), error.hint]
                        break
    assert texts
    assert not [text for text in texts for secret in secrets if secret in text]
