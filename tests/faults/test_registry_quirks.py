"""The client with registries as they differ: push, pull, mount, tags, referrers and delete."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from images import make_image, make_layer
from quirk_registries import QUIRKY, QuirkRegistry, Quirky, client_of, quirk_registry

from proxy import CutRequest, CutResponse, FaultProxy
from serving import Served
from shipline.content import LocalStore, MemoryStore, copy_graph
from shipline.errors import NotFound, RegistryError
from shipline.oci import Descriptor, Manifest, Reference, media
from shipline.registry import Client, RemoteRepository
from shipline.registry.manifests import referrers_tag
from shipline.registry.quirks import QUIRKS
from shipline.values import replace

SIZE = 10_000_000
Running = tuple[QuirkRegistry, FaultProxy, Served]


@pytest.fixture(params=QUIRKY, ids=lambda quirky: quirky.name)
def running(request: pytest.FixtureRequest) -> Iterator[Running]:
    with quirk_registry(request.param) as found:
        yield found


@pytest.fixture
def client(running: Running) -> Iterator[Client]:
    registry, proxy, _ = running
    with client_of(registry, proxy) as client:
        yield client


@pytest.fixture
def store(tmp_path: Path) -> LocalStore:
    return LocalStore(tmp_path / "store")


def at(client: Client, registry: QuirkRegistry, name: str = "team/app") -> RemoteRepository:
    return client.repository(Reference.parse(f"{registry.quirky.host}/{name}"))


def referring(store: LocalStore, subject: Descriptor, kind: str) -> Descriptor:
    manifest = Manifest.make(
        store.add(b"{}", media.OCI_EMPTY), [], subject=subject, artifact_type=f"application/{kind}"
    )
    return store.add(manifest.raw, manifest.media_type)


def test_push_goes_on_after_a_break(running: Running, client: Client, store: LocalStore) -> None:
    registry, proxy, served = running
    proxy.break_next(CutRequest(after=3_000_000), method="PUT", target="uploads")
    layer = make_layer(store, SIZE)
    at(client, registry).push(layer, store)
    content = store.path(layer.digest).read_bytes()
    assert registry.blobs["team/app"] == {str(layer.digest): content}
    chunks = [int(one.headers["content-length"]) for one in served.to("PATCH")]
    restarted = registry.quirky.drops
    assert (chunks == []) is restarted and len(registry.sessions) == 1 + restarted
    assert all(size <= registry.quirky.chunk for size in chunks)
    assert restarted or sum(chunks) <= SIZE - 2_900_000


def test_ingest_of_an_unknown_length(running: Running, client: Client, store: LocalStore) -> None:
    registry, _, _ = running
    layer = make_layer(store, 6_000_000)
    content = store.path(layer.digest).read_bytes()
    with at(client, registry).ingest() as ingest:
        ingest.write(content)
        ingest.commit(layer)
    assert registry.blobs["team/app"] == {str(layer.digest): content}


def test_pull_is_what_was_pushed(running: Running, client: Client, store: LocalStore) -> None:
    registry, proxy, _ = running
    image, pulled = make_image(store, SIZE, 100), MemoryStore()
    copy_graph(store, at(client, registry), image)
    at(client, registry).tag(image, store, "v1")
    proxy.break_next(CutResponse(after=4_000_000), method="GET", target="sha256:")
    assert at(client, registry).resolve("v1") == image
    copy_graph(at(client, registry), pulled, image)
    assert len(pulled.blobs) == 4


def test_size_of_a_blob_is_found(running: Running, client: Client, store: LocalStore) -> None:
    registry, _, _ = running
    layer = make_layer(store, 1000)
    at(client, registry).push(layer, store)
    assert at(client, registry).blob_size(layer.digest) == 1000


def test_what_is_absent_is_absent(running: Running, client: Client) -> None:
    registry, _, _ = running
    repository = at(client, registry)
    assert not repository.exists(Descriptor.of(b"no", media.OCI_LAYER))
    assert not repository.exists(Descriptor.of(b"no", media.OCI_MANIFEST))
    with pytest.raises(NotFound):
        repository.resolve("v1")


def test_mount_or_else_an_upload(running: Running, client: Client, store: LocalStore) -> None:
    registry, _, served = running
    layer = make_layer(store, 100_000)
    other = at(client, registry, "team/other")
    other.push(layer, store)
    target, uploads = at(client, registry), len(served.to("PUT"))
    mounted = target.mount(layer, other)
    assert mounted is (registry.quirky.mounts and registry.quirky.grants > 1)
    target.push(layer, store)
    assert len(served.to("PUT")) == uploads + (not mounted)
    assert registry.blobs["team/app"] == registry.blobs["team/other"]
    assert len(registry.sessions) == 1 + (not mounted)


def test_small_blob_is_sent_once(running: Running, client: Client, store: LocalStore) -> None:
    registry, _, served = running
    first, second = make_layer(store, 1000), make_layer(store, 1001)
    repository = at(client, registry)
    repository.push(first, store)  # shows what registry it is
    posts, puts = len(served.to("POST")), len(served.to("PUT"))
    repository.push(second, store)
    assert registry.blobs["team/app"][str(second.digest)] == store.path(second.digest).read_bytes()
    if not registry.quirky.posts:
        assert len(served.to("PUT")) == puts + 1
        return
    assert (len(served.to("POST")), len(served.to("PUT"))) == (posts + 1, puts)


@pytest.mark.parametrize("posts", [True, False], ids=["cut", "not stored"])
def test_small_blob_arrives_otherwise(store: LocalStore, posts: bool) -> None:
    quirky = replace(QUIRKY[-1], posts=posts)
    first, second = make_layer(store, 1000), make_layer(store, 50_000)
    with quirk_registry(quirky) as (registry, proxy, served), client_of(registry, proxy) as client:
        repository = at(client, registry)
        repository.push(first, store)
        if posts:
            proxy.break_next(CutRequest(after=20_000), method="POST", target="digest=")
        repository.push(second, store)
        content = registry.blobs["team/app"][str(second.digest)]
        assert content == store.path(second.digest).read_bytes()
        assert len(served.to("PUT")) == 2


def test_tags_are_listed_over_pages(running: Running, client: Client, store: LocalStore) -> None:
    registry, _, _ = running
    image = make_image(store, 10)
    copy_graph(store, at(client, registry), image)
    names = [f"v{number}" for number in range(5)]
    for name in names:
        at(client, registry).tag(image, store, name)
    assert list(at(client, registry).tags()) == names


def test_referrers_are_listed(running: Running, client: Client, store: LocalStore) -> None:
    registry, _, served = running
    image, repository = make_image(store, 10), at(client, registry)
    signatures = [referring(store, image, kind) for kind in ("sbom", "signature", "sbom2")]
    for one in (image, *signatures):
        copy_graph(store, repository, one)
    found = repository.referrers(image)
    assert {one.digest for one in found} == {one.digest for one in signatures}
    (sbom,) = repository.referrers(image, "application/sbom")
    assert sbom.digest == signatures[0].digest
    tagged = referrers_tag(image.digest) in registry.manifests["team/app"]
    assert tagged is (registry.quirky.referrers != "api")
    assert not (registry.quirky.referrers == "elsewhere" and served.to("GET", "/referrers/"))


def test_delete_or_say_how(running: Running, client: Client, store: LocalStore) -> None:
    registry, _, _ = running
    image, repository = make_image(store, 10), at(client, registry)
    kept, gone = (referring(store, image, kind) for kind in ("sbom", "signature"))
    for one in (image, kept, gone):
        copy_graph(store, repository, one)
    repository.tag(image, store, "v1")
    hint = next(row.delete_hint for row in QUIRKS if row.name == registry.quirky.name)
    if registry.quirky.deletes:
        repository.delete(str(gone.digest))
        assert [one.digest for one in repository.referrers(image)] == [kept.digest]
        with pytest.raises(NotFound):
            repository.delete(str(gone.digest))
    if registry.quirky.deletes and registry.quirky.deletes_tags:
        repository.delete("v1")
        assert list(registry.manifests["team/app"]).count("v1") == 0
    else:
        assert hint
        with pytest.raises(RegistryError) as caught:
            repository.delete("v1")
        assert caught.value.hint == hint and "v1" in registry.manifests["team/app"]


def test_row_is_found_by_host_or_header(running: Running, client: Client) -> None:
    registry, _, _ = running
    repository = at(client, registry)
    repository.exists(Descriptor.of(b"no", media.OCI_LAYER))
    assert repository._registry.quirks.name == registry.quirky.name


def test_every_registry_of_the_table_is_played() -> None:
    assert [row.name for row in QUIRKS] == [quirky.name for quirky in QUIRKY]


def test_registry_that_drops_chunks_is_noticed(store: LocalStore) -> None:
    """One that no row knows."""
    quirky = Quirky("", "registry.example.com", drops=True)
    layer = make_layer(store, SIZE)
    with quirk_registry(quirky) as (registry, proxy, served), client_of(registry, proxy) as client:
        proxy.break_next(CutRequest(after=3_000_000), method="PUT", target="uploads")
        at(client, registry).push(layer, store)
        assert len(registry.blobs["team/app"][str(layer.digest)]) == SIZE
        assert len(served.to("PATCH")) == 1 and len(registry.sessions) == 2


def test_documentation_has_the_table() -> None:
    text = (Path(__file__).parents[2] / "docs" / "registries.md").read_text()
    rows = [f"| {row.name} | {row.tolerated} |" for row in QUIRKS]
    assert "\n".join(rows) in text
