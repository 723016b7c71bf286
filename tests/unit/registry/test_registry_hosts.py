"""Hosts, mirrors, proxies and URLs before any request."""

from __future__ import annotations

import types
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shipline.errors import RegistryError, UsageError
from shipline.registry import HostSettings, Proxies, parse_mirrors, settings_from
from shipline.registry.errors import retry_after
from shipline.registry.hosts import Endpoint
from shipline.registry.paging import next_link
from shipline.registry.quirks import quirks_of
from shipline.registry.request import ClientRequest, Origin, Url


@pytest.mark.parametrize(
    ("host", "origin"),
    [
        ("docker.io", "https://registry-1.docker.io"),
        ("reg.example.com", "https://reg.example.com"),
        ("reg.example.com:80", "https://reg.example.com:80"),
        ("localhost:5000", "http://localhost:5000"),
        ("127.0.0.9:5000", "http://127.0.0.9:5000"),
        ("[::1]:5000", "http://[::1]:5000"),
        ("127.evil.com", "https://127.evil.com"),
        ("localhost.evil.com", "https://localhost.evil.com"),
        ("10.0.0.1:5000", "https://10.0.0.1:5000"),
        ("plain.lan:5000", "http://plain.lan:5000"),
        ("plain.lan", "https://plain.lan"),
    ],
)
def test_http_is_for_loopback_or_by_permission(host: str, origin: str) -> None:
    settings = HostSettings(insecure=frozenset({"plain.lan:5000"}))
    assert str(settings.endpoint(host).origin) == origin


def test_certificates_for_loopback_mean_https(tmp_path: Path) -> None:
    place = tmp_path / "localhost:5000"
    place.mkdir()
    for name in ("ca.crt", "client.cert", "client.key", "other.cert"):
        (place / name).touch()
    settings = HostSettings(certificates=tmp_path, ca=(Path("own.pem"),))
    origin = settings.endpoint("localhost:5000").origin
    assert origin.scheme == "https"
    trust = settings.trust(origin)
    assert trust.authorities == (Path("own.pem"), place / "ca.crt")
    assert (trust.certificate, trust.key) == (place / "client.cert", place / "client.key")


def test_certificates_of_podman_and_skopeo_count(tmp_path: Path) -> None:
    places = [
        tmp_path / ".config" / name / "certs.d/registry.lan" for name in ("containers", "docker")
    ]
    for place, names in zip(places, (["own.crt"], ["a.crt", "b.cert", "b.key"]), strict=True):
        place.mkdir(parents=True)
        for name in names:
            (place / name).touch()
    for environment in (
        {"HOME": str(tmp_path)},
        {"HOME": "/nonexistent", "XDG_CONFIG_HOME": str(tmp_path / ".config")},
    ):
        settings = settings_from(environment)
        trust = settings.trust(settings.endpoint("registry.lan").origin)
        assert trust.authorities == (places[0] / "own.crt", places[1] / "a.crt")
        assert (trust.certificate, trust.key) == (places[1] / "b.cert", places[1] / "b.key")


def test_mirrors_come_before_the_registry() -> None:
    """One without a host is for Docker Hub, as in docker's daemon.json."""
    mirrors = parse_mirrors(
        (
            "http://127.0.0.1:5000",
            " docker.io = https://m.lan/v2/hub/",
            "",
            "q.io=https://v2q.lan/v2x",
        )
    )
    settings = HostSettings(mirrors=mirrors)
    assert settings.endpoints("docker.io") == (
        Endpoint(Origin("http", "127.0.0.1", 5000), "127.0.0.1:5000", "", "docker.io"),
        Endpoint(Origin("https", "m.lan", 443), "m.lan", "hub/", "docker.io"),
        HostSettings().endpoint("docker.io"),
    )
    assert settings.endpoints("docker.io")[1].base == "https://m.lan/hub"
    assert settings.endpoints("q.io")[0].prefix == "v2x/"
    assert len(settings.endpoints("quay.io")) == 1
    assert len(settings.endpoints("registry-1.docker.io")) == 3  # as an upstream may be named
    assert parse_mirrors(()) == {}


def test_a_mirror_may_be_for_digests_alone() -> None:
    settings = HostSettings(
        mirrors=parse_mirrors(["https://m.lan/hub#digest-only", "https://n.lan"])
    )
    first, second, registry = settings.endpoints("docker.io")
    assert (first.digest_only, second.digest_only, registry.digest_only) == (True, False, False)
    assert first.base == "https://m.lan/hub"


@pytest.mark.parametrize(
    "text",
    [
        *("docker.io", "=http://a", "docker.io=", "a=ftp://b", "a=http://u:p@b", "a=http://b?x"),
        *("http://a#x", "http://a#x#digest-only", "a b=http://c"),
    ],
)
def test_a_wrong_mirror_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="not a mirror"):
        parse_mirrors([text])


def test_settings_come_from_flags_and_the_environment() -> None:
    environment = {
        "SHIPLINE_MIRRORS": "a.io=http://127.0.0.1:1",
        "SSL_CERT_FILE": "/etc/own.pem",
        "HTTPS_PROXY": "http://proxy:3128",
    }
    found = settings_from(environment, insecure=["b.io"], ca=[Path("c.pem")])
    assert found.mirrors == {"a.io": ("http://127.0.0.1:1",)}
    assert found.ca == (Path("c.pem"), Path("/etc/own.pem")) and found.insecure == {"b.io"}
    assert found.proxies.https == "http://proxy:3128"


@pytest.mark.parametrize(
    ("entry", "url", "direct"),
    [
        ("*", "https://a.io", True),
        ("a.io", "https://a.io", True),
        ("a.io", "https://x.a.io", True),
        (".a.io", "https://x.a.io", True),
        ("*.a.io", "https://x.a.io", True),
        ("a.io", "https://aa.io", False),
        ("a.io:443", "https://a.io", True),
        ("a.io:444", "https://a.io", False),
        ("10.0.0.0/8", "https://10.1.2.3", True),
        ("10.0.0.0/8", "https://11.1.2.3", False),
        ("10.0.0.0/8", "https://a.io", False),
        ("A.IO", "https://a.io", True),
        ("", "https://a.io", False),
        ("", "https://127.0.0.1:5", True),
    ],
)
def test_no_proxy(entry: str, url: str, direct: bool) -> None:
    for name in ("NO_PROXY", "no_proxy"):
        proxies = Proxies.from_environment({"HTTPS_PROXY": "proxy:3128", name: entry})
        found = proxies.of(Url.parse(url).origin)
        assert found == ("" if direct else "http://proxy:3128")


def test_lower_case_wins_and_cgi_is_not_fooled() -> None:
    both = {"HTTP_PROXY": "http://upper", "http_proxy": "http://lower"}
    assert Proxies.from_environment(both).http == "http://lower"
    cgi = {"HTTP_PROXY": "http://evil", "REQUEST_METHOD": "GET"}
    assert Proxies.from_environment(cgi).http == ""
    assert Proxies.from_environment({"ALL_PROXY": "http://all"}).https == "http://all"


@pytest.mark.parametrize(
    "text",
    [
        "ftp://a/",
        "file:///etc/passwd",
        "http://",
        "http://user@a/",
        "http://a\\@b/",
        "http://a b/",
        "http://a/\r\nx",
        "http://a:99999/",
        "http://a:0/",
        "http://[::1",
        "http://ä.io/",
        "http://-a/",
        "a/b",
        "http://" + "a" * 20000,
    ],
)
def test_an_unusable_url_is_refused(text: str) -> None:
    with pytest.raises(RegistryError, match="not a usable URL"):
        Url.parse(text)


@given(st.text(max_size=60))
def test_a_location_is_a_url_or_refused(text: str) -> None:
    here = Url.parse("https://reg.io/v2/a/blobs/uploads/")
    try:
        found = here.join(text)
    except RegistryError:
        return
    assert found.target.isascii() and not set(found.target) & set(" \r\n\\\0")
    assert found.target.startswith("/") and Url.parse(str(found)) == found


def test_a_location_keeps_its_query() -> None:
    here = Url.parse("https://reg.io/v2/a/blobs/uploads/")
    for location, expected in (
        ("/x?_state=a%2Fb%3D&c=d", "https://reg.io/x?_state=a%2Fb%3D&c=d"),
        ("https://up.io:444/x?y", "https://up.io:444/x?y"),
        ("//up.io/x", "https://up.io/x"),
        ("abc", "https://reg.io/v2/a/blobs/uploads/abc"),
    ):
        assert str(here.join(location)) == expected
    added = here.join("/x?_state=a").with_query(("digest", "sha256:00"))
    assert added.target == "/x?_state=a&digest=sha256:00"


@pytest.mark.parametrize(
    ("other", "kept"),
    [
        ("https://a.io/other", True),
        ("https://a.io:443/other", True),
        ("https://a.io:444/x", False),
        ("http://a.io/x", False),
        ("https://b.a.io/x", False),
        ("https://a.io.evil/x", False),
    ],
)
def test_credentials_stay_at_their_origin(other: str, kept: bool) -> None:
    headers = types.MappingProxyType({"authorization": "Bearer x", "Cookie": "y", "Accept": "z"})
    moved = ClientRequest("GET", Url.parse("https://a.io/x"), headers).redirected(
        Url.parse(other), keep_body=False
    )
    assert ("authorization" in moved.headers) is kept and ("Cookie" in moved.headers) is kept
    assert moved.headers["Accept"] == "z"


def test_links_and_waits_are_read() -> None:
    assert next_link('</v2/x?last=a&n=2>; rel="next"') == "/v2/x?last=a&n=2"
    assert next_link('<a>; rel="prev", <b>; title="x"; rel=next') == "b"
    assert next_link("garbage") == ""
    assert (retry_after("3"), retry_after("x"), retry_after("")) == (3.0, None, None)
    assert retry_after("Wed, 21 Oct 2015 07:28:00 GMT") == 0.0
    assert retry_after("Mon, 01 Jan 2024 00:00:00 +99999999999999999") is None
    assert retry_after("Mon, 01 Jan 0001 00:00:00 +2359") in (0.0, None)
    later = retry_after("Wed, 21 Oct 2099 07:28:00 GMT")
    assert later is not None and later > 1e6


def test_peculiarities_belong_to_whole_domains() -> None:
    for host in (
        "1234.dkr.ecr.eu-west-1.amazonaws.com",
        "1234.dkr.ecr.cn-north-1.amazonaws.com.cn",
        "1234.dkr.ecr-fips.us-east-1.amazonaws.com",
        "1234.dkr-ecr.eu-west-1.on.aws",
    ):
        assert not quirks_of(host).resumes
    assert quirks_of("notamazonaws.com").resumes
    assert not quirks_of("ghcr.io").referrers


@pytest.mark.parametrize(
    "entry",
    [
        "http://u:sEcRet@mirror.example",
        "docker.io=https://u:sEcRet@mirror.example",
        "http://u:sEc/sEcRet@mirror.example",
        "http://u:sEcRet?x@mirror.example",
        "u:sEcRet@mirror.example",
    ],
)
def test_the_password_of_a_mirror_is_not_shown(entry: str) -> None:
    with pytest.raises(UsageError, match="not a mirror: not a usable URL") as caught:
        parse_mirrors([entry])
    assert "sEc" not in caught.value.message
