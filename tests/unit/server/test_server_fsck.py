"""The check finds every kind of damage; repair leaves no finding and loses nothing intact."""

from __future__ import annotations

import json
import os
import random
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from directories import Directory

from shipline.errors import ConfigError, ContentError, UsageError
from shipline.metadata import open_records, walk
from shipline.oci import Digest
from shipline.server.fsck import CheckSummary, check, open_offline
from shipline.server.recovery import UNNAMED, convert, recover, repair
from shipline.server.storage import Storage

A, B, C = b"a" * 5000, b"b" * 6000, b"c" * 7000


@pytest.fixture
def node(tmp_path: Path) -> Iterator[Directory]:
    """Two repositories: an index of two images with a signature; an image that shares a layer."""
    opened_node = Directory(tmp_path)
    first = opened_node.image("repo", [A, B], "one")
    second = opened_node.image("repo", [A, C])
    opened_node.index("repo", [first, second], "v1", "latest")
    opened_node.image("repo", [b"sig"], f"sha256-{first.digest.hex}.sig", subject=first)
    opened_node.image("other", [A], "v1")
    yield opened_node
    opened_node.close()


def faults(storage: Storage, *, quick: bool = False) -> set[str]:
    summary = CheckSummary()
    found = {finding.kind for finding in check(storage, summary, quick=quick)}
    assert summary.clean is not bool(found)
    assert set(summary.kinds) == found
    return {str(kind) for kind in found}


def damage(node: Directory, content: bytes) -> None:
    path = node.storage.store.path(Digest.of(content))
    path.chmod(0o644)
    path.write_bytes(content[:-1] + b"!")


def remove(node: Directory, content: bytes) -> None:
    node.storage.store.path(Digest.of(content)).unlink()


def drop(node: Directory, kind: str) -> None:
    key, _ = node.storage.records.scan((kind,), limit=1)[0]
    node.storage.records.write({(kind, *key): None})


def garble(node: Directory, kind: str) -> None:
    key, _ = node.storage.records.scan((kind,), limit=1)[0]
    node.storage.records.write({(kind, *key): b"{"})


def add(node: Directory, *key: str, value: bytes = b"") -> None:
    node.storage.records.write({key: value})


_DAMAGE: dict[str, tuple[Callable[[Directory], object], str]] = {
    "blob with other bytes": (lambda node: damage(node, B), "damaged-file"),
    "blob gone": (lambda node: remove(node, B), "missing-blob"),
    "shared blob gone": (lambda node: remove(node, A), "missing-blob"),
    "blob record gone": (lambda node: drop(node, "blob"), "incomplete-manifest"),
    "blob record garbled": (lambda node: garble(node, "blob"), "broken-record"),
    "manifest record gone": (lambda node: drop(node, "manifest"), "dangling-tag"),
    "manifest record garbled": (lambda node: garble(node, "manifest"), "broken-record"),
    "tag garbled": (lambda node: garble(node, "tag"), "broken-record"),
    "tag gone": (lambda node: drop(node, "tag"), "wrong-index"),
    "tagged gone": (lambda node: drop(node, "tagged"), "wrong-index"),
    "needed gone": (lambda node: drop(node, "needed"), "wrong-index"),
    "referrer gone": (lambda node: drop(node, "referrer"), "wrong-index"),
    "holder gone": (lambda node: drop(node, "holder"), "wrong-index"),
    "repository gone": (lambda node: drop(node, "repository"), "wrong-index"),
    "needed too much": (lambda node: add(node, "needed", "repo", "x", "y"), "wrong-index"),
    "holder too much": (lambda node: add(node, "holder", "x", "repo", "blob"), "wrong-index"),
    "count wrong": (lambda node: drop(node, "usage"), "wrong-count"),
    "count of nothing": (lambda node: add(node, "usage", "z", "tags", value=b"3"), "wrong-count"),
    "foreign upload": (
        lambda node: (node.storage.incoming / "notes.txt").write_bytes(b""),
        "foreign-file",
    ),
    "foreign name": (
        lambda node: (node.root / "blobs/sha256/notes.txt").write_bytes(b"hello"),
        "foreign-file",
    ),
    "link out": (
        lambda node: os.symlink("/etc/passwd", node.root / "blobs/sha256" / ("0" * 64)),
        "foreign-file",
    ),
    "foreign directory": (lambda node: (node.root / "blobs/md5").mkdir(), "foreign-file"),
}


def test_a_used_directory_is_clean(node: Directory) -> None:
    node.uploads.start("repo", "sha256")
    node.storage.delete_blob("other", node.blob("other", b"unneeded"))
    node.later()
    node.collect()
    assert faults(node.storage) == set()


def test_what_a_kill_leaves_of_uploads_is_no_fault(node: Directory) -> None:
    """Between any two steps: file without record, record without file."""
    alone, half = (node.uploads.start("repo", "sha256") for _ in range(2))
    (node.storage.incoming / half).unlink()
    node.storage.records.write({("upload", alone): None})
    (node.storage.incoming / "manifest-x1").write_bytes(b"{")
    assert faults(node.storage) == set()
    repair(node.storage)
    assert list(node.storage.incoming.iterdir()) == []
    assert node.storage.records.scan(("upload",)) == []


@pytest.mark.parametrize("what", _DAMAGE)
def test_every_fault_is_found_and_repaired(node: Directory, what: str) -> None:
    make, expected = _DAMAGE[what]
    make(node)
    assert expected in faults(node.storage)
    told: list[str] = []
    repair(node.storage, on_repair=lambda finding: told.append(finding.kind))
    assert expected in told
    assert faults(node.storage) == set()


def test_what_is_whole_survives_a_repair(node: Directory) -> None:
    damage(node, C)
    repair(node.storage)
    assert [tag.tag for tag in node.manifests.every_tag("other")] == ["v1"]
    tags = [tag.tag for tag in node.manifests.every_tag("repo")]
    assert "one" in tags
    assert "v1" not in tags  # the index lost a child
    assert (node.root / "quarantine" / f"sha256-{Digest.of(C).hex}").read_bytes()[-1:] == b"!"
    node.image("repo", [A, C])  # pushing it again makes it whole
    assert faults(node.storage) == set()


def test_a_quick_check_reads_no_blob_but_every_manifest(node: Directory) -> None:
    damage(node, B)
    assert faults(node.storage, quick=True) == set()
    manifest = next(node.manifests.every_tag("other")).digest
    path = node.storage.store.path(manifest)
    path.chmod(0o644)
    path.write_bytes(b"{}")
    assert faults(node.storage, quick=True) == {"missing-manifest"}


@pytest.mark.slow
def test_random_damage_to_records_is_repaired(node: Directory) -> None:
    chance = random.Random(7)
    for _ in range(20):
        keys = [key for key, _ in walk(node.storage.records, ())]
        for key in chance.sample(keys, 4):
            value = chance.choice([None, b"", b"{}", b"[1]", b'{"digest":"x","at":1}'])
            node.storage.records.write({key: value})
        repair(node.storage, quick=True)
        assert faults(node.storage) == set()
        node.image("repo", [chance.choice([A, B, C])], chance.choice(["v1", "v2"]))


@pytest.mark.parametrize("collected", [True, False])
def test_lost_metadata_is_recovered(tmp_path: Path, collected: bool) -> None:
    node = Directory(tmp_path)
    image = node.image("team/app", [A, B], "v1", "latest")
    node.index("team/app", [image], "multi")
    if collected:
        node.collect()
    node.close()
    for file in tmp_path.glob("metadata.db*"):
        file.unlink()
    with pytest.raises(ContentError, match="metadata is missing"):
        Storage(tmp_path)
    recover(tmp_path)
    with open_offline(tmp_path) as storage:
        assert faults(storage) == set()
        name = "team/app" if collected else UNNAMED
        assert storage.repositories("", 10) == [name]
        assert storage.usage(name).manifests == 2
        assert storage.usage(name).tags == (3 if collected else 0)
    with pytest.raises(UsageError, match="is readable"):
        recover(tmp_path)


def test_garbled_metadata_is_recovered(tmp_path: Path) -> None:
    node = Directory(tmp_path)
    node.image("team/app", [A, B], "v1")
    node.collect()
    node.close()
    (tmp_path / "metadata.db").write_bytes(b"not a database" * 1000)
    with pytest.raises(ContentError, match="cannot be read"):
        Storage(tmp_path)
    assert recover(tmp_path).named == 1
    with open_offline(tmp_path) as storage:
        assert storage.repositories("", 10) == ["team/app"]


def test_a_damaged_layout_file_is_rewritten_and_no_record_is_lost(tmp_path: Path) -> None:
    node = Directory(tmp_path)
    node.image("team/app", [A], "v1")
    node.close()
    (tmp_path / "layout.json").write_text("{")
    with pytest.raises(ContentError, match="cannot be read"):
        Storage(tmp_path)
    with pytest.raises(UsageError, match="is readable"):
        recover(tmp_path)
    with open_offline(tmp_path) as storage:
        assert storage.records.get(("tag", "team/app", "v1"))
    assert not (tmp_path / "quarantine").exists()


def test_another_directory_is_left_alone(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="not the data directory"), open_offline(tmp_path):
        pass
    assert list(tmp_path.iterdir()) == []


def test_a_directory_of_the_first_layout_is_upgraded(node: Directory, tmp_path: Path) -> None:
    node.close()
    records = open_records(tmp_path / "metadata.db")
    for kind in ("needed", "usage"):
        records.write({(kind, *key): None for key, _ in walk(records, (kind,))})
    records.close()
    (tmp_path / "layout.json").unlink()
    with open_offline(tmp_path) as storage:
        assert faults(storage) == set()
        assert storage.usage("repo").tags == 4
    assert json.loads((tmp_path / "layout.json").read_text()) == {"layout": 2, "metadata": "sqlite"}


def test_a_newer_layout_is_refused(node: Directory, tmp_path: Path) -> None:
    node.close()
    (tmp_path / "layout.json").write_text('{"layout": 3, "metadata": "sqlite"}')
    with pytest.raises(ConfigError, match="layout 3"):
        Storage(tmp_path)


def test_records_move_to_another_store_and_back(node: Directory, tmp_path: Path) -> None:
    pytest.importorskip("rocksdict")
    before = list(walk(node.storage.records, ()))
    node.close()
    assert convert(tmp_path, "rocksdb") == len(before)
    assert not list(tmp_path.glob("metadata.db*"))
    with open_offline(tmp_path) as storage:
        assert faults(storage) == set()
    with pytest.raises(ConfigError, match="not in sqlite"):
        Storage(tmp_path, metadata="sqlite")
    convert(tmp_path, "sqlite")
    with open_offline(tmp_path) as storage:
        assert list(walk(storage.records, ())) == before
