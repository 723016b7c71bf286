"""Images for Windows: their layers are those that BuildKit makes, and their files are found."""

from __future__ import annotations

import io
import os
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from builds import Shipline, context, document, get
from peers import Docker, Registry

pytestmark = pytest.mark.root

BASE = """\
FROM scratch
COPY Files /Files
COPY Hives /Hives
COPY UtilityVM /UtilityVM
"""
BUILT = """\
# escape=`
FROM {base} AS made
COPY d /app/
COPY d/a C:\\system\\new.txt
WORKDIR C:\\work
WORKDIR C:\\Users
USER ContainerAdministrator
COPY --chown=5:6 --chmod=640 d/a C:\\owned\\
FROM {base}
COPY --from=made /app/sub /from/
COPY --from={base} Windows/System32/cmd.exe /copied/
COPY --from=made /system /x
COPY d C:\\Windows
"""
BOTH = """\
ARG TARGETOS
FROM {base} AS on-windows
FROM busybox AS on-linux
FROM on-$TARGETOS
COPY {flag} d /app/
"""
WINDOWS = ("--platform", "windows/amd64", "--network", "none")


def files(place: Path, dockerfile: str) -> Path:
    context(place, dockerfile)
    for name in ("Files/Windows/System32/cmd.exe", "Hives/Sam_Delta", "UtilityVM/Files/u"):
        (place / name).parent.mkdir(parents=True, exist_ok=True)
        (place / name).write_text(f"{name}\n")
    for name in ("d/a", "d/sub/b"):
        (place / name).parent.mkdir(parents=True, exist_ok=True)
        (place / name).write_text(f"{name}\n")
    (place / "Files/Users").mkdir(mode=0o700)
    (place / "Files/system").symlink_to("Files/Windows/System32")
    (place / "d/l").symlink_to("a")
    os.link(place / "d/a", place / "d/hard")
    return place


@pytest.fixture(scope="module")
def base(base_images: Registry, tmp_path_factory: pytest.TempPathFactory) -> str:
    """An image for Windows; BuildKit has not made it, since it would take its own files as they
    are.
    """
    name, work = f"{base_images.address}/windows/base", tmp_path_factory.mktemp("base")
    Shipline(work / "home").build(*WINDOWS, "--push", "-t", name, files(work / "c", BASE)).ok()
    return name


Member = tuple[object, ...]


def layers(registry: Registry, name: str, manifest: dict[str, Any]) -> Iterator[list[Member]]:
    """The entries of all layers, without their times."""
    for layer in manifest["layers"]:
        status, body = get(registry, f"/v2/{name}/blobs/{layer['digest']}")
        assert status == 200
        with tarfile.open(fileobj=io.BytesIO(body), mode="r:gz") as tar:
            yield [*map(described, tar)]


def described(one: tarfile.TarInfo) -> Member:
    records = sorted((k, v) for k, v in one.pax_headers.items() if not k.endswith("time"))
    return one.name, one.type, one.mode, one.uid, one.gid, one.size, one.linkname, *records


@pytest.mark.peers
@pytest.mark.parametrize("target", ["made", ""])
def test_layers_are_those_of_buildkit(
    docker: Docker, base_images: Registry, base: str, tmp_path: Path, target: str
) -> None:
    place = files(tmp_path / "context", BUILT.format(base=base))
    words = (*WINDOWS, *(("--target", target) if target else ()), "--provenance=false")
    name = f"windows/built-{target}".rstrip("-")
    reference = f"{base_images.address}/{name}"
    output = f"type=registry,oci-mediatypes=true,name={reference}"
    done = docker.run("buildx", "build", *words, "--no-cache", "-o", f"{output}:theirs", place)
    assert done.returncode == 0, done.stdout
    shipline = Shipline(tmp_path / "home", base_images.address)
    shipline.build(*words, "-o", f"{output}:ours", place).ok()
    theirs, ours = (document(base_images, name, tag) for tag in ("theirs", "ours"))
    both = (layers(base_images, name, one) for one in (theirs, ours))
    for expected, found in zip(*both, strict=True):
        assert found == expected


@pytest.mark.parametrize("flag", ["", "--link"])
def test_windows_and_linux_share_no_layers(
    base_images: Registry, base: str, tmp_path: Path, flag: str
) -> None:
    """Also with a cache: COPY has the same key for all that share the form of layers."""
    place = files(tmp_path / "context", BOTH.format(base=base, flag=flag))
    reference = f"{base_images.address}/windows/both{flag[1:]}"
    name = reference.partition("/")[2]
    words = ("--platform", "linux/amd64,windows/amd64", "--push", "--provenance=false")
    cache = f"type=registry,ref={reference}:cache"
    pushed = []
    for home in ("a", "a", "b"):
        caching = ("--cache-from", cache, "--cache-to", f"{cache},mode=max")
        shipline = Shipline(tmp_path / home, base_images.address)
        shipline.build(*words, *caching, "-t", reference, place).ok()
        pushed.append(document(base_images, name, "latest"))
    assert pushed == pushed[:1] * 3, "cached layers are the same"
    tops = [
        [*layers(base_images, name, document(base_images, name, one["digest"]))][-1]
        for one in pushed[0]["manifests"]
    ]
    assert [top[0][0] for top in tops] == ["app", "Hives"]


def test_the_files_of_an_image_for_windows_are_exported(
    base_images: Registry, base: str, tmp_path: Path
) -> None:
    place = files(tmp_path / "context", f"FROM {base}\nCOPY d /app/\nCOPY d/a /system/\n")
    output = tmp_path / "out"
    shipline = Shipline(tmp_path / "home", base_images.address)
    shipline.build(*WINDOWS, "-o", output, place).ok()
    found = {str(one.relative_to(output)) for one in output.rglob("*")}
    assert {"app/sub/b", "Windows/System32/a", "Windows/System32/cmd.exe"} < found
    assert not found & {"Files", "Hives", "UtilityVM"}
    assert os.readlink(output / "system") == "Windows/System32"
    assert os.readlink(output / "app/l") == "a"
