"""How often a copy asks: nothing twice, where one answer says it."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest
from spec_registry import Peculiar, spec_registry

from layouts import write_layout
from shipline.content import MemoryStore, OciLayout
from shipline.images import CopyOptions, copy_tag
from shipline.oci import Descriptor, Digest, Index, Platform, Reference
from shipline.registry import Client
from shipline.values import replace


def two_platforms(place: Path) -> tuple[OciLayout, Descriptor]:
    layout = OciLayout(write_layout(place / "one", "arm64", [b"one"]))
    other = OciLayout(write_layout(place / "two", "amd64", [b"two"]))
    images = [layout.resolve("arm64"), other.resolve("amd64")]
    for file in (other.root / "blobs/sha256").iterdir():
        (layout.root / "blobs/sha256" / file.name).write_bytes(file.read_bytes())
    index = Index.make(
        replace(image, platform=Platform.parse(f"linux/{architecture}"))
        for image, architecture in zip(images, ("arm64", "amd64"), strict=True)
    )
    layout.tag(index.descriptor, MemoryStore(index.raw), "v1")
    return layout, layout.resolve("v1")


def test_a_copy_asks_for_nothing_twice(tmp_path: Path) -> None:
    layout, root = two_platforms(tmp_path)
    with spec_registry() as (_, source), spec_registry() as (_, target), Client() as client:
        at, to = (
            client.repository(Reference.parse(f"{one.host}/team/app")) for one in (source, target)
        )
        assert copy_tag(layout, at, root, "v1", options=CopyOptions()) == root
        source.requests.clear()
        assert copy_tag(at, to, at.resolve("v1"), "v1", options=CopyOptions()) == root
        assert to.resolve("v1").digest == root.digest
        listed = len(source.to("GET", "/referrers/"))
        assert not at.referrers(replace(root, digest=Digest.of(b"another")))
        assert len(source.to("GET", "/referrers/")) == listed  # it has no such API
    asked = Counter((one.method, one.path) for one in source.requests)
    assert max(asked.values()) == 1, asked
    tagged = [path for _, path in asked if f"manifests/sha256-{root.digest.hex}" in path]
    assert not tagged  # the list of tags has no such tag
    asked = Counter((one.method, one.path) for one in target.requests)
    blobs = [path for method, path in asked if method == "HEAD" and "/blobs/" in path]
    assert not blobs  # they are small: the POST that opens an upload mounts what is there
    written = [path.rpartition("/")[2] for method, path in asked if method == "PUT"]
    assert str(root.digest) not in written and written.count("v1") == 1
    del asked["POST", "/v2/team/app/blobs/uploads/"]
    repeated = {request for request, count in asked.items() if count > 1}
    assert repeated == {("GET", "/v2/team/app/manifests/v1")}  # before, and right before the PUT


def test_who_looked_for_a_manifest_pushes_it_without_a_second_look(tmp_path: Path) -> None:
    manifest = Index.make([])
    source = MemoryStore(manifest.raw)
    with spec_registry() as (_, registry), Client() as client:
        to = client.repository(Reference.parse(f"{registry.host}/team/app"))
        for there in (False, True):
            assert to.exists(manifest.descriptor) is there
            to.push(manifest.descriptor, source)
        name = f"/v2/team/app/manifests/{manifest.descriptor.digest}"
        assert len(registry.to("HEAD", name)) == 2 and len(registry.to("PUT", name)) == 1


@pytest.mark.parametrize("digests", [True, False])
def test_a_tag_that_is_told_to_be_there_is_not_written_again(digests: bool) -> None:
    first, other = Index.make([]), Index.make([], annotations={"a": "b"})
    with spec_registry(Peculiar(digests=digests)) as (_, registry):
        name = Reference.parse(f"{registry.host}/team/app")

        def push(manifest: Index, tag: str) -> int:
            """How often the tag was written."""
            registry.requests.clear()
            with Client() as client:
                to, source = client.repository(name), MemoryStore(manifest.raw)
                to.push(manifest.descriptor, source)
                to.tag(manifest.descriptor, source, tag)
                assert to.resolve(tag).digest == manifest.descriptor.digest
            return len(registry.to("PUT", f"/v2/team/app/manifests/{tag}"))

        writes = [push(first, "v1"), push(first, "v1"), push(first, "v2")]
        writes += [push(other, "v1"), push(first, "v1"), push(first, "v1")]
        assert writes == ([1, 0, 1, 1, 1, 0] if digests else [1] * 6)
