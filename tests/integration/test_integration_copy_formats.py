"""`shipline copy` into directories of skopeo, and from one format of manifests into the other."""

from __future__ import annotations

import filecmp
import gzip
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from commands import Forked, run_shipline
from layouts import write_layout
from shipline.cli import main
from shipline.content import MemoryStore, OciLayout
from shipline.oci import REFERENCE_DIGEST, Descriptor, Digest, Index, Manifest, Platform, media
from shipline.values import replace

PLATFORMS = ("linux/amd64", "linux/arm64")


@pytest.fixture
def layout(tmp_path: Path) -> Path:
    """An index for two platforms, the first with an attestation of BuildKit, and a referrer."""
    target = OciLayout(write_layout(tmp_path / "layout", "one"), create=True)
    image = target.resolve("one")
    second = target.index().manifests[0]
    about = Manifest.make(
        Descriptor.of(b"{}", media.OCI_CONFIG),
        [Descriptor.of(b"{}", "application/vnd.in-toto+json")],
    )
    for content, descriptor in ((b"{}", about.config), (about.raw, about.descriptor)):
        target.push(descriptor, MemoryStore(content))
    attestation = replace(
        about.descriptor,
        platform=Platform.parse("unknown/unknown"),
        annotations={REFERENCE_DIGEST: str(image.digest)},
    )
    entries = [
        replace(one.plain, platform=Platform.parse(platform))
        for one, platform in zip((image, second), PLATFORMS, strict=True)
    ]
    index = Index.make([*entries[:1], attestation])
    target.tag(index.descriptor, MemoryStore(index.raw), "v1")
    return target.root


def copy(*words: str, status: int = 0) -> str:
    done = run_shipline("copy", "-q", *words)
    assert done.returncode == status, done.stderr
    return done.stderr if status else done.stdout


def skopeo(*words: str) -> None:
    command = ["skopeo", "--insecure-policy", "copy", "--all", "--preserve-digests", *words]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def same(one: Path, other: Path) -> bool:
    names = sorted(path.name for path in one.iterdir())
    if names != sorted(path.name for path in other.iterdir()):
        return False
    return filecmp.cmpfiles(one, other, names, shallow=False)[0] == names


@pytest.mark.peers
def test_a_directory_has_what_skopeo_writes(layout: Path, tmp_path: Path) -> None:
    skopeo(f"oci:{layout}:v1", f"dir:{tmp_path}/theirs")
    copy(f"oci:{layout}:v1", f"dir:{tmp_path}/ours")
    assert same(tmp_path / "ours", tmp_path / "theirs")
    skopeo(f"dir:{tmp_path}/ours", f"oci:{tmp_path}/back:v1")
    copy(f"dir:{tmp_path}/theirs", f"oci:{tmp_path}/again:v1")
    root = OciLayout(layout).resolve("v1")
    assert OciLayout(tmp_path / "back").resolve("v1") == root
    assert OciLayout(tmp_path / "again").resolve("v1") == root


def test_two_copies_to_a_directory_at_once_leave_one_whole(layout: Path, tmp_path: Path) -> None:
    for number in range(10):
        place = f"dir:{tmp_path}/{number}"
        words = [["copy", f"oci:{layout}:{name}", place] for name in ("one", "v1", "one", "v1")]
        started = [Forked(main, one) for one in words]
        assert [one.wait(60) for one in started] == [0] * len(words)
        copy(place, f"oci:{tmp_path}/back-{number}:v1")


def test_a_directory_gets_another_image_and_loses_no_file_of_others(
    layout: Path, tmp_path: Path
) -> None:
    place = tmp_path / "place"
    copy(f"oci:{layout}:v1", f"dir:{place}")
    (place / "notes.txt").write_text("mine")
    copy(f"oci:{layout}:one", f"dir:{place}")
    copy(f"oci:{layout}:one", f"dir:{tmp_path}/fresh")
    (place / "notes.txt").unlink()
    assert same(place, tmp_path / "fresh")
    other = tmp_path / "documents"
    other.mkdir()
    (other / "a").write_text("a")
    assert "is not the directory of an image" in copy(f"dir:{place}", f"dir:{other}", status=2)
    assert [one.name for one in other.iterdir()] == ["a"]


def test_a_damaged_blob_of_a_directory_is_not_copied_and_written_again(
    layout: Path, tmp_path: Path
) -> None:
    place = tmp_path / "place"
    copy(f"oci:{layout}:one", f"dir:{place}")
    blob = max(place.iterdir(), key=lambda one: one.stat().st_size)
    content = blob.read_bytes()
    blob.write_bytes(b"x" * len(content))
    assert blob.name in copy(f"dir:{place}", f"oci:{tmp_path}/out", status=8)
    copy(f"oci:{layout}:one", f"dir:{place}")
    assert blob.read_bytes() == content


def test_a_format_changes_types_alone(layout: Path, tmp_path: Path) -> None:
    place = tmp_path / "out"
    copy("--format", "v2s2", f"oci:{layout}:v1", f"oci:{place}:docker")
    index = raw(place, "docker")
    assert index["mediaType"] == media.DOCKER_INDEX
    (entry,) = index["manifests"]  # without the attestation, for which lists have no place
    assert entry["mediaType"] == media.DOCKER_MANIFEST
    assert entry["platform"] == {"architecture": "amd64", "os": "linux"}
    image, before = raw(place, entry["digest"]), raw(layout, "one")
    types = [image["config"]["mediaType"], *(one["mediaType"] for one in image["layers"])]
    assert types == [media.DOCKER_CONFIG, media.DOCKER_LAYER]
    assert [one["digest"] for one in image["layers"]] == [one["digest"] for one in before["layers"]]
    copy("--format", "oci", f"oci:{place}:docker", f"oci:{place}:oci")
    assert raw(place, "oci")["mediaType"] == media.OCI_INDEX
    copy("--format", "oci", f"oci:{layout}:v1", f"oci:{place}:same")
    assert _hex(place, "same") == _hex(layout, "v1")


def raw(layout: Path, reference: str) -> Any:
    separator = "@" if ":" in reference else ":"
    shown = run_shipline("inspect", "--raw", f"oci:{layout}{separator}{reference}")
    return json.loads(shown.stdout)


def _hex(layout: Path, tag: str) -> str:
    return OciLayout(layout).resolve(tag).digest.hex


def test_what_has_no_place_in_a_format_is_an_error(layout: Path, tmp_path: Path) -> None:
    target = OciLayout(layout)
    layer = Descriptor.of(b"zstd", media.OCI_LAYER_ZSTD)
    config = Descriptor.of(b"{}", media.OCI_CONFIG)
    image = Manifest.make(config, [layer])
    for content, descriptor in ((b"zstd", layer), (b"{}", config)):
        target.push(descriptor, MemoryStore(content))
    target.tag(image.descriptor, MemoryStore(image.raw), "zstd")
    told = copy("--format", "v2s2", f"oci:{layout}:zstd", f"oci:{tmp_path}/out", status=8)
    assert "tar+zstd" in told
    told = copy(
        "--format=oci", "--preserve-digests", f"oci:{layout}:v1", f"oci:{tmp_path}/out", status=2
    )
    assert "--preserve-digests" in told


def test_system_is_the_image_itself(layout: Path, tmp_path: Path) -> None:
    place = f"oci:{tmp_path}/out"
    told = copy(
        "--multi-arch=system", "--platform=linux/amd64", f"oci:{layout}:v1", f"{place}:amd64"
    )
    assert told == f"{place}:amd64@sha256:{_hex(layout, 'one')}\n"
    told = copy(
        "--multi-arch=system", "--platform=linux/s390x", f"oci:{layout}:v1", place, status=8
    )
    assert "linux/s390x" in told


def test_an_image_of_an_index_in_a_layout_has_its_digest_as_name(
    layout: Path, tmp_path: Path
) -> None:
    run_shipline("copy", "-q", f"oci:{layout}:v1", f"oci:{tmp_path}/only")
    digest = raw(tmp_path / "only", "latest")["manifests"][0]["digest"]
    assert "layers" in raw(tmp_path / "only", digest)
    copy(f"oci:{tmp_path}/only", f"oci-archive:{tmp_path}/a.tar")
    told = copy(f"oci-archive:{tmp_path}/a.tar@{digest}", f"dir:{tmp_path}/out")
    assert digest in told


@pytest.mark.parametrize("kind", ["oci-archive", "docker-archive"])
def test_archives_go_through_pipes(layout: Path, tmp_path: Path, kind: str) -> None:
    shipline = str(Path(sys.executable).with_name("shipline"))
    words = [shipline, "copy", "-q", f"oci:{layout}:one", f"{kind}:/dev/stdout"]
    archive = subprocess.run(words, stdout=subprocess.PIPE, check=True).stdout
    copy(f"oci:{layout}:one", f"{kind}:{tmp_path}/a.tar")
    assert archive == (tmp_path / "a.tar").read_bytes()  # without the line with the digest
    words = [shipline, "copy", "-q", f"{kind}:/dev/stdin", f"dir:{tmp_path}/out"]
    for content in (archive, gzip.compress(archive)):
        subprocess.run(words, input=content, check=True)
    copy(f"{kind}:{tmp_path}/a.tar", f"dir:{tmp_path}/other")
    assert same(tmp_path / "out", tmp_path / "other")


@pytest.mark.parametrize("kind", ["oci", "oci-archive"])
def test_a_signed_image_is_still_the_only_one(layout: Path, tmp_path: Path, kind: str) -> None:
    source = OciLayout(layout)
    image = source.resolve("one")
    source.tag(source.index().manifests[0], source, f"sha256-{image.digest.hex}.sig")
    source.tag(image, source, "v2")
    place = f"{kind}:{tmp_path}/copy"
    assert str(image.digest) in copy(f"oci:{layout}:one", place)
    assert "sha256-" in run_shipline("ls", place).stdout
    assert image.digest == Digest.parse(run_shipline("digest", place).stdout.strip())


@pytest.mark.peers
@pytest.mark.parametrize("kind", ["oci", "oci-archive"])
def test_whole_names_in_layouts_are_those_of_podman(
    layout: Path, tmp_path: Path, kind: str
) -> None:
    image = f"oci:{layout}:one"
    for number in range(2):
        name = f"{kind}:{tmp_path}/place{number}:localhost/team/app:1"
        if number:
            copy(image, name)
        else:
            skopeo(image, name)
        assert run_shipline("digest", name).stdout.strip().endswith(_hex(layout, "one"))
        listed = run_shipline("ls", f"{kind}:{tmp_path}/place{number}").stdout
        assert listed == "localhost/team/app:1\n"
        skopeo(name, f"dir:{tmp_path}/out{number}")
    assert same(tmp_path / "out0", tmp_path / "out1")
