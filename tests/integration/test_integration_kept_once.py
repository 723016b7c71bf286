"""A layer is kept once, and every output that needs the other form gets the same bytes."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from builds import Done, Shipline, context, document, get, leftovers
from peers import Registry, docker_registry

pytestmark = [pytest.mark.peers, pytest.mark.root]

SIZE = 4 << 20  # bytes of each layer
BIG = 20 << 20  # bytes of a file that makes a layer a tar that is mounted
DOCKERFILE = f"""
FROM busybox
COPY tree /tree
RUN head -c {SIZE} /dev/urandom > /noise && ln /noise /again && rm /bin/wc && rm -r /tree/0
COPY big /big
RUN cat /big /noise > /both && rm /both
"""


@pytest.fixture
def source(tmp_path: Path) -> Path:
    place = context(tmp_path / "context", DOCKERFILE)
    (place / "big").write_bytes(os.urandom(BIG))
    for number in range(40):
        (place / f"tree/{number}").mkdir(parents=True)
        (place / f"tree/{number}/file").write_bytes(os.urandom(SIZE // 40))
    return place


@pytest.fixture
def shipline(tmp_path: Path, base_images: Registry) -> Shipline:
    return Shipline(tmp_path / "home", base_images.address)


def digest(done: Done, place: Path) -> str:
    """Of the image that a build wrote to `place`."""
    done.ok()
    found: str = json.loads(place.read_text())["containerimage.digest"]
    return found


def push(shipline: Shipline, source: Path, name: str, *words: str) -> str:
    place = source.with_name("metadata.json")
    words = ("--push", "-t", name, "--metadata-file", str(place), *words)
    return digest(shipline.build(*words, source), place)


def big_blobs(shipline: Shipline) -> list[Path]:
    blobs = (shipline.home / "content/blobs/sha256").iterdir()
    return [blob for blob in blobs if blob.stat().st_size > SIZE // 2]


def run(*words: str, **environment: str) -> str:
    done = subprocess.run(words, capture_output=True, text=True, env=os.environ | environment)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_a_pushed_layer_is_kept_as_files_alone(
    shipline: Shipline, source: Path, base_images: Registry
) -> None:
    first = push(shipline, source, f"{base_images.address}/once/one")
    assert big_blobs(shipline) == []
    taken = int(run("du", "-sk", str(shipline.home)).split()[0]) << 10
    assert taken < 1.25 * (2 * SIZE + (20 << 20)) + (4 << 20), "busybox and tables of contents"
    command = (sys.executable, "-m", "shipline", "du", "--format", "{{.Size}}")
    counted = sum(float(line[:-2]) for line in run(*command, **shipline.environ()).split()
                  if line.endswith("MB")) * 1e6  # fmt: skip
    assert abs(counted - taken) < 0.05 * taken, (counted, taken)
    again = shipline.build("--push", "-t", f"{base_images.address}/once/one", source).ok()
    assert again.err.count("CACHED") == 5 and "compress" not in again.err
    assert push(shipline, source, f"{base_images.address}/once/one") == first
    assert leftovers(shipline.home) == []


def test_every_output_of_an_unchanged_build_is_the_same_image(
    shipline: Shipline, source: Path, base_images: Registry, tmp_path: Path
) -> None:
    name = f"{base_images.address}/once/all"
    first = push(shipline, source, name)
    with docker_registry(tmp_path, name="other") as other:
        assert push(shipline, source, f"{other.address}/once/all") == first
    assert big_blobs(shipline) == [], "made again for the other registry, and dropped again"
    for output in ("oci", "docker"):
        place, metadata = tmp_path / output, tmp_path / f"{output}.json"
        words = ("-o", f"type={output},dest={place},tar=false", "-t", name)
        done = shipline.build(*words, "--metadata-file", metadata, source)
        assert digest(done, metadata) == first or output == "docker"
        listed = {path.name for path in (place / "blobs/sha256").iterdir()}
        assert listed >= {path.name for path in big_blobs(shipline)} and big_blobs(shipline)
    zstd = push(shipline, source, name, "--output", "type=image,push=true,compression=zstd")
    fresh = Shipline(tmp_path / "fresh", base_images.address)
    assert zstd != first != push(fresh, source, name)


def test_a_registry_that_lost_a_layer_gets_it_again(
    shipline: Shipline, source: Path, tmp_path: Path, base_images: Registry
) -> None:
    with docker_registry(tmp_path, name="first") as registry:
        first = push(shipline, source, f"{registry.address}/once/lost")
        shutil.rmtree(registry.data / "docker/registry/v2/repositories/once/lost/_layers/sha256")
        for blob in (registry.data / "docker/registry/v2/blobs/sha256").glob("*/*"):
            shutil.rmtree(blob)
    with docker_registry(tmp_path, name="first") as registry:
        assert push(shipline, source, f"{registry.address}/once/lost") == first


def test_the_last_big_layer_of_an_instruction_keeps_its_blob(
    shipline: Shipline, source: Path, tmp_path: Path
) -> None:
    with (source / "big").open("ab") as file:
        file.truncate(90 << 20)
    (source / "Dockerfile").write_text("FROM busybox\nCOPY . /\nRUN true\n")

    def built(machine: Shipline) -> str:
        machine.build("-o", "type=cacheonly", source, SOURCE_DATE_EPOCH="1000000000").ok()
        (blob,) = big_blobs(machine)
        return blob.name

    first = built(shipline)
    (source / "tree/7/file").write_bytes(b"changed")
    changed = built(shipline)
    assert changed != first
    assert built(Shipline(tmp_path / "fresh", shipline.mirror)) == changed


def test_a_base_layer_is_kept_as_files_and_comes_from_its_registry_again(
    shipline: Shipline, source: Path, tmp_path: Path
) -> None:
    with docker_registry(tmp_path, name="bases") as bases:
        (source / "Dockerfile").write_text("FROM scratch\nCOPY big /\n")
        shipline.build("--push", "-t", f"{bases.address}/base", source).ok()
        base = document(bases, "base", "latest")["layers"][0]
        text = f"FROM {bases.address}/base\nCOPY --from=busybox /bin /bin\nRUN cp /big /copy\n"
        own = context(tmp_path / "own", text)
        fresh = Shipline(tmp_path / "fresh", shipline.mirror)
        first = push(fresh, own, f"{bases.address}/own")
        assert big_blobs(fresh) == []
        with docker_registry(tmp_path, name="other") as other:
            assert push(fresh, own, f"{other.address}/own") == first
            assert document(other, "own", "latest")["layers"][0] == base
            assert get(other, f"/v2/own/blobs/{base['digest']}")[0] == 200
        place = tmp_path / "image"
        for _ in range(2):  # what an export has used stays for the next one
            done = fresh.build("-o", f"type=oci,dest={place},tar=false", own).ok()
        assert (place / "blobs/sha256" / base["digest"].removeprefix("sha256:")).exists()
        assert "pull" not in done.err and len(big_blobs(fresh)) > 0
        push(fresh, own, f"{bases.address}/own")
        assert len(big_blobs(fresh)) > 0


def test_a_base_layer_that_has_gone_from_its_registry_is_named(
    shipline: Shipline, source: Path, tmp_path: Path
) -> None:
    with docker_registry(tmp_path, name="bases") as bases:
        (source / "Dockerfile").write_text("FROM scratch\nCOPY big /\n")
        shipline.build("--push", "-t", f"{bases.address}/base", source).ok()
        base = document(bases, "base", "latest")["layers"][0]["digest"].removeprefix("sha256:")
        text = f"FROM {bases.address}/base\nCOPY --from=busybox /bin /bin\nRUN cp /big /copy\n"
        own = context(tmp_path / "own", text)
        fresh = Shipline(tmp_path / "fresh", shipline.mirror)
        fresh.build("-o", "type=cacheonly", own).ok()
        shutil.rmtree(bases.data / f"docker/registry/v2/blobs/sha256/{base[:2]}/{base}")
        fresh.build("-o", tmp_path / "out", own).ok()
        with docker_registry(tmp_path, name="other") as other:
            said = fresh.build("--push", "-t", f"{other.address}/own", own).failed(8)
    assert f"{base} is needed, but is no longer in {bases.address}/base" in said


def test_files_that_were_changed_give_no_wrong_layer(
    shipline: Shipline, source: Path, tmp_path: Path
) -> None:
    shipline.build("-o", "type=cacheonly", source).ok()
    assert big_blobs(shipline) == []
    for layer in (shipline.home / "layers").glob("[0-9a-f]*"):
        for file in layer.glob("**/tree/1/file"):
            file.write_bytes(file.read_bytes()[::-1])
    place = tmp_path / "out"
    done = shipline.build("-o", f"type=oci,dest={place},tar=false", source).ok()
    assert done.err.count("was damaged") == 1
    out = tmp_path / "files"
    shipline.build("-o", out, source).ok()
    assert (out / "tree/1/file").read_bytes() == (source / "tree/1/file").read_bytes()


def test_a_mounted_tar_that_was_damaged_gives_no_wrong_layer(
    shipline: Shipline, source: Path, tmp_path: Path, base_images: Registry
) -> None:
    name = f"{base_images.address}/once/whole"
    push(shipline, source, name)
    (tar,) = (one for one in shipline.home.glob("layers*/*/layer.tar") if one.stat().st_size > BIG)
    with tar.open("r+b") as file:
        file.seek(BIG // 2)
        (byte,) = file.read(1)
        file.seek(BIG // 2)
        file.write(bytes([byte ^ 1]))
    with docker_registry(tmp_path, name="empty") as registry:
        done = shipline.build("--push", "-t", f"{registry.address}/once/whole", source).ok()
        found = document(registry, "once/whole", "latest")["layers"]
    assert found == document(base_images, "once/whole", "latest")["layers"]
    assert done.err.count("was damaged") == 1
