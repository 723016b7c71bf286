"""Whatever is damaged in the state directory is removed, told of once, and made again."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from builds import Done, Shipline, context, tags
from peers import Registry

pytestmark = [pytest.mark.peers, pytest.mark.root]

DOCKERFILE = """
FROM busybox
WORKDIR /app
COPY page /app/page
RUN cat /app/page > /copy && head -c 100000 /dev/urandom > /noise
COPY --from=busybox /bin/busybox /second
RUN wc -c /noise > /size
"""


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return context(tmp_path / "context", DOCKERFILE, page="content " * 10_000)


@pytest.fixture
def shipline(tmp_path: Path, base_images: Registry) -> Shipline:
    return Shipline(tmp_path / "home", base_images.address)


def build(shipline: Shipline, source: Path, *words: str) -> Done:
    """Build, with output to every kind of place. The step that is changed reads all layers."""
    place = source.with_name("out")
    shutil.rmtree(place, ignore_errors=True)
    outputs = (
        "-o",
        f"type=oci,dest={source.with_name('out.tar')}",
        "-o",
        f"type=local,dest={place}",
    )
    return shipline.build("--progress", "plain", *words, *outputs, source)


def warnings(done: Done) -> list[str]:
    return [line for line in done.err.splitlines() if "WARN" in line and "was damaged" in line]


def change(source: Path) -> None:
    """Make the last step new, so that it must see the files of all others."""
    (source / "Dockerfile").write_text(DOCKERFILE + "RUN sha256sum /copy /noise /second > /sums\n")


def flip(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 0x10
    _overwrite(file, bytes(content))


def truncate(file: Path) -> None:
    _overwrite(file, file.read_bytes()[:-7])


def empty(file: Path) -> None:
    _overwrite(file, b"")


def _overwrite(file: Path, content: bytes) -> None:
    file.chmod(0o644)
    file.write_bytes(content)


Harm = Callable[[Path], None]


@pytest.mark.parametrize("harm", [flip, truncate, empty])
@pytest.mark.parametrize("flags", [(), ("--no-cache",), ("--no-cache", "--pull")], ids=str)
def test_damaged_content_is_made_or_fetched_again(
    shipline: Shipline, source: Path, harm: Harm, flags: tuple[str, ...]
) -> None:
    build(shipline, source).ok()
    for blob in (shipline.home / "content/blobs/sha256").iterdir():
        harm(blob)
    shutil.rmtree(shipline.home / "layers")
    change(source)
    done = build(shipline, source, *flags).ok()
    assert len(warnings(done)) == 1, done.err
    assert warnings(build(shipline, source).ok()) == []


def test_a_damaged_blob_is_pushed_whole(
    shipline: Shipline, source: Path, base_images: Registry
) -> None:
    build(shipline, source).ok()
    for blob in (shipline.home / "content/blobs/sha256").iterdir():
        flip(blob)
    name = f"{base_images.address}/damaged/pushed:one"
    done = shipline.build("--push", "-t", name, source).ok()
    assert len(warnings(done)) == 1, done.err
    assert tags(base_images, "damaged/pushed") == ["one"]


@pytest.mark.parametrize("tar", ["true", "false"])
def test_a_damaged_blob_is_exported_whole(
    shipline: Shipline, source: Path, tmp_path: Path, tar: str
) -> None:
    build(shipline, source).ok()
    for blob in (shipline.home / "content/blobs/sha256").iterdir():
        flip(blob)
    place = tmp_path / "layout"
    done = shipline.build("-o", f"type=oci,dest={place},tar={tar}", source).ok()
    assert len(warnings(done)) == 1, done.err
    if tar == "true":
        shutil.unpack_archive(place, tmp_path / "unpacked", "tar")
        place = tmp_path / "unpacked"
    for blob in (place / "blobs/sha256").iterdir():
        assert hashlib.sha256(blob.read_bytes()).hexdigest() == blob.name


@pytest.mark.parametrize("harm", [flip, truncate, empty])
@pytest.mark.parametrize("where", ["toc", "stat"])
def test_damaged_tables_are_read_anew(
    shipline: Shipline, source: Path, harm: Harm, where: str
) -> None:
    build(shipline, source).ok()
    for file in (shipline.home / where).iterdir():
        harm(file)
    change(source)
    build(shipline, source).ok()


def garbage(file: Path) -> None:
    file.write_bytes(b"garbage" * 10_000)


def half(file: Path) -> None:
    """The header is right, the rest is not."""
    file.write_bytes(file.read_bytes()[:4096] + b"\x55" * 60_000)


@pytest.mark.parametrize("harm", [garbage, half, flip])
def test_damaged_records_are_begun_anew(shipline: Shipline, source: Path, harm: Harm) -> None:
    build(shipline, source).ok()
    harm(shipline.home / "cache.db")
    done = build(shipline, source).ok()
    assert len(warnings(done)) == 1 or (harm is flip and not warnings(done))
    assert "CACHED" in build(shipline, source).ok().err


def remove_files(layer: Path) -> None:
    shutil.rmtree(layer / "fs")


def empty_files(layer: Path) -> None:
    for path in (layer / "fs").iterdir():
        shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()


def empty_layer(layer: Path) -> None:
    shutil.rmtree(layer)
    layer.mkdir()


@pytest.mark.parametrize("harm", [remove_files, empty_files, empty_layer])
def test_damaged_layers_are_unpacked_again(shipline: Shipline, source: Path, harm: Harm) -> None:
    build(shipline, source).ok()
    for layer in (shipline.home / "layers").glob("[0-9a-f]*"):
        harm(layer)
    change(source)
    done = build(shipline, source).ok()
    assert len(warnings(done)) == 1, done.err


def test_layers_that_were_not_synced_count_until_the_machine_starts_again(
    shipline: Shipline, source: Path
) -> None:
    build(shipline, source).ok()
    layers = [*(shipline.home / "layers").glob("[0-9a-f]*")]
    assert all((layer / "synced").exists() for layer in layers)
    for layer in layers:
        (layer / "synced").unlink()
    inodes = [(layer / "fs").stat().st_ino for layer in layers]
    change(source)
    build(shipline, source).ok()
    assert [(layer / "fs").stat().st_ino for layer in layers] == inodes
