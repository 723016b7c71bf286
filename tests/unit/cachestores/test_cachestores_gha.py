"""The cache of GitHub Actions: BuildKit's names, branches, immutable entries, limits."""

from __future__ import annotations

import hashlib
import random
import time
from collections.abc import Iterator
from types import SimpleNamespace

import pytest

from peers.actions_cache import READ, WRITE, ActionsCache, Stored
from shipline.cachestores import gha
from shipline.cachestores.opening import open_store
from shipline.content import MemoryStore, fetch_all
from shipline.content.cache_store import CacheStore
from shipline.errors import AuthError, NotFound, RegistryError
from shipline.oci import Descriptor, media
from shipline.registry import Client
from shipline.values import replace

MAIN, BRANCH, PULL = "refs/heads/main", "refs/heads/topic", "refs/pull/7/merge"
BLOB = b"a layer"
TARGET = Descriptor.of(BLOB, media.OCI_LAYER)


@pytest.fixture
def client() -> Iterator[Client]:
    with Client() as running:
        yield running


def cache(
    service: ActionsCache, client: Client, *scopes: tuple[str, int], **given: str
) -> CacheStore:
    attributes = {"url_v2": f"{service.url}/", "token": service.token(*scopes), **given}
    variables = {"GITHUB_API_URL": service.url, "GITHUB_REPOSITORY": "team/app"}
    return open_store("gha", attributes, client=client, variables=variables)


def on_main(service: ActionsCache, client: Client, **given: str) -> CacheStore:
    return cache(service, client, (MAIN, READ | WRITE), **given)


def test_names_and_versions_are_those_of_buildkit(
    github_cache: ActionsCache, client: Client
) -> None:
    store = on_main(github_cache, client, scope="app")
    store.push(TARGET, MemoryStore(BLOB))
    store.update(lambda _: b"1")
    store.update(lambda _: b"2")
    branch = hashlib.sha256(MAIN.encode()).hexdigest()[:8]
    index = f"index-app-1-{branch}#"
    assert github_cache.keys() == [f"buildkit-blob-1-{TARGET.digest}", f"{index}1", f"{index}2"]
    versions = {entry.version for entry in github_cache.entries}
    assert len(versions) == 1 and versions.pop().startswith("693bb7016429d803")


def test_a_branch_reads_its_own_cache_first_then_that_of_the_default_branch(
    github_cache: ActionsCache, client: Client
) -> None:
    on_main(github_cache, client).update(lambda _: b"main")
    topic = cache(github_cache, client, (MAIN, READ), (BRANCH, READ | WRITE))
    assert list(topic.documents()) == [b"main"]
    topic.update(lambda present: b"topic" if present is None else b"wrong")
    assert list(topic.documents()) == [b"topic", b"main"]
    assert list(on_main(github_cache, client).documents()) == [b"main"]


def test_a_blob_of_the_default_branch_is_not_stored_again(
    github_cache: ActionsCache, client: Client
) -> None:
    on_main(github_cache, client).push(TARGET, MemoryStore(BLOB))
    topic = cache(github_cache, client, (BRANCH, READ | WRITE), (MAIN, READ))
    topic.push(TARGET, MemoryStore(BLOB))
    assert fetch_all(topic, TARGET, 100) == BLOB
    assert len(github_cache.keys()) == 1


def test_what_the_cache_has_of_another_name_is_left_alone(
    github_cache: ActionsCache, client: Client
) -> None:
    on_main(github_cache, client, scope="app").update(lambda _: b"app")
    other = on_main(github_cache, client, scope="ap")
    assert list(other.documents()) == []


@pytest.mark.parametrize("number", ["9" * 5000, "\N{ARABIC-INDIC DIGIT ONE}", "-1"])
def test_a_key_without_a_number_is_no_document(
    github_cache: ActionsCache, client: Client, number: str
) -> None:
    store = on_main(github_cache, client)
    store.update(lambda _: b"1")
    first = github_cache.entries[-1]
    github_cache.entries[-1] = replace(first, key=first.key.removesuffix("1") + number)
    assert list(store.documents()) == []


def test_an_equal_document_is_not_written_again(github_cache: ActionsCache, client: Client) -> None:
    store = on_main(github_cache, client)
    store.update(lambda _: b"1")
    store.update(lambda _: b"1")
    assert len(github_cache.keys()) == 1


def test_a_token_that_may_only_read_says_so_before_it_asks(
    github_cache: ActionsCache, client: Client
) -> None:
    on_main(github_cache, client).push(TARGET, MemoryStore(BLOB))
    fork = cache(github_cache, client, (PULL, READ), (MAIN, READ))
    assert fetch_all(fork, TARGET, 100) == BLOB
    with pytest.raises(AuthError, match="may only read"):
        fork.update(lambda _: b"1")
    assert "CreateCacheEntry" not in github_cache.calls[-1:]


def test_an_expired_download_url_is_asked_for_again(
    github_cache: ActionsCache, client: Client
) -> None:
    store = on_main(github_cache, client)
    store.push(TARGET, MemoryStore(BLOB))
    assert store.exists(TARGET)
    github_cache.expire_urls()
    assert fetch_all(store, TARGET, 100) == BLOB


def test_what_was_evicted_is_absent(github_cache: ActionsCache, client: Client) -> None:
    github_cache.room = 3_000_000
    store, blobs = on_main(github_cache, client), [random.randbytes(2_000_000) for _ in range(2)]
    targets = [Descriptor.of(blob, media.OCI_LAYER) for blob in blobs]
    store.push(targets[0], MemoryStore(*blobs))
    assert store.exists(targets[0])
    store.push(targets[1], MemoryStore(*blobs))
    with pytest.raises(NotFound):
        fetch_all(store, targets[0], 2_000_000)
    assert fetch_all(store, targets[1], 2_000_000) == blobs[1]


def test_a_blob_that_another_build_is_writing_is_left_to_it(
    github_cache: ActionsCache, client: Client
) -> None:
    key = f"buildkit-blob-1-{TARGET.digest}"
    github_cache.entries.append(Stored(99, MAIN, key, gha.VERSION))
    store = on_main(github_cache, client)
    store.push(TARGET, MemoryStore(BLOB))
    assert not store.exists(TARGET)


def test_a_number_that_a_dead_build_reserved_is_passed_over(
    github_cache: ActionsCache, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gha, "_HELD_S", 0.5)
    monkeypatch.setattr(gha, "_RETRY_S", 0.2)
    store = on_main(github_cache, client)
    store.update(lambda _: b"1")
    index = github_cache.keys()[0][:-1]
    github_cache.entries.append(Stored(99, MAIN, f"{index}2", gha.VERSION))
    store.update(lambda _: b"3")
    assert github_cache.keys()[-1] == f"{index}3"
    assert list(store.documents()) == [b"3"]


def test_a_limit_of_new_entries_is_waited_for(github_cache: ActionsCache, client: Client) -> None:
    store = on_main(github_cache, client)
    github_cache.allowed = 0
    begin = time.monotonic()
    store.push(TARGET, MemoryStore(BLOB))
    assert time.monotonic() - begin >= float(github_cache.retry_after)
    assert store.exists(TARGET)


def test_a_limit_that_lasts_too_long_is_an_error_that_says_so(
    github_cache: ActionsCache, client: Client
) -> None:
    github_cache.allowed, github_cache.retry_after = 0, "900"
    with pytest.raises(RegistryError, match="429") as caught:
        on_main(github_cache, client).push(TARGET, MemoryStore(BLOB))
    assert "900 seconds" in caught.value.hint


def test_each_piece_of_work_has_its_time(
    github_cache: ActionsCache, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 0.0
    monkeypatch.setattr(gha, "time", SimpleNamespace(monotonic=lambda: now))
    store = on_main(github_cache, client, timeout="100ms")
    now += 0.2  # of the build, before it uses the cache
    store.push(TARGET, MemoryStore(BLOB))
    index = "index-buildkit-1-" + hashlib.sha256(MAIN.encode()).hexdigest()[:8]
    github_cache.entries.append(Stored(99, MAIN, f"{index}#1", gha.VERSION))

    def wait(seconds: float) -> None:
        nonlocal now
        now += seconds

    monkeypatch.setattr(gha, "sleep", wait)
    with pytest.raises(RegistryError, match="timed out"):
        store.update(lambda _: b"1")


def test_with_a_token_of_the_rest_api_blobs_are_listed_at_once(
    github_cache: ActionsCache, client: Client
) -> None:
    blobs = [b"%d" % number for number in range(120)]
    plain = on_main(github_cache, client)
    for blob in blobs:
        plain.push(Descriptor.of(blob, "x"), MemoryStore(blob))
    github_cache.calls.clear()
    store = on_main(github_cache, client, ghtoken="rest")
    assert all(store.exists(Descriptor.of(blob, "x")) for blob in blobs)
    assert not store.exists(TARGET)
    assert github_cache.calls == []


def test_a_server_without_the_service_is_named_in_the_hint(
    github_cache: ActionsCache, client: Client
) -> None:
    store = on_main(github_cache, client, url_v2=f"{github_cache.url}/elsewhere/")
    with pytest.raises(RegistryError) as caught:
        store.documents()
    assert "no cache service of version 2" in caught.value.hint
