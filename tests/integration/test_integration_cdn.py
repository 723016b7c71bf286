"""nginx and Varnish as CDN edges of a node: real clients pull private images through redirects,
and nobody gets anything with a URL that was not signed for it.
"""

from __future__ import annotations

import json
import os
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from commands import run
from guarded import basic
from layouts import write_layout
from peers import Containerd, Docker, Edge, containerd, free_port, nginx_edge, varnish_edge
from served import served
from shipline.server.cdn.signatures import Grant, HmacForm, SecureLinkForm, with_query
from spec_client import Answer, Target

pytestmark = [pytest.mark.peers, pytest.mark.root]

LAYERS = 3
IMAGE = "team/app"
SECRETS = {"k1": "first-secret", "k2": "second-secret"}
SECTION = """
access:
  mode: accounts
cdn-accelerate: true
cdn:
  url: http://127.0.0.1:{port}
  form: {form}
  keys:
  - {{id: k2, variable: CDN_KEY_2}}
  - {{id: k1, variable: CDN_KEY_1}}
  minimum-size: 1KiB
"""


@dataclass(frozen=True)
class Site:
    """A node with accounts, an edge in front of it, and an image in a private repository."""

    address: str
    edge: Edge
    password: str
    layers: list[str]
    work: Path

    @property
    def admin(self) -> dict[str, str]:
        return basic("admin", self.password)

    def node(self, path: str, headers: dict[str, str]) -> Answer:
        return Target(f"http://{self.address}", IMAGE).call("GET", path, headers=headers)

    def at_edge(self, url: str, method: str = "GET", **headers: str) -> Answer:
        return Target(self.edge.url, IMAGE).call(method, url, headers=headers)

    def redirected(self, digest: str) -> str:
        answer = self.node(f"blobs/{digest}", self.admin)
        assert answer.status == 307, answer
        location = answer["Location"]
        assert location and location.startswith(self.edge.url)
        return location


@pytest.fixture(scope="module", params=["nginx", "varnish"])
def site(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Site]:
    with _site(request.param, tmp_path_factory.mktemp(request.param)) as running:
        yield running


@contextmanager
def _site(kind: str, work: Path) -> Iterator[Site]:
    port = free_port()
    section = SECTION.format(port=port, form="nginx" if kind == "nginx" else "shipline")
    contents = [os.urandom(200_000) for _ in range(LAYERS)]
    layout = write_layout(work / "layout", contents=contents)
    environ = {"CDN_KEY_1": SECRETS["k1"], "CDN_KEY_2": SECRETS["k2"]}
    with served(work, section, **environ) as node:
        edge = (
            nginx_edge(work, port, node.address, SECRETS)
            if kind == "nginx"
            else varnish_edge(work, port, node.address)
        )
        found = re.search("password: ([^ ]+)", node.log.read_text())
        assert found
        with edge as running:
            target = f"docker://{node.address}/{IMAGE}:v1"
            login = ("--dest-tls-verify=false", "--dest-creds", f"admin:{found[1]}")
            body = json.dumps({"project_name": "team"}).encode()
            headers = {**basic("admin", found[1]), "Content-Type": "application/json"}
            made = Target(node.url, IMAGE).call("POST", "/api/v2.0/projects", body, headers)
            assert made.status == 201, made
            done = run("skopeo", "copy", *login, f"oci:{layout}:latest", target)
            assert done.returncode == 0, done.stderr
            manifest = Target(node.url, IMAGE).call("GET", "manifests/v1", None, headers)
            layers = [layer["digest"] for layer in manifest.json["layers"]]
            yield Site(node.address, running, found[1], layers, work)


@pytest.fixture(scope="module")
def image_store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Containerd]:
    with containerd(tmp_path_factory.mktemp("store")) as running:
        yield running


def test_clients_pull_private_images_through_the_edge(
    site: Site, classic: Docker, image_store: Containerd, tmp_path: Path
) -> None:
    """Each layer is fetched from the node once; all further pulls are hits."""
    image, before = f"{site.address}/{IMAGE}:v1", site.edge.counts()
    source = ("--src-tls-verify=false", "--src-creds", f"admin:{site.password}")
    for turn in ("first", "second"):
        done = run("skopeo", "copy", *source, f"docker://{image}", f"dir:{tmp_path / turn}")
        assert done.returncode == 0, done.stderr
    login = classic.run("login", "--username", "admin", "--password", site.password, site.address)
    assert login.returncode == 0, login.stdout
    pulled = classic.run("pull", image)
    assert pulled.returncode == 0, pulled.stdout
    user = f"admin:{site.password}"
    stored = image_store.ctr("images", "pull", "--plain-http", "--user", user, image)
    assert stored.returncode == 0, stored.stdout
    refused = image_store.ctr("images", "pull", "--plain-http", image)
    assert refused.returncode != 0, "without an account"
    hits, misses = (now - then for now, then in zip(site.edge.counts(), before, strict=True))
    rate = hits / (hits + misses)
    print(f"{site.edge.name}: {hits} hits, {misses} misses, {rate:.0%}")
    fetches = LAYERS if site.edge.name == "nginx" else 2 * LAYERS  # Varnish: and the permission
    assert misses == fetches and hits == 3 * fetches, (hits, misses)


def test_the_edge_answers_as_the_node_does(site: Site) -> None:
    digest = site.layers[0]
    url = site.redirected(digest)
    whole = site.at_edge(url)
    assert whole.status == 200
    again = site.at_edge(url, Range="bytes=100-199")
    assert (again.status, again.body) == (206, whole.body[100:200])
    assert again["X-Cache"] == "HIT" and again["ETag"] == f'"{digest}"'
    assert site.at_edge(url, "HEAD")["Content-Length"] == str(len(whole.body))
    known = {"If-None-Match": f'"{digest}"'}
    assert site.at_edge(url, **known).status == 304
    assert site.node(f"blobs/{digest}", {}).status == 401
    head = Target(f"http://{site.address}", IMAGE).call(
        "HEAD", f"blobs/{digest}", headers=site.admin
    )
    assert head.status == 200, "HEAD is answered by the node"


def test_urls_that_were_not_signed_for_this_are_refused(site: Site) -> None:
    """Also for content that the edge has."""
    digest, other = site.layers[:2]
    url = site.redirected(digest)
    assert site.at_edge(url).status == 200 and site.at_edge(site.redirected(other)).status == 200
    path, _, query = urlsplit(url)._replace(scheme="", netloc="").geturl().partition("?")
    now, keys = int(time.time()), {name: text.encode() for name, text in SECRETS.items()}

    def signed(expires: int, keys: dict[str, bytes]) -> str:
        nginx = SecureLinkForm(keys, bound=False)
        form = nginx if site.edge.name == "nginx" else HmacForm(keys)
        return with_query(path, form.sign(Grant(path, expires)))

    assert site.at_edge(signed(now + 60, {"k1": keys["k1"]})).status == 200, "an older key"
    wrong = {
        "tampered": url[:-3] + ("AAA" if not url.endswith("AAA") else "BBB"),
        "for another blob": f"{path.replace(digest, other)}?{query}",
        "for another repository": f"{path.replace(IMAGE, 'team/other')}?{query}",
        "without a signature": path,
        "of no key": signed(now + 60, {"nobody": b""}),
        "of a wrong key": signed(now + 60, {"k1": b"guessed"}),
        "later than signed": url.replace("expires=", "expires=9"),
        "expired": signed(now - 1, keys),
    }
    for what, address in wrong.items():
        answer = site.at_edge(address)
        assert answer.status in (403, 404), (what, answer.status)
        assert answer.body != site.at_edge(url).body
    soon = signed(int(time.time()) + 2, keys)
    assert site.at_edge(soon).status == 200
    time.sleep(3.2)  # nginx counts whole seconds
    assert site.at_edge(soon).status == 403, "what was allowed is no longer, though it is cached"


def test_what_was_deleted_is_listed_for_the_purge(site: Site) -> None:
    home = site.work / "home"
    home.mkdir()
    auth = site.admin["Authorization"].partition(" ")[2]
    (home / "config.json").write_text(json.dumps({"auths": {site.address: {"auth": auth}}}))
    environ = {**os.environ, "DOCKER_CONFIG": str(home)}
    node = Target(f"http://{site.address}", IMAGE)
    raw = node.call("GET", "manifests/v1", headers=site.admin)
    digest = raw["Docker-Content-Digest"]
    assert node.call("DELETE", f"manifests/{digest}", headers=site.admin).status == 202
    command = ("shipline", "registry", "purge-list", "--node", site.address)
    done = run(*command, "--insecure", site.address, "--since", "10m", environ=environ)
    assert done.returncode == 0, done.stderr
    base = f"{site.edge.url}/v2/{IMAGE}/manifests"
    assert sorted(done.stdout.splitlines()) == sorted((f"{base}/{digest}", f"{base}/v1"))
    assert done.stdout.endswith("\n"), "a line for each"
