"""Pulling: end-1 (support), end-2 (blobs), end-3 (manifests)."""

from __future__ import annotations

import pytest

from spec_client import INDEX, MANIFEST, Target, sha256, to_json

pytest_plugins = ("spec_targets",)

CONTENT = bytes(range(256)) * 5
UNKNOWN = sha256(b"nobody ever pushed this")


def test_end_1_tells_that_the_specification_is_implemented(target: Target) -> None:
    assert target.call("GET", "/v2/").status == 200


def test_end_2_get_returns_the_blob(target: Target) -> None:
    digest = target.push_blob(CONTENT)
    answer = target.call("GET", f"blobs/{digest}")
    assert (answer.status, answer.body) == (200, CONTENT)
    assert answer["Docker-Content-Digest"] == digest
    assert answer["Content-Length"] == str(len(CONTENT))


def test_end_2_head_returns_length_and_digest_without_body(target: Target) -> None:
    digest = target.push_blob(CONTENT)
    answer = target.call("HEAD", f"blobs/{digest}")
    assert (answer.status, answer.body) == (200, b"")
    assert answer["Docker-Content-Digest"] == digest
    assert answer["Content-Length"] == str(len(CONTENT))


def test_end_2_empty_blob(target: Target) -> None:
    digest = target.push_blob(b"")
    answer = target.call("GET", f"blobs/{digest}")
    assert (answer.status, answer.body) == (200, b"")


@pytest.mark.parametrize("method", ["GET", "HEAD"])
def test_end_2_unknown_blob_is_404(target: Target, method: str) -> None:
    answer = target.call(method, f"blobs/{UNKNOWN}")
    assert answer.status == 404
    if method == "GET":
        assert answer.codes[0] in ("BLOB_UNKNOWN", "NAME_UNKNOWN")


@pytest.mark.parametrize(
    "digest", ["sha256:abc", "sha256:" + "A" * 64, "md5:" + "a" * 32, "nocolon", "sha256:..%2f.."]
)
def test_end_2_malformed_digest_is_400_or_404(target: Target, digest: str) -> None:
    assert target.call("GET", f"blobs/{digest}").status in (400, 404)


@pytest.mark.parametrize(
    ("header", "first", "last"),
    [
        ("bytes=0-0", 0, 0),
        ("bytes=10-19", 10, 19),
        ("bytes=1000-", 1000, 1279),
        ("bytes=-100", 1180, 1279),
        ("bytes=-999999", 0, 1279),
        ("bytes=1200-999999", 1200, 1279),
        ("bytes=0-1279", 0, 1279),
    ],
)
def test_end_2_range(target: Target, header: str, first: int, last: int) -> None:
    digest = target.push_blob(CONTENT)
    answer = target.call("GET", f"blobs/{digest}", headers={"Range": header})
    assert (answer.status, answer.body) == (206, CONTENT[first : last + 1])
    assert answer["Content-Range"] == f"bytes {first}-{last}/{len(CONTENT)}"
    assert answer["Content-Length"] == str(last - first + 1)


@pytest.mark.parametrize("header", ["bytes=1280-", "bytes=5000-6000", "bytes=-0"])
def test_end_2_range_behind_the_end_is_416(target: Target, header: str) -> None:
    digest = target.push_blob(CONTENT)
    answer = target.call("GET", f"blobs/{digest}", headers={"Range": header})
    assert answer.status == 416
    assert answer["Content-Range"] == f"bytes */{len(CONTENT)}"


def test_end_2_last_bytes_of_an_empty_blob_are_none(target: Target) -> None:
    """RFC 9110, 14.1.2: of shorter content, it is the whole."""
    digest = target.push_blob(b"")
    answer = target.call("GET", f"blobs/{digest}", headers={"Range": "bytes=-5"})
    assert answer.status in (200, 206)
    assert answer.body == b""


@pytest.mark.parametrize("header", ["bytes=9-2", "bytes=a-b", "bytes", "bytes=--3"])
def test_end_2_range_without_sense_is_ignored_or_refused(target: Target, header: str) -> None:
    """RFC 9110, 14.2, leaves the choice."""
    digest = target.push_blob(CONTENT)
    answer = target.call("GET", f"blobs/{digest}", headers={"Range": header})
    assert answer.status in (200, 416)
    assert answer.status == 416 or answer.body == CONTENT


def test_end_2_range_of_an_unknown_unit_is_ignored(target: Target) -> None:
    digest = target.push_blob(CONTENT)
    answer = target.call("GET", f"blobs/{digest}", headers={"Range": "lines=0-3"})
    assert (answer.status, answer.body) == (200, CONTENT)


def test_end_2_blob_of_another_repository_is_not_there(target: Target) -> None:
    other = target.sibling("other")
    digest = other.push_blob(b"only in the other repository")
    assert target.call("GET", f"blobs/{digest}").status == 404


def test_end_2_conditional_request_is_304(target: Target) -> None:
    digest = target.push_blob(CONTENT)
    etag = target.call("GET", f"blobs/{digest}")["ETag"]
    assert etag
    answer = target.call("GET", f"blobs/{digest}", headers={"If-None-Match": etag})
    assert (answer.status, answer.body) == (304, b"")


@pytest.mark.parametrize("method", ["GET", "HEAD"])
def test_end_2_and_3_condition_on_other_content_is_412(target: Target, method: str) -> None:
    """As a download that goes on asks for: the rest, of the same content (RFC 9110, 13.1.1)."""
    digest = target.push_blob(CONTENT)
    target.push(target.image("conditional"), "v1")
    for path in (f"blobs/{digest}", "manifests/v1"):
        etag = target.call("HEAD", path, headers={"Accept": MANIFEST})["ETag"]
        assert etag
        for header, status in ((etag, 200), ("*", 200), ('"other"', 412), (f"W/{etag}", 412)):
            headers = {"Accept": MANIFEST, "If-Match": header}
            assert target.call(method, path, headers=headers).status == status, (path, header)


@pytest.mark.parametrize("by", ["tag", "digest"])
def test_end_3_get_and_head_return_the_manifest(target: Target, by: str) -> None:
    image = target.image(f"pull by {by}")
    raw = to_json(image)
    assert target.push(image, "v1").status == 201
    reference = "v1" if by == "tag" else sha256(raw)
    answer = target.call("GET", f"manifests/{reference}", headers={"Accept": MANIFEST})
    assert (answer.status, answer.body) == (200, raw)
    head = target.call("HEAD", f"manifests/{reference}", headers={"Accept": MANIFEST})
    assert (head.status, head.body) == (200, b"")
    for one in (answer, head):
        assert one["Content-Type"] == MANIFEST
        assert one["Docker-Content-Digest"] == sha256(raw)
        assert one["Content-Length"] == str(len(raw))


def test_end_3_index_keeps_its_media_type(target: Target) -> None:
    image = target.image("child")
    target.push(image)
    raw = to_json(image)
    index = {
        "schemaVersion": 2,
        "mediaType": INDEX,
        "manifests": [{"mediaType": MANIFEST, "digest": sha256(raw), "size": len(raw)}],
    }
    assert target.push(index, "multi").status == 201
    answer = target.call("GET", "manifests/multi", headers={"Accept": f"{INDEX}, {MANIFEST}"})
    assert (answer.status, answer["Content-Type"]) == (200, INDEX)
    assert answer.body == to_json(index)


@pytest.mark.parametrize("reference", ["nothere", UNKNOWN])
@pytest.mark.parametrize("method", ["GET", "HEAD"])
def test_end_3_unknown_manifest_is_404(target: Target, method: str, reference: str) -> None:
    answer = target.call(method, f"manifests/{reference}")
    assert answer.status == 404
    if method == "GET":
        assert answer.codes[0] in ("MANIFEST_UNKNOWN", "NAME_UNKNOWN")


def test_end_3_conditional_request_is_304(target: Target) -> None:
    target.push(target.image("conditional"), "v1")
    accept = {"Accept": MANIFEST}
    etag = target.call("GET", "manifests/v1", headers=accept)["ETag"]
    assert etag
    answer = target.call("GET", "manifests/v1", headers={**accept, "If-None-Match": etag})
    assert (answer.status, answer.body) == (304, b"")


@pytest.mark.parametrize("name", ["UPPER", "a//b", "-a", "a/../b", "%2e%2e/b", "a%00b", "x" * 300])
def test_names_outside_the_grammar_are_refused(target: Target, name: str) -> None:
    """Also by a redirect to a name within it."""
    assert target.call("GET", f"/v2/{name}/manifests/v1").status in (301, 400, 404)
