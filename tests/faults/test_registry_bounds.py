"""Registries that send other content than was asked for, or content without end.

The numbers are those of the known attacks that each test stands for.
"""

from __future__ import annotations

import json
import socketserver
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from itertools import cycle

import pytest
from parties import client_for, name

from serving import ReceivedRequest, Reply, serving
from shipline.content import MemoryStore
from shipline.errors import AuthError, ContentError, DigestMismatch, RegistryError, ShiplineError
from shipline.oci import Descriptor, Digest, InvalidDigest, Reference, media
from shipline.registry import Client, HostSettings

BLOB = b"some content"
LAYER = Descriptor.of(BLOB, media.OCI_LAYER)
MANIFEST = b'{"schemaVersion":2,"mediaType":"%s","manifests":[]}' % media.OCI_INDEX.encode()


# 8, 9: digests


def test_8_other_content_than_the_digest_is_refused_whatever_headers_say() -> None:
    wanted = Digest.of(b"what was signed")
    headers = {"Docker-Content-Digest": str(wanted), "Content-Type": media.OCI_INDEX}
    target = Descriptor(media.OCI_INDEX, wanted, len(MANIFEST))
    with serving(lambda request: (200, headers, MANIFEST)) as served, client_for(served) as client:
        repository = client.repository(name(served))
        for _ in range(2):  # and it is not kept
            with pytest.raises(DigestMismatch):
                repository.resolve(str(wanted))
            with pytest.raises(DigestMismatch), repository.fetch(target):
                pass
        assert repository.resolve("v1").digest == Digest.of(MANIFEST)


@pytest.mark.parametrize(
    "text", ["sha256:../../etc/passwd", "sha256:abc", f"sha256:{'A' * 64}", "md5:" + "0" * 32, ":"]
)
def test_9_a_bad_digest_makes_no_request(text: str) -> None:
    with serving(lambda request: (200, {}, b"")) as served, client_for(served) as client:
        for use in (
            client.repository(name(served)).resolve,
            client.repository(name(served)).delete,
        ):
            with pytest.raises(InvalidDigest):
                use(text)
        assert served.requests == []


@pytest.mark.parametrize("text", ["../x", "a/b", "a?b", "", ".a", "a" * 129, "a\n"])
def test_10_a_bad_tag_makes_no_request(text: str) -> None:
    with serving(lambda request: (200, {}, b"")) as served, client_for(served) as client:
        with pytest.raises(ShiplineError):
            client.repository(name(served)).resolve(text)
        assert served.requests == []


# 12, 13: sizes


def _endless(request: ReceivedRequest) -> Reply:
    return 200, {"Content-Length": str(1 << 40), "Content-Type": media.OCI_INDEX}, bytes(8 << 20)


def test_12_a_manifest_without_end_is_not_read() -> None:
    with serving(_endless) as served, client_for(served) as client:
        with pytest.raises(RegistryError, match="larger than"):
            client.repository(name(served)).resolve("v1")
        with pytest.raises(RegistryError, match="larger than"):
            list(client.repository(name(served)).tags())


def test_12_a_blob_is_read_up_to_its_size_only() -> None:
    with (
        serving(_endless) as served,
        client_for(served) as client,
        pytest.raises(DigestMismatch),
        client.repository(name(served)).fetch(LAYER) as reader,
    ):
        reader.read()


@pytest.mark.parametrize(
    "ranges",
    [cycle(["0-50", "0-20"]), (f"0-{last}" for last in range(1, 5000))],
    ids=["up and down", "a byte"],
)
def test_an_upload_that_does_not_get_on_ends(ranges: Iterator[str]) -> None:
    """Replicas that hold different parts of it, and a registry that keeps a byte each time."""
    sent = 0

    def respond(request: ReceivedRequest) -> Reply:
        nonlocal sent
        request.all()
        session = {"Location": "/v2/team/app/blobs/uploads/1"}
        match request.method:
            case "POST":
                return 202, session, b""
            case "GET":
                return 204, {**session, "Range": next(ranges)}, b""
            case "PUT" | "PATCH":
                sent += 1
                return 503 if sent < 100 else 400, {"Retry-After": "0"}, b""
        return 404, {}, b""

    content = bytes(5000)
    layer = Descriptor.of(content, media.OCI_LAYER)
    with (
        serving(respond) as served,
        client_for(served) as client,
        pytest.raises(RegistryError, match="503"),
    ):
        client.repository(name(served)).push(layer, MemoryStore(content))
    assert 2 <= sent < 10


def test_13_a_token_without_end_is_not_read() -> None:
    def respond(request: ReceivedRequest) -> Reply:
        if request.path == "/token":
            return 200, {"Content-Length": str(1 << 40)}, b'{"token":"' + bytes(1 << 20)
        return 401, {"WWW-Authenticate": f'Bearer realm="{served.url}/token"'}, b""

    with (
        serving(respond) as served,
        client_for(served) as client,
        pytest.raises(RegistryError, match="larger than 65536 bytes"),
    ):
        client.repository(name(served)).resolve("v1")


def test_13_an_error_without_end_is_not_read() -> None:
    def respond(request: ReceivedRequest) -> Reply:
        return 400, {"Content-Length": str(1 << 40)}, bytes(1 << 20)

    with serving(respond) as served, client_for(served) as client:
        with pytest.raises(RegistryError) as raised:
            client.repository(name(served)).resolve("v1")
        assert raised.value.status == 400


@pytest.mark.parametrize("text", ["a\r\nX-Evil: 1", "tok en", ["list"], None, 5, ""])
def test_13_a_token_that_is_none_is_refused(text: object) -> None:
    def respond(request: ReceivedRequest) -> Reply:
        if request.path == "/token":
            return 200, {}, json.dumps({"token": text}).encode()
        return 401, {"WWW-Authenticate": f'Bearer realm="{served.url}/token"'}, b""

    with (
        serving(respond) as served,
        client_for(served) as client,
        pytest.raises(AuthError, match="no token"),
    ):
        client.repository(name(served)).resolve("v1")


def test_an_error_body_is_fit_for_a_terminal() -> None:
    body = (
        b'{"errors":[{"code":"DENIED","message":"\\u001b[31mred\\u0007\\n' + b"x" * 5000 + b'"}]}'
    )
    with (
        serving(lambda request: (400, {}, body)) as served,
        client_for(served) as client,
        pytest.raises(RegistryError) as raised,
    ):
        client.repository(name(served)).resolve("v1")
    assert raised.value.diagnostics == ("DENIED",)
    assert raised.value.message.isprintable() and len(raised.value.message) < 500


def test_11_a_manifest_of_two_kinds_is_refused() -> None:
    both = b'{"schemaVersion":2,"manifests":[],"config":{},"layers":[]}'
    headers = {"Content-Type": "application/json"}
    with serving(lambda request: (200, headers, both)) as served, client_for(served) as client:
        with pytest.raises(ContentError):
            client.repository(name(served)).referrers(LAYER)
        assert client.repository(name(served)).resolve("v1").media_type not in media.NAMED


@pytest.mark.parametrize("head", [b"", b"HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\n"])
def test_a_response_that_trickles_ends_with_the_time_limit(head: bytes) -> None:
    with trickling(head) as port, Client(HostSettings(read_s=0.2), tries=2) as client:
        began = time.monotonic()
        repository = client.repository(Reference.parse(f"127.0.0.1:{port}/team/app"))
        with pytest.raises(RegistryError, match="timed out"), repository.fetch(LAYER) as reader:
            reader.read()
        with pytest.raises(RegistryError, match="timed out"):
            repository.resolve("v1")
        assert time.monotonic() - began < 20  # a byte every 50 ms for a megabyte


@contextmanager
def trickling(head: bytes) -> Iterator[int]:
    """A server that sends `head`, then zeros, one at a time; its port."""

    class Handler(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            with suppress(OSError):
                self.request.recv(1 << 16)
                self.request.sendall(head)
                while True:
                    self.request.sendall(b"0")
                    time.sleep(0.05)

    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server.server_address[1]
        server.shutdown()


def test_another_digest_in_the_answer_to_a_put_is_an_error() -> None:
    other = str(Digest.of(b"something else"))

    def respond(request: ReceivedRequest) -> Reply:
        request.all()
        if request.method == "POST":
            return 202, {"Location": "/v2/team/app/blobs/uploads/1"}, b""
        stored = request.method == "PUT"
        return (201, {"Docker-Content-Digest": other}, b"") if stored else (404, {}, b"")

    root = Descriptor.of(MANIFEST, media.OCI_INDEX)
    with serving(respond) as served, client_for(served) as client:
        repository = client.repository(name(served))
        pushes: tuple[Callable[[], None], ...] = (
            lambda: repository.push(LAYER, MemoryStore(BLOB)),
            lambda: repository.push(root, MemoryStore(MANIFEST)),
            lambda: repository.tag(root, MemoryStore(MANIFEST), "v1"),
        )
        for push in pushes:
            with pytest.raises(DigestMismatch, match="stored something else"):
                push()
