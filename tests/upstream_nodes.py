"""A node in front of a registry, with a proxy between them that counts and breaks."""

from __future__ import annotations

import http.client
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from nodes import Node
from proxy import FaultProxy
from served import served
from spec_client import CONFIG, LAYER, MANIFEST, Target, descriptor, to_json


def upstreams(port: int, **more: str) -> str:
    """The section of a node whose only upstream listens on `port`."""
    lines = "".join(f"\n    {key.replace('_', '-')}: {value}" for key, value in more.items())
    return f"upstreams:\n  - url: http://127.0.0.1:{port}{lines}\n"


@contextmanager
def in_front_of(
    root: Path, port: int, section: str = "", **more: str
) -> Iterator[tuple[Node, FaultProxy]]:
    """The node, its data below `root`, and the proxy before the registry at `port`; `section` is
    what else stands below `registry:`.
    """
    with FaultProxy(port) as proxy, served(root, upstreams(proxy.port, **more) + section) as node:
        yield node, proxy


def push_image(target: Target, layer: bytes, tag: str) -> bytes:
    """An image with one layer; its manifest."""
    config = b'{"architecture":"amd64","os":"linux","rootfs":{"type":"layers","diff_ids":[]}}'
    document = {
        "schemaVersion": 2,
        "mediaType": MANIFEST,
        "config": descriptor(config, CONFIG),
        "layers": [descriptor(layer, LAYER)],
    }
    target.push_blob(config)
    target.push_blob(layer)
    assert target.push(document, tag).status == 201
    return to_json(document)


def begin(node: Node, path: str, **headers: str) -> http.client.HTTPResponse:
    """The response to a GET, its body unread."""
    host, _, port = node.address.rpartition(":")
    connection = http.client.HTTPConnection(host, int(port), timeout=30)
    connection.request("GET", path, headers=headers)
    return connection.getresponse()


def read_all(response: http.client.HTTPResponse) -> bytes | None:
    """The body, None if the connection broke before its end."""
    try:
        return response.read()
    except (http.client.IncompleteRead, OSError):
        return None
    finally:
        response.close()


def metric(node: Node, line: str) -> float:
    """The value of a series, as `cache_requests_total{kind="blobs",result="hit"}`; 0 without it."""
    with begin(node, "/metrics") as response:
        text = response.read().decode()
    found = re.search(rf"^shipline_registry_{re.escape(line)} (\S+)$", text, re.MULTILINE)
    return float(found[1]) if found else 0.0
