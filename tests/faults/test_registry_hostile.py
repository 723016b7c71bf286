"""Registries that want our credentials, or want us to go where they cannot.

The numbers are those of the known attacks that each test stands for.
"""

from __future__ import annotations

import json
import ssl
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from parties import SECRET, basic, client_for, name, secrets_at
from registries import make_identity
from tunnel import tunnel

from serving import ReceivedRequest, Reply, Served, serving
from shipline.cli.registry_upstreams import connect_upstreams
from shipline.content import MemoryStore
from shipline.errors import AuthError, NotFound, RegistryError, ShiplineError
from shipline.oci import Descriptor, Digest, Reference, media
from shipline.registry import Client, Credentials, HostSettings, Proxies, StaticKeychain
from shipline.server.upstreams.section import UpstreamSection

BLOB = b"some content"
LAYER = Descriptor.of(BLOB, media.OCI_LAYER)
MANIFEST = b'{"schemaVersion":2,"mediaType":"%s","manifests":[]}' % media.OCI_INDEX.encode()


@pytest.fixture
def thief() -> Iterator[Served]:
    """Another host, which answers everything and remembers what it heard."""

    def respond(request: ReceivedRequest) -> Reply:
        request.all()
        if request.method == "GET" and "blobs" in request.path:
            return 200, {}, BLOB
        if request.method in ("PUT", "PATCH"):
            return 201, {}, b""
        return 200, {}, b'{"token":"stolen"}'

    with serving(respond) as served:
        yield served


# 1: the realm is where the credentials go


@pytest.fixture
def secure(tmp_path: Path) -> Iterator[tuple[ssl.SSLContext, Path]]:
    identity = make_identity(tmp_path)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(identity.certificate, identity.private)
    yield context, identity.certificate


REALMS = [
    "http://169.254.169.254/latest",
    "https://169.254.169.254/latest",
    "https://[fe80::1]/token",
    "https://[::ffff:169.254.169.254]/token",
    "file:///etc/passwd",
    "http://127.0.0.2:1/token",
    "https://alice@127.0.0.2/token",
    "gopher://127.0.0.1/",
    "",
]


@pytest.mark.parametrize("realm", REALMS)
def test_1_a_realm_that_cannot_be_right_is_refused(
    secure: tuple[ssl.SSLContext, Path], realm: str
) -> None:
    def respond(request: ReceivedRequest) -> Reply:
        return 401, {"WWW-Authenticate": f'Bearer realm="{realm}",service="x"'}, b""

    context, authority = secure
    with serving(respond, context) as served:
        settings = HostSettings(secure=frozenset({served.host}), ca=(authority,))
        keychain = StaticKeychain({served.host: Credentials("alice", SECRET)})
        with Client(settings, keychain, tries=1) as client, pytest.raises(ShiplineError) as raised:
            client.repository(name(served)).resolve("v1")
    assert isinstance(raised.value, AuthError | RegistryError)
    assert SECRET not in str(raised.value) and secrets_at(served) == []


@pytest.mark.parametrize("host", ["127.0.0.1", "10.1.2.3", "192.168.0.1", "[::1]", "169.254.1.1"])
def test_1_a_registry_on_the_internet_names_no_internal_realm(
    secure: tuple[ssl.SSLContext, Path], host: str
) -> None:
    """The registry is reached through a proxy, and is taken to be on the Internet for that."""

    def respond(request: ReceivedRequest) -> Reply:
        return 401, {"WWW-Authenticate": f'Bearer realm="https://{host}/token"'}, b""

    context, authority = secure
    with serving(respond, context) as served, tunnel(served.port) as proxy:
        settings = HostSettings(ca=(authority,), proxies=Proxies(https=proxy.url))
        known = StaticKeychain({"registry.localtest": Credentials("alice", SECRET)})
        with Client(settings, known, tries=1) as client, pytest.raises(RegistryError) as raised:
            client.repository(Reference.parse("registry.localtest/team/app")).resolve("v1")
    assert "internal" in raised.value.hint
    assert [one.target for one in proxy.requests] == ["registry.localtest:443"]


def test_1_a_token_request_is_not_redirected(thief: Served) -> None:
    def respond(request: ReceivedRequest) -> Reply:
        if request.path == "/token":
            return 307, {"Location": f"{thief.url}/token"}, b""
        return 401, {"WWW-Authenticate": f'Bearer realm="{served.url}/token"'}, b""

    with serving(respond) as served, client_for(served) as client:
        with pytest.raises(RegistryError):
            client.repository(name(served)).resolve("v1")
        assert thief.requests == []


# 2: credentials for an upstream


def test_2_a_strict_client_gives_credentials_to_listed_hosts_only(thief: Served) -> None:
    realm = thief.url.replace("127.0.0.1", "localhost")

    def respond(request: ReceivedRequest) -> Reply:
        return 401, {"WWW-Authenticate": f'Bearer realm="{realm}/token"'}, b""

    with serving(respond) as served:
        with client_for(served, strict=True) as client, pytest.raises(AuthError, match="trusted"):
            client.repository(name(served)).resolve("v1")
        assert thief.requests == []
        listed = {served.host: (realm.removeprefix("http://"),)}
        settings = HostSettings(strict=True, token_hosts=listed)
        with Client(settings, tries=1) as client, pytest.raises(AuthError):
            client.repository(name(served)).resolve("v1")
        assert len(thief.requests) > 0


def test_2_an_upstream_on_the_internet_sends_a_node_to_no_private_address(
    secure: tuple[ssl.SSLContext, Path],
) -> None:
    """The upstream is reached through a proxy, and is taken to be on the Internet for that."""
    context, authority = secure
    with ExitStack() as stack:
        internal = stack.enter_context(serving(lambda request: (200, {}, BLOB), context))
        elsewhere = {"Location": f"{internal.url}/blobs/x"}
        served = stack.enter_context(serving(lambda request: (307, elsewhere, b""), context))
        proxy = stack.enter_context(tunnel(served.port))
        environ = {"HTTPS_PROXY": proxy.url, "SHIPLINE_CA": str(authority)}
        section = UpstreamSection("https://registry.localtest", match="x/*")
        repository = connect_upstreams(environ, stack)(section)("team/app")
        with pytest.raises(RegistryError), repository.fetch(LAYER) as reader:
            reader.read()
        assert len(served.requests) >= 1 and internal.requests == []


def test_2_what_is_no_tag_is_not_listed() -> None:
    listed = b'{"tags":["v1","<script>","../..",5,null,"a\\r\\nSet-Cookie: x","","x.y_z-1"]}'
    with serving(lambda request: (200, {}, listed)) as served, client_for(served) as client:
        assert list(client.repository(name(served)).tags()) == ["v1", "x.y_z-1"]


# 3: a layer that says it is elsewhere


def test_3_urls_of_a_descriptor_are_not_followed(thief: Served) -> None:
    foreign = Descriptor(LAYER.media_type, LAYER.digest, LAYER.size, urls=(f"{thief.url}/blobs/x",))
    with (
        serving(lambda request: (404, {}, b"")) as served,
        client_for(served) as client,
        pytest.raises(NotFound),
        client.repository(name(served)).fetch(foreign),
    ):
        pass
    assert thief.requests == []


# 4, 5: redirects and Locations


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_4_a_redirect_elsewhere_carries_no_credentials(thief: Served, status: int) -> None:
    def respond(request: ReceivedRequest) -> Reply:
        return basic(request) or (status, {"Location": f"{thief.url}/blobs/{LAYER.digest}"}, b"")

    with serving(respond) as served, client_for(served) as client:
        with client.repository(name(served)).fetch(LAYER) as reader:
            assert reader.read() == BLOB
        assert secrets_at(served)
    assert thief.requests and secrets_at(thief) == []


def test_4_credentials_do_not_come_back_after_a_detour(thief: Served) -> None:
    def respond(request: ReceivedRequest) -> Reply:
        if request.path == "/back":
            return 200, {}, BLOB
        return basic(request) or (307, {"Location": f"{away.url}/x"}, b"")

    with serving(lambda request: (307, {"Location": f"{served.url}/back"}, b"")) as away:
        with serving(respond) as served, client_for(served) as client:
            with client.repository(name(served)).fetch(LAYER) as reader:
                assert reader.read() == BLOB
            (back,) = served.to("GET", "/back")
            assert "authorization" not in back.headers
        assert secrets_at(away) == []


def test_4_a_401_after_a_redirect_is_not_answered(thief: Served) -> None:
    def elsewhere(request: ReceivedRequest) -> Reply:
        return 401, {"WWW-Authenticate": f'Bearer realm="{thief.url}/token"'}, b""

    with (
        serving(elsewhere) as away,
        serving(lambda request: (307, {"Location": f"{away.url}/x"}, b"")) as served,
        client_for(served) as client,
    ):
        with pytest.raises(AuthError), client.repository(name(served)).fetch(LAYER):
            pass
        assert thief.requests == [] and len(away.requests) == 1


def test_4_redirects_end(thief: Served) -> None:
    def respond(request: ReceivedRequest) -> Reply:
        return 307, {"Location": f"{request.path}x"}, b""

    with serving(respond) as served, client_for(served) as client:
        with (
            pytest.raises(RegistryError, match="redirects"),
            client.repository(name(served)).fetch(LAYER),
        ):
            pass
        assert len(served.requests) == 6


@pytest.mark.parametrize("target", ["http://127.0.0.1:1/x", "ftp://127.0.0.1/x"])
def test_4_https_is_never_left(secure: tuple[ssl.SSLContext, Path], target: str) -> None:
    context, authority = secure
    with serving(lambda request: (307, {"Location": target}, b""), context) as served:
        settings = HostSettings(secure=frozenset({served.host}), ca=(authority,))
        with (
            Client(settings, tries=1) as client,
            pytest.raises(RegistryError, match="https"),
            client.repository(name(served)).fetch(LAYER),
        ):
            pass


def test_4_a_redirect_to_cloud_metadata_is_refused() -> None:
    location = {"Location": "http://169.254.169.254/latest/meta-data/"}
    with (
        serving(lambda request: (307, location, b"")) as served,
        client_for(served) as client,
        pytest.raises(RegistryError, match="which is not allowed"),
        client.repository(name(served)).fetch(LAYER),
    ):
        pass


def test_5_an_upload_elsewhere_carries_no_credentials(thief: Served) -> None:
    def respond(request: ReceivedRequest) -> Reply:
        told = basic(request)
        if told:
            return told
        return (
            (404, {}, b"")
            if request.method == "HEAD"
            else (202, {"Location": thief.url + "/u"}, b"")
        )

    source = MemoryStore(BLOB)
    with serving(respond) as served, client_for(served) as client:
        client.repository(name(served)).push(LAYER, source)
        with client.repository(name(served)).ingest() as ingest:
            ingest.write(bytes(2_000_000))
            ingest.commit(Descriptor.of(bytes(2_000_000), media.OCI_LAYER))
    assert {one.method for one in thief.requests} == {"PUT", "PATCH"} and secrets_at(thief) == []


# 6: pages


def test_6_the_next_page_is_not_on_another_host(thief: Served) -> None:
    def respond(request: ReceivedRequest) -> Reply:
        last = "last" in request.query
        entry = {"mediaType": media.OCI_MANIFEST, "size": 1, "digest": str(Digest.of(b"%d" % last))}
        body = {"tags": ["b" if last else "a"], "repositories": ["b" if last else "a"]}
        index = {"schemaVersion": 2, "mediaType": media.OCI_INDEX, "manifests": [entry]}
        headers = {"Content-Type": media.OCI_INDEX}
        if not last:
            headers["Link"] = f'<{thief.url}{request.path}?last=a>; rel="next"'
        return basic(request) or (200, headers, json.dumps(body | index).encode())

    with serving(respond) as served, client_for(served) as client:
        repository = client.repository(name(served))
        assert list(repository.tags()) == list(client.repositories(served.host)) == ["a", "b"]
        assert len(repository.referrers(LAYER)) == 2
    assert thief.requests == []


def test_6_pages_that_form_a_loop_end() -> None:
    link = {"Link": '</v2/team/app/tags/list?last=a>; rel="next"'}
    with serving(lambda request: (200, link, b'{"tags":["a"]}')) as served:
        with client_for(served) as client, pytest.raises(RegistryError, match="form a loop"):
            list(client.repository(name(served)).tags())
        assert len(served.requests) == 2


# 7: whose credentials


def test_7_only_the_whole_host_counts(thief: Served) -> None:
    wanted = {
        "127.0.0.1": Credentials("alice", SECRET),
        f"127.0.0.1:{thief.port}1": Credentials("alice", SECRET),
        f"{thief.host}.evil": Credentials("alice", SECRET),
        "registry.example.com": Credentials("alice", SECRET),
    }
    with serving(lambda request: basic(request) or (200, {}, b"")) as served:
        with Client(keychain=StaticKeychain(wanted)) as client, pytest.raises(AuthError):
            client.repository(name(served)).resolve("v1")
        assert secrets_at(served) == []
