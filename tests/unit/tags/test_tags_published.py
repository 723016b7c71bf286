"""Tags against a registry: never overwritten, never rebuilt, never moved back."""

from __future__ import annotations

import json

import pytest

from shipline.content import MemoryStore
from shipline.oci import Descriptor, Digest
from shipline.tags import (
    Decision,
    Event,
    PublishedImage,
    Tag,
    TagConflict,
    place,
    require_free,
    reusable,
    snapshot,
)

OLD, MINE, NEW, ELSEWHERE = "a" * 40, "b" * 40, "c" * 40, "d" * 40
LINE = [OLD, MINE, NEW]
ONE = Digest("sha256", "1" * 64)
TWO = Digest("sha256", "2" * 64)


def is_ancestor(old: str, new: str) -> bool:
    return old in LINE and new in LINE and LINE.index(old) <= LINE.index(new)


def decision(*tags: Tag) -> Decision:
    return Decision(Event(ref="refs/heads/main"), MINE, MINE, 1, "", "", tags, (), None, True)


FIXED, MOVES = Tag("v1.0.0", False, ""), Tag("latest", True, "")


@pytest.mark.parametrize(
    ("tag", "revision", "action"),
    [
        (FIXED, None, "create"),
        (FIXED, MINE, "reuse"),
        (FIXED, OLD, "conflict"),
        (FIXED, NEW, "conflict"),
        (FIXED, "", "conflict"),
        (MOVES, None, "create"),
        (MOVES, MINE, "reuse"),
        (MOVES, OLD, "move"),
        (MOVES, NEW, "keep"),
        (MOVES, ELSEWHERE, "keep"),
        (MOVES, "", "move"),
    ],
)
def test_a_tag_in_the_registry(tag: Tag, revision: str | None, action: str) -> None:
    there = {} if revision is None else {tag.name: PublishedImage(ONE, revision)}
    (found,) = place(decision(tag), there, is_ancestor)
    assert found.action == action
    assert (str(ONE) in found.reason) == (revision is not None)


def test_the_image_of_this_commit_is_taken_again() -> None:
    there = {"v1.0.0": PublishedImage(ONE, MINE), "latest": PublishedImage(TWO, OLD)}
    found = place(decision(FIXED, MOVES), there, is_ancestor)
    assert [one.action for one in found] == ["reuse", "move"]
    assert reusable(found) == ONE
    assert reusable(place(decision(FIXED, MOVES), {}, is_ancestor)) is None


def test_a_conflict_names_both_and_stops_everything() -> None:
    found = place(decision(FIXED), {"v1.0.0": PublishedImage(ONE, OLD)}, is_ancestor)
    with pytest.raises(TagConflict) as raised:
        reusable(found)
    assert str(ONE) in raised.value.verdicts[0]
    assert OLD[:12] in raised.value.verdicts[0]
    assert MINE[:12] in raised.value.verdicts[0]
    assert raised.value.exit_code == 9
    with pytest.raises(TagConflict):
        require_free(found)


IMAGE = "application/vnd.oci.image.manifest.v1+json"
INDEX = "application/vnd.oci.image.index.v1+json"
REVISION = "org.opencontainers.image.revision"
MERGE = "org.shipline.pull-request.merge"


def added(store: MemoryStore, document: object, media_type: str) -> Descriptor:
    content = json.dumps(document).encode()
    target = Descriptor(media_type, Digest.of(content), len(content))
    store.blobs[target.digest] = content
    return target


def image(store: MemoryStore, config: object, **annotations: str) -> Descriptor:
    blob = added(store, config, "application/vnd.oci.image.config.v1+json")
    document = {
        "schemaVersion": 2,
        "mediaType": IMAGE,
        "config": blob.to_json(),
        "layers": [],
        "annotations": annotations,
    }
    return added(store, document, IMAGE)


@pytest.mark.parametrize(
    ("config", "annotations", "revision"),
    [
        ({"config": {"Labels": {REVISION: OLD}}}, {REVISION: MINE}, MINE),
        ({"config": {"Labels": {REVISION: OLD}}}, {}, OLD),
        ({"config": {"Labels": {REVISION: OLD, MERGE: MINE}}}, {}, MINE),
        ({}, {REVISION: OLD, MERGE: MINE}, MINE),
        ({"config": {"Labels": None}}, {}, ""),
        ({"config": {}}, {}, ""),
        ({}, {}, ""),
        ([], {}, ""),
    ],
)
def test_the_commit_of_an_image_is_in_its_annotations_or_labels(
    config: object, annotations: dict[str, str], revision: str
) -> None:
    store = MemoryStore()
    store.tags["x"] = image(store, config, **annotations)
    assert snapshot(store, ["x", "free"]) == {"x": PublishedImage(store.tags["x"].digest, revision)}


@pytest.mark.parametrize("annotated", [True, False])
def test_the_commit_of_an_index_is_its_own_or_that_of_its_images(annotated: bool) -> None:
    store = MemoryStore()
    child = image(store, {"config": {"Labels": {REVISION: OLD}}})
    entry = {**child.to_json(), "platform": {"os": "linux", "architecture": "arm64"}}
    document = {"schemaVersion": 2, "mediaType": INDEX, "manifests": [entry]}
    more = {"annotations": {REVISION: MINE}} if annotated else {}
    store.tags["x"] = added(store, {**document, **more}, INDEX)
    assert snapshot(store, ["x"])["x"].revision == (MINE if annotated else OLD)
