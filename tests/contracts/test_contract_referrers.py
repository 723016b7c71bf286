"""Referring: what is attached to an image is listed, with what tells it apart; nothing else."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import cast

import pytest

import attached
from node_app import NodeApp
from shipline.content import MemoryStore, Repository, copy_graph
from shipline.oci import Descriptor, ImageConfig, Index, Manifest, Platform, media
from shipline.registry import RemoteRepository
from shipline.supply import Attachable

REFERRING = ("memory", "storage of a node", "node", "docker-registry")
SBOM, REVIEW = "application/spdx+json", "application/x.review"


@pytest.fixture(params=REFERRING)
def place(
    request: pytest.FixtureRequest, open_by_name: Callable[[str], Repository], tmp_path: Path
) -> Iterator[Attachable]:
    """Every Attachable, empty; docker-registry has no API for referrers, but their tag."""
    if request.param == "memory":
        yield attached.Repository()
    elif request.param == "storage of a node":
        app = NodeApp(tmp_path / "data")
        yield app.repository("team/app")
        app.close()
    else:
        opened = open_by_name(request.param)
        assert isinstance(opened, RemoteRepository)
        yield opened


def add(place: Attachable, *contents: bytes, root: Manifest) -> Descriptor:
    copy_graph(MemoryStore(*contents, root.raw), place, root.descriptor)
    return root.descriptor


def image(place: Attachable, note: str = "") -> Descriptor:
    config = ImageConfig(Platform("linux", "amd64")).set(Env=[f"A={note}"]).to_bytes()
    manifest = Manifest.make(Descriptor.of(config, media.OCI_CONFIG), [])
    return add(place, config, root=manifest)


def attach(
    place: Attachable, subject: Descriptor, kind: str, content: bytes = b"x", **notes: str
) -> Descriptor:
    manifest = Manifest.make(
        Descriptor.of(b"{}", media.OCI_EMPTY),
        [Descriptor.of(content, "text/plain")],
        subject=subject,
        artifact_type=kind,
        annotations=notes,
    )
    return add(place, b"{}", content, root=manifest)


def digests(found: tuple[Descriptor, ...]) -> set[str]:
    return {str(one.digest) for one in found}


def test_nothing_refers_to_a_new_image_or_to_none(place: Attachable) -> None:
    assert place.referrers(image(place)) == ()
    assert place.referrers(Descriptor.of(b"{}", media.OCI_MANIFEST)) == ()


def test_a_referrer_is_listed_with_its_type_size_and_annotations(place: Attachable) -> None:
    subject = image(place)
    made = attach(place, subject, SBOM, note="first")
    (found,) = place.referrers(subject)
    assert found.plain == made.plain
    assert (found.artifact_type, found.annotations) == (SBOM, {"note": "first"})


def test_an_artifact_type_selects(place: Attachable) -> None:
    subject = image(place)
    sbom, review = attach(place, subject, SBOM), attach(place, subject, REVIEW)
    assert digests(place.referrers(subject, SBOM)) == {str(sbom.digest)}
    assert digests(place.referrers(subject)) == {str(sbom.digest), str(review.digest)}
    assert place.referrers(subject, "application/none") == ()


def test_an_index_refers_as_a_manifest_does(place: Attachable) -> None:
    subject, child = image(place), image(place, "child")
    index = Index.make([child], subject=subject, annotations={"note": "of both"})
    place.push(index.descriptor, MemoryStore(index.raw))
    (found,) = place.referrers(subject)
    assert found.plain == index.descriptor.plain and found.annotations == {"note": "of both"}


def test_what_refers_to_another_image_is_not_listed(place: Attachable) -> None:
    subject, other = image(place), image(place, "other")
    attach(place, other, SBOM)
    assert place.referrers(subject) == ()


def test_attached_twice_is_listed_once(place: Attachable) -> None:
    subject = image(place)
    made = [attach(place, subject, SBOM) for _ in range(2)]
    assert [one.digest for one in place.referrers(subject)] == [made[0].digest]


def test_many_are_all_listed(place: Attachable) -> None:
    subject = image(place)
    made = {str(attach(place, subject, SBOM, b"%d" % number).digest) for number in range(25)}
    assert digests(place.referrers(subject)) == made


def test_referrers_may_have_referrers(place: Attachable) -> None:
    subject = image(place)
    sbom = attach(place, subject, SBOM)
    signature = attach(place, sbom, REVIEW)
    assert digests(place.referrers(subject)) == {str(sbom.digest)}
    assert digests(place.referrers(sbom)) == {str(signature.digest)}


@pytest.mark.parametrize("place", ["memory", "node", "docker-registry"], indirect=True)
def test_a_deleted_one_is_no_longer_listed(place: Attachable) -> None:
    subject = image(place)
    kept, gone = attach(place, subject, SBOM), attach(place, subject, REVIEW)
    cast("RemoteRepository", place).delete(str(gone.digest))
    assert digests(place.referrers(subject)) == {str(kept.digest)}
