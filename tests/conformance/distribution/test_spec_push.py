"""Pushing blobs: end-4 start, 5 chunk, 6 finish, 11 mount, 13 status, 14 cancel."""

from __future__ import annotations

import pytest

from spec_client import OCTETS, Target, sha256, sha512, with_query

pytest_plugins = ("spec_targets",)

FIRST, SECOND, THIRD = b"a" * 1000, b"b" * 500, b"c" * 7
WHOLE = FIRST + SECOND + THIRD


def chunk(target: Target, location: str, start: int, data: bytes) -> tuple[int, str]:
    """PATCH with Content-Range; the status and the next Location."""
    span = f"{start}-{start + len(data) - 1}"
    answer = target.call("PATCH", location, data, {**OCTETS, "Content-Range": span})
    return answer.status, answer["Location"] or location


def assert_pushed(target: Target, content: bytes, digest: str = "") -> None:
    assert target.call("GET", f"blobs/{digest or sha256(content)}").body == content


def test_end_4a_session_has_a_unique_location(target: Target) -> None:
    assert target.start() != target.start()


def test_end_4a_and_6_monolithic_push(target: Target) -> None:
    digest = sha256(WHOLE)
    answer = target.call("PUT", with_query(target.start(), digest=digest), WHOLE, OCTETS)
    assert answer.status == 201
    assert answer["Docker-Content-Digest"] == digest
    location = answer["Location"]
    assert location
    assert target.call("GET", location).body == WHOLE


def test_end_4b_push_in_one_request(target: Target) -> None:
    """A registry may answer 202 and wait for the PUT."""
    digest = sha256(WHOLE)
    answer = target.call("POST", f"blobs/uploads/?digest={digest}", WHOLE, OCTETS)
    assert answer.status in (201, 202)
    if answer.status == 202:
        location = answer["Location"]
        assert location
        target.call("PUT", with_query(location, digest=digest), WHOLE, OCTETS)
    assert_pushed(target, WHOLE)


def test_end_4b_push_in_one_request_is_complete(target: Target) -> None:
    answer = target.call("POST", f"blobs/uploads/?digest={sha256(WHOLE)}", WHOLE, OCTETS)
    assert answer.status == 201
    assert_pushed(target, WHOLE)


def test_end_4b_wrong_digest_is_400(target: Target) -> None:
    answer = target.call("POST", f"blobs/uploads/?digest={sha256(b'other')}", WHOLE, OCTETS)
    assert (answer.status, answer.codes) == (400, ["DIGEST_INVALID"])
    assert target.call("HEAD", f"blobs/{sha256(WHOLE)}").status == 404


def test_end_4c_session_for_sha512(target: Target) -> None:
    location = target.start("?digest-algorithm=sha512")
    status, location = chunk(target, location, 0, FIRST)
    assert status == 202
    digest = sha512(FIRST)
    answer = target.call("PUT", with_query(location, digest=digest), b"")
    assert (answer.status, answer["Docker-Content-Digest"]) == (201, digest)
    assert_pushed(target, FIRST, digest)


def test_end_4c_unknown_algorithm_is_400(target: Target) -> None:
    assert target.call("POST", "blobs/uploads/?digest-algorithm=md5", b"").status == 400


def test_end_5_chunks_in_order(target: Target) -> None:
    location, start = target.start(), 0
    for data in (FIRST, SECOND, THIRD):
        status, location = chunk(target, location, start, data)
        start += len(data)
        assert status == 202
    answer = target.call("PUT", with_query(location, digest=sha256(WHOLE)), b"")
    assert answer.status == 201
    assert_pushed(target, WHOLE)


def test_end_5_answer_tells_the_range(target: Target) -> None:
    span = {"Content-Range": f"0-{len(FIRST) - 1}"}
    answer = target.call("PATCH", target.start(), FIRST, {**OCTETS, **span})
    assert (answer.status, answer["Range"]) == (202, f"0-{len(FIRST) - 1}")


def test_end_5_stream_without_content_range(target: Target) -> None:
    answer = target.call("PATCH", target.start(), iter([FIRST, SECOND, THIRD]), OCTETS)
    assert (answer.status, answer["Range"]) == (202, f"0-{len(WHOLE) - 1}")
    location = answer["Location"]
    assert location
    assert target.call("PUT", with_query(location, digest=sha256(WHOLE)), b"").status == 201
    assert_pushed(target, WHOLE)


@pytest.mark.parametrize("start", [1, 999, 1001, 5000], ids=str)
def test_end_5_chunk_out_of_order_is_416(target: Target, start: int) -> None:
    """A gap, an overlap, and bytes from before the beginning; the session goes on as it was."""
    status, location = chunk(target, target.start(), 0, FIRST)
    assert status == 202
    assert chunk(target, location, start, SECOND)[0] == 416
    status, location = chunk(target, location, len(FIRST), SECOND)
    assert status == 202
    digest = sha256(FIRST + SECOND)
    assert target.call("PUT", with_query(location, digest=digest), b"").status == 201


def test_end_5_first_chunk_must_start_at_zero(target: Target) -> None:
    assert chunk(target, target.start(), 10, FIRST)[0] == 416


def test_end_5_chunk_sent_twice_is_416(target: Target) -> None:
    status, location = chunk(target, target.start(), 0, FIRST)
    assert status == 202
    assert chunk(target, location, 0, FIRST)[0] == 416


@pytest.mark.parametrize("span", ["bytes 0-999/1000", "0-999/1000", "999-0", "-999", "0-", "zero"])
def test_end_5_malformed_content_range_is_refused(target: Target, span: str) -> None:
    answer = target.call("PATCH", target.start(), FIRST, {**OCTETS, "Content-Range": span})
    assert answer.status in (400, 416)


@pytest.mark.parametrize("last", [998, 1000], ids=["more bytes", "fewer bytes"])
@pytest.mark.parametrize("streamed", [False, True], ids=["length", "streamed"])
def test_end_5_content_range_of_another_length_is_refused(
    target: Target, last: int, streamed: bool
) -> None:
    location = target.start()
    body = iter([FIRST]) if streamed else FIRST
    answer = target.call("PATCH", location, body, {**OCTETS, "Content-Range": f"0-{last}"})
    assert answer.status in (400, 416)
    assert chunk(target, location, 0, FIRST)[0] == 202


def test_end_5_unknown_session_is_404(target: Target) -> None:
    target.push_blob(FIRST)
    path = "blobs/uploads/00000000-0000-4000-8000-000000000000"
    assert target.call("PATCH", path, FIRST, OCTETS).status == 404


def test_end_5_session_of_another_repository_is_404(target: Target) -> None:
    location = target.start()
    stolen = location.replace(target.repository, target.sibling("thief").repository)
    assert stolen != location
    assert target.call("PATCH", stolen, FIRST, OCTETS).status in (400, 404)


def test_end_6_brings_the_last_chunk(target: Target) -> None:
    status, location = chunk(target, target.start(), 0, FIRST)
    assert status == 202
    span = {"Content-Range": f"{len(FIRST)}-{len(FIRST + SECOND) - 1}"}
    place = with_query(location, digest=sha256(FIRST + SECOND))
    assert target.call("PUT", place, SECOND, {**OCTETS, **span}).status == 201
    assert_pushed(target, FIRST + SECOND)


def test_end_6_last_chunk_out_of_order_is_416(target: Target) -> None:
    status, location = chunk(target, target.start(), 0, FIRST)
    assert status == 202
    span = {"Content-Range": f"0-{len(SECOND) - 1}"}
    place = with_query(location, digest=sha256(FIRST + SECOND))
    assert target.call("PUT", place, SECOND, {**OCTETS, **span}).status == 416


def test_end_6_wrong_digest_is_400_and_nothing_is_visible(target: Target) -> None:
    place = with_query(target.start(), digest=sha256(b"other"))
    answer = target.call("PUT", place, WHOLE, OCTETS)
    assert (answer.status, answer.codes) == (400, ["DIGEST_INVALID"])
    assert target.call("HEAD", f"blobs/{sha256(WHOLE)}").status == 404
    assert target.call("HEAD", f"blobs/{sha256(b'other')}").status == 404


@pytest.mark.parametrize("digest", ["", "sha256:abc", "md5:" + "a" * 32, "sha256"])
def test_end_6_digest_that_cannot_be_verified_is_400(target: Target, digest: str) -> None:
    answer = target.call("PUT", with_query(target.start(), digest=digest), WHOLE, OCTETS)
    assert answer.status == 400


def test_end_6_without_digest_is_400(target: Target) -> None:
    assert target.call("PUT", target.start(), WHOLE, OCTETS).status == 400


def test_end_6_sha512(target: Target) -> None:
    digest = sha512(WHOLE)
    answer = target.call("PUT", with_query(target.start(), digest=digest), WHOLE, OCTETS)
    assert (answer.status, answer["Docker-Content-Digest"]) == (201, digest)
    assert_pushed(target, WHOLE, digest)


def test_end_6_ends_the_session(target: Target) -> None:
    location = target.start()
    place = with_query(location, digest=sha256(WHOLE))
    assert target.call("PUT", place, WHOLE, OCTETS).status == 201
    assert target.call("GET", location).status == 404


def test_end_11_mount(target: Target) -> None:
    source = target.sibling("source")
    digest = source.push_blob(WHOLE)
    query = f"blobs/uploads/?mount={digest}&from={source.repository}"
    answer = target.call("POST", query, b"")
    assert answer.status == 201
    location = answer["Location"]
    assert location
    assert target.call("GET", location).body == WHOLE


@pytest.mark.parametrize("source", ["of-nobody", "Not/A/Name"])
def test_end_11_falls_back_to_an_upload(target: Target, source: str) -> None:
    query = f"blobs/uploads/?mount={sha256(b'mount fallback')}&from={source}"
    answer = target.call("POST", query, b"")
    assert answer.status == 202
    location = answer["Location"]
    assert location
    place = with_query(location, digest=sha256(WHOLE))
    assert target.call("PUT", place, WHOLE, OCTETS).status == 201


@pytest.mark.parametrize("digest", ["blake3:" + "0" * 64, "sha256:0"])
def test_end_11_falls_back_for_a_digest_that_it_cannot_read(target: Target, digest: str) -> None:
    query = f"blobs/uploads/?mount={digest}&from={target.repository}"
    assert target.call("POST", query, b"").status == 202


def test_end_11_mount_takes_only_what_the_source_has(target: Target) -> None:
    digest = target.sibling("third").push_blob(WHOLE)
    source = target.sibling("source")
    source.push_blob(FIRST)
    query = f"blobs/uploads/?mount={digest}&from={source.repository}"
    assert target.call("POST", query, b"").status == 202


def test_end_11_without_from(target: Target) -> None:
    """The registry may find the blob elsewhere, or open an upload."""
    digest = target.sibling("source").push_blob(WHOLE)
    assert target.call("POST", f"blobs/uploads/?mount={digest}", b"").status in (201, 202)


def test_end_13_tells_where_to_go_on(target: Target) -> None:
    status, location = chunk(target, target.start(), 0, FIRST)
    assert status == 202
    answer = target.call("GET", location)
    assert (answer.status, answer["Range"]) == (204, f"0-{len(FIRST) - 1}")
    assert answer["Location"]


def test_end_13_unknown_session_is_404(target: Target) -> None:
    path = "blobs/uploads/00000000-0000-4000-8000-000000000000"
    assert target.call("GET", path).status == 404


def test_end_14_cancels_the_session(target: Target) -> None:
    location = target.start()
    assert target.call("DELETE", location).status == 204
    assert target.call("GET", location).status == 404
    assert target.call("PATCH", location, FIRST, OCTETS).status == 404
