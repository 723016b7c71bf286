"""Pushing and deleting: end-7 (manifests), end-9 (manifests and tags), end-10 (blobs)."""

from __future__ import annotations

from typing import Any

import pytest

from spec_client import EMPTY, INDEX, LAYER, MANIFEST, Target, descriptor, sha256, sha512
from spec_client import to_json as raw_of

pytest_plugins = ("spec_targets",)

LIMIT = 4 << 20  # bytes


def listed(target: Target) -> list[str]:
    tags: list[str] | None = target.call("GET", "tags/list").json["tags"]
    return tags or []


def put_raw(target: Target, raw: bytes, media_type: str, reference: str = "v1") -> tuple[int, Any]:
    answer = target.call("PUT", f"manifests/{reference}", raw, {"Content-Type": media_type})
    return answer.status, answer.codes if answer.status >= 400 else None


@pytest.mark.parametrize("reference", ["v1", ""], ids=["tag", "digest"])
def test_end_7a_stores_the_exact_bytes(target: Target, reference: str) -> None:
    image = target.image("exact")
    raw = raw_of(image)
    answer = target.push(image, reference)
    assert (answer.status, answer["Docker-Content-Digest"]) == (201, sha256(raw))
    location = answer["Location"]
    assert location
    assert target.call("GET", location, headers={"Accept": MANIFEST}).body == raw


def test_end_7a_moves_a_tag(target: Target) -> None:
    target.push(target.image("before"), "v1")
    after = target.image("after")
    assert target.push(after, "v1").status == 201
    assert target.call("GET", "manifests/v1", headers={"Accept": MANIFEST}).body == raw_of(after)
    assert listed(target) == ["v1"]


def test_end_7a_digest_of_other_bytes_is_400(target: Target) -> None:
    status, codes = put_raw(target, raw_of(target.image("x")), MANIFEST, sha256(b"other"))
    assert (status, codes) == (400, ["DIGEST_INVALID"])


def test_end_7a_sha512(target: Target) -> None:
    raw = raw_of(target.image("sha512"))
    assert put_raw(target, raw, MANIFEST, sha512(raw))[0] == 201
    answer = target.call("GET", f"manifests/{sha512(raw)}")
    assert (answer.status, answer["Docker-Content-Digest"]) == (200, sha512(raw))
    assert answer.body == raw


def test_end_7a_missing_blob_is_refused(target: Target) -> None:
    image = target.image("missing blob")
    image["layers"] = [descriptor(b"never pushed", LAYER)]
    answer = target.push(image, "v1")
    assert 400 <= answer.status < 500
    assert "MANIFEST_BLOB_UNKNOWN" in answer.codes
    assert target.call("GET", "manifests/v1").status == 404


def test_end_7a_missing_child_is_refused(target: Target) -> None:
    child = descriptor(b"never pushed", MANIFEST)
    index = {"schemaVersion": 2, "mediaType": INDEX, "manifests": [child]}
    answer = target.push(index, "v1")
    assert 400 <= answer.status < 500


def test_end_7a_missing_subject_is_accepted(target: Target) -> None:
    subject = {"schemaVersion": 2, "mediaType": MANIFEST, "gone": True}
    assert target.push(target.artifact("refers", subject), "v1").status == 201


def test_end_7a_subject_is_confirmed(target: Target) -> None:
    subject = target.image("subject")
    target.push(subject)
    answer = target.push(target.artifact("referrer", subject))
    assert (answer.status, answer["OCI-Subject"]) == (201, sha256(raw_of(subject)))


def test_end_7a_layers_that_registries_do_not_hold(target: Target) -> None:
    image = target.image("foreign")
    kind = "application/vnd.oci.image.layer.nondistributable.v1.tar"
    image["layers"] += [descriptor(b"elsewhere", kind)]
    assert target.push(image, "v1").status == 201


def test_end_7a_artifact_with_empty_config_and_no_layers(target: Target) -> None:
    target.push_blob(b"{}")
    artifact = {
        "schemaVersion": 2,
        "mediaType": MANIFEST,
        "artifactType": "application/vnd.example.nothing",
        "config": descriptor(b"{}", EMPTY),
        "layers": [],
    }
    assert target.push(artifact, "v1").status == 201


def test_end_7a_unknown_fields_and_spaces_are_kept(target: Target) -> None:
    image = target.image("fields", **{"org.example.more": {"deep": [1, 2.50, None]}})
    raw = raw_of(image).replace(b", ", b" ,\n\t") + b"\n"
    assert put_raw(target, raw, MANIFEST)[0] == 201
    assert target.call("GET", "manifests/v1", headers={"Accept": MANIFEST}).body == raw


def test_end_7a_media_type_may_be_said_by_the_header_alone(target: Target) -> None:
    image = target.image("header alone")
    del image["mediaType"]
    assert put_raw(target, raw_of(image), MANIFEST)[0] == 201
    answer = target.call("GET", "manifests/v1", headers={"Accept": MANIFEST})
    assert answer["Content-Type"] == MANIFEST


def test_end_7a_content_type_must_be_the_media_type(target: Target) -> None:
    raw = raw_of(target.image("contradiction"))
    status, _ = put_raw(target, raw, INDEX)
    assert status == 400


def test_end_7a_manifest_and_index_in_one_is_refused(target: Target) -> None:
    image = target.image("both", manifests=[])
    assert put_raw(target, raw_of(image), MANIFEST)[0] == 400


@pytest.mark.parametrize("raw", [b"", b"{", b"[]", b'"text"', b"{}", b"\xff\xfe", b"[" * 100_000])
def test_end_7a_what_is_not_a_manifest_is_400(target: Target, raw: bytes) -> None:
    assert put_raw(target, raw, MANIFEST)[0] == 400


def test_end_7a_key_that_stands_twice_is_400(target: Target) -> None:
    raw = raw_of(target.image("twice"))
    assert put_raw(target, raw[:-1] + b', "layers": []}', MANIFEST)[0] == 400


@pytest.mark.parametrize("digest", ["sha256:../../etc/passwd", "sha256:abc", "md5:0"])
def test_end_7a_descriptor_with_a_bad_digest_is_400(target: Target, digest: str) -> None:
    image = target.image("bad digest")
    image["layers"] = [{"mediaType": LAYER, "digest": digest, "size": 3}]
    assert put_raw(target, raw_of(image), MANIFEST)[0] == 400


def test_end_7a_four_mebibytes_are_accepted(target: Target) -> None:
    image = target.image("large", annotations={"filler": ""})
    image["annotations"]["filler"] = "x" * (LIMIT - len(raw_of(image)))
    raw = raw_of(image)
    assert len(raw) == LIMIT
    assert put_raw(target, raw, MANIFEST)[0] == 201
    assert target.call("GET", "manifests/v1", headers={"Accept": MANIFEST}).body == raw


def test_end_7a_more_is_413(target: Target) -> None:
    image = target.image("too large", annotations={"filler": "x" * LIMIT})
    assert put_raw(target, raw_of(image), MANIFEST)[0] == 413


@pytest.mark.parametrize("tag", [".dot", "-dash", "x" * 129, "sp%20ace", "a+b"])
def test_end_7a_tag_outside_the_grammar_is_refused(target: Target, tag: str) -> None:
    raw = raw_of(target.image("tag"))
    assert put_raw(target, raw, MANIFEST, tag)[0] in (400, 404)


def test_end_7b_one_push_brings_several_tags(target: Target) -> None:
    image = target.image("several tags")
    names = [f"t{number}" for number in range(10)]
    answer = target.push(image, query="?" + "&".join(f"tag={name}" for name in names))
    assert answer.status == 201
    accepted = [tag.strip() for tag in (answer["OCI-Tag"] or "").split(",")]
    assert accepted == names
    assert listed(target) == names
    for name in names:
        assert target.call("HEAD", f"manifests/{name}").status == 200


def test_end_7b_bad_tag_is_refused_and_nothing_is_stored(target: Target) -> None:
    image = target.image("bad tag")
    assert target.push(image, query="?tag=good&tag=.bad").status == 400
    assert target.call("GET", f"manifests/{sha256(raw_of(image))}").status == 404


def test_end_9_deletes_a_tag_and_keeps_the_manifest(target: Target) -> None:
    image = target.image("tag delete")
    target.push(image, "v1")
    target.push(image, "v2")
    assert target.call("DELETE", "manifests/v1").status == 202
    assert target.call("GET", "manifests/v1").status == 404
    assert target.call("GET", "manifests/v2").status == 200
    assert listed(target) == ["v2"]


def test_end_9_deletes_a_manifest_and_its_tags(target: Target) -> None:
    image = target.image("manifest delete")
    target.push(image, "v1")
    target.push(image, "v2")
    digest = sha256(raw_of(image))
    assert target.call("DELETE", f"manifests/{digest}").status == 202
    for reference in ("v1", "v2", digest):
        assert target.call("GET", f"manifests/{reference}").status == 404
    assert listed(target) == []


def test_end_9_unknown_manifest_is_404(target: Target) -> None:
    target.push(target.image("there"), "v1")
    assert target.call("DELETE", f"manifests/{sha256(b'not there')}").status == 404


def test_end_9_unknown_tag_is_404(target: Target) -> None:
    target.push(target.image("there"), "v1")
    assert target.call("DELETE", "manifests/not-there").status == 404


def test_end_10_deletes_a_blob_here_and_not_elsewhere(target: Target) -> None:
    other = target.sibling("other")
    digest = target.push_blob(b"to be deleted")
    other.push_blob(b"to be deleted")
    assert target.call("DELETE", f"blobs/{digest}").status == 202
    assert target.call("GET", f"blobs/{digest}").status == 404
    assert other.call("GET", f"blobs/{digest}").status == 200


def test_end_10_deleted_blob_can_be_pushed_again(target: Target) -> None:
    digest = target.push_blob(b"back again")
    target.call("DELETE", f"blobs/{digest}")
    assert target.push_blob(b"back again") == digest
    assert target.call("GET", f"blobs/{digest}").status == 200


def test_end_10_unknown_blob_is_404(target: Target) -> None:
    target.push_blob(b"there")
    assert target.call("DELETE", f"blobs/{sha256(b'not there')}").status == 404


def test_manifest_is_of_the_config_type_that_was_pushed(target: Target) -> None:
    """Any config media type is accepted: artifacts depend on it."""
    target.push_blob(b'{"any": 1}')
    image = target.image("any config")
    image["config"] = descriptor(b'{"any": 1}', "application/vnd.example.config.v1+json")
    assert target.push(image, "v1").status == 201
