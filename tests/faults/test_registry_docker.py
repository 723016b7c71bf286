"""The client against Debian's docker-registry: plain, with Basic, with tokens, with TLS."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from images import make_image, make_layer
from registries import (
    BCRYPT_OF_SECRET,
    REGISTRY,
    docker_registry,
    make_identity,
    token_auth,
    token_server,
)

from shipline.content import LocalStore, MemoryStore, copy_graph
from shipline.errors import AuthError, DigestMismatch, NotFound, RegistryError
from shipline.oci import Descriptor, Digest, Index, Manifest, Reference, media
from shipline.registry import Client, Credentials, HostSettings, RemoteRepository, StaticKeychain
from shipline.tasks import TaskGroup

pytestmark = [
    pytest.mark.peers,
    pytest.mark.skipif(REGISTRY is None, reason="docker-registry is not installed"),
]
ALICE = Credentials("alice", "secret")


@pytest.fixture(scope="module")
def port(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    with docker_registry(tmp_path_factory.mktemp("registry")) as port:
        yield port


@pytest.fixture
def store(tmp_path: Path) -> LocalStore:
    return LocalStore(tmp_path / "store")


def at(client: Client, port: int, name: str = "team/app") -> RemoteRepository:
    return client.repository(Reference.parse(f"127.0.0.1:{port}/{name}"))


@pytest.mark.parametrize("what", ["blobs", "referrers"])
def test_content_that_another_client_pushes_again_is_no_failure(
    tmp_path: Path, store: LocalStore, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    """The registry empties its link to it, then writes it again."""
    image = make_image(store, 1000)
    empty = store.add(b"{}", media.OCI_EMPTY)
    about = [Manifest.make(empty, [], subject=image, annotations={"n": name}) for name in "ab"]
    one, two = (store.add(made.raw, made.media_type) for made in about)
    with docker_registry(tmp_path / "registry") as port, Client() as client:
        repository = at(client, port)
        copy_graph(store, repository, image)
        copy_graph(store, repository, one)
        pattern = "_layers/*/*/link" if what == "blobs" else f"_manifests/*/*/{one.digest.hex}/link"
        links = {link: link.read_bytes() for link in tmp_path.rglob(pattern)}
        assert links
        for link in links:
            link.write_bytes(b"")

        def written(seconds: float) -> None:
            for link, content in links.items():
                link.write_bytes(content)

        monkeypatch.setattr("shipline.registry.manifests.sleep", written)
        if what == "blobs":
            repository.tag(image, store, "v1")
            assert repository.resolve("v1").digest == image.digest
        else:
            repository.push(two, store)
            found = {referrer.digest for referrer in repository.referrers(image)}
            assert found == {one.digest, two.digest}


def test_what_was_pushed_is_pulled_equal(port: int, store: LocalStore) -> None:
    image = make_image(store, 3_000_000, 10)
    moved: list[int] = []
    with Client() as client:
        copy_graph(store, at(client, port), image, moved.append)
        at(client, port).tag(image, store, "v1")
    pulled = MemoryStore()
    with Client() as client:
        copy_graph(at(client, port), pulled, at(client, port).resolve("v1"))
    assert pulled.blobs == {d: store.path(d).read_bytes() for d in pulled.blobs}
    assert len(pulled.blobs) == 4
    assert sum(moved) == sum(map(len, pulled.blobs.values()))


def test_an_index_is_pushed_and_resolved_as_one(port: int, store: LocalStore) -> None:
    index = Index.make([make_image(store, 100), make_image(store, 200)])
    store.add(index.raw, index.media_type)
    with Client() as client:
        repository = at(client, port, "team/index")
        copy_graph(store, repository, index.descriptor)
        repository.tag(index.descriptor, store, "both")
        assert repository.resolve("both") == index.descriptor


def test_pushing_again_moves_nothing(port: int, store: LocalStore) -> None:
    image = make_image(store, 1000)
    moved: list[int] = []
    with Client() as client:
        copy_graph(store, at(client, port), image)
        copy_graph(store, at(client, port), image, moved.append)
    assert moved == []


def test_an_image_may_have_several_names(port: int, store: LocalStore) -> None:
    image = make_image(store, 1000)
    names = ["latest", "v1.2.3", "v1.2", "v1"]
    with Client() as client:
        repository = at(client, port, "team/names")
        copy_graph(store, repository, image)
        for name in names:
            repository.tag(image, store, name)
        assert {repository.resolve(name).digest for name in names} == {image.digest}
        assert sorted(repository.tags()) == sorted(names)


def test_several_registries_are_pushed_to_at_once(
    port: int, store: LocalStore, tmp_path: Path
) -> None:
    image = make_image(store, 500_000, 500_000)
    with docker_registry(tmp_path / "second") as second, Client() as client:
        places = [at(client, port, "multi/a"), at(client, port, "multi/b"), at(client, second)]
        with TaskGroup() as group:
            for place in places:
                group.start(copy_graph, store, place, image)
        assert all(place.exists(image) for place in places)


def test_a_mounted_blob_is_not_uploaded(port: int, store: LocalStore) -> None:
    layer = make_layer(store, 1000)
    with Client() as client:
        at(client, port, "team/base").push(layer, store)
        assert at(client, port, "team/derived").mount(layer, at(client, port, "team/base"))
        assert at(client, port, "team/derived").exists(layer)


def test_a_refused_mount_is_no_error(port: int, store: LocalStore) -> None:
    layer = make_layer(store, 1000)
    with Client() as client:
        assert not at(client, port, "team/derived").mount(layer, at(client, port, "team/nothing"))
        assert not at(client, port, "team/derived").exists(layer)


@pytest.mark.parametrize("size", [0, 1, 1 << 20, (1 << 20) + 1, 5_000_000])
def test_ingested_bytes_are_stored(port: int, store: LocalStore, size: int) -> None:
    layer = make_layer(store, size)
    content = store.path(layer.digest).read_bytes()
    with Client() as client:
        repository = at(client, port, "team/stream")
        with repository.ingest() as ingest:
            for start in range(0, size, 300_000):
                ingest.write(content[start : start + 300_000])
            ingest.commit(layer)
        with repository.fetch(layer) as reader:
            assert reader.read() == content


@pytest.mark.parametrize("size", [1000, 3_000_000])
@pytest.mark.parametrize("hashed_by", ["us", "the registry"])
def test_ingested_bytes_under_a_wrong_digest_are_refused(
    port: int, size: int, hashed_by: str
) -> None:
    wrong = Descriptor(media.OCI_LAYER, Digest.of(b"something else"), size)
    with Client() as client:
        repository = at(client, port, "team/wrong")
        opened = repository.ingest() if hashed_by == "us" else repository.upload()
        with opened as upload:
            upload.write(bytes(size))
            with pytest.raises(DigestMismatch):
                upload.commit(wrong)
        assert not repository.exists(wrong)


def test_an_abandoned_ingest_leaves_nothing(store: LocalStore, tmp_path: Path) -> None:
    with docker_registry(tmp_path / "fresh") as port, Client() as client:
        with at(client, port).ingest() as ingest:
            ingest.write(bytes(3_000_000))
        assert list((tmp_path / "fresh/data").rglob("_uploads/*/data")) == []


def test_a_corrupt_store_is_found_out_and_nothing_is_stored(port: int, store: LocalStore) -> None:
    layer = make_layer(store, 100_000)
    path = store.path(layer.digest)
    path.chmod(0o644)
    path.write_bytes(bytes(100_000))
    with Client() as client:
        with pytest.raises(DigestMismatch):
            at(client, port).push(layer, store)
        assert not at(client, port).exists(layer)


def test_a_deleted_manifest_is_gone(port: int, store: LocalStore) -> None:
    image = make_image(store, 1000)
    with Client() as client:
        repository = at(client, port, "team/deleted")
        copy_graph(store, repository, image)
        repository.tag(image, store, "old")
        repository.delete(str(image.digest))
        with pytest.raises(NotFound):
            repository.resolve("old")
        with pytest.raises(NotFound):
            repository.delete(str(image.digest))


def test_referrers_are_found_without_the_api(port: int, store: LocalStore) -> None:
    image = make_image(store, 1000)
    signature = Manifest.make(
        store.add(b"{}", media.OCI_EMPTY),
        [],
        subject=image,
        artifact_type="application/vnd.test.signature",
        annotations={"by": "alice"},
    )
    store.add(signature.raw, signature.media_type)
    with Client() as client:
        repository = at(client, port, "team/signed")
        copy_graph(store, repository, image)
        copy_graph(store, repository, signature.descriptor)
        (found,) = repository.referrers(image)
        assert found.digest == signature.descriptor.digest
        assert found.artifact_type == "application/vnd.test.signature"
        assert found.annotations == {"by": "alice"}
        assert repository.referrers(image, "application/other") == ()


def test_basic_credentials_are_accepted(store: LocalStore, tmp_path: Path) -> None:
    (tmp_path / "htpasswd").write_text(f"alice:{BCRYPT_OF_SECRET}\n")
    auth = {"htpasswd": {"realm": "test", "path": str(tmp_path / "htpasswd")}}
    image = make_image(store, 1_000_000)
    with docker_registry(tmp_path / "registry", auth=auth) as port:
        host = f"127.0.0.1:{port}"
        with Client(keychain=StaticKeychain({host: ALICE})) as client:
            copy_graph(store, at(client, port), image)
        with Client() as client, pytest.raises(AuthError, match="none are stored"):
            at(client, port).exists(image)
        wrong = StaticKeychain({host: Credentials("alice", "wrong")})
        with Client(keychain=wrong) as client, pytest.raises(AuthError) as raised:
            copy_graph(store, at(client, port), image)
        assert raised.value.status == 401 and "wrong" not in str(raised.value)


def test_tokens_have_the_least_scope_and_are_shared(store: LocalStore, tmp_path: Path) -> None:
    identity = make_identity(tmp_path)
    image = make_image(store, 1_000_000, 2_000_000, 100)

    def allowed(user: str, secret: str) -> bool:
        return (user, secret) == ("alice", "secret")

    with (
        token_server(identity, allowed) as tokens,
        docker_registry(tmp_path / "registry", auth=token_auth(tokens, identity)) as port,
    ):
        keychain = StaticKeychain({f"127.0.0.1:{port}": ALICE})
        with Client(keychain=keychain) as client:
            copy_graph(store, at(client, port), image)
            for name in ("a", "b"):
                at(client, port).tag(image, store, name)
        assert [one.query["scope"] for one in tokens.requests] == [
            ["repository:team/app:pull,push"]
        ]
        with Client(keychain=keychain) as client:
            copy_graph(at(client, port), MemoryStore(), at(client, port).resolve("a"))
        assert [one.query["scope"] for one in tokens.requests[1:]] == [["repository:team/app:pull"]]
        with Client(keychain=keychain) as client:
            layer = make_layer(store, 10)
            assert not at(client, port, "other").mount(layer, at(client, port, "team/app"))
            at(client, port).delete(str(image.digest))
        assert "repository:team/app:delete,pull,push" in tokens.requests[-1].query["scope"]
        with Client() as client, pytest.raises(AuthError) as raised:
            at(client, port).resolve("b")
        assert raised.value.status == 401


def test_an_identity_token_is_posted(store: LocalStore, tmp_path: Path) -> None:
    identity = make_identity(tmp_path)
    image = make_image(store, 100)
    for post, methods in ((True, {"POST"}), (False, {"POST", "GET"})):
        with (
            token_server(identity, lambda _, secret: secret == "long-lived", post=post) as tokens,
            docker_registry(tmp_path / f"{post}", auth=token_auth(tokens, identity)) as port,
        ):
            mine = Credentials("<token>", identity_token="long-lived")
            with Client(keychain=StaticKeychain({f"127.0.0.1:{port}": mine})) as client:
                copy_graph(store, at(client, port), image)
            assert {one.method for one in tokens.requests} == methods


@pytest.mark.parametrize("said_s", [3, 300])
def test_a_token_that_ends_in_the_middle_of_a_push_is_renewed(
    store: LocalStore, tmp_path: Path, said_s: int
) -> None:
    """Also where the token server is wrong about its end, and the registry says 401."""
    identity = make_identity(tmp_path)
    layer = make_layer(store, 4_000_000)
    content = store.path(layer.digest).read_bytes()
    with (
        token_server(identity, lifetime_s=3, said_s=said_s) as tokens,
        docker_registry(tmp_path / "registry", auth=token_auth(tokens, identity)) as port,
        Client() as client,
    ):
        with at(client, port).ingest() as ingest:
            ingest.write(content[:2_000_000])
            time.sleep(4.2)
            ingest.write(content[2_000_000:])
            ingest.commit(layer)
        assert 2 <= len(tokens.requests) <= 4  # another one where the rest takes as long
        assert at(client, port).exists(layer)


def test_tls_needs_the_right_authority(store: LocalStore, tmp_path: Path) -> None:
    identity = make_identity(tmp_path)
    tls = {"tls": {"certificate": str(identity.certificate), "key": str(identity.private)}}
    image = make_image(store, 3_000_000)
    with docker_registry(tmp_path / "registry", http=tls) as port:
        host = f"127.0.0.1:{port}"
        secure = frozenset({host})
        with Client(HostSettings(secure=secure, ca=(identity.certificate,))) as client:
            copy_graph(store, at(client, port), image)
            assert at(client, port).exists(image)
        with Client(HostSettings(secure=secure)) as client:
            with pytest.raises(RegistryError, match="certificate refused") as raised:
                at(client, port).exists(image)
            assert "certs.d" in raised.value.hint and not raised.value.retriable
        places = tmp_path / "certs.d"
        (places / host).mkdir(parents=True)
        (places / host / "ca.crt").write_bytes(identity.certificate.read_bytes())
        with Client(HostSettings(certificates=places)) as client:
            assert at(client, port).exists(image)


def test_tls_to_a_plain_port_says_so(port: int) -> None:
    settings = HostSettings(secure=frozenset({f"127.0.0.1:{port}"}))
    with Client(settings) as client, pytest.raises(RegistryError, match="speak TLS") as raised:
        at(client, port).resolve("v1")
    assert "--insecure" in raised.value.hint
