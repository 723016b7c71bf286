"""A node in front of other registries: what it fetches from them, and what its clients get."""

from __future__ import annotations

import concurrent.futures
import os
from pathlib import Path

import pytest

from commands import run
from nodes import node as own_node
from peers import Registry
from served import served
from shipline.supply import generate_key, write_key_pair
from spec_client import Target, sha256, to_json
from upstream_nodes import begin, in_front_of, metric, push_image, upstreams

pytestmark = pytest.mark.peers
_BLOB = os.urandom(3 << 20)


@pytest.mark.parametrize("clients", [8, 200])
def test_a_blob_is_fetched_once_for_all_clients(
    tmp_path: Path, registry: Registry, clients: int
) -> None:
    name, path = f"once/{clients}", f"blobs/{sha256(_BLOB)}"
    manifest = push_image(Target(registry.url, name), _BLOB, "v1")
    with in_front_of(tmp_path, registry.port) as (node, proxy):
        edge = Target(node.url, name)

        def pull(_: int) -> bool:
            return (
                edge.call("GET", "manifests/v1").body == manifest
                and edge.call("GET", path).body == _BLOB
            )

        with concurrent.futures.ThreadPoolExecutor(clients) as pool:
            assert all(pool.map(pull, range(clients)))
        assert len(proxy.seen("GET", "/blobs/")) == 1
        assert len(proxy.seen("GET", "/manifests/")) == 1
        results = ("miss", "hit", "coalesced")
        counted = [
            metric(node, f'cache_requests_total{{kind="blobs",result="{result}"}}')
            for result in results
        ]
        assert counted[0] >= 1 and sum(counted) == clients
        assert node.stop() == 0
    with served(tmp_path, upstreams(1)) as node:  # nothing listens there
        kept = Target(node.url, name)
        assert kept.call("GET", f"manifests/{sha256(manifest)}").body == manifest
        assert kept.call("GET", path).body == _BLOB


def test_a_node_can_be_in_front_of_a_node(tmp_path: Path) -> None:
    with own_node(tmp_path / "origin") as origin:
        manifest = push_image(Target(origin.url, "team/app"), _BLOB, "v1")
        (tmp_path / "edge").mkdir()
        port = int(origin.address.rpartition(":")[2])
        with in_front_of(tmp_path / "edge", port) as (node, _):
            edge = Target(node.url, "team/app")
            assert edge.call("GET", f"blobs/{sha256(_BLOB)}").body == _BLOB  # without its manifest
            assert edge.call("GET", "manifests/v1").body == manifest
            assert edge.call("HEAD", f"blobs/{sha256(_BLOB)}")["Content-Length"] == str(len(_BLOB))


def test_a_repository_of_the_same_upstream_is_not_downloaded_again(
    tmp_path: Path, registry: Registry
) -> None:
    content = os.urandom(200_000)
    for name in ("again/one", "again/two"):
        push_image(Target(registry.url, name), content, "v1")
    with in_front_of(tmp_path, registry.port) as (node, proxy):
        for name in ("again/one", "again/two"):
            edge = Target(node.url, name)
            assert edge.call("GET", f"blobs/{sha256(content)}").body == content
        assert len(proxy.seen("GET", "/blobs/")) == 1
        other = Target(node.url, "again/three")  # has no such blob
        assert other.call("GET", f"blobs/{sha256(content)}").status == 404
        with begin(node, "/v2/_catalog") as listed:
            assert b"again/three" not in listed.read()


def test_lists_of_tags_and_referrers_are_those_of_the_upstream(tmp_path: Path) -> None:
    with own_node(tmp_path / "origin") as origin:
        at_origin = Target(origin.url, "team/app")
        image = at_origin.image("one")
        assert at_origin.push(image, "v1").status == 201
        signature = at_origin.artifact("signature", image)
        assert at_origin.push(signature).status == 201
        (tmp_path / "edge").mkdir()
        port = int(origin.address.rpartition(":")[2])
        with in_front_of(tmp_path / "edge", port, fresh="1h") as (node, proxy):
            edge = Target(node.url, "team/app")
            for tag in ("v2", "v3"):
                assert at_origin.push(image, tag).status == 201
            assert edge.call("GET", "tags/list?n=2").json["tags"] == ["v1", "v2"]
            assert edge.call("GET", "tags/list?n=2&last=v2").json["tags"] == ["v3"]
            subject = sha256(to_json(image))
            (entry,) = edge.call("GET", f"referrers/{subject}").json["manifests"]
            assert entry["digest"] == sha256(to_json(signature))
            assert edge.call("GET", f"referrers/{subject}?artifactType=x").json["manifests"] == []
            assert len(proxy.seen("GET", "/tags/list")) == 1
            assert len(proxy.seen("GET", "/referrers/")) == 1


def test_the_admission_policy_applies_to_what_is_cached(tmp_path: Path) -> None:
    for name in ("origin", "edge", "work"):
        (tmp_path / name).mkdir()
    write_key_pair(generate_key("release"), tmp_path / "edge" / "release", b"x")
    policy = """
policy:
  signatures:
    keys: {release: release.pub}
    rules: [{images: ["team/*"]}]
    default: accept
access: {mode: accounts, public-projects: [team, other]}
"""
    with served(tmp_path / "origin") as origin:
        for name in ("team/signed", "team/unsigned", "other/unsigned"):
            push_image(Target(origin.url, name), b"layer of %s" % name.encode(), "v1")
        environ = {**os.environ, "SHIPLINE_KEY_PASSWORD": "x"}
        key = tmp_path / "edge" / "release.key"
        words = ("shipline", "sign", "--key", key, f"{origin.address}/team/signed:v1")
        signed = run(*words, environ=environ)
        assert signed.returncode == 0, signed.stderr
        port = int(origin.address.rpartition(":")[2])
        with served(tmp_path / "edge", upstreams(port) + policy) as node:

            def status(name: str) -> int:
                return Target(node.url, name).call("GET", "manifests/v1").status

            assert status("team/signed") == 200
            assert status("team/unsigned") == 401  # an account might be exempt
            assert status("other/unsigned") == 200
            origin.kill()
            assert status("team/signed") == 200
            assert status("team/unsigned") == 401
            assert status("team/never") in (502, 503)
