"""An upstream that breaks, stalls, lies or refuses; a node that is killed, or has no space left."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from crowds import connect, latencies, percentile
from nodes import Node
from peers import Registry
from proxy import Answer, CutResponse, FlipBit, Stall
from spec_client import Target, sha256
from upstream_nodes import begin, in_front_of, metric, push_image, read_all

pytestmark = pytest.mark.peers
_SIZE = 3 << 20  # bytes
_HELD_BACK = 64 << 10


@pytest.fixture
def layer() -> bytes:
    return os.urandom(_SIZE)


def left_behind(node: Node) -> list[str]:
    return [file.name for file in (node.data / "uploads").iterdir()]


def checked(data: Path) -> subprocess.CompletedProcess[str]:
    words = ["-m", "shipline", "registry", "check", str(data)]
    return subprocess.run([sys.executable, *words], capture_output=True, text=True)


def resources(node: Node) -> tuple[int, int]:
    """The threads of the node, and its memory in bytes."""
    text = Path(f"/proc/{node.process.pid}/status").read_text()
    found = dict(line.split(":", 1) for line in text.splitlines())
    return int(found["Threads"]), int(found["VmRSS"].split()[0]) << 10


@contextmanager
def full_disk(tmp_path: Path, room: int) -> Iterator[Path]:
    """A disk with `room` bytes."""
    mount = ["mount", "-t", "tmpfs", "-o", f"size={room}", "tmpfs", str(tmp_path)]
    if subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("tmpfs cannot be mounted here")
    try:
        yield tmp_path
    finally:
        subprocess.run(["umount", "-l", str(tmp_path)], check=True)


def test_a_wrong_blob_cannot_be_completed(tmp_path: Path, registry: Registry, layer: bytes) -> None:
    push_image(Target(registry.url, "wrong/blob"), layer, "v1")
    path = f"/v2/wrong/blob/blobs/{sha256(layer)}"
    with in_front_of(tmp_path, registry.port) as (node, proxy):
        proxy.break_next(FlipBit(_SIZE // 2), method="GET", target="/blobs/", times=100)
        got = begin(node, path)
        if got.status != 502:  # the blob was still coming
            part = got.read(_SIZE - _HELD_BACK - 1)
            assert got.status == 200 and part[:1000] == layer[:1000]
            assert read_all(got) is None
        last = begin(node, path, Range=f"bytes={_SIZE - 10}-")
        assert last.status == 502 and b"something else" in last.read()
        assert len(proxy.seen("GET", "/blobs/")) == 1  # it is not tried again at once
        assert left_behind(node) == []
        assert not list((node.data / "blobs").rglob(sha256(layer).partition(":")[2]))
        assert metric(node, 'upstream_verify_failures_total{upstream="*"}') == 1


def test_nobody_keeps_what_is_not_verified(
    tmp_path: Path, registry: Registry, layer: bytes
) -> None:
    push_image(Target(registry.url, "wrong/range"), layer, "v1")
    path = f"/v2/wrong/range/blobs/{sha256(layer)}"
    with in_front_of(tmp_path, registry.port) as (node, proxy):
        proxy.break_next(Stall(_SIZE - 1000), method="GET", target="/blobs/")
        etag = f'"{sha256(layer)}"'
        first, middle = (begin(node, path, **one) for one in ({}, {"Range": "bytes=1000-1999"}))
        conditional = begin(node, path, Range="bytes=1000-1999", **{"If-Range": etag})
        statuses = [answer.status for answer in (first, middle, conditional)]
        assert statuses == [200, 206, 200] and middle.read() == layer[1000:2000]
        for answer in (first, middle, conditional):
            assert answer.headers["Cache-Control"] == "no-store" and not answer.headers["ETag"]
            answer.close()
    with in_front_of(tmp_path, registry.port) as (node, _):
        assert read_all(begin(node, path)) == layer
        kept = begin(node, path, Range="bytes=1000-1999", **{"If-Range": etag})
        assert (kept.status, kept.headers["ETag"]) == (206, etag)
        assert "immutable" in kept.headers["Cache-Control"]


def test_a_small_wrong_blob_is_an_error(tmp_path: Path, registry: Registry) -> None:
    content = os.urandom(1000)
    push_image(Target(registry.url, "wrong/small"), content, "v1")
    with in_front_of(tmp_path, registry.port) as (node, proxy):
        proxy.break_next(FlipBit(5), method="GET", target="/blobs/", times=100)
        answer = Target(node.url, "wrong/small").call("GET", f"blobs/{sha256(content)}")
        assert answer.status == 502 and answer["Retry-After"]


def test_a_broken_transfer_is_resumed(tmp_path: Path, registry: Registry, layer: bytes) -> None:
    push_image(Target(registry.url, "broken/transfer"), layer, "v1")
    with in_front_of(tmp_path, registry.port) as (node, proxy):
        proxy.break_next(CutResponse(700_000), method="GET", target="/blobs/", times=3)
        edge = Target(node.url, "broken/transfer")
        assert edge.call("GET", f"blobs/{sha256(layer)}").body == layer
        ranges = [one.headers.get("range") for one in proxy.seen("GET", "/blobs/")]
        assert ranges == [None, "bytes=700000-", "bytes=1400000-", "bytes=2100000-"]
        same = [one.headers.get("if-range") for one in proxy.seen("GET", "/blobs/")]
        assert same == [None, *[f'"{sha256(layer)}"'] * 3]


def test_a_stalled_transfer_is_resumed(tmp_path: Path, registry: Registry, layer: bytes) -> None:
    push_image(Target(registry.url, "stalled/transfer"), layer, "v1")
    with in_front_of(tmp_path, registry.port, timeout="1s") as (node, proxy):
        proxy.break_next(Stall(700_000), method="GET", target="/blobs/")
        edge = Target(node.url, "stalled/transfer")
        assert edge.call("GET", f"blobs/{sha256(layer)}").body == layer
        assert len(proxy.seen("GET", "/blobs/")) == 2


def test_ranges_are_served_while_the_blob_arrives(
    tmp_path: Path, registry: Registry, layer: bytes
) -> None:
    push_image(Target(registry.url, "range/early"), layer, "v1")
    path = f"/v2/range/early/blobs/{sha256(layer)}"
    with in_front_of(tmp_path, registry.port) as (node, proxy):
        proxy.break_next(Stall(2 << 20), method="GET", target="/blobs/")
        early = begin(node, path, Range="bytes=100-199")
        assert early.status == 206 and early.read() == layer[100:200]
        assert early.getheader("Content-Range") == f"bytes 100-199/{_SIZE}"
        whole = begin(node, path)
        assert whole.read(1 << 20) == layer[: 1 << 20]
        assert len(proxy.seen("GET", "/blobs/")) == 1


def test_the_transfer_goes_on_when_the_client_that_began_it_leaves(
    tmp_path: Path, registry: Registry, layer: bytes
) -> None:
    push_image(Target(registry.url, "leaves/first"), layer, "v1")
    path = f"/v2/leaves/first/blobs/{sha256(layer)}"
    with in_front_of(tmp_path, registry.port) as (node, proxy):
        first = begin(node, path)
        first.read(1000)
        first.close()
        second = begin(node, path)
        assert read_all(second) == layer
        assert len(proxy.seen("GET", "/blobs/")) == 1


def test_a_thousand_clients_that_wait_cost_no_threads(
    tmp_path: Path, registry: Registry, layer: bytes
) -> None:
    push_image(Target(registry.url, "many/clients"), layer, "v1")
    path = f"/v2/many/clients/blobs/{sha256(layer)}"
    with in_front_of(tmp_path, registry.port, timeout="10s") as (node, proxy):
        proxy.break_next(Stall(1 << 20), method="GET", target="/blobs/")
        clients = [connect(node.address, number) for number in range(1000)]
        before = resources(node)
        for client in clients:
            client.sendall(f"GET {path} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
        for client in clients:
            assert client.recv(12) == b"HTTP/1.1 200"
        assert percentile(latencies(node.address, "/v2/", 1.0), 0.9) < 0.5
        threads, memory = resources(node)
        assert threads - before[0] <= 20  # sixteen of them serve all disk reads of the node
        assert memory - before[1] < 100 << 20
        for client in clients:
            client.close()
        assert Target(node.url, "many/clients").call("GET", path).body == layer
        assert len(proxy.seen("GET", "/blobs/")) == 2  # the second for the rest


def test_a_tag_is_served_while_the_upstream_is_away(
    tmp_path: Path, registry: Registry, layer: bytes
) -> None:
    manifest = push_image(Target(registry.url, "away/tag"), layer, "v1")
    with in_front_of(tmp_path, registry.port, fresh="1ms") as (node, proxy):
        edge = Target(node.url, "away/tag")
        assert edge.call("GET", "manifests/v1").body == manifest
        proxy.break_next(Answer(503), times=100)
        stale = edge.call("GET", "manifests/v1")
        assert stale.status == 200 and stale.body == manifest
        assert (stale["Warning"] or "").startswith('299 - "stale: ') and stale["Age"] is not None
        assert metric(node, 'cache_requests_total{kind="manifests",result="stale"}') == 1
        assert edge.call("GET", "manifests/v2").status == 502  # nothing to serve instead
        proxy.forget()
        fresh = edge.call("GET", "manifests/v1")
        assert fresh.status == 200 and fresh["Warning"] is None


def test_a_limit_of_the_upstream_is_kept(tmp_path: Path, registry: Registry, layer: bytes) -> None:
    manifest = push_image(Target(registry.url, "limited/tag"), layer, "v1")
    with in_front_of(tmp_path, registry.port, fresh="1ms") as (node, proxy):
        edge = Target(node.url, "limited/tag")
        assert edge.call("GET", "manifests/v1").body == manifest
        proxy.break_next(Answer(429, (("Retry-After", "30"),)), times=100)
        limited = edge.call("GET", "manifests/other")
        assert limited.status == 429 and limited.codes == ["TOOMANYREQUESTS"]
        asked = len(proxy.requests)
        for tag in ("other", "third"):
            refused = edge.call("GET", f"manifests/{tag}")
            assert refused.status == 503 and 1 <= int(refused["Retry-After"] or 0) <= 30
        assert edge.call("GET", "manifests/v1").body == manifest
        assert len(proxy.requests) == asked
        assert metric(node, 'upstream_retry_seconds{upstream="*"}') > 0


def test_an_upstream_that_fails_is_left_alone(tmp_path: Path, registry: Registry) -> None:
    with in_front_of(tmp_path, registry.port) as (node, proxy):
        proxy.break_next(Answer(500), times=100)
        edge = Target(node.url, "left/alone")
        found = [edge.call("GET", f"manifests/v{number}").status for number in range(12)]
        assert found == [502] * 5 + [503] * 7
        assert len(proxy.requests) == 5


def test_only_absence_is_remembered(tmp_path: Path, registry: Registry, layer: bytes) -> None:
    at_origin = Target(registry.url, "absent/tag")
    with in_front_of(tmp_path, registry.port, negative="1s") as (node, proxy):
        edge = Target(node.url, "absent/tag")
        proxy.break_next(Answer(403))
        refused = edge.call("GET", "manifests/v1")
        assert refused.status == 403 and refused.codes == ["DENIED"]
        assert edge.call("GET", "manifests/v1").codes == ["MANIFEST_UNKNOWN"]
        manifest = push_image(at_origin, layer, "v1")
        assert edge.call("GET", "manifests/v1").status == 404
        assert len(proxy.seen("GET", "/manifests/v1")) == 2
        time.sleep(1.1)
        assert edge.call("GET", "manifests/v1").body == manifest


def test_a_tag_follows_the_upstream(tmp_path: Path, registry: Registry) -> None:
    at_origin = Target(registry.url, "moves/tag")
    first = push_image(at_origin, b"first", "v1")
    with in_front_of(tmp_path, registry.port, fresh="1ms", negative="1ms") as (node, proxy):
        edge = Target(node.url, "moves/tag")
        assert [edge.call("GET", "manifests/v1").body for _ in range(3)] == [first] * 3
        assert len(proxy.seen("GET", "/manifests/")) == 1  # then HEAD
        second = push_image(at_origin, b"second", "v1")
        assert edge.call("GET", "manifests/v1").body == second
        assert at_origin.call("DELETE", f"manifests/{sha256(second)}").status == 202
        assert edge.call("GET", "manifests/v1").status == 404
        assert edge.call("GET", f"manifests/{sha256(second)}").body == second  # by digest it stays


def test_a_stale_tag_is_served_at_once_and_checked_meanwhile(
    tmp_path: Path, registry: Registry
) -> None:
    at_origin = Target(registry.url, "meanwhile/tag")
    first = push_image(at_origin, b"first", "v1")
    more = {"fresh": "1ms", "stale_while_revalidate": "1h"}
    with in_front_of(tmp_path, registry.port, **more) as (node, _):
        edge = Target(node.url, "meanwhile/tag")
        assert edge.call("GET", "manifests/v1").body == first
        second = push_image(at_origin, b"second", "v1")
        assert edge.call("GET", "manifests/v1").body == first
        deadline = time.monotonic() + 20
        while edge.call("GET", "manifests/v1").body != second:
            assert time.monotonic() < deadline
            time.sleep(0.02)


def test_a_node_that_is_killed_has_nothing_wrong(
    tmp_path: Path, registry: Registry, layer: bytes
) -> None:
    manifest = push_image(Target(registry.url, "killed/node"), layer, "v1")
    path = f"/v2/killed/node/blobs/{sha256(layer)}"
    with in_front_of(tmp_path, registry.port) as (node, proxy):
        proxy.break_next(Stall(2 << 20), method="GET", target="/blobs/")
        assert Target(node.url, "killed/node").call("GET", "manifests/v1").body == manifest
        got = begin(node, path)
        got.read(1 << 20)
        node.kill()
        assert read_all(got) is None
    check = checked(tmp_path / "data")
    assert check.returncode == 0, check.stdout + check.stderr
    with in_front_of(tmp_path, registry.port) as (node, _):
        assert left_behind(node) == []
        assert Target(node.url, "killed/node").call("GET", path).body == layer


def test_a_node_that_is_stopped_does_not_wait_for_an_upstream(
    tmp_path: Path, registry: Registry, layer: bytes
) -> None:
    push_image(Target(registry.url, "stopped/node"), layer, "v1")
    with in_front_of(tmp_path, registry.port) as (node, proxy):
        proxy.break_next(Stall(1 << 20), method="GET", target="/blobs/")
        got = begin(node, f"/v2/stopped/node/blobs/{sha256(layer)}")
        got.read(1000)
        got.close()
        began = time.monotonic()
        assert node.stop() == 0
        assert time.monotonic() - began < 15


@pytest.mark.root
@pytest.mark.parametrize(
    ("limits", "status"), [("blob-size: 1MiB", 502), ("disk-floor: 900000GiB", 507)]
)
def test_a_blob_that_is_too_large_is_not_fetched(
    tmp_path: Path, registry: Registry, layer: bytes, limits: str, status: int
) -> None:
    push_image(Target(registry.url, "too/large"), layer, "v1")
    with in_front_of(tmp_path, registry.port, f"limits: {{{limits}}}\n") as (node, proxy):
        answer = Target(node.url, "too/large").call("GET", f"blobs/{sha256(layer)}")
        assert answer.status == status and proxy.seen("GET", "/blobs/") == []
        assert left_behind(node) == []


def test_a_full_disk_is_said_and_leaves_nothing(
    tmp_path: Path, registry: Registry, layer: bytes
) -> None:
    push_image(Target(registry.url, "full/disk"), layer, "v1")
    small = push_image(Target(registry.url, "full/small"), b"small", "v1")
    room = "limits: {disk-floor: 0}\n"
    with full_disk(tmp_path, _SIZE) as root, in_front_of(root, registry.port, room) as (node, _):
        got = begin(node, f"/v2/full/disk/blobs/{sha256(layer)}")
        assert got.status == 507 or read_all(got) is None
        assert left_behind(node) == []
        edge = Target(node.url, "full/small")
        assert edge.call("GET", "manifests/v1").body == small
        assert edge.call("GET", f"blobs/{sha256(b'small')}").body == b"small"
