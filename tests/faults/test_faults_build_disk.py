"""A disk that is full or cannot be written: a message, no tag, and a next build that works."""

from __future__ import annotations

import hashlib
import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from builds import Shipline, context, leftovers, tags
from peers import Registry

pytestmark = [pytest.mark.peers, pytest.mark.root]

KIB = 1 << 10
SIZES = (64, 400, 900, 1500, 2200, 3000, 4000, 6000)  # KiB; 40,000 are enough


@contextmanager
def small_disk(place: Path, kib: int) -> Iterator[None]:
    """A filesystem of `kib` at `place`."""
    place.mkdir()
    options = f"size={kib}k,mode=700"
    subprocess.run(["mount", "-t", "tmpfs", "-o", options, "small", place], check=True)
    try:
        yield
    finally:
        subprocess.run(["umount", place], check=True)


@pytest.fixture
def place(tmp_path: Path) -> Path:
    dockerfile = (
        "FROM busybox\nCOPY big /\nRUN cat /big /big > /bigger\nRUN --mount=type=cache,target=/c "
        "cp /big /c/ && rm /bigger\n"
    )
    place = context(tmp_path / "context", dockerfile)
    (place / "big").write_bytes(os.urandom(1 << 20))
    return place


def test_a_home_in_memory_has_big_layers(
    base_images: Registry, place: Path, tmp_path: Path
) -> None:
    """The kernel mounts no tar from there: they are unpacked."""
    (place / "big").write_bytes(os.urandom(20 << 20))
    (place / "Dockerfile").write_text(
        "FROM busybox AS made\nCOPY big /\nRUN --network=none md5sum /big > /sum\n"
        "FROM scratch\nCOPY --from=made /sum /\n"
    )
    home, out = tmp_path / "home", tmp_path / "out"
    with small_disk(home, 200 * KIB):
        Shipline(home, base_images.address).build("-o", out, place).ok()
    sum_of = hashlib.md5((place / "big").read_bytes(), usedforsecurity=False).hexdigest()
    assert (out / "sum").read_text() == f"{sum_of}  /big\n"


def test_full_disk_is_told_wherever_it_is_met(
    base_images: Registry, place: Path, tmp_path: Path
) -> None:
    home = tmp_path / "home"
    shipline = Shipline(home, base_images.address)
    name = f"{base_images.address}/disk/full:1"
    for size in SIZES:
        with small_disk(home, size):
            done = shipline.build("--push", "-t", name, place)
            assert done.status in (5, 8), f"{size} KiB: {done.err}"  # 5: the step itself met it
            assert "Traceback" not in done.err, f"{size} KiB: {done.err}"
            assert "No space left" in done.err or "full" in done.err, f"{size} KiB: {done.err}"
            assert leftovers(home)[:-1] == [], f"{size} KiB"  # the mount of the disk itself
            subprocess.run(["mount", "-o", "remount,size=40000k", home], check=True)
            assert tags(base_images, "disk/full") == []
            shipline.build("-o", "type=cacheonly", place).ok()
        home.rmdir()


@pytest.mark.parametrize(
    "output", ["type=oci,dest={}/o.tar", "type=tar,dest={}/t.tar", "type=oci,tar=false,dest={}/o"]
)
def test_an_output_that_does_not_fit_is_not_there(
    base_images: Registry, place: Path, tmp_path: Path, output: str
) -> None:
    with small_disk(tmp_path / "small", 400):
        built = Shipline(tmp_path / "home", base_images.address).build(
            "-o", output.format(tmp_path / "small"), place
        )
        said = built.failed(8)
        assert "No space left" in said and "SHIPLINE_HOME" not in said
        blobs = tmp_path / "small/o/blobs"  # a whole one may stay, which no index names
        files = [path for path in (tmp_path / "small").rglob("*") if path.is_file()]
        assert [path for path in files if blobs not in path.parents] == []


def test_step_that_fills_the_state_directory_is_told_of_it(
    base_images: Registry, tmp_path: Path
) -> None:
    place = context(tmp_path / "context", "FROM busybox\nRUN dd if=/dev/zero of=/big\n")
    with small_disk(tmp_path / "home", 8000):
        said = Shipline(tmp_path / "home", base_images.address).build(place).failed(5)
    assert f"SHIPLINE_HOME is full: {tmp_path / 'home'}, on a disk of 8.2 MB" in said


def test_step_that_fills_its_own_memory_disk_is_told_of_that(
    base_images: Registry, tmp_path: Path
) -> None:
    place = context(
        tmp_path / "context",
        "FROM busybox\nRUN --mount=type=tmpfs,target=/t,size=65536 dd if=/dev/zero of=/t/big\n",
    )
    said = Shipline(tmp_path / "home", base_images.address).build(place).failed(5)
    assert "a tmpfs of the step is full" in said
    assert "SHIPLINE_HOME is full" not in said


def test_read_only_state_directory(base_images: Registry, place: Path, tmp_path: Path) -> None:
    home = tmp_path / "home"
    shipline = Shipline(home, base_images.address)
    with small_disk(home, 40_000):
        shipline.build(place).ok()
        subprocess.run(["mount", "-o", "remount,ro", home], check=True)
        said = shipline.build(place).failed(10)
        assert str(home) in said
        assert "ead-only" in said


def test_full_disk_under_an_output(base_images: Registry, place: Path, tmp_path: Path) -> None:
    shipline = Shipline(tmp_path / "home", base_images.address)
    out = tmp_path / "out"
    with small_disk(out, 700):
        for output in ("local", "tar", "oci", "docker"):
            target = out if output == "local" else out / "image"
            said = shipline.build("-o", f"type={output},dest={target}", place).failed(8)
            assert str(target) in said
            assert "No space left" in said
            assert output == "local" or not list(out.rglob("*image*"))
            subprocess.run(["find", out, "-mindepth", "1", "-delete"], check=True)
    assert leftovers(shipline.home) == []


def test_damaged_state_makes_no_wrong_image(
    base_images: Registry, place: Path, tmp_path: Path
) -> None:
    """The state directory is a cache: what is cut or missing is no reason for a wrong image."""
    shipline = Shipline(tmp_path / "home", base_images.address)
    shipline.build(place).ok()
    for table in (shipline.home / "toc").iterdir():
        table.write_bytes(table.read_bytes()[:20])
    for stat in (shipline.home / "stat").iterdir():
        stat.write_bytes(b"nothing")
    out = tmp_path / "out"
    shipline.build("-o", out, place).ok()
    assert (out / "big").read_bytes() == (place / "big").read_bytes()
    for blob in (shipline.home / "content" / "blobs" / "sha256").iterdir():
        blob.unlink()
    shipline.build("--push", "-t", f"{base_images.address}/disk/lost:1", place).ok()
    assert tags(base_images, "disk/lost") == ["1"]
    (shipline.home / "cache.db").write_bytes(b"this is not a database" * 1000)
    done = shipline.build(place)
    assert "Traceback" not in done.err
    assert done.status == 0 or "cache.db" in done.err, done.err
