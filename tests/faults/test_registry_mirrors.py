"""Mirrors: the nearest serves, another one or the registry goes on where it fails, and none of them
sees what belongs to another.
"""

from __future__ import annotations

import socket
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest
from images import make_image, make_layer
from parties import SECRET, name
from registries import docker_registry
from spec_registry import Spec, spec_registry

from proxy import CutResponse, Delay, FaultProxy, FlipBit, Stall
from served import served
from serving import ReceivedRequest, Reply, Served, serving
from shipline.content import LocalStore, MemoryStore, copy_graph, fetch_all
from shipline.errors import NotFound, RegistryError
from shipline.oci import Descriptor, Manifest, Reference, media
from shipline.registry import Client, Credentials, HostSettings, StaticKeychain

MANIFEST = Manifest.make(Descriptor.of(b"{}", media.OCI_EMPTY), [])
SIZE = 1_000_000


@pytest.fixture
def store(tmp_path: Path) -> LocalStore:
    return LocalStore(tmp_path / "store")


@pytest.fixture
def spec() -> Iterator[tuple[Spec, Served]]:
    with spec_registry() as found:
        yield found


@pytest.fixture
def layer(spec: tuple[Spec, Served], store: LocalStore) -> Descriptor:
    """A blob of the registry and, since it is theirs too, of the proxies before it."""
    made = make_layer(store, SIZE)
    spec[0].blobs[str(made.digest)] = store.path(made.digest).read_bytes()
    return made


def mirrored(served: Served, *mirrors: int, file: Path | None = None, read_s: float = 1) -> Client:
    urls = tuple(f"http://127.0.0.1:{port}" for port in mirrors)
    return Client(
        HostSettings(
            mirrors={served.host: urls},
            measurements=file,
            mirror_connect_s=0.3,
            mirror_read_s=read_s,
        ),
        tries=2,
    )


def blobs(seen: FaultProxy) -> list[str]:
    """The Range headers of the blobs that were asked for."""
    return [one.headers.get("range", "") for one in seen.seen("GET", "/blobs/")]


def read(client: Client, served: Served, target: Descriptor) -> bytes:
    return fetch_all(client.repository(name(served)), target, SIZE)


def test_the_nearest_mirror_serves_and_the_next_command_knows_it(
    spec: tuple[Spec, Served], layer: Descriptor, tmp_path: Path
) -> None:
    _, served = spec
    file = tmp_path / "state" / "mirrors.json"
    file.parent.mkdir()
    with FaultProxy(served.port) as far, FaultProxy(served.port) as near:
        far.break_next(Delay(0.25), times=99)
        with mirrored(served, far.port, near.port, file=file) as client:
            for _ in range(3):
                read(client, served, layer)
        assert (len(blobs(far)), len(blobs(near))) == (0, 3)
        assert len(far.seen("GET", "^/v2/$")) == len(near.seen("GET", "^/v2/$")) == 1
        with mirrored(served, far.port, near.port, file=file) as client:
            read(client, served, layer)
        assert (len(blobs(far)), len(blobs(near))) == (0, 4)
        assert len(near.seen("GET", "^/v2/$")) == 1  # known: not probed again


def test_a_slow_probe_is_not_waited_for(
    spec: tuple[Spec, Served], layer: Descriptor, tmp_path: Path
) -> None:
    _, served = spec
    with FaultProxy(served.port) as hung, FaultProxy(served.port) as near:
        hung.break_next(Delay(9), target="^/v2/$")
        with mirrored(served, hung.port, near.port, read_s=5) as client:
            begin = time.monotonic()
            read(client, served, layer)
            assert time.monotonic() - begin < client.settings.mirror_read_s
        assert (len(blobs(hung)), len(blobs(near))) == (0, 1)


def test_a_blob_goes_on_at_the_next_mirror_and_at_last_at_the_registry(
    spec: tuple[Spec, Served], layer: Descriptor
) -> None:
    registry, served = spec
    with FaultProxy(served.port) as first, FaultProxy(served.port) as second:
        second.break_next(Delay(0.15), target="^/v2/$")
        first.break_next(CutResponse(after=400_000), target="blobs")
        first.break_next(CutResponse(after=100_000), target="blobs")
        second.break_next(Stall(after=100_000), target="blobs")
        with mirrored(served, first.port, second.port) as client:
            assert read(client, served, layer) == registry.blobs[str(layer.digest)]
        assert blobs(first) == ["", "bytes=400000-"]  # a broken connection is resumed once
        assert blobs(second) == ["bytes=500000-"]
        assert served.requests[-1].headers["range"] == "bytes=500000-"
        assert len(served.requests) - 2 == len(first.requests) + len(second.requests) - 1


@pytest.mark.parametrize("cut", [False, True], ids=["whole", "after a failover"])
def test_29_wrong_bytes_of_a_mirror_begin_again_elsewhere(
    spec: tuple[Spec, Served], layer: Descriptor, tmp_path: Path, cut: bool
) -> None:
    registry, served = spec
    content = registry.blobs[str(layer.digest)]
    with FaultProxy(served.port) as liar, FaultProxy(served.port) as honest:
        honest.break_next(Delay(0.15), target="^/v2/$")
        liar.break_next(FlipBit(at=1000), target="blobs", times=9)
        file = tmp_path / "mirrors.json"
        with mirrored(served, liar.port, honest.port, file=file) as client:
            if cut:
                honest.break_next(Stall(after=0), target="blobs")
            copy = LocalStore(tmp_path / "copy")
            copy.push(layer, client.repository(name(served)))
            assert copy.path(layer.digest).read_bytes() == content
            assert read(client, served, layer) == content
        assert len(blobs(liar)) == 1 and len(blobs(honest)) == (1 if cut else 2)
        with mirrored(served, liar.port, honest.port, file=file) as client:  # it is remembered
            assert read(client, served, layer) == content
        assert len(blobs(liar)) == 1


def test_a_mirror_that_is_down_costs_one_timeout(
    spec: tuple[Spec, Served], layer: Descriptor, store: LocalStore
) -> None:
    _, served = spec
    with closing(socket.create_server(("127.0.0.1", 0), backlog=0)) as silent:
        silent.listen(8)  # connects, and says nothing
        with mirrored(served, silent.getsockname()[1], read_s=1.5) as client:
            begin = time.monotonic()
            for _ in range(5):
                read(client, served, layer)
            assert 1.5 <= time.monotonic() - begin < 2 * client.settings.mirror_read_s


def test_tags_are_not_asked_of_a_mirror_for_digests_alone(
    spec: tuple[Spec, Served], store: LocalStore
) -> None:
    _, served = spec
    image = make_image(store, 1000)
    with FaultProxy(served.port) as mirror:
        url = f"http://127.0.0.1:{mirror.port}#digest-only"
        with Client(HostSettings(mirrors={served.host: (url,)})) as client:
            repository = client.repository(name(served))
            copy_graph(store, repository, image)
            repository.tag(image, store, "v1")
            fresh = client.repository(name(served))
            copy_graph(fresh, MemoryStore(), fresh.resolve("v1"))
            assert not mirror.seen("GET", "manifests/v1") and len(blobs(mirror)) == 2
            fetch_all(client.repository(name(served)), image, SIZE)
            assert len(mirror.seen("GET", f"manifests/{image.digest}")) == 1


def test_each_host_sees_its_own_credentials_alone(store: LocalStore) -> None:
    """Also where a mirror redirects to the registry, and fails in the middle."""
    layer = make_layer(store, SIZE)
    content = store.path(layer.digest).read_bytes()

    def guarded(user: str, then: Callable[[ReceivedRequest], Reply]) -> Callable[..., Reply]:
        def respond(request: ReceivedRequest) -> Reply:
            if request.headers.get("authorization") != Credentials(user, user + SECRET).basic:
                return 401, {"WWW-Authenticate": 'Basic realm="x"'}, b""
            return then(request)

        return respond

    def whole(request: ReceivedRequest) -> Reply:
        return 200, {}, content

    with (
        serving(lambda request: (200, {}, content[:500])) as elsewhere,
        serving(guarded("origin", whole)) as origin,
        serving(guarded("first", lambda request: (500, {}, b""))) as first,
        serving(
            guarded("second", lambda request: (307, {"Location": f"{elsewhere.url}/x"}, b""))
        ) as second,
    ):
        names = {"origin": origin, "first": first, "second": second}
        keychain = StaticKeychain(
            {one.host: Credentials(user, user + SECRET) for user, one in names.items()}
        )
        settings = HostSettings(mirrors={origin.host: (first.url, second.url)})
        with Client(settings, keychain, tries=1) as client:
            assert fetch_all(client.repository(name(origin)), layer, SIZE) == content
        for user, one in names.items():
            sent = {seen.headers.get("authorization") for seen in one.requests} - {None}
            assert sent == {Credentials(user, user + SECRET).basic}, user
        assert elsewhere.requests
        assert all("authorization" not in seen.headers for seen in elsewhere.requests)


def test_a_mirror_cannot_send_its_clients_to_internal_addresses(
    spec: tuple[Spec, Served], layer: Descriptor
) -> None:
    registry, served = spec

    def respond(request: ReceivedRequest) -> Reply:
        return 307, {"Location": "http://169.254.169.254/latest/meta-data"}, b""

    with serving(respond) as mirror, mirrored(served, mirror.port) as client:
        assert read(client, served, layer) == registry.blobs[str(layer.digest)]
        assert len(mirror.requests) == 1


def test_a_node_fetches_from_the_mirrors_of_its_upstream(
    spec: tuple[Spec, Served], store: LocalStore, tmp_path: Path
) -> None:
    _, origin = spec
    image = make_image(store, SIZE)
    with Client() as client, FaultProxy(origin.port) as mirror:
        upstream = client.repository(name(origin))
        copy_graph(store, upstream, image)
        upstream.tag(image, store, "v1")
        mirror.break_next(CutResponse(after=300_000), target="blobs")
        section = f"upstreams: [{{match: team/*, url: 'http://{origin.host}'}}]\n"
        mirrors = f"{origin.host}=http://127.0.0.1:{mirror.port}"
        with served(tmp_path, section, SHIPLINE_MIRRORS=mirrors) as node:
            cached = client.repository(Reference.parse(f"{node.address}/team/app"))
            copy_graph(cached, MemoryStore(), cached.resolve("v1"))
        assert len(blobs(mirror)) >= 2


def test_real_registries_as_mirrors(store: LocalStore, tmp_path: Path) -> None:
    image = make_image(store, SIZE)
    with (
        docker_registry(tmp_path / "origin") as origin,
        docker_registry(tmp_path / "mirror") as near,
        FaultProxy(near) as cutting,
        FaultProxy(near) as lying,
    ):
        reference = Reference.parse(f"127.0.0.1:{origin}/team/app")
        cutting.break_next(CutResponse(after=300_000), target="blobs", times=2)
        lying.break_next(FlipBit(at=10), target="blobs", times=9)
        lying.break_next(FlipBit(at=10), target="manifests/sha256", times=9)
        urls = tuple(f"http://127.0.0.1:{one.port}" for one in (cutting, lying))
        with Client(HostSettings(mirrors={reference.host: urls})) as client:
            for port in (origin, near):
                there = client.repository(Reference.parse(f"127.0.0.1:{port}/team/app"))
                copy_graph(store, there, image)
                there.tag(image, store, "v1")
            repository = client.repository(reference)
            copy = LocalStore(tmp_path / "copy")
            copy_graph(repository, copy, repository.resolve("v1"))
            copy_graph(copy, MemoryStore(), image)


def test_mirrors_are_asked_first_and_never_written_to(
    spec: tuple[Spec, Served], store: LocalStore
) -> None:
    registry, served = spec
    image = make_image(store, 1000)
    with spec_registry() as (_, empty), mirrored(served, 1, empty.port) as client:
        repository = client.repository(name(served))
        copy_graph(store, repository, image)
        repository.tag(image, store, "v1")
        assert empty.requests == []
        copy_graph(repository, MemoryStore(), repository.resolve("v1"))
        asked = [one for one in empty.requests if one.path != "/v2/"]
        assert {one.method for one in asked} == {"GET"} and len(asked) == 3
        assert {one.query["ns"][0] for one in asked} == {served.host}
        before = len(served.to("GET"))
        with spec_registry() as (full, mirror), mirrored(served, mirror.port) as other:
            full.blobs, full.manifests = registry.blobs, registry.manifests
            there = other.repository(name(served))
            copy_graph(there, MemoryStore(), there.resolve("v1"))
            assert len(served.to("GET")) == before


def test_a_mirror_never_sees_the_credentials_of_the_registry(spec: tuple[Spec, Served]) -> None:
    _, served = spec

    def asks(request: ReceivedRequest) -> Reply:
        return 401, {"WWW-Authenticate": 'Basic realm="x"'}, b""

    with serving(asks) as mirror:
        settings = HostSettings(mirrors={served.host: (mirror.url,)})
        keychain = StaticKeychain({served.host: Credentials("alice", SECRET)})
        with Client(settings, keychain) as client, pytest.raises(NotFound):
            client.repository(name(served)).resolve("v1")
        assert len(mirror.requests) == 1 and "authorization" not in mirror.requests[0].headers


def test_what_the_mirrors_said_is_told_when_the_registry_fails_too(
    spec: tuple[Spec, Served],
) -> None:
    with spec_registry() as (_, empty), socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        down = f"127.0.0.1:{unused.getsockname()[1]}"
        settings = HostSettings(mirrors={down: (f"http://127.0.0.1:{empty.port}",)})
        with Client(settings, tries=1) as client:
            repository = client.repository(Reference.parse(f"{down}/team/app"))
            mirrored = f"127.0.0.1:{empty.port}/team/app"
            config = MANIFEST.config
            for ask, absent in (
                (lambda: repository.resolve("v1"), f"{mirrored} has no tag v1"),
                (
                    lambda: fetch_all(repository, config, 10),
                    f"{config.digest} is not in {mirrored}",
                ),
            ):
                with pytest.raises(RegistryError) as raised:
                    ask()
                (note,) = raised.value.__notes__
                assert absent in note
                assert "no mirror has it" in raised.value.hint
