"""Registries that refuse or lie: the build says so, and no tag moves."""

from __future__ import annotations

import base64
import http.client
import json
import re
import socket
import ssl
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from builds import Shipline, context, document, get, leftovers, tags
from peers import Account, Registry, docker_registry
from peers.registry import certificate
from proxy import Answer, CutRequest, FaultProxy, FlipBit, LoseResponse
from shipline.oci import Digest

pytestmark = [pytest.mark.peers, pytest.mark.root]

OWN = "FROM scratch\nCOPY file.txt /\n"
UPLOADS, MANIFESTS = "/blobs/uploads/", "/manifests/"


@pytest.fixture
def proxy(base_images: Registry) -> Iterator[FaultProxy]:
    with FaultProxy(base_images.port) as running:
        yield running


@pytest.fixture
def place(tmp_path: Path) -> Path:
    return context(tmp_path / "context", OWN, file__txt="content\n")


def refused(status: int, shipline: Shipline, address: str, registry: Registry, place: Path) -> str:
    """The message of a push to `address` that must fail and move no tag of `registry`."""
    name = f"refused/{place.parent.name}"
    said = shipline.build("--push", "-t", f"{address}/{name}:1", place).failed(status)
    assert tags(registry, name) == []
    assert leftovers(shipline.home) == []
    return said


@pytest.mark.parametrize(
    ("status", "exit_code", "said"),
    [
        (401, 7, "login"),
        (403, 7, "403"),
        (404, 6, "404"),
        (429, 6, "429"),
        (500, 6, "500"),
        (507, 6, "507"),
    ],
)
@pytest.mark.parametrize("target", [UPLOADS, MANIFESTS])
def test_refusal_is_told_with_host_and_status(
    status: int,
    exit_code: int,
    said: str,
    target: str,
    proxy: FaultProxy,
    base_images: Registry,
    place: Path,
    tmp_path: Path,
) -> None:
    headers = (("Retry-After", "0"),) if status in (429, 500) else ()
    body = json.dumps({"errors": [{"code": "DENIED", "message": "told so"}]}).encode()
    method = "POST" if target == UPLOADS else "PUT"
    proxy.break_next(Answer(status, headers, body), method=method, target=target, times=50)
    address = f"127.0.0.1:{proxy.port}"
    message = refused(exit_code, Shipline(tmp_path / "home"), address, base_images, place)
    assert address in message
    assert said in message
    assert status == 401 or "told so" in message


def test_patience_that_a_registry_asks_for_is_had(
    proxy: FaultProxy, base_images: Registry, place: Path, tmp_path: Path
) -> None:
    proxy.break_next(Answer(429, (("Retry-After", "1"),)), method="POST", times=1)
    proxy.break_next(Answer(503), method="PUT", target=MANIFESTS, times=1)
    start = time.monotonic()
    name = f"127.0.0.1:{proxy.port}/patience/a:1"
    Shipline(tmp_path / "home").build("--push", "-t", name, place).ok()
    assert time.monotonic() - start >= 1
    assert tags(base_images, "patience/a") == ["1"]


def test_broken_connections_are_made_again(
    proxy: FaultProxy, base_images: Registry, tmp_path: Path
) -> None:
    place = context(tmp_path / "context", "FROM scratch\nCOPY big /\n")
    (place / "big").write_bytes(bytes(range(256)) * (40 << 10))
    proxy.break_next(CutRequest(after=1000), method="PATCH")
    proxy.break_next(CutRequest(after=1000), method="PUT", target=UPLOADS)
    proxy.break_next(LoseResponse(), method="PUT", target=MANIFESTS)
    name = f"127.0.0.1:{proxy.port}/again/a:1"
    Shipline(tmp_path / "home").build("--push", "-t", name, place).ok()
    layer = document(base_images, "again/a", "1")["layers"][0]
    assert get(base_images, f"/v2/again/a/blobs/{layer['digest']}")[0] == 200


def test_wrong_bytes_of_a_registry_are_never_used(
    proxy: FaultProxy, base_images: Registry, tmp_path: Path
) -> None:
    """A layer, a manifest, a configuration with one bit changed on the way."""
    mirror = f"127.0.0.1:{proxy.port}"
    place = context(tmp_path / "context", "FROM busybox\nRUN true > /made\n")
    manifest = document(base_images, "library/busybox", "latest")
    for number, target in enumerate(
        (r"/blobs/sha256", rf"/manifests/{manifest['manifests'][0]['digest']}")
    ):
        home = tmp_path / f"home{number}"
        proxy.break_next(FlipBit(at=300), method="GET", target=target, times=50)
        words = ("--build-context", f"busybox=docker-image://{mirror}/library/busybox")
        done = Shipline(home).build(*words, "--push", "-t", f"{mirror}/wrong/a:1", place)
        said = done.failed(8)
        assert "expected sha256:" in said
        assert mirror in said
        assert tags(base_images, "wrong/a") == []
        assert leftovers(home) == []
        proxy.forget()
    Shipline(tmp_path / "home0", mirror).build("--push", "-t", f"{mirror}/wrong/a:1", place).ok()


def test_base_whose_layer_has_another_diff_id(base_images: Registry, tmp_path: Path) -> None:
    """A configuration that promises other files than the layers hold."""
    shipline = Shipline(tmp_path / "home", base_images.address)
    address = base_images.address
    good = context(tmp_path / "good", OWN, file__txt="content\n")
    shipline.build("--push", "-t", f"{address}/diff/id:good", good).ok()
    manifest = document(base_images, "diff/id", "good")
    _, raw = get(base_images, f"/v2/diff/id/blobs/{manifest['config']['digest']}")
    lie = re.sub(rb'"diff_ids":\["sha256:..', b'"diff_ids":["sha256:00', raw.replace(b": ", b":"))

    def send(method: str, path: str, body: bytes, kind: str) -> http.client.HTTPResponse:
        connection = http.client.HTTPConnection(address)
        connection.request(method, path, body, {"Content-Type": kind})
        return connection.getresponse()

    opened = send("POST", "/v2/diff/id/blobs/uploads/", b"", "text/plain")
    location = (opened.getheader("Location") or "").partition(address)[2]
    stored = send("PUT", f"{location}&digest={Digest.of(lie)}", lie, "application/octet-stream")
    assert stored.status == 201
    manifest["config"].update(digest=str(Digest.of(lie)), size=len(lie))
    put = send(
        "PUT", "/v2/diff/id/manifests/bad", json.dumps(manifest).encode(), manifest["mediaType"]
    )
    assert put.status == 201
    place = context(
        tmp_path / "context",
        f"FROM {address}/diff/id:bad\nCOPY --from=busybox /bin /bin\nRUN true\n",
    )
    fresh = Shipline(tmp_path / "fresh", base_images.address)
    said = fresh.build("--push", "-t", f"{address}/diff/new:1", place).failed(8)
    assert "expected sha256:00" in said
    assert tags(base_images, "diff/new") == []
    assert leftovers(fresh.home) == []


def test_accounts_are_asked_for_and_used(tmp_path: Path, place: Path) -> None:
    account = Account("alice", "correct horse")
    with docker_registry(tmp_path, account=account, name="private") as private:
        shipline = Shipline(tmp_path / "home")
        words = ("--push", "-t", f"{private.address}/team/a:1", place)
        said = shipline.build(*words).failed(7)
        assert private.address in said
        assert "hint" in said
        config = tmp_path / "config"
        config.mkdir()
        for secret, status in (("d3Jvbmc=", 7), ("Y29ycmVjdCBob3JzZQ==", 0)):
            pair = base64.b64encode(b"alice:" + base64.b64decode(secret)).decode()
            auths = {"auths": {private.address: {"auth": pair}}}
            (config / "config.json").write_text(json.dumps(auths))
            done = shipline.build(*words, DOCKER_CONFIG=str(config))
            assert done.status == status, done.err
            assert "correct horse" not in done.err
            assert pair not in done.err
        assert leftovers(shipline.home) == []


def test_other_machines_are_only_spoken_to_with_tls_that_is_trusted(
    place: Path, tmp_path: Path
) -> None:
    shipline = Shipline(tmp_path / "home")
    for context_of_server, said in ((None, "TLS"), (untrusted(tmp_path), "certificate")):
        with listening(context_of_server) as (address, first):
            message = shipline.build("--push", "-t", f"{address}/team/a:1", place).failed(6)
        assert address in message
        assert said in message
        assert "hint" in message
        assert set(first) - {b""} == {b"\x16"}  # the handshake of TLS (RFC 8446, section 5.1)
        assert leftovers(shipline.home) == []


def untrusted(work: Path) -> ssl.SSLContext:
    found = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    found.load_cert_chain(*certificate(work, "nobody"))
    return found


@contextmanager
def listening(context: ssl.SSLContext | None) -> Iterator[tuple[str, list[bytes]]]:
    """A server on an address that is not loopback, and the first byte of each client."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.connect(("192.0.2.1", 9))  # of documentation (RFC 5737); UDP sends nothing by this
        own = probe.getsockname()[0]
    listener = socket.create_server((own, 0))
    first: list[bytes] = []

    def serve() -> None:
        while True:
            try:
                client, _ = listener.accept()
            except OSError:
                return
            with client, suppress(OSError):
                first.append(client.recv(1, socket.MSG_PEEK))
                if context is None:
                    client.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")
                else:
                    context.wrap_socket(client, server_side=True).close()

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        yield f"{own}:{listener.getsockname()[1]}", first
    finally:
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        thread.join(10)
