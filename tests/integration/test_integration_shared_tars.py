"""A big COPY of which little changed shares the tar of the layer before; steps see all files."""

from __future__ import annotations

import random
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from builds import Shipline, context, document
from peers import Registry, docker_registry

pytestmark = [pytest.mark.peers, pytest.mark.root]

SIZE = 70 << 20  # bytes
LOOK = (
    "find /tree -exec stat -c '%n %A %u %g %Y' {} + | sort > /stats;"
    " find /tree -type f -exec sha256sum {} + | sort > /sums; cat /tree/below /base > /texts"
)
DOCKERFILE = f"""
FROM busybox AS base
RUN mkdir -p /tree/a/b && echo below > /tree/below && echo base > /base
RUN touch -t 200001010000 /tree/below
FROM base AS built
COPY tree /tree
RUN {LOOK}
FROM base AS copied
COPY --from=built /tree /tree
RUN {LOOK}
FROM busybox
COPY --from=built /stats /sums /texts /
COPY --from=copied /stats /sums /texts /copied/
"""


@pytest.fixture
def source(tmp_path: Path) -> Path:
    place = context(tmp_path / "context", DOCKERFILE)
    (place / "tree/a/b").mkdir(parents=True)
    noise = random.Random(1).randbytes(1 << 20)
    for number in range(SIZE >> 20):
        (place / f"tree/a/{number}").write_bytes(noise[number:] + bytes(number))
    (place / "tree/a/b/small").write_text("first")
    (place / "tree/a/b").chmod(0o2750)
    return place


def looked(shipline: Shipline, source: Path, out: Path, *words: str) -> dict[str, str]:
    """What the steps saw."""
    shipline.build("-o", f"type=local,dest={out}", *words, source).ok()
    names = ("stats", "sums", "texts", "copied/stats", "copied/sums", "copied/texts")
    return {name: (out / name).read_text() for name in names}


def tars(shipline: Shipline, name: str) -> list[Path]:
    found: list[Path] = list(shipline.home.glob(f"layers*/*/{name}"))
    return [one for one in found if one.stat().st_size > SIZE]


def test_steps_see_the_files_of_both_tars(
    source: Path, tmp_path: Path, base_images: Registry
) -> None:
    shipline = Shipline(tmp_path / "home", base_images.address)
    before = looked(shipline, source, tmp_path / "first")
    (source / "tree/a/b/small").write_text("second, longer")
    (source / "tree/new").write_text("new")
    after = looked(shipline, source, tmp_path / "second")
    assert [one.stat().st_nlink for one in tars(shipline, "base.tar")] == [2]
    fresh = Shipline(tmp_path / "fresh", base_images.address)
    assert after == looked(fresh, source, tmp_path / "third")
    assert before["sums"] != after["sums"] == after["copied/sums"]
    assert before["texts"] == "below\nbase\n"
    (source / "tree/new").unlink()  # what the tar before has must not be seen
    assert "/tree/new" not in looked(shipline, source, tmp_path / "fourth")["sums"]


def test_what_is_shared_counts_once_and_stays(
    source: Path, tmp_path: Path, base_images: Registry
) -> None:
    shipline = Shipline(tmp_path / "home", base_images.address)
    looked(shipline, source, tmp_path / "first")
    (source / "tree/a/b/small").write_text("second")
    after = looked(shipline, source, tmp_path / "second")
    taken = int(run(shipline, "du", "-sk", str(shipline.home)).split()[0]) << 10
    listed = run(shipline, sys.executable, "-m", "shipline", "du", "--format", "{{.Size}}")
    counted = sum(float(one[:-2]) for one in listed.split() if one.endswith("MB")) * 1e6
    assert abs(counted - taken) < 0.05 * taken, (counted, taken)
    for older in tars(shipline, "layer.tar"):
        shutil.rmtree(older.parent)
    with docker_registry(tmp_path, name="other") as other:
        name = f"{other.address}/big"
        shipline.build("--push", "--target", "built", "-t", name, source).ok()
        assert document(other, "big", "latest")["layers"]
    words = ("--no-cache-filter", "copied")
    assert after == looked(shipline, source, tmp_path / "third", *words)


def run(shipline: Shipline, *words: str) -> str:
    return subprocess.run(
        words, capture_output=True, text=True, check=True, env=shipline.environ()
    ).stdout
