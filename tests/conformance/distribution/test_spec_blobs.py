"""Every way of pushing a blob, with every algorithm: end-4, end-5, end-6 and end-11, then end-2."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from spec_client import OCTETS, Answer, Target, digest_of, with_query

pytest_plugins = ("spec_targets",)

Push = Callable[[Target, bytes, str], Answer]
CONTENT = bytes(range(256)) * 12
CHUNK = 1024  # bytes


def post_alone(target: Target, content: bytes, digest: str) -> Answer:
    """A registry may answer 202 and wait for the PUT."""
    answer = target.call("POST", f"blobs/uploads/?digest={digest}", content, OCTETS)
    return answer if answer.status != 202 else finish(target, answer, digest, content)


def post_alone_streamed(target: Target, content: bytes, digest: str) -> Answer:
    answer = target.call("POST", f"blobs/uploads/?digest={digest}", pieces(content), OCTETS)
    return answer if answer.status != 202 else finish(target, answer, digest, content)


def post_and_put(target: Target, content: bytes, digest: str) -> Answer:
    return target.call("PUT", with_query(start(target, digest), digest=digest), content, OCTETS)


def post_and_put_streamed(target: Target, content: bytes, digest: str) -> Answer:
    place = with_query(start(target, digest), digest=digest)
    return target.call("PUT", place, pieces(content), OCTETS)


def streamed(target: Target, content: bytes, digest: str) -> Answer:
    patched = target.call("PATCH", start(target, digest), content, OCTETS)
    assert patched.status == 202
    return finish(target, patched, digest, b"")


def chunked(target: Target, content: bytes, digest: str) -> Answer:
    location = start(target, digest)
    for first in range(0, len(content), CHUNK):
        location = chunk(target, location, content, first)
    return target.call("PUT", with_query(location, digest=digest), b"", OCTETS)


def chunked_but_for_the_last(target: Target, content: bytes, digest: str) -> Answer:
    location, last = start(target, digest), max(len(content) - 1, 0) // CHUNK * CHUNK
    for first in range(0, last, CHUNK):
        location = chunk(target, location, content, first)
    span = {"Content-Range": f"{last}-{len(content) - 1}"} if content else {}
    place = with_query(location, digest=digest)
    return target.call("PUT", place, content[last:], {**OCTETS, **span})


WAYS = [
    post_alone,
    post_alone_streamed,
    post_and_put,
    post_and_put_streamed,
    streamed,
    chunked,
    chunked_but_for_the_last,
]
every_way = pytest.mark.parametrize("push", WAYS, ids=lambda push: push.__name__)
every_content = pytest.mark.parametrize(
    "content", [b"", b"{}", CONTENT], ids=["nothing", "empty JSON", "bytes"]
)
every_algorithm = pytest.mark.parametrize("algorithm", ["sha256", "sha512"])


def pieces(content: bytes) -> Iterator[bytes]:
    """Sent without Content-Length."""
    return iter([content[first : first + 700] for first in range(0, len(content), 700)])


def start(target: Target, digest: str) -> str:
    algorithm = digest.partition(":")[0]
    return target.start("" if algorithm == "sha256" else f"?digest-algorithm={algorithm}")


def finish(target: Target, answer: Answer, digest: str, content: bytes) -> Answer:
    location = answer["Location"]
    assert location
    return target.call("PUT", with_query(location, digest=digest), content, OCTETS)


def chunk(target: Target, location: str, content: bytes, first: int, status: int = 202) -> str:
    """Send one chunk; where to go on."""
    data = content[first : first + CHUNK]
    span = {"Content-Range": f"{first}-{first + len(data) - 1}"}
    answer = target.call("PATCH", location, data, {**OCTETS, **span})
    assert answer.status == status
    return answer["Location"] or location


@every_way
@every_content
def test_pushed_blob_is_there(target: Target, push: Push, content: bytes) -> None:
    check_pushed(target, push, content, digest_of(content))


@every_way
@every_content
def test_blob_pushed_by_sha512_is_there(target: Target, push: Push, content: bytes) -> None:
    check_pushed(target, push, content, digest_of(content, "sha512"))


def check_pushed(target: Target, push: Push, content: bytes, digest: str) -> None:
    for _ in range(2):  # pushing it again is not an error
        answer = push(target, content, digest)
        assert (answer.status, answer["Docker-Content-Digest"]) == (201, digest)
        location = answer["Location"]
        assert location
        assert target.call("GET", location).body == content
    for method in ("HEAD", "GET"):
        answer = target.call(method, f"blobs/{digest}")
        assert (answer.status, answer["Docker-Content-Digest"]) == (200, digest)
        assert answer["Content-Length"] == str(len(content))
    assert target.call("DELETE", f"blobs/{digest}").status == 202
    assert target.call("HEAD", f"blobs/{digest}").status == 404


@every_way
@every_algorithm
def test_blob_of_another_digest_is_400(target: Target, push: Push, algorithm: str) -> None:
    digest = digest_of(CONTENT, algorithm)
    answer = push(target, CONTENT + b"oh no", digest)
    assert (answer.status, answer.codes) == (400, ["DIGEST_INVALID"])
    for content in (CONTENT, CONTENT + b"oh no"):
        assert target.call("HEAD", f"blobs/{digest_of(content, algorithm)}").status == 404


@every_algorithm
@pytest.mark.parametrize("last_by_put", [False, True], ids=["PATCH", "PUT"])
def test_chunks_out_of_order_are_416_and_the_upload_goes_on(
    target: Target, algorithm: str, last_by_put: bool
) -> None:
    """Before each chunk one is sent that lies elsewhere; the status tells where to go on."""
    digest = digest_of(CONTENT, algorithm)
    location = start(target, digest)
    for first in range(0, len(CONTENT), CHUNK):
        wrong = first + CHUNK if first + CHUNK < len(CONTENT) else 0
        chunk(target, location, CONTENT, wrong, 416)
        status = target.call("GET", location)
        assert (status.status, status["Range"]) == (204, f"0-{max(first - 1, 0)}")
        assert status["Location"]
        location = status["Location"]
        if not last_by_put or first + CHUNK < len(CONTENT):
            location = chunk(target, location, CONTENT, first)
    rest = CONTENT[-CHUNK:] if last_by_put else b""
    span = {"Content-Range": f"{len(CONTENT) - CHUNK}-{len(CONTENT) - 1}"} if rest else {}
    bad = {"Content-Range": f"0-{CHUNK - 1}"}
    place = with_query(location, digest=digest)
    if rest:
        assert target.call("PUT", place, rest, {**OCTETS, **bad}).status == 416
    assert target.call("PUT", place, rest, {**OCTETS, **span}).status == 201
    assert target.call("GET", f"blobs/{digest}").body == CONTENT


def test_end_5_refused_chunk_is_answered_with_where_to_go_on(target: Target) -> None:
    location = chunk(target, target.start(), CONTENT, 0)
    answer = target.call("PATCH", location, b"x", {**OCTETS, "Content-Range": "5-5"})
    assert (answer.status, answer["Range"]) == (416, f"0-{CHUNK - 1}")
    assert answer["Location"]
    assert target.call("GET", answer["Location"]).status == 204


@pytest.mark.parametrize("end", ["finished", "cancelled"])
def test_session_that_ended_is_unknown(target: Target, end: str) -> None:
    location, digest = target.start(), digest_of(CONTENT)
    if end == "finished":
        place = with_query(location, digest=digest)
        assert target.call("PUT", place, CONTENT, OCTETS).status == 201
    else:
        assert target.call("DELETE", location).status == 204
    for method, body in (("GET", None), ("PATCH", b"x"), ("DELETE", None)):
        answer = target.call(method, location, body)
        assert answer.status == 404
        assert answer.codes == ["BLOB_UPLOAD_UNKNOWN"]
    answer = target.call("PUT", with_query(location, digest=digest), CONTENT, OCTETS)
    assert answer.status == 404


@every_algorithm
@pytest.mark.parametrize("source", ["named", "any"])
def test_end_11_mounted_blob_stays_when_its_source_goes(
    target: Target, algorithm: str, source: str
) -> None:
    """Where the source is left out, a registry may open an upload instead."""
    other = target.sibling("source")
    digest = digest_of(f"{target.repository}{source}".encode(), algorithm)
    assert post_and_put(other, f"{target.repository}{source}".encode(), digest).status == 201
    query = f"?mount={digest}" + (f"&from={other.repository}" if source == "named" else "")
    answer = target.call("POST", f"blobs/uploads/{query}", b"")
    assert (answer.status, answer["Docker-Content-Digest"]) == (201, digest)
    assert other.call("DELETE", f"blobs/{digest}").status == 202
    assert target.call("GET", f"blobs/{digest}").status == 200


def test_end_11_mount_of_a_missing_blob_opens_an_upload(target: Target) -> None:
    other = target.sibling("source")
    other.push_blob(b"not that one")
    digest = digest_of(CONTENT)
    query = f"blobs/uploads/?mount={digest}&from={other.repository}"
    answer = target.call("POST", query, b"")
    assert answer.status == 202
    assert finish(target, answer, digest, CONTENT).status == 201


@every_algorithm
@pytest.mark.parametrize(
    ("span", "first", "last"),
    [
        ("500-1499", 500, 1499),
        ("500-", 500, 3071),
        ("-500", 2572, 3071),
        ("3000-9000", 3000, 3071),
        ("0-0", 0, 0),
    ],
)
def test_end_2_parts_of_a_blob(
    target: Target, algorithm: str, span: str, first: int, last: int
) -> None:
    digest = digest_of(CONTENT, algorithm)
    assert post_and_put(target, CONTENT, digest).status == 201
    answer = target.call("GET", f"blobs/{digest}", headers={"Range": f"bytes={span}"})
    assert (answer.status, answer.body) == (206, CONTENT[first : last + 1])
    assert answer["Content-Length"] == str(last - first + 1)
    assert answer["Content-Range"] == f"bytes {first}-{last}/{len(CONTENT)}"


@pytest.mark.parametrize("span", ["500-0", "5000-10000"])
def test_end_2_range_without_a_byte_is_416(target: Target, span: str) -> None:
    digest = target.push_blob(CONTENT)
    answer = target.call("GET", f"blobs/{digest}", headers={"Range": f"bytes={span}"})
    assert answer.status == 416
