"""What was not written to a directory is removed, and nothing outside of it."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from shipline.layer import Entry, Item, Written, unpack

TIME_NS = 1_600_000_000_000_000_000
ITEMS: list[Item] = [
    (Entry("kept", "dir", 0o755, mtime_ns=TIME_NS), None),
    (Entry("kept/file", "file", size=2), b"ok"),
    (Entry("implied/deep/file", "file", size=2), b"ok"),
    (Entry("link", "symlink", link="kept"), None),
    (Entry("was-link", "dir", 0o755), None),
]


def mirrored(place: Path, prefix: str = "") -> list[str]:
    written = Written()
    (place / prefix).mkdir(parents=True, exist_ok=True)
    unpack(written.through(ITEMS, prefix), place / prefix, whiteouts="keep", owner=False)
    written.remove_others(place)
    return sorted(str(path.relative_to(place)) for path in place.rglob("*"))


WANTED = ["implied", "implied/deep", "implied/deep/file", "kept", "kept/file", "link", "was-link"]


def test_all_else_is_removed_and_links_are_not_followed(tmp_path: Path) -> None:
    outside, place = tmp_path / "outside", tmp_path / "place"
    for directory in (outside / "deep", place / "kept/more", place / "old/deep"):
        directory.mkdir(parents=True)
        (directory / "file").write_text("x")
    for link in ("out", "kept/out", "was-link", "old/out"):
        (place / link).symlink_to(outside)
    os.mkfifo(place / "kept/fifo")
    assert mirrored(place) == WANTED
    assert sorted(path.name for path in outside.rglob("*")) == ["deep", "file"]
    assert (place / "kept").stat().st_mtime_ns == TIME_NS
    assert mirrored(place) == WANTED


def test_the_directory_may_be_a_link(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "real/old").touch()
    (tmp_path / "place").symlink_to("real")
    assert mirrored(tmp_path / "place") == WANTED


def test_what_is_beside_a_prefix_is_removed(tmp_path: Path) -> None:
    (tmp_path / "linux_arm64").mkdir()
    found = mirrored(tmp_path, "linux_amd64")
    assert found == ["linux_amd64", *(f"linux_amd64/{one}" for one in WANTED)]


def test_a_directory_that_became_a_link_is_not_entered(tmp_path: Path) -> None:
    outside, place = tmp_path / "outside", tmp_path / "place"
    outside.mkdir()
    (outside / "file").touch()
    written = Written()
    place.mkdir()
    unpack(written.through(ITEMS), place, whiteouts="keep", owner=False)
    (place / "kept/file").unlink()
    (place / "kept").rmdir()
    (place / "kept").symlink_to(outside)
    with pytest.raises(OSError, match="kept"):
        written.remove_others(place)
    assert (outside / "file").exists()
