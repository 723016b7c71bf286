"""Clients that share a Redis, against Debian's docker-registry and scripted ones: what another
process knows saves requests, and where it is wrong it costs some, and changes nothing else.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from images import make_image
from registries import REGISTRY, docker_registry, make_identity, token_auth, token_server

from nodes import node
from peers import Redis, redis
from serving import ReceivedRequest, Reply, serving
from shipline.content import LocalStore, MemoryStore, copy_graph
from shipline.errors import AuthError, NotFound, RegistryError
from shipline.metadata import LeveledCache, RedisCache, RedisUrl
from shipline.oci import Descriptor, Index, Manifest, Reference, parse_manifest
from shipline.registry import Client, Credentials, HostSettings, RemoteRepository, StaticKeychain
from shipline.registry.shared import SharedCache
from shipline.values import replace

pytestmark = [
    pytest.mark.peers,
    pytest.mark.skipif(REGISTRY is None, reason="docker-registry is not installed"),
]
ALICE = Credentials("alice", "secret")
NAME = "team/app"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Redis]:
    with redis(tmp_path_factory.mktemp("redis")) as running:
        yield running


@pytest.fixture(autouse=True)
def _empty(server: Redis) -> None:
    server.ask("FLUSHALL")


@dataclass(frozen=True)
class Place:
    """A registry, the Redis, and who asks."""

    host: str
    server: Redis
    credentials: Credentials | None = None
    log: Path | None = None

    def client(self) -> Client:
        """A client of another process."""
        levels = LeveledCache(RedisCache(RedisUrl.parse(self.server.url)))
        shared = SharedCache(levels, strict=[self.host])
        known = {self.host: self.credentials} if self.credentials else {}
        return Client(HostSettings(shared=shared), StaticKeychain(known))

    def repository(self, client: Client) -> RemoteRepository:
        return client.repository(Reference.parse(f"{self.host}/{NAME}"))

    def push(self, store: LocalStore, image: Descriptor) -> int:
        """Push as another process; the bytes that were sent."""
        moved: list[int] = []
        with self.client() as client:
            copy_graph(store, self.repository(client), image, moved.append)
        return sum(moved)

    def asked(self, words: str) -> int:
        """How many requests of the registry's log begin so."""
        assert self.log is not None
        return self.log.read_text().count(f'"{words}')

    def pull(self, image: Descriptor) -> int:
        """The blobs and documents of the image, all verified."""
        pulled = MemoryStore()
        with Client() as client:
            copy_graph(self.repository(client), pulled, image)
        return len(pulled.blobs)


@pytest.fixture
def store(tmp_path: Path) -> LocalStore:
    return LocalStore(tmp_path / "store")


@pytest.fixture(scope="module")
def place(server: Redis, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    work = tmp_path_factory.mktemp("registry")
    with docker_registry(work, log={"level": "info"}) as port:
        yield Place(f"127.0.0.1:{port}", server, log=work / "log")


def test_blobs_that_another_process_pushed_are_not_looked_for(
    place: Place, store: LocalStore
) -> None:
    image = make_image(store, 1000, 2000, 3000)
    assert place.push(store, image) > 6000
    before = place.asked(f"HEAD /v2/{NAME}/blobs")
    other = _without_layers(store, image, 1)
    assert place.push(store, other) == other.size
    assert place.asked(f"HEAD /v2/{NAME}/blobs") == before


def _without_layers(store: LocalStore, image: Descriptor, count: int) -> Descriptor:
    whole = parse_manifest(store.path(image.digest).read_bytes())
    assert isinstance(whole, Manifest)
    other = Manifest.make(whole.config, whole.layers[count:])
    return store.add(other.raw, other.media_type)


def test_blobs_below_a_manifest_that_exists_are_looked_for(place: Place, store: LocalStore) -> None:
    """It was put before they vanished, and an index needs no more than its manifests."""
    images = [make_image(store, 1000, 2000), make_image(store, 3000)]
    place.push(store, _index(store, images))
    whole = parse_manifest(store.path(images[0].digest).read_bytes())
    assert isinstance(whole, Manifest)
    with Client() as client:
        gone = whole.layers[1]
        client.ask(place.host, "DELETE", f"/v2/{NAME}/blobs/{gone.digest}")
        assert not place.repository(client).exists(gone)
    again = _index(store, images[:1])
    with place.client() as client:
        repository = place.repository(client)
        for blob in (whole.config, *whole.layers, images[0], again):
            repository.push(blob, store)
    assert place.pull(again) == 5


def _index(store: LocalStore, images: list[Descriptor]) -> Descriptor:
    index = Index.make(images)
    return store.add(index.raw, index.media_type)


def test_a_blob_that_is_gone_is_pushed_before_the_manifest(place: Place, store: LocalStore) -> None:
    image = make_image(store, 1000, 2000, 3000)
    place.push(store, image)
    whole = parse_manifest(store.path(image.digest).read_bytes())
    assert isinstance(whole, Manifest)
    layers = whole.layers
    another = Manifest.make(whole.config, layers[1:])
    store.add(another.raw, another.media_type)
    _delete(place, image, *layers[:2])
    place.push(store, another.descriptor)
    assert place.pull(another.descriptor) == 4
    place.push(store, image)
    assert place.pull(image) == 5


def _delete(place: Place, image: Descriptor, *blobs: Descriptor) -> None:
    with Client() as client:
        place.repository(client).delete(str(image.digest))
        for blob in blobs:
            client.ask(place.host, "DELETE", f"/v2/{NAME}/blobs/{blob.digest}")


def test_a_registry_that_is_not_known_to_check_is_always_asked(
    place: Place, store: LocalStore
) -> None:
    image = make_image(store, 100_000)  # else it is asked by POST
    place.push(store, image)
    levels = LeveledCache(RedisCache(RedisUrl.parse(place.server.url)))
    before = place.asked(f"HEAD /v2/{NAME}/blobs")
    with Client(HostSettings(shared=SharedCache(levels))) as client:
        copy_graph(store, place.repository(client), image)
    assert place.asked(f"HEAD /v2/{NAME}/blobs") > before


def test_a_manifest_that_another_process_read_is_not_fetched(
    place: Place, store: LocalStore
) -> None:
    image = make_image(store, 1000)
    place.push(store, image)
    path = f"GET /v2/{NAME}/manifests/{image.digest}"
    place = replace(place, credentials=ALICE)
    for _ in range(2):
        with place.client() as client, place.repository(client).fetch(image) as reader:
            assert reader.read() == store.path(image.digest).read_bytes()
        assert place.asked(path) == 1


def test_what_is_read_without_credentials_is_not_shared(
    place: Place, store: LocalStore, server: Redis
) -> None:
    """A client certificate or the network may have opened the registry."""
    image = make_image(store, 1000)
    with Client() as client:
        copy_graph(store, place.repository(client), image)
    with place.client() as client, place.repository(client).fetch(image) as reader:
        reader.read()
    assert server.names() == []


def test_a_deleted_manifest_is_forgotten(place: Place, store: LocalStore) -> None:
    place = replace(place, credentials=ALICE)
    image = make_image(store, 1000)
    place.push(store, image)
    for _ in range(2):
        with place.client() as client, place.repository(client).fetch(image) as reader:
            reader.read()
    with place.client() as client:
        place.repository(client).delete(str(image.digest))
    with (
        pytest.raises(NotFound),
        place.client() as client,
        place.repository(client).fetch(image) as reader,
    ):
        reader.read()


def test_our_node_shows_that_it_checks_blobs(
    server: Redis, store: LocalStore, tmp_path: Path
) -> None:
    image = make_image(store, 1000)
    whole = parse_manifest(store.path(image.digest).read_bytes())
    assert isinstance(whole, Manifest)
    levels = LeveledCache(RedisCache(RedisUrl.parse(server.url)))
    settings = HostSettings(shared=SharedCache(levels))
    with node(tmp_path / "node") as running:
        place = Place(running.url.partition("//")[2], server)
        with Client(settings) as client:
            copy_graph(store, place.repository(client), image)
        with Client(settings) as client:
            repository = place.repository(client)
            assert not repository.assumes(whole.config, store), "the node has said nothing yet"
            assert repository.exists(image)
            assert repository.assumes(whole.config, store)
        with Client(settings) as client:
            lost = place.repository(client)
            assert lost.exists(image)
            config = Descriptor.of(b"another", whole.config.media_type)
            other = Manifest.make(config, whole.layers)
            with pytest.raises(RegistryError, match="MANIFEST_BLOB_UNKNOWN"):
                lost.push(other.descriptor, MemoryStore(other.raw))


class BrokenKeychain:
    def credentials(self, host: str, repository: str) -> Credentials | None:
        raise AuthError("the helper failed", host=host)


def test_a_keychain_that_fails_is_no_error_where_nobody_asks_for_it(
    place: Place, store: LocalStore
) -> None:
    image = make_image(store, 1000)
    levels = LeveledCache(RedisCache(RedisUrl.parse(place.server.url)))
    shared = SharedCache(levels, strict=[place.host])
    with Client(HostSettings(shared=shared), BrokenKeychain()) as client:
        copy_graph(store, place.repository(client), image)


@pytest.mark.parametrize("trouble", ["paused", "flushed", "garbage"])
def test_a_push_needs_no_redis(place: Place, store: LocalStore, trouble: str) -> None:
    image = make_image(store, 1000, 2000)
    place.push(store, image)
    other = make_image(store, 1000)
    begun = time.monotonic()
    match trouble:
        case "paused":
            place.server.pause()
        case "flushed":
            place.server.ask("FLUSHALL")
        case "garbage":
            for key in place.server.names():
                place.server.ask("SET", key, "garbage" * 9)
    try:
        assert place.push(store, image) == 0
        assert place.push(store, other) > 1000
    finally:
        place.server.resume()
    assert place.pull(image) == 4 and place.pull(other) == 3
    assert time.monotonic() - begun < 15


def test_a_token_of_another_process_saves_the_request_for_one(
    server: Redis, store: LocalStore, tmp_path: Path
) -> None:
    identity = make_identity(tmp_path)
    image = make_image(store, 1000)
    with (
        token_server(identity, lambda user, secret: secret == "secret") as tokens,
        docker_registry(tmp_path / "r", auth=token_auth(tokens, identity)) as port,
    ):
        place = Place(f"127.0.0.1:{port}", server, ALICE)
        place.push(store, image)
        before = len(tokens.requests)
        assert before
        place.push(store, image)
        assert len(tokens.requests) == before
        with pytest.raises(AuthError):
            Place(place.host, server, Credentials("alice", "guess")).push(store, image)
        assert len(tokens.requests) > before
        assert not any("secret" in server.ask("--raw", "GET", key) for key in server.names())


def test_a_token_without_credentials_is_not_shared(
    server: Redis, store: LocalStore, tmp_path: Path
) -> None:
    identity = make_identity(tmp_path)
    with (
        token_server(identity) as tokens,
        docker_registry(tmp_path / "r", auth=token_auth(tokens, identity)) as port,
    ):
        place = Place(f"127.0.0.1:{port}", server)
        with place.client() as client, pytest.raises((NotFound, AuthError)):
            place.repository(client).resolve("v1")
        assert tokens.requests
    assert server.names() == []


def test_a_token_that_has_ended_is_replaced_for_everyone(
    server: Redis, store: LocalStore, tmp_path: Path
) -> None:
    """Tokens are said to be good for longer than they are."""
    identity = make_identity(tmp_path)
    image = make_image(store, 1000)
    with (
        token_server(identity, lifetime_s=2, said_s=600) as tokens,
        docker_registry(tmp_path / "r", auth=token_auth(tokens, identity)) as port,
    ):
        place = Place(f"127.0.0.1:{port}", server, ALICE)
        place.push(store, image)
        assert server.names()
        time.sleep(2.5)
        before = len(tokens.requests)
        with place.client() as client:
            place.repository(client).resolve(str(image.digest))
            place.repository(client).tag(image, store, "later")
        assert len(tokens.requests) > before


class Strict:
    """A registry that takes the newest token alone, and answers `status` to others."""

    def __init__(self, status: int) -> None:
        self.status = status
        self.number = 0
        self.valid = ""
        self.url = ""

    def respond(self, request: ReceivedRequest) -> Reply:
        request.all()
        if request.path == "/token":
            self.number += 1
            self.valid = f"t{self.number}"
            return 200, {}, b'{"token": "%s", "expires_in": 600}' % self.valid.encode()
        challenge = {"WWW-Authenticate": f'Bearer realm="{self.url}/token",service="s"'}
        given = request.headers.get("authorization", "")
        if not given:
            return 401, challenge, b""
        if given != f"Bearer {self.valid}":
            return self.status, challenge if self.status == 401 else {}, b""
        return 404, {}, b""


@pytest.mark.parametrize("status", [401, 403])
def test_a_revoked_token_is_dropped_at_once_whatever_redis_does(server: Redis, status: int) -> None:
    registry = Strict(status)
    with serving(registry.respond) as served:
        registry.url = served.url
        place = Place(served.host, server, ALICE)

        def look() -> None:
            with place.client() as client, pytest.raises(NotFound):
                place.repository(client).resolve("v1")

        look()
        look()
        assert registry.number == 1
        registry.valid = "revoked"
        look()
        assert registry.number == 2
        look()
        assert registry.number == 2, "the new token is shared"
        registry.valid = "revoked"
        old = {key: server.ask("DUMP", key) for key in server.names()}
        with place.client() as client:
            repository = place.repository(client)
            server.ask("ACL", "SETUSER", "default", "-del", "-set")
            try:
                for _ in range(3):
                    with pytest.raises(NotFound):
                        repository.resolve("v1")
            finally:
                server.ask("ACL", "SETUSER", "default", "+@all")
            assert registry.number == 3
        assert old.keys() == set(server.names()), "the server refused to delete"
        look()
        assert registry.number == 4


def test_a_registry_that_takes_no_token_is_not_asked_for_ever(server: Redis) -> None:
    registry = Strict(401)

    def respond(request: ReceivedRequest) -> Reply:
        reply = registry.respond(request)
        registry.valid = "none of them"
        return reply

    with serving(respond) as served:
        registry.url = served.url
        place = Place(served.host, server, ALICE)
        for _ in range(3):
            with place.client() as client, pytest.raises(AuthError):
                place.repository(client).resolve("v1")
    assert len(served.requests) <= 3 * 6
