"""Names of images, with the transports of skopeo."""

from __future__ import annotations

import io
import os
import tarfile
from contextlib import ExitStack
from pathlib import Path

import pytest

from shipline.errors import UsageError
from shipline.images import Place, PlaceKind, Places, parse_place, parse_target
from shipline.oci import Descriptor, Index, Reference, media
from shipline.registry import Client, HostSettings
from shipline.registry.keychain import ConfigKeychain

DIGEST = f"sha256:{'a' * 64}"


@pytest.mark.parametrize(
    ("text", "kind", "path", "name"),
    [
        ("app", PlaceKind.REGISTRY, "", "latest"),
        ("docker://host:5000/a/b:1", PlaceKind.REGISTRY, "", "1"),
        (f"host:5000/a/b@{DIGEST}", PlaceKind.REGISTRY, "", DIGEST),
        ("docker://dir:latest", PlaceKind.REGISTRY, "", "latest"),
        ("dir:some/place:1", PlaceKind.DIRECTORY, "some/place:1", ""),
        ("oci:some/dir", PlaceKind.LAYOUT, "some/dir", ""),
        ("oci:some/dir:v1", PlaceKind.LAYOUT, "some/dir", "v1"),
        (f"oci-layout:///some/dir@{DIGEST}", PlaceKind.LAYOUT, "/some/dir", DIGEST),
        ("oci:dir:host:5000/a/b:1", PlaceKind.LAYOUT, "dir", "host:5000/a/b:1"),
        ("oci-archive:/a.tar:localhost/app:1", PlaceKind.OCI_ARCHIVE, "/a.tar", "localhost/app:1"),
        ("oci:/a:b/c", PlaceKind.LAYOUT, "/a:b/c", ""),
        ("oci-archive:a.tar:v1", PlaceKind.OCI_ARCHIVE, "a.tar", "v1"),
        ("docker-archive:a.tar", PlaceKind.DOCKER_ARCHIVE, "a.tar", ""),
        ("docker-archive:/a.tar:b/c:1", PlaceKind.DOCKER_ARCHIVE, "/a.tar", "docker.io/b/c:1"),
        ("docker-daemon:app", PlaceKind.ENGINE, "", "docker.io/library/app:latest"),
    ],
)
def test_a_name_says_what_holds_the_image(text: str, kind: PlaceKind, path: str, name: str) -> None:
    place = parse_place(text)
    assert (place.kind, place.path, place.selector) == (kind, Path(path), name)
    assert parse_place(str(place)) == place


@pytest.mark.parametrize(
    ("text", "message"),
    [("sif:/some/place", "not supported"), ("oci:", "names no image"), ("http://a/b", "is a URL")],
)
def test_what_cannot_be_read_says_what_to_write(text: str, message: str) -> None:
    with pytest.raises(UsageError, match=message) as caught:
        parse_place(text)
    assert caught.value.hint


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("sif:out", "sif: is not supported"),
        ("containers-storage:app", "is not supported"),
        (f"a/b:1@{DIGEST}", "a tag or to a digest"),
    ],
)
def test_what_cannot_be_written_says_so(text: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        parse_target(text)


@pytest.mark.parametrize("text", ["docker://dir:out", "a/dir:out", f"a/b@{DIGEST}"])
def test_a_target_in_a_registry_has_a_tag_or_a_digest(text: str) -> None:
    assert parse_target(text) == parse_place(text)


def test_a_place_in_a_registry_is_its_reference() -> None:
    reference = Reference.parse("registry.example/team/app:1.0")
    assert str(Place(PlaceKind.REGISTRY, reference)) == "registry.example/team/app:1.0"


def test_a_path_with_colons_is_one_if_it_is_there(tmp_path: Path) -> None:
    place = tmp_path / "a:b" / "c"
    place.mkdir(parents=True)
    parsed = parse_place(f"oci:{place}:v1")
    assert (parsed.path, parsed.tag) == (place, "v1")


def test_an_archive_is_closed_with_the_stack(tmp_path: Path) -> None:
    archive = tmp_path / "some.tar"
    with tarfile.open(archive, "w") as tar:
        entry = tarfile.TarInfo("index.json")
        content = Index.make([Descriptor.of(b"{}", media.OCI_MANIFEST)]).raw
        entry.size = len(content)
        tar.addfile(entry, io.BytesIO(content))

    def opened() -> bool:
        return str(archive) in map(os.path.realpath, Path("/proc/self/fd").glob("*"))

    client = Client(HostSettings(), ConfigKeychain(()))
    with ExitStack() as stack:
        place = Place(PlaceKind.OCI_ARCHIVE, path=archive)
        image = Places(stack, client, {}).open(place)
        assert image.root.media_type == media.OCI_MANIFEST and opened()
    assert not opened()
