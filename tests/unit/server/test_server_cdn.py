"""Redirects to a CDN, the signed URLs, what caches may keep, and what a CDN must purge."""

from __future__ import annotations

import base64
import hashlib
import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from hypothesis import given
from hypothesis import strategies as st

from node_app import NodeApp, Reply
from shipline.errors import ConfigError
from shipline.oci import Digest
from shipline.server import RegistrySection
from shipline.server.access import AccessSection, open_access_control
from shipline.server.cdn import Cdn, CdnSection, PurgeList, purge_routes
from shipline.server.cdn.section import CdnKey
from shipline.server.cdn.signatures import Grant, HmacForm
from shipline.server.http import YEAR_S
from shipline.server.limits import Network
from shipline.units import ByteSize, Duration

pytestmark = pytest.mark.usefixtures("cheap_hashes")

NAME, OTHER = "team/app", "team/other"
ENVIRON = {"K1": "first secret", "K2": "second secret"}
K1, K2 = CdnKey("k1", variable="K1"), CdnKey("k2", variable="K2")
BLOB = b"layer" * 1000
DIGEST = Digest.of(BLOB)
PATH = f"/v2/{NAME}/blobs/{DIGEST}"
MANIFEST = "application/vnd.oci.image.manifest.v1+json"
Start = Callable[..., NodeApp]


def section(**options: Any) -> CdnSection:
    options = {"keys": (K1,), "minimum_size": ByteSize(1000), **options}
    return CdnSection("https://cdn.example", **options)


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """An open node with a blob in two repositories, behind the CDN of a section."""
    opened: list[NodeApp] = []

    def start(options: CdnSection, environ: dict[str, str] = ENVIRON, **more: Any) -> NodeApp:
        data = tmp_path / str(len(opened))
        app = NodeApp(data)
        opened.append(app)
        proxies = (Network("10.0.0.0/8"),)
        cdn = Cdn.of(options, environ, proxies=proxies, clock=lambda: app.now, **more)
        purges = PurgeList(app.storage.records, options.purge_keep.seconds, lambda: app.now)
        app.storage.derive = purges.changes
        routes = purge_routes(purges, options.url, lambda: app.now)
        app.rebuild(cdn=cdn, routes=routes)
        for name in (NAME, OTHER):
            place = f"/v2/{name}/blobs/uploads/?digest={DIGEST}"
            assert app.call("POST", place, BLOB).status == 201
        return app

    yield start
    for app in opened:
        app.close()


def location(app: NodeApp, path: str = PATH, **more: Any) -> str:
    """The path with query on the CDN."""
    reply = app.call("GET", path, **more)
    assert reply.status == 307 and reply.headers["Cache-Control"] == "no-store", reply
    where = urlsplit(reply.headers["Location"])
    assert (where.scheme, where.netloc, where.path) == ("https", "cdn.example", path)
    return f"{where.path}?{where.query}"


def age_of(reply: Reply) -> int:
    return int(reply.headers["Cache-Control"].rpartition("max-age=")[2].partition(",")[0])


FORMS = [section(), section(form="nginx"), section(address_range="network")]
FORMS += [section(form="nginx", address_range="address")]


@pytest.mark.parametrize("options", FORMS, ids=lambda one: f"{one.form}-{one.address_range}")
def test_a_signed_url_is_good_for_its_blob_in_its_time_alone(
    start: Start, options: CdnSection
) -> None:
    app = start(options)
    url = location(app)
    whole = app.call("GET", url)
    assert (whole.status, whole.body) == (200, BLOB)
    assert app.call("HEAD", url).status == 200
    part = app.call("GET", url, headers={"Range": "bytes=5-9"})
    assert (part.status, part.body) == (206, b"layer")
    query = url.partition("?")[2]
    elsewhere = [
        f"/v2/{OTHER}/blobs/{DIGEST}",
        f"/v2/{NAME}/blobs/{Digest.of(b'other')}",
        f"/v2/{NAME}x/blobs/{DIGEST}",
    ]
    for path in elsewhere:
        refused = app.call("GET", f"{path}?{query}")
        assert refused.status == 403 and "signature" in refused.message
        assert refused.headers["Cache-Control"] == "no-store"
    app.now += options.expiry.seconds
    late = app.call("GET", url)
    assert late.status == 403 and "expired" in late.message


@pytest.mark.parametrize("options", FORMS, ids=lambda one: f"{one.form}-{one.address_range}")
def test_a_url_has_no_other_parameters_that_would_be_cached_apart(
    start: Start, options: CdnSection
) -> None:
    app = start(options)
    url = location(app)
    query = url.partition("?")[2]
    for more in ("x=1", query, query.split("&")[0], "expires=1"):
        assert app.call("GET", f"{url}&{more}").status == 403
        assert app.call("GET", url.replace("?", f"?{more}&")).status == 403
    assert app.call("GET", url).status == 200


def test_every_changed_character_of_the_query_is_refused(start: Start) -> None:
    app = start(section(address_range="address"))
    path, _, query = location(app).partition("?")
    for at in range(len(query)):
        changed = query[:at] + ("B" if query[at] == "A" else "A") + query[at + 1 :]
        reply = app.call("GET", f"{path}?{changed}")
        # without a parameter of this name the request is not signed: the node answers as ever
        assert reply.status == (403 if "signature=" in changed else 307), changed


def test_signatures_do_not_give_more_than_a_pull(start: Start) -> None:
    app = start(section())
    url = location(app)
    query = url.partition("?")[2]
    assert app.call("DELETE", url).status != 200
    assert app.call("GET", f"/v2/{NAME}/tags/list?{query}").status in (200, 404)
    assert app.node.cdn is not None
    assert "signature" not in app.call("GET", f"/v2/{NAME}/manifests/v1?{query}").text


def test_pulls_are_redirected_for_large_blobs_of_the_named_repositories(start: Start) -> None:
    from shipline.globs import Glob

    app = start(section(repositories=(Glob("team/a*"),)))
    location(app)
    assert app.call("HEAD", PATH).status == 200
    assert app.call("GET", f"/v2/{OTHER}/blobs/{DIGEST}").status == 200
    assert app.call("GET", f"/v2/{NAME}/blobs/{Digest.of(b'none')}").status == 404
    assert start(section(minimum_size=ByteSize(len(BLOB) + 1))).call("GET", PATH).status == 200
    off = start(section(), redirects=False)
    assert off.call("GET", PATH).status == 200
    assert off.call("GET", location(app)).status == 200, "what was signed before stays good"


def test_old_keys_are_accepted_and_unknown_ones_are_not(start: Start) -> None:
    before, after = start(section()), start(section(keys=(K2, K1)))
    old, new = location(before), location(after)
    assert "key=k1" in old and "key=k2" in new
    assert after.call("GET", old).status == 200 and before.call("GET", new).status == 403
    assert start(section(keys=(K2,))).call("GET", old).status == 403


def test_a_url_is_the_same_for_half_of_its_time_and_never_kept_longer(start: Start) -> None:
    app = start(section(expiry=Duration(600_000)))
    for second in range(0, 1200, 7):
        app.now = 1_800_000_000.0 + second
        url = location(app)
        assert url == location(app, client="192.0.2.9")
        left = int(parse_qs(url.partition("?")[2])["expires"][0]) - app.now
        assert 300 <= left <= 600
        reply = app.call("GET", url)
        assert age_of(reply) == left and "public" in reply.headers["Cache-Control"]


def test_a_url_for_an_address_is_for_that_address(start: Start) -> None:
    app = start(section(address_range="network"))
    url = location(app, client="192.0.2.1")
    assert "range=192.0.2.0/24" in url
    assert app.call("GET", url, client="192.0.2.77").status == 200
    cdn = {"X-Forwarded-For": "192.0.2.77"}
    reply = app.call("GET", url, client="10.1.1.1", headers=cdn)
    assert reply.status == 200 and reply.headers["Cache-Control"] == "private, max-age=0"
    for client, headers in (("192.0.3.1", {}), ("10.1.1.1", {}), ("203.0.113.1", cdn)):
        assert app.call("GET", url, client=client, headers=headers).status == 403
    six = location(app, client="2001:db8:1:2::5")
    assert "range=2001:db8:1:2::/64" in six
    assert app.call("GET", six, client="2001:db8:1:2:9::1").status == 200


def test_nginx_form_is_what_secure_link_computes(start: Start) -> None:
    """ngx_http_secure_link_module: md5 of "$secure_link_expires$uri$remote_addr secret"."""
    for bound, address in (("none", b""), ("address", b"192.0.2.1")):
        options = section(form="nginx", address_range=bound)
        url = location(start(options), client="192.0.2.1")
        query = parse_qs(url.partition("?")[2])
        text = query["expires"][0].encode() + PATH.encode() + address + b" first secret"
        md5 = base64.urlsafe_b64encode(hashlib.md5(text).digest()).rstrip(b"=").decode()
        assert query["md5"] == [md5]


def cloudfront_policy(url: str, query: dict[str, list[str]]) -> bytes:
    """The policy that CloudFront verifies: made of the request, if it is a canned one."""
    if "Policy" in query:
        return _decoded(query["Policy"][0])
    return (
        b'{"Statement":[{"Resource":"%b","Condition":{"DateLessThan":{"AWS:EpochTime":%b}}}]}'
        % (url.encode(), query["Expires"][0].encode())
    )


def _decoded(text: str) -> bytes:
    return base64.b64decode(text.translate(str.maketrans("-_~", "+=/")), validate=True)


@pytest.mark.parametrize("kind", ["rsa", "ec"])
@pytest.mark.parametrize("bound", ["none", "network"])
def test_cloudfront_accepts_the_signature(start: Start, kind: str, bound: str) -> None:
    key: rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey = (
        rsa.generate_private_key(65537, 2048)
        if kind == "rsa"
        else ec.generate_private_key(ec.SECP256R1())
    )
    pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()
    keys = (CdnKey("K2JCJMDEHXQW5F", variable="PEM"),)
    options = section(form="cloudfront", keys=keys, account="robot$cdn", address_range=bound)
    app = start(options, {"PEM": pem})
    url = "https://cdn.example" + location(app, client="192.0.2.1")
    address, _, text = url.partition("?")
    query = parse_qs(text)
    assert query["Key-Pair-Id"] == ["K2JCJMDEHXQW5F"]
    policy, signature = cloudfront_policy(address, query), _decoded(query["Signature"][0])

    def verify(signed: bytes) -> None:
        public = key.public_key()
        if isinstance(public, rsa.RSAPublicKey):
            public.verify(signature, signed, padding.PKCS1v15(), hashes.SHA1())
        else:
            public.verify(signature, signed, ec.ECDSA(hashes.SHA1()))

    verify(policy)
    condition = json.loads(policy)["Statement"][0]["Condition"]
    assert 600 <= condition["DateLessThan"]["AWS:EpochTime"] - app.now <= 1200
    if bound == "network":
        assert condition["IpAddress"] == {"AWS:SourceIp": "192.0.2.0/24"}
    with pytest.raises(InvalidSignature):
        verify(policy.replace(b"blobs", b"blobz"))
    assert app.call("GET", location(app)).status == 307, "its signature says nothing to the node"


@given(
    st.text("abc/", min_size=1),
    st.integers(1, 10**11),
    st.sampled_from(["k1", "k2"]),
    st.sampled_from(["", "192.0.2.0/24"]),
)
def test_what_is_signed_is_what_is_verified(
    name: str, expires: int, key: str, addresses: str
) -> None:
    form = HmacForm({"k1": b"first", "k2": b"second"})
    grant = Grant(f"/v2/{name}/blobs/{DIGEST}", expires, addresses)
    query = form.query(grant, key)
    assert form.grant(grant.path, query, "192.0.2.1") == grant


def test_private_repositories_stay_private(tmp_path: Path) -> None:
    """The URL is given to those who may pull; answers to them are not for shared caches."""
    access = AccessSection(mode="accounts", public_projects=("team",))
    with open_access_control(tmp_path, "127.0.0.1", access) as control:
        password = control.notices[0].partition("password: ")[2].split()[0]
        basic = base64.b64encode(f"admin:{password}".encode()).decode()
        admin = {"Authorization": f"Basic {basic}"}
        app = NodeApp(tmp_path, authenticator=control.authenticator)
        try:
            secret = f"/v2/secret/app/blobs/{DIGEST}"
            control_project(app, control, admin)
            for path in (PATH, secret):
                place = f"{path.rpartition('/')[0]}/uploads/?digest={DIGEST}"
                assert app.call("POST", place, BLOB, admin).status == 201
            assert app.call("GET", PATH).headers["Cache-Control"].startswith("public, ")
            for path in (PATH, secret):
                reply = app.call("GET", path, headers=admin)
                assert reply.headers["Cache-Control"] == f"private, max-age={YEAR_S}, immutable"
            app.rebuild(cdn=Cdn.of(section(), ENVIRON, clock=lambda: app.now))
            assert app.call("GET", secret).status == 401
            url = location(app, secret, headers=admin)
            assert app.call("GET", url).body == BLOB
            query = url.partition("?")[2]
            assert app.call("GET", f"/v2/secret/other/blobs/{DIGEST}?{query}").status == 403
            assert app.call("GET", f"/v2/secret/app/tags/list?{query}").status == 401
            fetcher = section(account="admin")
            app.rebuild(cdn=Cdn.of(fetcher, ENVIRON, clock=lambda: app.now))
            reply = app.call("GET", secret, headers=admin)
            assert reply.headers["Cache-Control"] == f"public, max-age={YEAR_S}, immutable"
        finally:
            app.close()


def control_project(app: NodeApp, control: Any, admin: dict[str, str]) -> None:
    app.rebuild(routes=control.routes)
    body = json.dumps({"project_name": "secret"}).encode()
    headers = {**admin, "Content-Type": "application/json"}
    assert app.call("POST", "/api/v2.0/projects", body, headers).status == 201


def test_content_is_kept_forever_tags_are_asked_about_and_errors_forgotten(start: Start) -> None:
    app = start(section(), redirects=False)
    tag = image(app, "v1")
    for path in (PATH, f"/v2/{NAME}/manifests/{tag}"):
        reply = app.call("GET", path)
        assert reply.headers["Cache-Control"] == f"public, max-age={YEAR_S}, immutable"
        assert reply.headers["ETag"] and "Vary" not in reply.headers
    assert app.call("GET", PATH).headers["Accept-Ranges"] == "bytes"
    by_tag = app.call("GET", f"/v2/{NAME}/manifests/v1")
    assert by_tag.headers["Cache-Control"] == "public, no-cache"
    etag = {"If-None-Match": by_tag.headers["ETag"]}
    again = app.call("GET", f"/v2/{NAME}/manifests/v1", headers=etag)
    assert again.status == 304 and again.headers["Cache-Control"] == "public, no-cache"
    plain = app.call("GET", f"/v2/{NAME}/manifests/v1", headers={"Accept": "text/plain"})
    assert plain.body == by_tag.body, "the answer does not vary, so it has no Vary"
    for path in (f"/v2/{NAME}/manifests/none", f"{PATH[:-1]}x", "/nothing"):
        assert app.call("GET", path).headers["Cache-Control"] == "no-store"


def image(app: NodeApp, tag: str) -> str:
    config = {"mediaType": "application/vnd.oci.image.config.v1+json", "size": 2}
    config["digest"] = str(Digest.of(b"{}"))
    app.call("POST", f"/v2/{NAME}/blobs/uploads/?digest={config['digest']}", b"{}")
    layer = {"mediaType": "application/vnd.oci.image.layer.v1.tar", "size": len(BLOB)}
    layer["digest"] = str(DIGEST)
    document = {"schemaVersion": 2, "mediaType": MANIFEST, "config": config, "layers": [layer]}
    raw = json.dumps({**document, "annotations": {"n": os.urandom(4).hex()}}).encode()
    assert app.push(NAME, tag, raw, MANIFEST).status == 201
    return str(Digest.of(raw))


def purged(app: NodeApp, since: str = "") -> list[str]:
    reply = app.call("GET", f"/api/cdn/purges{since and '?since=' + since}")
    assert reply.status == 200
    return [line.removeprefix(f"https://cdn.example/v2/{NAME}/") for line in reply.text.split()]


def test_the_purge_list_has_what_is_gone_or_moved(start: Start) -> None:
    app = start(section(purge_keep=Duration.parse("30d")))
    first = image(app, "v1")
    app.push(NAME, "v1", app.pull(NAME, first).body, MANIFEST)
    assert purged(app) == [], "new content, and the same again, are nothing to purge"
    image(app, "v1")
    assert purged(app) == ["manifests/v1"]
    app.now += 7200
    assert app.call("DELETE", f"/v2/{NAME}/manifests/{first}").status == 202
    assert purged(app, "1h") == [f"manifests/{first}"]
    assert purged(app) == ["manifests/v1", f"manifests/{first}"]
    assert app.call("DELETE", f"/v2/{NAME}/manifests/v1").status == 202
    assert purged(app, "1h") == [f"manifests/{first}", "manifests/v1"]
    app.now += 31 * 86400
    assert app.call("DELETE", f"/v2/{OTHER}/blobs/{DIGEST}").status == 202
    assert purged(app) == [f"https://cdn.example/v2/{OTHER}/blobs/{DIGEST}"], "old ones are dropped"
    assert app.call("GET", "/api/cdn/purges?since=yesterday").status == 400


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"url": "https://cdn.example/path"}, "without a path"),
        ({"url": "cdn.example"}, "https://HOST"),
        ({"keys": ()}, "one key at least"),
        ({"keys": (K1, K1)}, "id of its own"),
        ({"expiry": Duration(1000)}, "10s or more"),
        ({"form": "nginx", "address_range": "network"}, "secure_link"),
        ({"form": "cloudfront"}, "removes the signature"),
    ],
    ids=str,
)
def test_sections_that_make_no_sense_are_refused(wrong: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        CdnSection(**{"url": "https://cdn.example", "keys": (K1,), **wrong})


def test_secrets_must_be_there(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="K1 is not set"):
        Cdn.of(section(), {})
    (tmp_path / "key").write_text("\n")
    with pytest.raises(ConfigError, match="is empty"):
        Cdn.of(section(keys=(CdnKey("k1", file=str(tmp_path / "key")),)), {})
    with pytest.raises(ConfigError, match="private key in PEM"):
        Cdn.of(section(form="cloudfront", account="robot$cdn"), ENVIRON)
    with pytest.raises(ConfigError, match="one of variable and file"):
        CdnKey("k1")
    with pytest.raises(ConfigError, match="there is no CDN"):
        RegistrySection(cdn_accelerate=True)
