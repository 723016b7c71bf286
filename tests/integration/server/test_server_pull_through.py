"""A node in front of other registries: what it fetches from them, and what its clients get."""

from __future__ import annotations

import concurrent.futures
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from nodes import Node
from peers import Registry
from proxy import FaultProxy
from served import served
from spec_client import MANIFEST, Target, descriptor, sha256, to_json

pytestmark = pytest.mark.peers
_BLOB = os.urandom(3 << 20)


def upstreams(port: int, **more: str) -> str:
    """The section of a node whose only upstream listens on `port`."""
    lines = "".join(f"\n    {key.replace('_', '-')}: {value}" for key, value in more.items())
    return f"upstreams:\n  - url: http://127.0.0.1:{port}{lines}\n"


@contextmanager
def in_front_of(root: Path, registry: Registry, **more: str) -> Iterator[tuple[Node, FaultProxy]]:
    with FaultProxy(registry.port) as proxy, served(root, upstreams(proxy.port, **more)) as node:
        yield node, proxy


def push_image(target: Target, layer: bytes, tag: str) -> bytes:
    """An image with one layer; its manifest."""
    config = b'{"architecture":"amd64","os":"linux","rootfs":{"type":"layers","diff_ids":[]}}'
    document = {
        "schemaVersion": 2,
        "mediaType": MANIFEST,
        "config": descriptor(config, "application/vnd.oci.image.config.v1+json"),
        "layers": [descriptor(layer, "application/vnd.oci.image.layer.v1.tar")],
    }
    target.push_blob(config)
    target.push_blob(layer)
    assert target.push(document, tag).status == 201
    return to_json(document)


@pytest.mark.parametrize("clients", [8, 200])
def test_a_blob_is_fetched_once_for_all_clients(
    tmp_path: Path, registry: Registry, clients: int
) -> None:
    name = f"once/{clients}"
    manifest = push_image(Target(registry.url, name), _BLOB, "v1")
    with in_front_of(tmp_path, registry) as (node, proxy):
        edge = Target(node.url, name)
        with concurrent.futures.ThreadPoolExecutor(clients) as pool:
            pulled = list(pool.map(lambda _: edge.call("GET", "manifests/v1").body, range(clients)))
            assert set(pulled) == {manifest}
            path = f"blobs/{sha256(_BLOB)}"
            got = list(pool.map(lambda _: edge.call("GET", path).body == _BLOB, range(clients)))
        assert all(got)
        assert len(proxy.seen("GET", "/blobs/")) == 1
        assert len(proxy.seen("GET", "/manifests/")) == 1
        assert node.stop() == 0
    with served(tmp_path, upstreams(1)) as node:
        again = Target(node.url, name)
        assert again.call("GET", f"manifests/{sha256(manifest)}").body == manifest
        assert again.call("GET", path).body == _BLOB
