"""What a build asks of a registry, seen by a proxy in between: nothing that it does not need."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from builds import PLATFORMS, Shipline, context, manifests, tags
from peers import Registry
from proxy import FaultProxy

pytestmark = [pytest.mark.peers, pytest.mark.root]


class Watched(FaultProxy):
    """A registry behind a proxy; base images are pulled from it, results pushed to it."""

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    def blobs_read(self) -> list[str]:
        return [one.target for one in self.seen("GET", "/blobs/sha256:")]

    def blobs_sent(self) -> list[str]:
        return [one.target for one in self.seen("PUT", "/blobs/uploads/")]


@pytest.fixture
def watched(base_images: Registry) -> Iterator[Watched]:
    with Watched(base_images.port) as proxy:
        yield proxy


@pytest.fixture
def shipline(tmp_path: Path, watched: Watched) -> Shipline:
    return Shipline(tmp_path / "home", watched.address)


def test_linked_copy_reads_no_layer_of_its_base(
    watched: Watched, shipline: Shipline, tmp_path: Path
) -> None:
    dockerfile = 'FROM alpine\nCOPY --link file.txt /srv/\nENV A=b\nCMD ["sh"]\n'
    place = context(tmp_path / "context", dockerfile, file__txt="content\n")
    shipline.push(place, f"{watched.address}/traffic/link")
    found = manifests(watched, "traffic/link", "latest")
    layers = {layer["digest"] for one in found.values() for layer in one["layers"]}
    read = [target for target in watched.blobs_read() if target.rpartition("/")[2] in layers]
    assert read == []


def test_layers_of_the_base_are_mounted_when_it_is_in_the_same_registry(
    watched: Watched, shipline: Shipline, tmp_path: Path
) -> None:
    dockerfile = "FROM busybox\nCOPY file.txt /srv/\n"
    place = context(tmp_path / "context", dockerfile, file__txt="content\n")
    shipline.push(place, f"{watched.address}/traffic/mounted")
    mounts = watched.seen("POST", r"mount=sha256.*from=library(/|%2F)busybox")
    assert len(mounts) == 2  # one layer for each platform
    assert len(watched.blobs_sent()) == 3  # the layer of COPY, two configurations


def test_unchanged_build_moves_no_blob(
    watched: Watched, shipline: Shipline, tmp_path: Path
) -> None:
    dockerfile = "FROM busybox\nCOPY file.txt /srv/\nRUN true > /made\n"
    place = context(tmp_path / "context", dockerfile, file__txt="content\n")
    name = f"{watched.address}/traffic/again"
    shipline.push(place, name)
    before = watched.blobs_read(), watched.blobs_sent()
    shipline.push(place, name)
    assert (watched.blobs_read(), watched.blobs_sent()) == before


def test_tag_is_written_after_everything_else(
    watched: Watched, shipline: Shipline, tmp_path: Path
) -> None:
    place = context(tmp_path / "context", "FROM busybox\nRUN true > /made\n")
    shipline.push(place, f"{watched.address}/traffic/last:1")
    written = [one.target for one in watched.requests if one.method in ("PUT", "POST", "PATCH")]
    assert written[-1].endswith("/traffic/last/manifests/1")
    assert sum(target.endswith("/manifests/1") for target in written) == 1


def test_push_keeps_no_image_here(watched: Watched, shipline: Shipline, tmp_path: Path) -> None:
    """A cached build pushes to a new registry name what it never had on this machine."""
    dockerfile = "FROM alpine\nCOPY --link file.txt /\n"
    place = context(tmp_path / "context", dockerfile, file__txt="content\n")
    shipline.push(place, f"{watched.address}/traffic/first")
    shipline.push(place, f"{watched.address}/traffic/second")
    assert tags(watched, "traffic/second") == ["latest"]
    size = sum(path.stat().st_size for path in (shipline.home / "content").rglob("*"))
    assert size < 200_000, PLATFORMS
