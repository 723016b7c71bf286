"""A tar that is mostly in that of an older layer: the same bytes, and the same files if stacked."""

from __future__ import annotations

import os
import random
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shipline.content import MemoryStore
from shipline.layer import (
    BlockIndex,
    Codec,
    Entry,
    Extent,
    Item,
    StoredTar,
    read_tar,
    scan,
    stream_blocks,
    write_tar,
)

NOISE = random.Random(5).randbytes(4_000_000)
FILES = 100
Edit = Callable[[Path], object]


def tree_in(place: Path) -> Path:
    for number in range(FILES):
        path = place / f"d{number % 4}/e{number % 3}/{number:02}"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(NOISE[number : number + 90_000])
    (place / "d1/e1").chmod(0o700)
    (place / "d2/large").write_bytes(NOISE[:1_400_000])
    (place / "d3/link").symlink_to("e1")
    return settled(place)


def settled(place: Path) -> Path:
    """The directory, all of whose times depend on the contents alone."""
    for path in (place, *place.rglob("*")):
        size = path.lstat().st_size if path.is_file() else 0
        os.utime(path, (size, size), follow_symlinks=False)
    return place


def items_in(place: Path) -> list[Item]:
    tree = scan(place)
    tree.digest()
    tree.note_contents()
    return list(tree.items())


class Build:
    """A layer of a directory, over an older one; `tar` is what was written."""

    def __init__(self, place: Path, tar: Path, older: Build | None = None) -> None:
        self.tar, self.index, self.files = tar, BlockIndex(), [tar]
        self.extents: Sequence[Extent] = ()
        items, store = items_in(place), MemoryStore()
        if older is not None:
            self.index = BlockIndex(older.index.dump(), -1, older.stored())
        with store.ingest() as ingest, tar.open("wb") as file:
            made = stream_blocks(items, ingest, Codec(), self.index, file.fileno(), share=True)
        _, self.extents = made
        self.is_shared = any(one.file == 0 for one in self.extents)
        if older is not None and self.is_shared:
            self.files = [older.files[0], tar]
        else:
            self.extents = [one._replace(file=0) for one in self.extents]
        self.whole = b"".join(write_tar(items))

    def stored(self) -> StoredTar:
        return StoredTar([os.open(one, os.O_RDONLY) for one in self.files], self.extents)

    def content(self) -> bytes:
        reader = self.stored().reader()
        return b"".join(iter(lambda: reader.read(1 << 20), b""))

    def stacked(self) -> dict[str, tuple[Entry, bytes]]:
        """What the mounted files show."""
        found: dict[str, tuple[Entry, bytes]] = {}
        for file in self.files:
            found |= contents(file)
        return found


def contents(tar: Path) -> dict[str, tuple[Entry, bytes]]:
    with tar.open("rb") as file:
        return {one.path: (one, data.read() if data else b"") for one, data in read_tar(file)}


def check(build: Build, tmp_path: Path) -> None:
    """That the tar is right, and what it shows."""
    assert build.content() == build.whole
    (tmp_path / "whole").write_bytes(build.whole)
    assert build.stacked() == contents(tmp_path / "whole")


def another_link(place: Path) -> None:
    (place / "d3/link").unlink()
    (place / "d3/link").symlink_to("e2")


def new_directory(place: Path) -> None:
    (place / "d0/a").mkdir(exist_ok=True)
    (place / "d0/a/b").touch()


def another_kind(place: Path) -> None:
    (place / "d1/e1/13").unlink()
    (place / "d1/e1/13").mkdir()


EDITS: dict[str, Edit] = {
    "changed": lambda place: (place / "d1/e1/13").write_bytes(b"changed"),
    "new": lambda place: (place / "d1/e1/new").write_bytes(b"new"),
    "new directory": new_directory,
    "mode": lambda place: (place / "d2/e2").chmod(0o711),
    "large": lambda place: (place / "d2/large").write_bytes(NOISE[1:1_300_000]),
    "last": lambda place: (place / "zz").write_bytes(b"last"),
    "link": another_link,
}


@pytest.mark.parametrize("edit", EDITS)
def test_what_did_not_change_is_not_written(tmp_path: Path, edit: str) -> None:
    place = tree_in(tmp_path / "tree")
    first = Build(place, tmp_path / "first")
    assert not first.is_shared
    check(first, tmp_path)
    EDITS[edit](place)
    second = Build(settled(place), tmp_path / "second", first)
    assert second.is_shared
    assert second.tar.stat().st_size < 2_400_000
    check(second, tmp_path)


KEPT_WHOLE: dict[str, Edit] = {
    "removed": lambda place: (place / "d1/e1/13").unlink(),
    "renamed": lambda place: (place / "d1/e1/13").rename(place / "d1/e1/14"),
    "another kind": another_kind,
    "hard link": lambda place: (place / "d0/hard").hardlink_to(place / "d1/e1/13"),
    "whiteout": lambda place: (place / "d0/.wh.hidden").write_bytes(b""),
    "most": lambda place: [
        (place / f"d{number % 4}/e{number % 3}/{number:02}").write_bytes(b"now")
        for number in range(FILES // 2)
    ],
}


@pytest.mark.parametrize("edit", KEPT_WHOLE)
def test_what_cannot_be_stacked_is_written_whole(tmp_path: Path, edit: str) -> None:
    place = tree_in(tmp_path / "tree")
    first = Build(place, tmp_path / "first")
    KEPT_WHOLE[edit](place)
    second = Build(settled(place), tmp_path / "second", first)
    assert not second.is_shared
    assert second.tar.read_bytes() == second.whole


@settings(max_examples=settings().max_examples // 8)
@given(st.lists(st.lists(st.sampled_from(sorted(EDITS)), max_size=3), min_size=1, max_size=4))
@pytest.mark.slow
def test_layers_that_follow_each_other_share_the_first(
    tmp_path_factory: pytest.TempPathFactory, rounds: list[list[str]]
) -> None:
    tmp_path = tmp_path_factory.mktemp("share")
    place = tree_in(tmp_path / "tree")
    build = Build(place, tmp_path / "tar")
    for number, edits in enumerate(rounds):
        for edit in edits:
            EDITS[edit](place)
        (place / "count").write_text("." * number)
        build = Build(settled(place), tmp_path / f"tar{number}", build)
        check(build, tmp_path)
        assert not build.is_shared or build.files[0] == tmp_path / "tar"


def test_a_damaged_older_tar_is_part_of_no_layer(tmp_path: Path) -> None:
    place = tree_in(tmp_path / "tree")
    first = Build(place, tmp_path / "first")
    with first.tar.open("r+b") as file:
        file.seek(200_000)
        file.write(b"damage")
    (place / "d3/e0/03").write_bytes(b"changed")
    second = Build(settled(place), tmp_path / "second", first)
    assert second.extents == []
