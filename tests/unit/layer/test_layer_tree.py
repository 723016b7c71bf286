"""tree: the digest is that of the content, whatever the cache knows."""

from __future__ import annotations

import os
import random
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from shipline.errors import ContentError
from shipline.layer import Entry, StatCache, Tree, scan, unpack, write_tar


@pytest.fixture
def root(tmp_path: Path) -> Path:
    root = tmp_path / "root"
    (root / "a/b").mkdir(parents=True)
    (root / "a/f").write_bytes(b"one")
    (root / "a/b/g").write_bytes(b"two" * 1_000_000)
    (root / "a/l").symlink_to("f")
    (root / "z").write_bytes(b"")
    return root


def age(root: Path) -> None:
    """Wait until no file of the tree is too young to be remembered."""
    newest = max(path.lstat().st_ctime_ns for path in root.rglob("*"))
    while time.time_ns() < newest + 60_000_000:
        time.sleep(0.01)


def test_everything_but_times_and_links_counts(root: Path) -> None:
    digest = scan(root).digest()
    os.utime(root / "a/f", (1, 1))
    assert scan(root).digest() == digest
    seen = {digest}
    changes: list[Callable[[], object]] = [
        lambda: (root / "a/f").write_bytes(b"eno"),
        lambda: (root / "a/f").chmod(0o755),
        lambda: (root / "a/b").chmod(0o700),
        lambda: (root / "a/f").rename(root / "a/g"),
        lambda: (root / "a/l").unlink(),
        lambda: (root / "a/l").symlink_to("g"),
        lambda: (root / "a/new").mkdir(),
        lambda: os.mkfifo(root / "a/fifo"),
    ]
    for change in changes:
        change()
        seen.add(scan(root).digest())
    assert len(seen) == len(changes) + 1


@pytest.mark.root
def test_owners_and_capabilities_count_unless_replaced(root: Path) -> None:
    plain, owned = scan(root).digest(), scan(root).digest((0, 0))
    os.chown(root / "a/f", 5, 6)
    assert scan(root).digest() != plain
    assert scan(root).digest((0, 0)) == owned
    raw = bytes.fromhex("0100000200040000000000000000000000000000")
    os.setxattr(root / "a/f", "security.capability", raw)
    assert scan(root).digest((0, 0)) != owned
    for found in (scan(root), _digested(root)):
        xattrs = {entry.path: entry.xattrs for entry in found.entries()}
        assert xattrs == dict.fromkeys(xattrs, ()) | {"a/f": (("security.capability", raw),)}


def _digested(root: Path) -> Tree:
    found = scan(root)
    found.digest()
    return found


def test_entries_come_sorted_with_parents_first(root: Path) -> None:
    (root / "a/hard").hardlink_to(root / "a/b/g")
    entries = list(scan(root).entries())
    assert [entry.path for entry in entries] == ["a", "a/b", "a/b/g", "a/f", "a/hard", "a/l", "z"]
    assert entries[4].kind == "hardlink" and entries[4].link == "a/b/g"
    assert entries[2].size == 3_000_000 and entries[5].link == "f"
    assert [entry.path for entry in scan(root, "a/b").entries()] == ["g"]
    assert [entry.path for entry in scan(root, "a/f").entries()] == ["f"]
    assert list(_digested(root).entries()) == entries


def test_what_is_pruned_does_not_count(root: Path) -> None:
    whole = scan(root, "a").digest()
    pruned = scan(root, prune=lambda path, is_dir: path == "z" or (is_dir and path == "a/b"))
    assert [entry.path for entry in pruned.entries()] == ["a", "a/f", "a/l"]
    (root / "a/b/g").write_bytes(b"other")
    again = scan(root, prune=lambda path, is_dir: path == "z" or (is_dir and path == "a/b"))
    assert pruned.digest() == again.digest()
    assert scan(root, "a").digest() != whole


def test_a_cached_digest_is_the_digest(tmp_path: Path) -> None:
    chance = random.Random(7)
    root, file = tmp_path / "root", tmp_path / "cache"
    root.mkdir()
    names = ["a", "b", "c/a", "c/b", "c/d/a"]
    for step in range(60):
        path = root / chance.choice(names)
        path.parent.mkdir(parents=True, exist_ok=True)
        if chance.random() < 0.7:
            path.write_bytes(chance.choice([b"xx", b"yy", b"zzz"]))
        else:
            path.unlink(missing_ok=True)
        if chance.random() < 0.3:
            age(root) if any(root.rglob("*")) else None
        with StatCache.open(file) as cache:
            for where in chance.choice([("",), ("", "c"), ("c", "")]):
                if (root / where).exists():
                    prune = (lambda path, _: path.endswith("b")) if step % 3 == 0 else None
                    owner = chance.choice([None, (0, 0), (1, 1)])
                    cached = scan(root, where, prune=prune, cache=cache).digest(owner)
                    assert cached == scan(root, where, prune=prune).digest(owner)
            if path.exists():
                single = str(path.relative_to(root))
                assert scan(root, single, cache=cache).digest() == scan(root, single).digest()


def test_unchanged_files_are_not_read_again(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = root.parent / "cache"
    age(root)
    with StatCache.open(file) as cache:
        digest = scan(root, cache=cache).digest()
    (root / "z").write_bytes(b"changed")
    age(root)
    read: list[str] = []
    original = Tree._file_identity

    def noted(self: Tree, place: str, size: int) -> bytes:
        read.append(place)
        return original(self, place, size)

    monkeypatch.setattr(Tree, "_file_identity", noted)
    with StatCache.open(file) as cache:
        assert scan(root, cache=cache).digest() != digest
    assert read == ["z"]
    with StatCache.open(file) as cache:
        scan(root, cache=cache).digest()
        assert not cache.changed
    assert read == ["z"]


def test_an_unchanged_tree_is_not_digested_again(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = root.parent / "cache"
    age(root)
    with StatCache.open(file) as cache:
        digest = scan(root, cache=cache).digest((0, 0))
    monkeypatch.setattr(Tree, "_digest", lambda self, owner: pytest.fail("digested again"))
    with StatCache.open(file) as cache:
        found = scan(root, cache=cache)
        assert found.unread() == 0
        assert found.digest((0, 0)) == digest


def test_a_file_changed_within_a_clock_tick_is_read_again(root: Path) -> None:
    with StatCache.open(root.parent / "cache") as cache:
        for number in range(200):
            (root / "z").write_bytes(b"%03d" % number)
            cached = scan(root, "z", cache=cache).digest()
            assert cached == scan(root, "z").digest()


def test_a_damaged_cache_is_an_empty_one(root: Path) -> None:
    file = root.parent / "cache"
    age(root)
    with StatCache.open(file) as cache:
        digest = scan(root, cache=cache).digest()
    stored = file.read_bytes()
    for damaged in (b"", stored[:-7], b"x" + stored, stored[:40]):
        file.write_bytes(damaged)
        with StatCache.open(file) as cache:
            assert scan(root, cache=cache).digest() == digest
    assert [path.name for path in root.parent.iterdir()].count("cache") == 1
    assert sorted(os.listdir(root.parent)) == ["cache", "root"]


def test_what_cannot_be_read_is_named(root: Path) -> None:
    with pytest.raises(ContentError):
        scan(root, "gone")
    with pytest.raises(ContentError):
        scan(root / "gone")
    found = scan(root)
    (root / "a/f").unlink()
    with pytest.raises(ContentError, match="a/f"):
        found.digest()


def test_items_outlive_their_tree(root: Path) -> None:
    items = list(scan(root).items())
    opened = [content for _, content in items if content is not None]
    for index in range(20):
        scan(root, "a")
        (root / f"n{index}").touch()
    assert all(os.stat(one.name, dir_fd=one.root.fd) for one in opened)  # type: ignore[union-attr]
    assert [entry for entry, _ in items if entry.path == "z"] == [
        Entry("z", "file", (root / "z").stat().st_mode & 0o7777, os.geteuid(), os.getegid(),
              mtime_ns=(root / "z").stat().st_mtime_ns)
    ]  # fmt: skip


@pytest.mark.parametrize(
    "read",
    [
        lambda tree, place: b"".join(write_tar(tree.items())),
        lambda tree, place: unpack(tree.items(), place, whiteouts="keep", owner=False),
        lambda tree, place: tree.digest(),
    ],
    ids=["tar", "unpack", "digest"],
)
def test_a_link_that_takes_the_place_of_a_directory_leads_nowhere(
    root: Path, tmp_path: Path, read: Callable[[Tree, Path], object]
) -> None:
    tree = scan(root)
    outside, place = tmp_path / "outside", tmp_path / "place"
    place.mkdir()
    (root / "a").rename(outside)  # its files have the sizes that the tree has seen
    (root / "a").symlink_to(outside)
    with pytest.raises(ContentError):
        read(tree, place)
    with pytest.raises(ContentError):
        scan(root, "a/b")
