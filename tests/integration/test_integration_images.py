"""`shipline inspect`, `tag`, `ls`, `digest` and `delete` at docker-registry."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import pytest

from builds import tags
from commands import run, run_shipline
from layouts import write_layout
from nodes import Node, node
from peers import Registry
from peers.docker import newest
from shipline.content import MemoryStore, OciLayout, copy_graph, successors
from shipline.oci import Descriptor, Digest, Index, Manifest, Platform, media, to_bytes
from shipline.values import replace

pytestmark = pytest.mark.peers
KIND = "application/vnd.example.report"


@pytest.fixture
def layout(tmp_path: Path) -> Path:
    """An index for linux/amd64 under v1, with a statement about it."""
    place = write_layout(tmp_path / "layout", "single")
    target = OciLayout(place)
    image = replace(target.resolve("single"), platform=Platform.parse("linux/amd64"))
    index = Index.make([image])
    target.tag(index.descriptor, MemoryStore(index.raw), "v1")
    empty = Descriptor.of(b"{}", media.OCI_EMPTY)
    about = Manifest.make(empty, [empty], subject=index.descriptor, artifact_type=KIND)
    for part in (empty, about.descriptor):
        target.push(part, MemoryStore(b"{}", about.raw))
    return place


def shipline(
    registry: Registry | Node, *words: str | Path, status: int = 0
) -> subprocess.CompletedProcess[str]:
    environ = {**os.environ, "SHIPLINE_INSECURE": registry.address}
    done = run_shipline(*words, environ=environ)
    assert done.returncode == status, done.stderr
    return done


@pytest.fixture
def image(registry: Registry, layout: Path, request: pytest.FixtureRequest) -> str:
    """The image in a repository of the test's own."""
    name = f"{registry.address}/images/{request.node.name.replace('_', '-')}"
    shipline(registry, "copy", "--quiet", f"oci:{layout}:v1", f"{name}:v1")
    return name


def test_the_tree_shows_platforms_layers_and_what_refers_to_it(
    registry: Registry, layout: Path, image: str, tmp_path: Path
) -> None:
    archive = tmp_path / "a.tar"
    shipline(registry, "copy", "--quiet", f"oci:{layout}:v1", f"oci-archive:{archive}:v1")
    trees = [
        shipline(registry, "inspect", "--tree", name).stdout.splitlines()
        for name in (f"{image}:v1", f"oci:{layout}:v1", f"oci-archive:{archive}:v1")
    ]
    first, *below = trees[0]
    assert first.startswith(f"{image}:v1  sha256:") and "index of 1 image" in first
    assert below[0].startswith("├─ linux/amd64  sha256:") and "1 layer" in below[0]
    assert "uncompressed" in below[1] and f"referrer {KIND}" in below[2]
    assert [tree[1:] for tree in trees[1:]] == [below, below]


def test_raw_is_what_the_registry_has_whatever_holds_it(
    registry: Registry, layout: Path, image: str
) -> None:
    raw = shipline(registry, "inspect", "--raw", f"{image}:v1").stdout
    assert shipline(registry, "inspect", "--raw", f"oci:{layout}:v1").stdout == raw
    digest = shipline(registry, "inspect", f"{image}:v1", "--format={{.Manifest.Digest}}").stdout
    assert digest.strip() == shipline(registry, "digest", f"{image}:v1").stdout.strip()
    for flags in (["--raw", "--tree"], ["--config", "--format={{.Name}}"]):
        wrong = shipline(registry, "inspect", *flags, f"{image}:v1", status=2)
        assert "give one of" in wrong.stderr


def test_a_platform_and_its_configuration_are_those_of_skopeo(
    registry: Registry, layout: Path, image: str
) -> None:
    choice = ["--override-os=linux", "--override-arch=amd64"]
    command = ["skopeo", *choice, "inspect", "--tls-verify=false", "--config", "--raw"]
    theirs = subprocess.run(
        [*command, f"docker://{image}:v1"], capture_output=True, text=True, check=True
    ).stdout
    one = shipline(registry, "digest", "--platform=linux/amd64", f"{image}:v1").stdout.strip()
    for name in (f"{image}:v1", f"oci:{layout}:v1"):
        found = shipline(registry, "inspect", "--config", "--platform=linux/amd64", name).stdout
        assert found == theirs
        raw = shipline(registry, "inspect", "--raw", "--platform=linux/amd64", name).stdout
        assert Digest.of(raw.encode()) == Digest.parse(one)
        shown = shipline(registry, "inspect", "--platform=linux/amd64", name).stdout
        assert shown.splitlines()[0].endswith(f"@{one}")
    other = ("--config", "--platform=linux/s390x", f"{image}:v1")
    assert "it has linux/amd64" in shipline(registry, "inspect", *other, status=8).stderr


def test_tags_are_given_and_listed(registry: Registry, image: str) -> None:
    host, _, repository = image.partition("/")
    shipline(registry, "tag", f"{image}:v1", "v2", f"{image}-other:v3")
    assert {"v1", "v2"} <= set(shipline(registry, "ls", image).stdout.split())
    document = json.loads(shipline(registry, "ls", "--json", f"{image}-other").stdout)
    assert document["name"] == f"{repository}-other" and "v3" in document["tags"]
    assert repository in shipline(registry, "ls", f"{host}/images/").stdout.split()
    assert "v1" in shipline(registry, "ls", f"docker://{image}").stdout.split()
    digests = {
        shipline(registry, "digest", name).stdout
        for name in (f"{image}:v1", f"{image}:v2", f"{image}-other:v3")
    }
    assert len(digests) == 1
    one = shipline(registry, "digest", "--platform=linux/amd64", "--full-ref", f"{image}:v1").stdout
    assert one.startswith(f"{image}@sha256:") and one.partition("@")[2] not in digests


def test_a_digest_with_tags_is_not_deleted_by_accident(registry: Registry, image: str) -> None:
    shipline(registry, "tag", f"{image}:v1", "v2")
    digest = shipline(registry, "digest", f"{image}:v1").stdout.strip()
    refused = shipline(registry, "delete", f"{image}:v1", status=6)  # it deletes no tags
    assert "its other tags v2" in refused.stderr and f"{image}@{digest}" in refused.stderr
    assert "2 tags: " in shipline(registry, "delete", f"{image}@{digest}", status=2).stderr
    done = shipline(registry, "delete", "--force", "--referrers", f"{image}@{digest}")
    assert "which refers to it" in done.stdout
    repository = image.partition("/")[2]
    assert not {"v1", "v2"} & set(tags(registry, repository) or ())
    assert "is not in" in shipline(registry, "delete", f"{image}@{digest}", status=8).stderr


def test_an_image_with_many_tags_names_some(registry: Registry, image: str) -> None:
    shipline(registry, "tag", f"{image}:v1", *(f"t{number:02}" for number in range(30)))
    refused = shipline(registry, "delete", f"{image}:v1", status=6).stderr
    assert "t00, t01" in refused and "t19 and 10 more" in refused and "t20" not in refused


def test_what_refers_to_an_image_that_cannot_be_deleted_stays(layout: Path, tmp_path: Path) -> None:
    source = OciLayout(layout)
    (about,) = source.referrers(source.resolve("v1"))
    (child,) = successors(source, source.resolve("v1"))
    empty = Descriptor.of(b"{}", media.OCI_EMPTY)
    of_child = Manifest.make(empty, [empty], subject=child, artifact_type=KIND)
    of_about = Manifest.make(empty, [empty], subject=about.plain, artifact_type=KIND)
    for one in (of_child, of_about):
        source.push(one.descriptor, MemoryStore(one.raw))
    with node(tmp_path / "node") as running:
        name = f"{running.address}/images/kept"
        shipline(running, "copy", "--quiet", f"oci:{layout}:v1", f"{name}:v1")
        words = ("delete", "--force", "--referrers")
        refused = shipline(running, *words, f"{name}@{child.digest}", status=6)
        assert "deleted" not in refused.stdout
        shipline(running, "inspect", f"{name}@{of_child.descriptor.digest}")
        root = source.resolve("v1")
        done = shipline(running, *words, f"{name}@{root.digest}").stdout
        assert f"deleted {of_about.descriptor.digest}, which" in done  # of what refers to it, too
        for gone in (root, about, of_about.descriptor):
            shipline(running, "inspect", f"{name}@{gone.digest}", status=8)


def test_a_difference_names_files_and_settings(
    registry: Registry, image: str, tmp_path: Path
) -> None:
    same = shipline(registry, "diff", f"{image}:v1", f"{image}:v1", "--platform=linux/amd64")
    assert len(same.stdout.splitlines()) == 1  # the sizes alone
    other = write_layout(tmp_path / "other", contents=[b"hello", b"changed"])
    words = ("diff", f"{image}:v1", f"oci:{other}")
    found = json.loads(shipline(registry, *words, "--json").stdout)
    before, after = found["files"]["hello"]
    assert "5 bytes" in before and "7 bytes" in after and "sha256:" in after
    removed, added = found["layers"]
    assert not removed and len(added) == 1 and found["packages"] is None
    text = shipline(registry, *words).stdout
    assert "~ hello  file" in text and f"+ {added[0]}" in text


def test_an_image_is_combined_from_layouts(registry: Registry, layout: Path, image: str) -> None:
    name = f"{image}-combined:v1"
    shipline(registry, "imagetools", "create", "-t", name, f"oci:{layout}:v1")
    digests = {shipline(registry, "digest", one).stdout for one in (name, f"{image}:v1")}
    assert len(digests) == 1


def test_what_is_no_tag_is_not_pushed_elsewhere(registry: Registry, image: str) -> None:
    for wrong in ("x" * 129, "sha256:abc", "-a"):
        done = shipline(registry, "tag", f"{image}:v1", "--", wrong, status=2)
        assert "not a tag" in done.stderr


def test_platforms_are_chosen_as_buildx_chooses_them(
    registry: Registry, layout: Path, image: str, tmp_path: Path
) -> None:
    store = OciLayout(layout)
    other = OciLayout(write_layout(tmp_path / "other", "other", [b"other"]))
    copy_graph(other, store, other.resolve("other"))
    platforms = ({"architecture": "amd64"}, {"architecture": "arm64", "variant": "v8"})
    parts = (store.resolve("single"), other.resolve("other"))
    document = json.loads(Index.make(parts, annotations={"z": "1", "k": "v"}).raw)
    for entry, platform in zip(document["manifests"], platforms, strict=True):
        entry["platform"] = {"os": "linux", **platform}
    raw = to_bytes(document)
    store.tag(Descriptor.of(raw, media.OCI_INDEX), MemoryStore(raw), "both")
    for tag in ("both", "single"):
        shipline(registry, "copy", "--quiet", f"oci:{layout}:{tag}", f"{image}:{tag}")
    buildx = (
        Path(newest()["PATH"].split(":")[0]).parent / "libexec/docker/cli-plugins/docker-buildx"
    )
    for words in (
        ["--platform=linux/arm64", f"{image}:both"],
        ["--platform=linux/arm64,linux/amd64", f"{image}:both"],
        [f"{image}:both", f"{image}:single"],
        ["--append", f"{image}:both", f"{image}:single"],
        ["--platform=linux/amd64", "--prefer-index=false", f"{image}:single"],
        ["--platform=linux/amd64", f"{image}:single"],
    ):
        ours = shipline(registry, "imagetools", "create", "--dry-run", *words).stdout
        theirs = run(buildx, "imagetools", "create", "--dry-run", *words).stdout
        assert ours.strip() == theirs.strip() != "", words


def test_the_tree_goes_into_inner_indexes(registry: Registry, layout: Path) -> None:
    store = OciLayout(layout)
    outer = Index.make([store.resolve("v1")])
    store.tag(outer.descriptor, MemoryStore(outer.raw), "outer")
    tree = shipline(registry, "inspect", "--tree", f"oci:{layout}:outer").stdout
    assert f"referrer {KIND}" in tree and "linux/amd64" in tree
