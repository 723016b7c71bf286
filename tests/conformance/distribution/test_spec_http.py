"""What HTTP asks of every endpoint (RFC 9110), and how clients write their requests."""

from __future__ import annotations

from typing import Any

import pytest

from spec_client import INDEX, MANIFEST, OCTETS, Answer, Target, sha256, to_json, with_query

pytest_plugins = ("spec_targets",)

UNKNOWN = sha256(b"nobody ever pushed this")
ACCEPT = {"Accept": f"{MANIFEST}, {INDEX}"}
FICKLE = {"date", "x-request-id"}  # different for each answer


def image(target: Target, seed: str = "http") -> tuple[dict[str, Any], str]:
    """A tagged image; the document and its digest."""
    found = target.image(seed)
    assert target.push(found, "v1").status == 201
    return found, sha256(to_json(found))


def headers(answer: Answer) -> dict[str, str]:
    return {
        name.lower(): value for name, value in answer.headers.items() if name.lower() not in FICKLE
    }


@pytest.mark.parametrize(
    "path",
    [
        "/v2/",
        "manifests/v1",
        "manifests/{manifest}",
        "blobs/{blob}",
        "manifests/missing",
        f"manifests/{UNKNOWN}",
        f"blobs/{UNKNOWN}",
        "blobs/sha256:short",
    ],
)
def test_head_has_the_headers_of_get_and_no_body(target: Target, path: str) -> None:
    """RFC 9110, 9.3.2; a length may be left out, and must not be another one."""
    document, digest = image(target)
    place = path.format(manifest=digest, blob=document["config"]["digest"])
    get = target.call("GET", place, headers=ACCEPT)
    head = target.call("HEAD", place, headers=ACCEPT)
    assert (head.status, head.body) == (get.status, b"")
    found, expected = headers(head), headers(get)
    if "content-length" not in found:
        expected.pop("content-length", None)
    assert found == expected


@pytest.mark.parametrize("path", ["tags/list", "referrers/{manifest}"])
def test_head_of_a_list_has_the_headers_of_get(target: Target, path: str) -> None:
    _, digest = image(target)
    place = path.format(manifest=digest)
    get, head = target.call("GET", place), target.call("HEAD", place)
    assert (head.status, head.body, headers(head)) == (200, b"", headers(get))


@pytest.mark.parametrize("path", ["blobs/{blob}", "manifests/{manifest}", "referrers/{manifest}"])
def test_colon_may_be_percent_encoded(target: Target, path: str) -> None:
    document, digest = image(target)
    place = path.format(manifest=digest, blob=document["config"]["digest"])
    encoded = target.call("GET", place.replace(":", "%3A"), headers=ACCEPT)
    plain = target.call("GET", place, headers=ACCEPT)
    assert (plain.status, encoded.status) == (200, 200)
    assert plain.body == encoded.body


def test_digest_of_the_query_may_be_percent_encoded(target: Target) -> None:
    digest = sha256(b"encoded").replace(":", "%3A")
    place = with_query(target.start(), digest=digest)
    assert target.call("PUT", place, b"encoded", OCTETS).status == 201


@pytest.mark.parametrize(
    "suffix", ["/blobs/uploads/x", "/manifests/v1", "/tags/list", "/referrers", "/blobs", "/v2/x"]
)
def test_names_may_be_made_of_words_of_the_protocol(target: Target, suffix: str) -> None:
    odd = target.sibling(f"odd{suffix}")
    document, digest = image(odd)
    assert odd.call("GET", f"manifests/{digest}", headers=ACCEPT).body == to_json(document)
    assert odd.call("GET", "tags/list").json == {"name": odd.repository, "tags": ["v1"]}


@pytest.mark.parametrize("path", ["manifests/v1", "blobs/{blob}", "tags/list"])
def test_source_of_a_mirror_is_no_obstacle(target: Target, path: str) -> None:
    """Clients that take the registry for a mirror say of what: `ns`."""
    document, _ = image(target)
    place = path.format(blob=document["config"]["digest"])
    assert target.call("GET", f"{place}?ns=docker.io", headers=ACCEPT).status == 200


@pytest.mark.parametrize(
    "reference", ["sha256:baddigeststring", "sha256:" + "A" * 64, "sha256:" + "a" * 63, "md5:0"]
)
def test_end_7a_malformed_digest_is_400(target: Target, reference: str) -> None:
    raw = to_json(target.image("bad digest"))
    answer = target.call("PUT", f"manifests/{reference}", raw, {"Content-Type": MANIFEST})
    assert (answer.status, answer.codes) == (400, ["DIGEST_INVALID"])
    assert target.call("GET", f"manifests/{reference}").status in (400, 404)
    assert target.call("DELETE", f"manifests/{reference}").status in (400, 404, 405)


@pytest.mark.parametrize("more", ["; charset=utf-8", ";charset=utf-8", " ; a=b"])
def test_end_7a_content_type_may_have_parameters(target: Target, more: str) -> None:
    raw = to_json(target.image("parameters"))
    answer = target.call("PUT", "manifests/v1", raw, {"Content-Type": MANIFEST + more})
    assert answer.status == 201
    assert target.call("GET", "manifests/v1", headers=ACCEPT)["Content-Type"] == MANIFEST


@pytest.mark.parametrize("kind", [MANIFEST, INDEX], ids=["image", "index"])
def test_end_7a_media_type_may_be_left_out(target: Target, kind: str) -> None:
    document = target.image("left out") if kind == MANIFEST else {"manifests": []}
    document.pop("mediaType", None)
    raw = to_json({"schemaVersion": 2, **document})
    answer = target.call("PUT", f"manifests/{sha256(raw)}", raw, {"Content-Type": kind})
    assert answer.status == 201
    found = target.call("GET", f"manifests/{sha256(raw)}", headers=ACCEPT)
    assert (found.status, found.body, found["Content-Type"]) == (200, raw, kind)


def test_end_7a_whitespace_makes_another_digest(target: Target) -> None:
    raw = to_json(target.image("whitespace"))
    place, kind = f"manifests/{sha256(raw)}", {"Content-Type": MANIFEST}
    answer = target.call("PUT", place, raw + b"  ", kind)
    assert (answer.status, answer.codes) == (400, ["DIGEST_INVALID"])
    assert target.call("GET", place).status == 404


def test_end_7a_tag_moves_only_from_what_the_client_has_seen(target: Target) -> None:
    """RFC 9110, 13: two clients that change one tag cannot lose each other's change."""
    _, first = image(target, "first")
    second = target.image("second")
    raw, kind = to_json(second), {"Content-Type": MANIFEST}
    for condition in ({"If-Match": f'"{UNKNOWN}"'}, {"If-None-Match": "*"}):
        assert target.call("PUT", "manifests/v1", raw, {**kind, **condition}).status == 412
    assert target.call("DELETE", "manifests/v1", b"", {"If-Match": f'"{UNKNOWN}"'}).status == 412
    assert target.call("GET", "manifests/v1", headers=ACCEPT)["Docker-Content-Digest"] == first
    seen = {"If-Match": f'"{UNKNOWN}", "{first}"'}
    assert target.call("PUT", "manifests/v1", raw, {**kind, **seen}).status == 201
    assert target.call("PUT", "manifests/v2", raw, {**kind, **seen}).status == 412
    new = {"If-None-Match": "*"}
    assert target.call("PUT", "manifests/v2", raw, {**kind, **new}).status == 201


@pytest.mark.parametrize("last", ["zzz", "v1"])
def test_end_8b_behind_the_end_is_an_empty_list(target: Target, last: str) -> None:
    image(target)
    answer = target.call("GET", f"tags/list?last={last}&n=5")
    assert (answer.status, answer.json["tags"]) == (200, [])
    assert answer["Link"] is None


def test_end_12b_filter_may_be_written_with_a_plus(target: Target) -> None:
    document, digest = image(target)
    target.push(target.artifact("plus", document, artifactType="application/vnd.example+json"))
    for kind in ("application/vnd.example+json", "application%2Fvnd.example%2Bjson"):
        answer = target.call("GET", f"referrers/{digest}?artifactType={kind}")
        assert len(answer.json["manifests"]) == 1


@pytest.mark.parametrize("path", ["/v2/", "manifests/v1", "tags/list", "blobs/{blob}"])
def test_unknown_methods_are_refused(target: Target, path: str) -> None:
    document, _ = image(target)
    place = path.format(blob=document["config"]["digest"])
    for method in ("PROPFIND", "LINK"):
        answer = target.call(method, place)
        assert (answer.status, bool(answer["Allow"])) == (405, True)
