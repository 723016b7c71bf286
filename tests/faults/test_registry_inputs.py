"""The known attacks on clients of registries, by number, and those that stand nowhere else.

The tests carry the numbers in their names; others are in test_registry_hostile.py and
test_registry_bounds.py, and where layers, layouts, signatures and mirrors are read.
"""

from __future__ import annotations

import hashlib
import json
import re
import socket
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from parties import SECRET, client_for, name
from registries import make_identity
from spec_registry import spec_registry
from tunnel import tunnel

from serving import ReceivedRequest, Reply, serving
from shipline.content import MemoryStore, copy_graph
from shipline.errors import ContentError, DigestMismatch, RegistryError, ShiplineError
from shipline.oci import Descriptor, Digest, Index, Reference, media
from shipline.registry import Client, HostSettings, Proxies

BAD_INPUTS = {
    1: "a token realm at an internal address, or without TLS",
    2: "an upstream that asks for credentials elsewhere",
    3: "a layer with urls at an attacker's",
    4: "a blob redirected to another host",
    5: "an upload that goes on at another host",
    6: "a next page on another host, pages that loop or do not end",
    7: "a host that begins or ends as one with credentials",
    8: "other content under a right Docker-Content-Digest",
    9: "a digest that is a path, or none",
    10: "a repository or tag that is a path",
    11: "a document of two kinds, with a wrong type, or with fields twice",
    12: "manifests without end, very many descriptors, deep nesting",
    13: "tokens and errors without end, lifetimes that are none",
    14: "archives that unpack to more than a disk holds",
    15: "archives that write outside",
    16: "links in an OCI layout",
    18: "odd names of files and attributes",
    27: "signatures of another digest or key, or very many",
    28: "a tag that moves after it was verified",
    29: "wrong bytes of a mirror",
    31: "responses that are not HTTP",
    33: "an upload with another algorithm",
    34: "a blob of an upstream redirected to an internal address",
    35: "an image with ill-typed settings",
}
"""Those of servers, and of programs that write files named by annotations, are not here."""


def test_every_bad_input_has_a_test() -> None:
    files = Path(__file__).parents[1].rglob("test_*.py")
    numbers = {
        int(one) for file in files for one in re.findall(r"def test_(\d+)_", file.read_text())
    }
    assert numbers == BAD_INPUTS.keys()


def test_6_pages_without_end_end() -> None:
    def respond(request: ReceivedRequest) -> Reply:
        link = f'<{request.path}?last={len(served.requests)}>; rel="next"'
        body = b'{"schemaVersion":2,"manifests":[]}'
        return 200, {"Link": link, "Content-Type": media.OCI_INDEX}, body

    with serving(respond) as served, client_for(served) as client:
        with pytest.raises(RegistryError, match="more than 100 pages"):
            client.repository(name(served)).referrers(Descriptor.of(b"", media.OCI_LAYER))
        assert len(served.to("GET", "referrers")) == 100


@pytest.mark.parametrize(
    "digest", ["sha256:../../etc/passwd", "sha256:abc", "md5:0", "", "sha256:"]
)
def test_9_a_manifest_with_a_bad_digest_is_refused(digest: str) -> None:
    layer = {"mediaType": media.OCI_LAYER, "digest": digest, "size": 1}
    config = {"mediaType": media.OCI_CONFIG, "digest": f"sha256:{'0' * 64}", "size": 1}
    manifest = {"schemaVersion": 2, "mediaType": media.OCI_MANIFEST, "config": config}
    raw = json.dumps(manifest | {"layers": [layer]}).encode()
    _refused(raw)


@pytest.mark.parametrize(
    "repository", ["..", "a/../b", "%2e%2e/b", "a//b", "a/", "/a", "a\0b", "A", "a b", "a" * 300]
)
def test_10_a_bad_repository_makes_no_request(repository: str) -> None:
    with serving(lambda request: (200, {}, b"")) as served, client_for(served) as client:
        with pytest.raises(ShiplineError):
            client.repository(Reference.parse(f"{served.host}/{repository}")).resolve("v1")
        assert served.requests == []


@pytest.mark.parametrize(
    "raw",
    [
        b'{"schemaVersion":2,"mediaType":"%s","config":{},"layers":[]}'
        % media.OCI_MANIFEST.encode(),
        b'{"schemaVersion":2,"manifests":[],"manifests":[]}',
    ],
)
def test_11_a_manifest_of_another_kind_than_it_is_served_as_is_refused(raw: bytes) -> None:
    _refused(raw, media.OCI_INDEX)


def test_12_deep_nesting_is_refused() -> None:
    _refused(b'{"schemaVersion":2,"manifests":' + b"[" * 100_000 + b"]" * 100_000 + b"}")
    _refused(b'{"a":' * 100_000 + b"1" + b"}" * 100_000)


def test_12_an_index_in_an_index_in_an_index_is_copied() -> None:
    """However deep: nothing recurses. None can list itself, since digests are checked."""
    source, copied = MemoryStore(), MemoryStore()
    inner = Index.make([])
    for _ in range(3000):
        source.blobs[inner.descriptor.digest] = inner.raw
        inner = Index.make([inner.descriptor])
    source.blobs[inner.descriptor.digest] = inner.raw
    copy_graph(source, copied, inner.descriptor)
    assert copied.blobs.keys() == source.blobs.keys()


@contextmanager
def _saying(response: bytes) -> Iterator[int]:
    """A server that says this to each request, and then closes the connection."""

    def answer() -> None:
        while True:
            try:
                client, _ = listener.accept()
            except OSError:
                return
            with client:
                while client.recv(1 << 16)[-4:] not in (b"\r\n\r\n", b""):
                    pass
                client.sendall(response)

    listener = socket.create_server(("127.0.0.1", 0))
    thread = threading.Thread(target=answer)
    thread.start()
    try:
        yield listener.getsockname()[1]
    finally:
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        thread.join()


CONTENT = b"some content"
LAYER = Descriptor.of(CONTENT, media.OCI_LAYER)
OK = b"HTTP/1.1 200 OK\r\n"


@pytest.mark.parametrize(
    "response",
    [
        b"SSH-2.0-OpenSSH_9.2\r\n",
        b"HTTP/1.1 20x OK\r\n\r\n",
        b"HTTP/9.9 200 OK\r\nContent-Length: 12\r\n\r\n" + CONTENT,
        OK + b"X: y\r\n" * 10_000 + b"\r\n",
        OK + b"X: " + b"y" * 100_000 + b"\r\n\r\n",
        OK + b"Content-Length: -5\r\n\r\n" + CONTENT[:5],
        OK + b"Content-Length: 5\r\n\r\n" + CONTENT,
        OK + b"Content-Length: 99\r\n\r\n" + CONTENT[:5],
        OK + b"Content-Length: \t12 \r\nContent-Length: 5\r\n\r\n" + CONTENT,
        OK + b"Content-Length : 5\r\nConnection: close\r\n\r\n" + CONTENT,
        OK + b"X: \0\r\nContent-Length: 12\r\n\r\n" + CONTENT,
        OK + b"Transfer-Encoding: chunked\r\n\r\nffffffffffffffffffff\r\n" + CONTENT,
        OK + b"Transfer-Encoding: chunked\r\n\r\n-5\r\n" + CONTENT,
        OK + b"Content-Length: 12\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nsome \r\n0\r\n\r\n",
    ],
)
def test_31_a_response_that_is_wrong_http_gives_no_content(response: bytes) -> None:
    with _saying(response) as port, Client(tries=2) as client:
        repository = client.repository(Reference.parse(f"127.0.0.1:{port}/team/app"))
        with pytest.raises((RegistryError, DigestMismatch)), repository.fetch(LAYER) as reader:
            reader.read()


@pytest.mark.parametrize(
    "fields",
    [
        b"content-LENGTH:12\r\n",
        b"X: \xff\xfe\nContent-Length: 12\n",
        b"Content-Length:\r\n",
        b"no field\r\n: nameless\r\nA B: c\r\nContent-Length: 12\r\n",
        b" folded\r\nX: y\r\n Content-Length: 5\r\nContent-Length: 12\r\n",
        b"Content-Length: 12\r\n" + b"X: y\r\n" * 99,
    ],
)
def test_31_odd_fields_do_no_harm(fields: bytes) -> None:
    response = OK + fields + b"\r\n" + CONTENT
    with _saying(response) as port, Client(tries=1) as client:
        repository = client.repository(Reference.parse(f"127.0.0.1:{port}/team/app"))
        with repository.fetch(LAYER) as reader:
            assert reader.read() == CONTENT


def test_33_an_upload_has_the_algorithm_of_its_digest() -> None:
    content = bytes(2_000_000)
    target = Descriptor(
        media.OCI_LAYER, Digest.parse(f"sha512:{hashlib.sha512(content).hexdigest()}"), len(content)
    )
    source = MemoryStore()
    source.blobs[target.digest] = content
    wrong = Descriptor(target.media_type, Digest.parse(f"sha512:{'0' * 128}"), target.size)
    with spec_registry() as (registry, served), Client() as client:
        repository = client.repository(name(served))
        repository.push(target, source)
        (begun,) = served.to("POST")
        assert begun.query["digest-algorithm"] == ["sha512"]
        with repository.fetch(target) as reader:
            assert reader.read() == content
        with pytest.raises(DigestMismatch), repository.ingest() as ingest:
            ingest.write(content)
            ingest.commit(wrong)
        assert list(registry.blobs) == [str(target.digest)]


@pytest.mark.parametrize(
    "host", ["127.0.0.1", "10.1.2.3", "[::1]", "169.254.169.254", "2130706433"]
)
def test_34_a_blob_of_an_upstream_is_not_fetched_from_inside(tmp_path: Path, host: str) -> None:
    """Programs that fetch for others; the registry is taken to be on the Internet."""

    def respond(request: ReceivedRequest) -> Reply:
        return 307, {"Location": f"https://{host}/blob"}, b""

    identity = make_identity(tmp_path)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(identity.certificate, identity.private)
    with serving(respond, context) as served, tunnel(served.port) as proxy:
        settings = HostSettings(
            ca=(identity.certificate,), proxies=Proxies(https=proxy.url), for_others=True
        )
        with Client(settings, tries=1) as client:
            repository = client.repository(Reference.parse("registry.localtest/team/app"))
            with pytest.raises(RegistryError) as caught, repository.fetch(LAYER):
                pass
    assert "internal" in caught.value.hint and SECRET not in str(caught.value)
    assert [one.target for one in proxy.requests] == ["registry.localtest:443"]


def _refused(raw: bytes, media_type: str = media.OCI_MANIFEST) -> None:
    target = Descriptor(media_type, Digest.of(raw), len(raw))
    headers = {"Content-Type": media_type}
    with (
        serving(lambda request: (200, headers, raw)) as served,
        client_for(served) as client,
        pytest.raises(ContentError),
    ):
        copy_graph(client.repository(name(served)), MemoryStore(), target)
