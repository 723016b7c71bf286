"""combine: every manifest once, under an index that can hold what is said about them."""

from __future__ import annotations

from shipline.oci import Descriptor, Index, Manifest, Part, Platform, combine, media

AMD, ARM = Platform("linux", "amd64"), Platform("linux", "arm64")


def image(content: bytes, media_type: str = media.OCI_MANIFEST) -> Manifest:
    return Manifest.make(Descriptor.of(content, media.OCI_CONFIG), [], media_type=media_type)


def test_images_and_indexes_stand_side_by_side_in_order() -> None:
    one, two, three = image(b"1"), image(b"2"), image(b"3")
    index = Index.make([two.descriptor, three.descriptor])
    found = combine([Part(one, AMD), Part(index)])
    assert [entry.digest for entry in found.manifests] == [
        manifest.descriptor.digest for manifest in (one, two, three)
    ]
    assert found.manifests[0].platform == AMD


def test_equal_digests_are_one_entry_with_all_that_is_known() -> None:
    one = image(b"1")
    nameless = Index.make([one.descriptor])
    found = combine([Part(nameless), Part(one, ARM)])
    assert [entry.platform for entry in found.manifests] == [ARM]


def test_only_docker_manifests_make_a_docker_list() -> None:
    docker = Part(image(b"1", media.DOCKER_MANIFEST), AMD)
    assert combine([docker]).media_type == media.DOCKER_INDEX
    assert combine([docker, Part(image(b"2"), ARM)]).media_type == media.OCI_INDEX
    assert combine([docker], annotations={"k": "v"}).media_type == media.OCI_INDEX
    assert combine([docker], annotate=[(AMD, "k", "v")]).media_type == media.OCI_INDEX


def test_annotations_reach_their_platform() -> None:
    parts = [Part(image(b"1"), AMD), Part(image(b"2"), ARM)]
    found = combine(parts, annotate=[(ARM, "a", "1"), (None, "b", "2")], annotations={"c": "3"})
    assert [dict(entry.annotations) for entry in found.manifests] == [
        {"b": "2"},
        {"a": "1", "b": "2"},
    ]
    assert found.annotations == {"c": "3"}
