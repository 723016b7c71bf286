"""Bytes that no honest client sends: the node answers, stays alive, and stores nothing of it."""

from __future__ import annotations

import socket
from collections.abc import Iterator

import pytest

from nodes import Node, node
from spec_client import Target, sha256


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Node]:
    with node(tmp_path_factory.mktemp("inputs") / "data") as started:
        yield started


def send(running: Node, raw: bytes) -> int:
    """The status of the answer, 0 where there is none."""
    host, _, port = running.address.partition(":")
    with socket.create_connection((host, int(port)), timeout=2) as connection:
        try:
            connection.sendall(raw)
            answer = connection.recv(4096)
        except (ConnectionError, TimeoutError):
            return 0
    return int(answer.split()[1]) if answer else 0


def request(method: str, path: str, *headers: str, body: bytes = b"") -> bytes:
    return "\r\n".join([f"{method} {path} HTTP/1.1", "Host: x", *headers, "", ""]).encode() + body


def alive(running: Node) -> bool:
    return Target(running.url, "x").call("GET", "/v2/").status == 200


@pytest.mark.parametrize(
    ("raw", "allowed"),
    [
        (request("GET", "/v2/a/../../etc/passwd/manifests/x"), {400, 404}),
        (request("GET", "/v2/%2e%2e%2f%2e%2e%2fetc/manifests/x"), {400, 404}),
        (request("GET", "/v2/a%00b/manifests/x"), {400, 404}),
        (request("GET", "/v2/a/blobs/sha256:..%2f..%2f..%2fmetadata.db"), {400, 404}),
        (request("GET", "/v2/a/manifests/%0a"), {400, 404}),
        (request("GET", "/v2/%ff%fe/manifests/x"), {400, 404}),
        (request("GET", f"/v2/{'a/' * 5000}b/manifests/x"), {400, 404, 414}),
        (request("GET", "/v2/a/tags/list?last=%00"), {400, 404}),
        (request("GET", "/v2/a/tags/list?n=" + "9" * 400), {400, 404}),
        (request("GET", "/v2/_catalog?last=%ff"), {400}),
        (request("GET", "/v2/_catalog?" + "&".join("a=b" for _ in range(5000))), {400, 414}),
        (request("GET", "/v2/a/blobs/uploads/..%2f..%2fmetadata.db"), {400, 404}),
        (request("GET", "/v2/a/blobs/uploads/%00"), {400, 404}),
        (request("POST", "/v2/a/blobs/uploads/?digest=sha256:../x"), {400}),
        (request("POST", "/v2/a/blobs/uploads/?mount=x&from=b"), {202}),
        (request("BREW", "/v2/"), {400, 405, 501}),
        (request("GET", "/v2/", *(f"X-{n}: y" for n in range(5000))), {0, 400, 431}),
        (request("GET", "/v2/", "X: " + "y" * 1_000_000), {0, 400, 431}),
        (request("POST", "/v2/a/blobs/uploads/", "Content-Length: -1"), {400}),
        (request("POST", "/v2/a/blobs/uploads/", "Content-Length: 1", "Content-Length: 2"), {400}),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01", {0, 400}),
        (b"GET / HTTP/9.9\r\n\r\n", {0, 400, 505}),
    ],
)
def test_malformed_requests_are_refused(running: Node, raw: bytes, allowed: set[int]) -> None:
    assert send(running, raw) in allowed
    assert alive(running)


@pytest.mark.parametrize("method", ["PUT", "POST", "PATCH", "DELETE"])
@pytest.mark.parametrize("path", ["/v2/", "/v2/_catalog", "/v2/a/tags/list", "/metrics"])
def test_method_that_a_path_does_not_have_is_405(running: Node, method: str, path: str) -> None:
    answer = Target(running.url, "x").call(method, path, b"")
    assert (answer.status, answer["Allow"]) == (405, "GET, HEAD")


def test_body_shorter_than_promised_is_not_a_manifest(running: Node) -> None:
    head = request("PUT", "/v2/a/manifests/v1", "Content-Length: 100", body=b"{}")
    assert send(running, head) in {0, 400}
    assert Target(running.url, "a").call("GET", "manifests/v1").status == 404


def test_stream_without_end_is_cut_at_the_limit(running: Node) -> None:
    """A manifest without Content-Length is read up to the limit and refused."""
    target = Target(running.url, "a")
    parts = (b" " * (1 << 20) for _ in range(6))
    assert target.call("PUT", "manifests/v1", parts).status == 413


def test_refusal_reaches_a_client_that_is_still_sending(running: Node) -> None:
    target = Target(running.url, "a")
    path = "blobs/uploads/00000000-0000-4000-8000-000000000000"
    answer = target.call("PATCH", path, b"x" * (8 << 20))
    assert (answer.status, answer.codes) == (404, ["BLOB_UPLOAD_UNKNOWN"])


def test_content_of_a_request_is_not_the_next_request(running: Node) -> None:
    """Smuggling: both lengths at once."""
    inner = request("DELETE", "/v2/")
    headers = (f"Content-Length: {len(inner)}", "Transfer-Encoding: chunked")
    raw = request("POST", "/v2/a/blobs/uploads/", *headers, body=b"0\r\n\r\n" + inner)
    before = deletes(running)
    assert send(running, raw) == 400
    assert deletes(running) == before


def deletes(running: Node) -> list[str]:
    """What the node has counted of requests with this method."""
    text = Target(running.url, "x").call("GET", "/metrics").body.decode()
    return [line for line in text.splitlines() if 'method="DELETE"' in line]


def test_errors_have_the_body_of_the_specification(running: Node) -> None:
    answer = Target(running.url, "a").call("GET", f"blobs/{sha256(b'none')}")
    (error,) = answer.json["errors"]
    assert set(error) >= {"code", "message"}
    assert answer["Content-Type"] == "application/json"
