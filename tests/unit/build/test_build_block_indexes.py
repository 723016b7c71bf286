"""What is taken over from the last layer of an instruction changes no layer."""

from __future__ import annotations

import os
import random
from pathlib import Path

import pytest
from layers_for_tests import open_worker
from test_build_copying import solved

from shipline.build import copying
from shipline.build.block_indexes import indexed_blobs
from shipline.build.cache import LayerResult
from shipline.build.graph import CopyOp
from shipline.build.selecting import ContextDirectory
from shipline.build.snapshots import Snapshot
from shipline.layer import codec
from shipline.oci import Digest
from shipline.values import replace


@pytest.fixture
def tree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(copying, "WORTH_INDEXING", 1 << 20)
    place = tmp_path / "context"
    place.mkdir()
    for number in range(60):
        (place / f"{number:02}").write_bytes(random.Random(number).randbytes(100_000))
    return place


def copied(tree: Path, home: Path, level: int = 1) -> LayerResult:
    """The layer of the tree, made with this home as it is."""
    with open_worker(home) as worker:
        worker = replace(worker, codec=codec("gzip", level))
        source = ContextDirectory(tree, "the context")
        return solved(CopyOp((".",), "/new/"), Snapshot(), source, worker)


def blob_of(result: LayerResult, home: Path) -> Path:
    return home / "content/blobs/sha256" / result.layer.descriptor.digest.hex


def change(tree: Path) -> None:
    (tree / "30").write_bytes(b"changed")
    (tree / "50").rename(tree / "05b")


def test_a_layer_is_the_same_whatever_was_built_before(tree: Path, tmp_path: Path) -> None:
    home = tmp_path / "home"
    first = copied(tree, home)
    assert list(indexed_blobs(home)) == [first.layer.descriptor.digest]
    change(tree)
    for number, level in enumerate((1, 6, 6)):
        os.unlink(tree / f"{number:02}")
        fresh = tmp_path / f"fresh{number}"
        assert copied(tree, home, level).layer == copied(tree, fresh, level).layer
    assert len(list(indexed_blobs(home))) == 1


def test_the_loss_of_an_index_is_told(tree: Path, tmp_path: Path) -> None:
    told: list[Digest] = []
    for expected in (0, 1, 2):
        with open_worker(tmp_path / "home") as worker:
            indexes = replace(
                worker.indexes, on_replaced=lambda: told.extend(indexed_blobs(tmp_path / "home"))
            )
            source = ContextDirectory(tree, "the context")
            made = solved(
                CopyOp((".",), "/new/"), Snapshot(), source, replace(worker, indexes=indexes)
            )
        assert len(told) == expected and told[-1:] in ([], [made.layer.descriptor.digest])
        (tree / "30").write_bytes(b"changed %d" % expected)


@pytest.mark.parametrize("damage", ["flipped", "short", "gone", "index", "fifo"])
def test_damage_gives_no_other_layer(tree: Path, tmp_path: Path, damage: str) -> None:
    home = tmp_path / "home"
    blob = blob_of(copied(tree, home), home)
    content = bytearray(blob.read_bytes())
    for at in range(0, len(content), 50_000):
        content[at] ^= 16
    (index,) = (home / "blocks").iterdir()
    blob.unlink()
    if damage == "flipped":
        blob.write_bytes(content)
    elif damage == "short":
        blob.write_bytes(content[:1000])
    elif damage == "fifo":
        os.mkfifo(blob)
    elif damage == "index":
        index.write_bytes(index.read_bytes()[:-40] + bytes(40))
    change(tree)
    assert copied(tree, home).layer == copied(tree, tmp_path / "fresh").layer
