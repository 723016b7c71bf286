"""Lists: end-8 (tags), end-12 (referrers), and Docker's catalogue."""

from __future__ import annotations

from typing import Any

import pytest

from spec_client import EMPTY, INDEX, MANIFEST, Answer, Target, next_page, sha256, to_json

pytest_plugins = ("spec_targets",)

SBOM, SIGNATURE = "application/vnd.example.sbom", "application/vnd.example.signature"


def follow(target: Target, path: str, key: str) -> list[str]:
    """All names over all pages."""
    names: list[str] = []
    place: str | None = path
    for _ in range(100):
        if place is None:
            return names
        answer = target.call("GET", place)
        assert answer.status == 200
        names += answer.json[key]
        place = next_page(answer)
    raise AssertionError("the pages do not end")


def tagged(target: Target, *tags: str) -> None:
    image = target.image("tags")
    for tag in tags:
        assert target.push(image, tag).status == 201


def test_end_8a_lists_tags_in_order(target: Target) -> None:
    names = ["b", "a", "v10", "v2", "latest", "0", "A", "_x", "a.b", "a-b", "a_b", "Z9"]
    tagged(target, *names)
    answer = target.call("GET", "tags/list")
    assert answer.status == 200
    assert answer.json == {"name": target.repository, "tags": sorted(names)}


def test_end_8a_unknown_repository_is_404(target: Target) -> None:
    answer = target.call("GET", "tags/list")
    assert (answer.status, answer.codes) == (404, ["NAME_UNKNOWN"])


def test_end_8b_pages(target: Target) -> None:
    names = [f"t{number}" for number in range(5)]
    tagged(target, *names)
    answer = target.call("GET", "tags/list?n=2")
    assert answer.json["tags"] == names[:2]
    assert next_page(answer)
    assert follow(target, "tags/list?n=2", "tags") == names


def test_end_8b_last_is_exclusive(target: Target) -> None:
    tagged(target, "a", "b", "c")
    assert target.call("GET", "tags/list?last=a").json["tags"] == ["b", "c"]


def test_end_8b_last_need_not_exist(target: Target) -> None:
    tagged(target, "a", "c")
    assert target.call("GET", "tags/list?last=b").json["tags"] == ["c"]


def test_end_8b_zero_is_an_empty_list_without_link(target: Target) -> None:
    tagged(target, "a")
    answer = target.call("GET", "tags/list?n=0")
    assert (answer.status, answer.json["tags"] or []) == (200, [])
    assert next_page(answer) is None


@pytest.mark.parametrize(
    "count", [3, 10, 2**63 - 1], ids=["as many as there are", "more", "the largest"]
)
def test_end_8b_last_page_has_no_link(target: Target, count: int) -> None:
    tagged(target, "a", "b", "c")
    answer = target.call("GET", f"tags/list?n={count}")
    assert sorted(answer.json["tags"]) == ["a", "b", "c"]
    assert next_page(answer) is None


@pytest.mark.parametrize("count", ["-1", "many"])
def test_end_8b_count_that_is_none_is_400(target: Target, count: str) -> None:
    tagged(target, "a")
    assert target.call("GET", f"tags/list?n={count}").status == 400


def test_tags_are_empty_when_the_last_is_gone(target: Target) -> None:
    tagged(target, "a")
    target.call("DELETE", "manifests/a")
    answer = target.call("GET", "tags/list")
    assert (answer.status, answer.json["tags"]) == (200, [])


def referrers(target: Target, subject: dict[str, Any], query: str = "") -> Answer:
    return target.call("GET", f"referrers/{sha256(to_json(subject))}{query}")


def test_end_12a_without_referrers_is_an_empty_index(target: Target) -> None:
    subject = target.image("alone")
    target.push(subject)
    answer = referrers(target, subject)
    assert (answer.status, answer["Content-Type"]) == (200, INDEX)
    assert (answer.json["schemaVersion"], answer.json["mediaType"]) == (2, INDEX)
    assert answer.json["manifests"] == []


def test_end_12a_unknown_subject_is_an_empty_index(target: Target) -> None:
    answer = target.call("GET", f"referrers/{sha256(b'nothing at all')}")
    assert (answer.status, answer.json["manifests"]) == (200, [])


def test_end_12a_bad_digest_is_400(target: Target) -> None:
    assert target.call("GET", "referrers/sha256:abc").status == 400


def test_end_12a_describes_the_referrers(target: Target) -> None:
    subject = target.image("subject")
    target.push(subject)
    notes = {"org.example.format": "json", "other": "2"}
    with_type = target.artifact("sbom", subject, artifactType=SBOM, annotations=notes)
    without = target.artifact("by config", subject)
    without["config"]["mediaType"] = SIGNATURE
    for one in (with_type, without):
        assert target.push(one).status == 201
    found = {entry["digest"]: entry for entry in referrers(target, subject).json["manifests"]}
    first, second = to_json(with_type), to_json(without)
    assert found == {
        sha256(first): {
            "mediaType": MANIFEST,
            "digest": sha256(first),
            "size": len(first),
            "artifactType": SBOM,
            "annotations": notes,
        },
        sha256(second): {
            "mediaType": MANIFEST,
            "digest": sha256(second),
            "size": len(second),
            "artifactType": SIGNATURE,
        },
    }


def test_end_12a_index_as_referrer(target: Target) -> None:
    subject = target.image("subject of an index")
    target.push(subject)
    raw = to_json(subject)
    index = {
        "schemaVersion": 2,
        "mediaType": INDEX,
        "manifests": [],
        "subject": {"mediaType": MANIFEST, "digest": sha256(raw), "size": len(raw)},
    }
    assert target.push(index).status == 201
    (found,) = referrers(target, subject).json["manifests"]
    assert found["mediaType"] == INDEX
    assert "artifactType" not in found


def test_end_12a_referrer_may_come_before_its_subject(target: Target) -> None:
    subject = target.image("late")
    early = target.artifact("early", subject, artifactType=SBOM)
    assert target.push(early).status == 201
    assert len(referrers(target, subject).json["manifests"]) == 1


def test_end_12a_deleted_referrer_is_gone(target: Target) -> None:
    subject = target.image("subject")
    one = target.artifact("one", subject, artifactType=SBOM)
    target.push(one)
    target.call("DELETE", f"manifests/{sha256(to_json(one))}")
    assert referrers(target, subject).json["manifests"] == []


def test_end_12a_repositories_are_apart(target: Target) -> None:
    subject = target.image("subject")
    target.push(target.artifact("here", subject))
    other = target.sibling("other")
    assert referrers(other, subject).json["manifests"] == []


def test_end_12b_filter_by_artifact_type(target: Target) -> None:
    subject = target.image("subject")
    sbom = target.artifact("sbom", subject, artifactType=SBOM)
    for one in (sbom, target.artifact("signature", subject, artifactType=SIGNATURE)):
        target.push(one)
    answer = referrers(target, subject, f"?artifactType={SBOM}")
    assert answer["OCI-Filters-Applied"] == "artifactType"
    assert [entry["digest"] for entry in answer.json["manifests"]] == [sha256(to_json(sbom))]
    nothing = referrers(target, subject, f"?artifactType={EMPTY}")
    assert (nothing.status, nothing.json["manifests"]) == (200, [])


def test_end_12a_pages(target: Target) -> None:
    """A registry may answer in pages; all of them together have every referrer once."""
    subject = target.image("subject")
    expected = []
    for number in range(5):
        notes = {f"note-{place}": "x" * 100_000 for place in range(9)}
        one = target.artifact(f"large {number}", subject, artifactType=SBOM, annotations=notes)
        assert target.push(one).status == 201
        expected.append(sha256(to_json(one)))
    digest = sha256(to_json(subject))
    for query in ("", f"?artifactType={SBOM}"):
        found: list[str] = []
        place: str | None = f"referrers/{digest}{query}"
        while place is not None:
            answer = target.call("GET", place)
            assert (answer.status, answer["Content-Type"]) == (200, INDEX)
            found += [entry["digest"] for entry in answer.json["manifests"]]
            place = next_page(answer)
        assert sorted(found) == sorted(expected)


def test_catalogue_lists_repositories(target: Target) -> None:
    target.push(target.image("catalogue"), "v1")
    assert target.repository in follow(target, "/v2/_catalog?n=3", "repositories")
