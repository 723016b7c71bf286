"""Base images: one platform of a name, whole or refused."""

from __future__ import annotations

from pathlib import Path

import pytest
from layers_for_tests import AMD64, ARM64, items_of, make_layer, store_image, store_index

from shipline.build.base_images import RegistryImages
from shipline.build.blobs import Blobs
from shipline.content import LocalStore, MemoryStore
from shipline.errors import ContentError, NotFound
from shipline.events import Step, silent
from shipline.oci import Descriptor, Digest


class Counted(MemoryStore):
    """A registry that counts what is asked of it."""

    def __init__(self) -> None:
        super().__init__()
        self.lookups: list[str] = []

    def resolve(self, reference: str) -> Descriptor:
        self.lookups.append(reference)
        return super().resolve(reference)


def images(remote: MemoryStore, state: Path, step: Step) -> RegistryImages:
    return RegistryImages(lambda reference: remote, Blobs(LocalStore(state), step), step)


def test_the_platform_asked_for_is_chosen_and_no_layer_is_fetched(tmp_path: Path) -> None:
    remote = Counted()
    layer = make_layer(remote, items_of({"a": "1"}))
    one = store_image(remote, layer, run={"Env": ["A=1"]})
    two = store_image(remote, platform=ARM64)
    index = store_index(remote, (one.manifest, AMD64), (two.manifest, ARM64))
    remote.tags["latest"] = index
    with silent() as step:
        found = images(remote, tmp_path, step)
        assert found.resolve("base", ARM64).manifest.manifest == two.manifest.digest
        image = found.resolve("base", AMD64)
        assert found.known("base", AMD64) == image.config
        assert found.known("other", AMD64) is None
    assert image.layers == (layer,)
    assert image.reference.digest == index.digest
    assert remote.lookups == ["latest"]
    assert not LocalStore(tmp_path).exists(layer.descriptor)


def test_a_platform_that_is_not_offered_lists_those_that_are(tmp_path: Path) -> None:
    remote = MemoryStore()
    remote.tags["latest"] = store_index(remote, (store_image(remote).manifest, AMD64))
    with silent() as step, pytest.raises(NotFound, match="linux/arm64") as caught:
        images(remote, tmp_path, step).resolve("base", ARM64)
    assert "linux/amd64" in caught.value.hint


def test_a_single_image_of_another_platform_is_taken_for_the_checks_to_judge(
    tmp_path: Path,
) -> None:
    remote = MemoryStore()
    remote.tags["latest"] = store_image(remote).manifest
    with silent() as step:
        found = images(remote, tmp_path, step)
        found.resolve("base", ARM64)
    image = found.known("base", ARM64)
    assert image is not None and image.platform == AMD64


def test_an_index_in_an_index_is_refused(tmp_path: Path) -> None:
    remote = MemoryStore()
    inner = store_index(remote, (store_image(remote).manifest, AMD64))
    remote.tags["latest"] = store_index(remote, (inner, AMD64))
    with silent() as step, pytest.raises(ContentError, match="index inside an index"):
        images(remote, tmp_path, step).resolve("base", AMD64)


def test_layers_and_diff_ids_must_be_as_many(tmp_path: Path) -> None:
    remote = MemoryStore()
    layer = make_layer(remote, items_of({"a": "1"}))
    wrong = store_image(remote, layer, diff_ids=(layer.diff_id, Digest.of(b"more")))
    remote.tags["latest"] = wrong.manifest
    with silent() as step, pytest.raises(ContentError, match=r"has 1 layers.*lists 2"):
        images(remote, tmp_path, step).resolve("base", AMD64)


def test_a_name_that_is_not_there_is_told_with_the_name_people_wrote(tmp_path: Path) -> None:
    with silent() as step, pytest.raises(NotFound, match="base image base:1 was not found"):
        images(MemoryStore(), tmp_path, step).resolve("base:1", AMD64)


def test_documents_are_asked_for_once(tmp_path: Path) -> None:
    remote = MemoryStore()
    remote.tags["latest"] = store_image(remote).manifest
    with silent() as step:
        images(remote, tmp_path, step).resolve("base", AMD64)
        remote.blobs.clear()
        images(remote, tmp_path, step).resolve("base", AMD64)
