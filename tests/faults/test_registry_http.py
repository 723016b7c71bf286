"""The gate: retries, waiting, turns, tokens for many at once, interruption."""

from __future__ import annotations

import json
import shlex
import shutil
import socket
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization
from images import make_layer
from parties import client_for, name
from registries import make_identity
from spec_registry import Peculiar, Spec, spec_registry
from tunnel import tunnel

from proxy import FaultProxy, Stall
from serving import ReceivedRequest, Reply, Served, serving
from shipline.content import LocalStore, MemoryStore, copy_graph
from shipline.errors import AuthError, Cancelled, NotFound, RegistryError
from shipline.oci import Descriptor, Manifest, Reference, media
from shipline.registry import Client, Credentials, HostSettings, Proxies, StaticKeychain
from shipline.registry.hosts import speaks_tls
from shipline.tasks import TaskGroup

MANIFEST = Manifest.make(Descriptor.of(b"{}", media.OCI_EMPTY), [])


@pytest.fixture
def store(tmp_path: Path) -> LocalStore:
    return LocalStore(tmp_path / "store")


@pytest.fixture
def spec() -> Iterator[tuple[Spec, Served]]:
    with spec_registry() as found:
        yield found


def serve_manifest(request: ReceivedRequest) -> Reply:
    return 200, {"Content-Type": MANIFEST.media_type}, MANIFEST.raw


def test_what_may_succeed_later_is_tried_again() -> None:
    def respond(request: ReceivedRequest) -> Reply:
        return (status.pop(), {}, b"") if status else serve_manifest(request)

    status = [408, 429, 499, 522]
    with serving(respond) as served, Client() as client:
        client.repository(name(served)).resolve("v1")
        assert len(served.requests) == 5


@pytest.mark.parametrize("status", [400, 403, 404, 405, 412, 501])
def test_what_cannot_succeed_is_not_tried_again(status: int) -> None:
    with serving(lambda request: (status, {}, b"")) as served, Client() as client:
        with pytest.raises((RegistryError, AuthError, NotFound)):
            client.repository(name(served)).resolve("v1")
        assert len(served.requests) == 1


def test_the_registry_says_how_long_to_wait() -> None:
    def respond(request: ReceivedRequest) -> Reply:
        return (
            (429, {"Retry-After": "1"}, b"")
            if len(served.requests) == 1
            else serve_manifest(request)
        )

    with serving(respond) as served, Client() as client:
        begin = time.monotonic()
        client.repository(name(served)).resolve("v1")
        assert 1.0 <= time.monotonic() - begin < 30


def test_nobody_waits_for_hours() -> None:
    body = b'{"message":"toomanyrequests: you have reached your limit"}'
    with (
        serving(lambda request: (429, {"Retry-After": "21600"}, body)) as served,
        Client() as client,
        pytest.raises(RegistryError, match="reached your limit") as raised,
    ):
        client.repository(name(served)).resolve("v1")
    assert "21600 seconds" in raised.value.hint and raised.value.status == 429


def test_turns_are_kept_and_small_requests_pass_blobs() -> None:
    now, most, gate = [0], [0], threading.Event()
    lock = threading.Lock()

    def respond(request: ReceivedRequest) -> Reply:
        if "manifests" in request.path:
            return serve_manifest(request)
        with lock:
            now[0] += 1
            most[0] = max(most[0], now[0])
        gate.wait(60)
        with lock:
            now[0] -= 1
        return 200, {}, request.path[-1:].encode()

    def read(content: bytes) -> None:
        with repository.fetch(Descriptor.of(content, media.OCI_LAYER)) as reader, lock:
            bodies.append(reader)

    bodies: list[object] = []
    with serving(respond) as served, Client(at_once=2) as client:
        repository = client.repository(name(served))
        with TaskGroup() as group:
            for number in range(6):
                group.start(read, str(number).encode())
            while now[0] < 2:
                time.sleep(0.01)
            repository.resolve("v1")  # passes although all turns for blobs are taken
            gate.set()
    assert most[0] == 2 and len(bodies) == 6


def test_many_ask_for_one_token() -> None:
    def respond(request: ReceivedRequest) -> Reply:
        if request.path == "/token":
            time.sleep(0.1)
            return 200, {}, b'{"access_token":"abc"}'
        if request.headers.get("authorization") == "Bearer abc":
            return serve_manifest(request)
        return 401, {"WWW-Authenticate": f'Bearer realm="{served.url}/token",service="s"'}, b""

    with serving(respond) as served, Client() as client:
        with TaskGroup() as group:
            for number in range(8):
                group.start(client.repository(name(served)).resolve, f"v{number}")
        assert len(served.to("GET", "/token")) == 1


def test_a_failed_token_is_asked_for_again() -> None:
    def respond(request: ReceivedRequest) -> Reply:
        if request.path == "/token":
            return (200, {}, b'{"token":"abc"}') if good else (403, {}, b"")
        if request.headers.get("authorization") == "Bearer abc":
            return serve_manifest(request)
        return 401, {"WWW-Authenticate": f'Bearer realm="{served.url}/token"'}, b""

    good: list[bool] = []
    with serving(respond) as served, Client() as client:
        with pytest.raises(AuthError):
            client.repository(name(served)).resolve("v1")
        good.append(True)
        client.repository(name(served)).resolve("v1")


@pytest.mark.parametrize("challenge", ['Basic realm="x"', 'Bearer realm="http://127.0.0.1:1/"'])
def test_a_challenge_of_one_repository_that_cannot_be_met_concerns_no_other(challenge: str) -> None:
    private = {"secret"}

    def respond(request: ReceivedRequest) -> Reply:
        if request.path.split("/")[2] in private:
            return 401, {"WWW-Authenticate": challenge}, b""
        return serve_manifest(request)

    with serving(respond) as served, Client(tries=1) as client:

        def works(repository: str) -> bool:
            try:
                client.repository(Reference(served.host, repository)).resolve("v1")
            except (AuthError, RegistryError):
                return False
            return True

        found = [works(name) for name in ("open", "secret", "open", "other", "secret", "open")]
        assert found == [True, False, True, True, False, True]
        private.clear()
        assert works("secret")  # it is asked again


def test_a_401_without_challenge_is_explained_by_the_front_door() -> None:
    def respond(request: ReceivedRequest) -> Reply:
        if request.path == "/v2/":
            return 401, {"WWW-Authenticate": 'Basic realm="x"'}, b""
        return serve_manifest(request) if "authorization" in request.headers else (401, {}, b"")

    with serving(respond) as served, client_for(served) as client:
        client.repository(name(served)).resolve("v1")


def test_a_token_that_ends_is_renewed_although_the_401_has_no_challenge() -> None:
    def respond(request: ReceivedRequest) -> Reply:
        if request.path == "/token":
            tokens.append(f"t{len(tokens)}")
            return 200, {}, json.dumps({"token": tokens[-1]}).encode()
        if request.path == "/v2/":
            return 401, {"WWW-Authenticate": f'Bearer realm="{served.url}/token"'}, b""
        valid = tokens and request.headers.get("authorization") == f"Bearer {tokens[-1]}"
        return serve_manifest(request) if valid else (401, {}, b"")

    tokens: list[str] = []
    with serving(respond) as served, client_for(served) as client:
        client.repository(name(served)).resolve("v1")
        tokens.append("another")
        client.repository(name(served)).resolve("v2")


def test_a_registry_token_is_used_as_it_is() -> None:
    def respond(request: ReceivedRequest) -> Reply:
        if request.headers.get("authorization") == "Bearer ready":
            return serve_manifest(request)
        return 401, {"WWW-Authenticate": 'Bearer realm="http://127.0.0.1:1/"'}, b""

    with serving(respond) as served:
        known = {served.host: Credentials(registry_token="ready")}
        with Client(keychain=StaticKeychain(known)) as client:
            client.repository(name(served)).resolve("v1")


def test_what_was_resolved_is_not_fetched_again() -> None:
    with serving(serve_manifest) as served, Client() as client:
        repository = client.repository(name(served))
        with repository.fetch(repository.resolve("v1")) as reader:
            assert reader.read() == MANIFEST.raw
        assert len(served.requests) == 1


@pytest.mark.parametrize("what", ["resolve", "fetch", "ingest"])
def test_an_interrupted_request_ends_at_once(what: str) -> None:
    """Threads that wait for a server that says nothing."""

    def respond(request: ReceivedRequest) -> Reply:
        if request.method == "POST":
            return 202, {"Location": "/v2/team/app/blobs/uploads/1"}, b""
        reached.set()
        stop.wait(120)
        return 200, {}, b""

    def work() -> None:
        if what == "resolve":
            repository.resolve("v1")
        elif what == "fetch":
            with repository.fetch(MANIFEST.config):
                pass
        else:
            with repository.ingest() as ingest:
                while True:
                    ingest.write(bytes(1 << 20))

    reached, stop = threading.Event(), threading.Event()
    with serving(respond) as served, Client() as client:
        repository = client.repository(name(served))
        begin = time.monotonic()
        with pytest.raises(ZeroDivisionError), TaskGroup() as group:
            task = group.start(work)
            assert reached.wait(60)
            time.sleep(0.2)
            raise ZeroDivisionError
        assert time.monotonic() - begin < HostSettings().read_s / 2
        with pytest.raises(Cancelled):
            task.result()
        stop.set()


def test_a_stalled_body_can_be_interrupted(spec: tuple[Spec, Served]) -> None:
    registry, served = spec
    content = bytes(1_000_000)
    target = Descriptor.of(content, media.OCI_LAYER)
    registry.blobs[str(target.digest)] = content
    with FaultProxy(served.port) as proxy, Client() as client:
        proxy.break_next(Stall(after=1000), method="GET")
        repository = client.repository(Reference.parse(f"127.0.0.1:{proxy.port}/team/app"))
        begin = time.monotonic()
        with pytest.raises(ZeroDivisionError), TaskGroup() as group:
            group.start(copy_graph, repository, MemoryStore(), target)
            time.sleep(0.3)
            raise ZeroDivisionError
        assert time.monotonic() - begin < HostSettings().read_s / 2


PECULIAR = [
    Peculiar(most=200_000),
    Peculiar(most=20_000_000, least=1_000_000),
    Peculiar(patch=201, locations=False),
]


@pytest.mark.parametrize("peculiar", PECULIAR)
def test_peculiar_registries_are_pushed_to(peculiar: Peculiar, store: LocalStore) -> None:
    layer = make_layer(store, 17_000_000 if peculiar.least else 150_000)
    content = store.path(layer.digest).read_bytes()
    with spec_registry(peculiar) as (registry, served), Client(tries=2) as client:
        client.repository(name(served)).push(layer, store)
        assert registry.blobs.pop(str(layer.digest)) == content
        with client.repository(name(served)).ingest() as ingest:
            ingest.write(content)
            ingest.commit(layer)
        assert registry.blobs[str(layer.digest)] == content


def test_too_large_a_request_is_sent_in_chunks(store: LocalStore) -> None:
    layer = make_layer(store, 40_000_000)
    with spec_registry(Peculiar(most=16 << 20)) as (registry, served), Client() as client:
        client.repository(name(served)).push(layer, store)
        assert str(layer.digest) in registry.blobs and registry.sessions == {}
        assert len(served.to("PATCH")) == 3


def test_a_redirected_blob_is_read(spec: tuple[Spec, Served], store: LocalStore) -> None:
    registry, served = spec
    layer = make_layer(store, 1000)
    registry.blobs[str(layer.digest)] = store.path(layer.digest).read_bytes()
    with serving(lambda request: (200, {}, registry.blobs[request.path[1:]])) as away:
        registry.peculiar.blobs_at = away.url
        with Client() as client, client.repository(name(served)).fetch(layer) as reader:
            assert len(reader.read()) == 1000


@pytest.mark.parametrize(
    ("body", "tags"), [(b'{"tags":null}', []), (b'{"tags":["a",null,1,"b"]}', ["a", "b"])]
)
def test_null_and_numbers_among_tags_are_left_out(body: bytes, tags: list[str]) -> None:
    with serving(lambda request: (200, {}, body)) as served, Client() as client:
        assert list(client.repository(name(served)).tags()) == tags


def test_referrers_come_from_an_index_only(spec: tuple[Spec, Served]) -> None:
    """A web page that answers 200 to everything is not a referrers API."""
    for status, kind in ((200, "text/html"), (303, "text/html"), (405, "application/json")):

        def respond(request: ReceivedRequest, status: int = status, kind: str = kind) -> Reply:
            if "referrers" in request.path:
                return status, {"Content-Type": kind, "Location": "http://127.0.0.1:1/"}, b"<p>"
            return 404, {}, b""

        with serving(respond) as served, Client(tries=1) as client:
            assert client.repository(name(served)).referrers(MANIFEST.config) == ()


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_a_registry_on_loopback_is_asked_whether_it_speaks_tls(
    tmp_path: Path, version: ssl.TLSVersion
) -> None:
    identity = make_identity(tmp_path)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(identity.certificate, identity.private)
    context.minimum_version = context.maximum_version = version
    with serving(serve_manifest, context) as secure, serving(serve_manifest) as plain:
        assert speaks_tls("127.0.0.1", secure.port)
        assert not speaks_tls("127.0.0.1", plain.port)
    assert not speaks_tls("127.0.0.1", plain.port)


def test_https_goes_through_the_proxy_of_the_environment(tmp_path: Path) -> None:
    identity = make_identity(tmp_path)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(identity.certificate, identity.private)
    with serving(serve_manifest, context) as served, tunnel(served.port) as proxy:
        proxies = Proxies.from_environment({"https_proxy": proxy.url, "NO_PROXY": "other"})
        settings = HostSettings(ca=(identity.certificate,), proxies=proxies)
        with Client(settings) as client:
            client.repository(Reference.parse("registry.localtest/a/b")).resolve("v1")
    assert proxy.requests[0].headers["proxy-authorization"].startswith("Basic ")
    assert "proxy-authorization" not in served.requests[0].headers


_LOCKED = """
import socket, sys
from pathlib import Path
from shipline.errors import RegistryError
from shipline.metadata import RedisCache, RedisUrl
from shipline.oci import Reference
from shipline.registry import Client, HostSettings

place = Path(sys.argv[1])
with Client(HostSettings(certificates=place)) as client:
    for _ in range(2):
        try:
            client.repository(Reference.parse("127.0.0.1:1/a/b")).resolve("v1")
        except RegistryError as error:
            print(error.message, error.hint)
with socket.create_server(("127.0.0.1", 0)) as server:
    port, files = server.getsockname()[1], place / "127.0.0.1:1"
    url = RedisUrl("127.0.0.1", port, tls=True, certificate=files / "a.cert", key=files / "a.key")
    print("redis", RedisCache(url).get("a"))
"""


def test_the_passphrase_of_a_key_is_not_asked_for(tmp_path: Path) -> None:
    identity = make_identity(tmp_path)
    place = tmp_path / "certs.d/127.0.0.1:1"
    place.mkdir(parents=True)
    shutil.copy(identity.certificate, place / "a.cert")
    locked = identity.key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.BestAvailableEncryption(b"secret"),
    )
    (place / "a.key").write_bytes(locked)
    (tmp_path / "program.py").write_text(_LOCKED)
    command = shlex.join([sys.executable, str(tmp_path / "program.py"), str(place.parent)])
    with subprocess.Popen(  # with a terminal, which OpenSSL would ask
        ["script", "-qec", command, "/dev/null"], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        try:
            output, _ = process.communicate(timeout=60)
        finally:
            process.kill()
    assert output.count(b"must not have a passphrase") == 2 and b"redis None" in output


def test_a_certificate_for_another_name_is_no_matter_of_authorities(tmp_path: Path) -> None:
    identity = make_identity(tmp_path)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(identity.certificate, identity.private)
    with serving(serve_manifest, context) as served, tunnel(served.port) as proxy:
        proxies = Proxies.from_environment({"https_proxy": proxy.url})
        with Client(HostSettings(ca=(identity.certificate,), proxies=proxies)) as client:
            for host in ("other.localtest", "192.0.2.7"):
                with pytest.raises(RegistryError, match="certificate refused") as raised:
                    client.repository(Reference.parse(f"{host}/a/b")).resolve("v1")
                assert "a name that the certificate has" in raised.value.hint
                assert "--ca" not in raised.value.hint


def test_http_goes_through_the_proxy_of_the_environment() -> None:
    with serving(serve_manifest) as proxy:
        settings = HostSettings(
            insecure=frozenset({"registry.localtest"}), proxies=Proxies(http=proxy.url)
        )
        with Client(settings) as client:
            client.repository(Reference.parse("registry.localtest/a/b")).resolve("v1")
        assert proxy.requests[0].target == "http://registry.localtest/v2/a/b/manifests/v1"


@pytest.mark.parametrize("scheme", ["http", "https"])
def test_a_proxy_that_is_down_is_blamed_and_not_the_registry(scheme: str) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{unused.getsockname()[1]}"
        url = f"http://me:hush@{address}"
        proxies = Proxies(http=url) if scheme == "http" else Proxies(https=url)
        insecure = frozenset({"registry.localtest"} if scheme == "http" else ())
        with (
            Client(HostSettings(insecure=insecure, proxies=proxies), tries=1) as client,
            pytest.raises(RegistryError) as raised,
        ):
            client.repository(Reference.parse("registry.localtest/a/b")).resolve("v1")
    assert f"the proxy {address} refuses connections" in raised.value.message
    assert "HTTPS_PROXY" in raised.value.hint
    assert "NO_PROXY" in raised.value.hint
    assert "hush" not in raised.value.message + raised.value.hint


def test_a_proxy_that_wants_a_login_is_told_so() -> None:
    with serving(lambda request: (407, {}, b"")) as proxy:
        settings = HostSettings(
            insecure=frozenset({"registry.localtest"}), proxies=Proxies(http=proxy.url)
        )
        with Client(settings, tries=1) as client, pytest.raises(RegistryError) as raised:
            client.repository(Reference.parse("registry.localtest/a/b")).resolve("v1")
        assert "user:password@host:port" in raised.value.hint


def test_a_proxy_that_refuses_the_tunnel_is_blamed() -> None:
    with serving(serve_manifest) as no_tunnel:
        settings = HostSettings(proxies=Proxies(https=no_tunnel.url))
        with Client(settings, tries=1) as client, pytest.raises(RegistryError) as raised:
            client.repository(Reference.parse("registry.localtest/a/b")).resolve("v1")
        assert (
            f"the proxy 127.0.0.1:{no_tunnel.port} refuses the tunnel: 501" in raised.value.message
        )


def test_importing_the_client_imports_no_http() -> None:
    code = "import sys, json, shipline.registry; print(json.dumps(sorted(sys.modules)))"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True).stdout
    assert {"urllib3", "ssl", "http.client", "subprocess"}.isdisjoint(json.loads(loaded))
