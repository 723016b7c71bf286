"""A tar that is mostly in that of an older layer: the same bytes, and the same files if stacked."""

from __future__ import annotations

import os
import random
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shipline.content import MemoryStore, chunks
from shipline.errors import ContentError
from shipline.layer import (
    BlockIndex,
    Codec,
    Contents,
    Entry,
    Extent,
    Item,
    OpenDirectory,
    Source,
    StoredTar,
    changed,
    is_changed_little,
    read_tar,
    scan,
    stream_blocks,
    stream_changed,
    tar_writer,
    write_tar,
)
from shipline.layer.tar_writer import TarBlock

NOISE = random.Random(5).randbytes(4_000_000)
FILES = 100
UNKNOWN = Source(OpenDirectory(Path("/")), "file")
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

    def __init__(
        self, place: Path, tar: Path, older: Build | None = None, *, share: bool = True
    ) -> None:
        self.tar, self.files, self.index = tar, [tar], BlockIndex()
        self.blob = tar.with_suffix(".blob")
        items, store = items_in(place), MemoryStore()
        self.whole = b"".join(write_tar(items))
        with store.ingest() as ingest, ExitStack() as stack:
            if older is None:
                file = stack.enter_context(tar.open("wb"))
                self.layer = stream_blocks(items, ingest, Codec(), self.index, file.fileno())
                extents: Sequence[Extent] = [Extent(1, 0, len(self.whole))]
            else:
                blob = stack.enter_context(older.blob.open("rb"))
                self.index = BlockIndex(older.index.dump(), blob.fileno(), older.stored(stack))
                self.layer, extents = stream_changed(
                    items, ingest, Codec(), self.index, tar, share=share
                )
        self.is_there = bool(extents)
        self.is_shared = any(one.file == 0 for one in extents)
        if older is not None and self.is_shared:
            self.files, self.extents = [older.files[0], tar], extents
        else:
            self.extents = [one._replace(file=0) for one in extents]
        with store.fetch(self.layer.descriptor) as reader:
            self.blob.write_bytes(reader.read())

    def stored(self, stack: ExitStack) -> StoredTar:
        files = [stack.enter_context(one.open("rb")).fileno() for one in self.files]
        return StoredTar(files, self.extents)

    def stacked(self) -> dict[str, tuple[Entry, bytes]]:
        """What the mounted files show."""
        found: dict[str, tuple[Entry, bytes]] = {}
        for file in self.files:
            found |= contents(file)
        return found


def contents(tar: Path) -> dict[str, tuple[Entry, bytes]]:
    with tar.open("rb") as file:
        return {one.path: (one, data.read() if data else b"") for one, data in read_tar(file)}


def check(build: Build, place: Path, tmp_path: Path) -> None:
    """That the layer is that of a first build, the tar is right, and what it shows."""
    fresh = Build(place, tmp_path / "fresh")
    assert (build.layer, build.index.dump()) == (fresh.layer, fresh.index.dump())
    with ExitStack() as stack:
        content = b"".join(chunks(build.stored(stack).reader()))
    assert content == build.whole == fresh.tar.read_bytes()
    assert build.stacked() == contents(fresh.tar)


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


@pytest.mark.parametrize("share", [True, False])
@pytest.mark.parametrize("edit", EDITS)
def test_what_did_not_change_is_not_written(tmp_path: Path, edit: str, share: bool) -> None:
    place = tree_in(tmp_path / "tree")
    first = Build(place, tmp_path / "first")
    EDITS[edit](place)
    second = Build(settled(place), tmp_path / "second", first, share=share)
    assert second.is_shared == share
    assert not share or second.tar.stat().st_size < 2_400_000
    check(second, place, tmp_path)


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
    check(second, place, tmp_path)


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
        before, build = build, Build(settled(place), tmp_path / f"tar{number}", build)
        check(build, place, tmp_path)
        assert not build.is_shared or build.files[0] == before.files[0]


@pytest.mark.parametrize("share", [True, False])
@pytest.mark.parametrize("short", [True, False])
def test_a_damaged_older_tar_is_part_of_no_layer(tmp_path: Path, share: bool, short: bool) -> None:
    place = tree_in(tmp_path / "tree")
    first = Build(place, tmp_path / "first")
    with first.tar.open("r+b") as file:
        file.seek(200_000)
        file.write(b"damage")
        if short:
            file.truncate(5_000_000)
    (place / "d3/e0/03").write_bytes(b"changed")
    second = Build(settled(place), tmp_path / "second", first, share=share)
    assert not second.is_there
    assert second.layer == Build(place, tmp_path / "fresh").layer


def test_a_damaged_older_blob_is_part_of_no_layer(tmp_path: Path) -> None:
    place = tree_in(tmp_path / "tree")
    first = Build(place, tmp_path / "first")
    blob = bytearray(first.blob.read_bytes())
    for at in range(100_000, len(blob), 300_000):
        blob[at] ^= 1
    first.blob.write_bytes(blob)
    (place / "d3/e0/03").write_bytes(b"changed")
    second = Build(settled(place), tmp_path / "second", first)
    assert second.is_shared
    check(second, place, tmp_path)


@pytest.mark.parametrize("name", ["d1/e1/13", "d2/large"])
def test_a_file_that_changes_while_it_is_read_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    place = tree_in(tmp_path / "tree")
    first = Build(place, tmp_path / "first")
    (place / name).write_bytes(NOISE[7:1_300_000])
    plan = tar_writer.plan_tar

    def late(items: Iterable[Item]) -> Iterator[TarBlock]:
        for block in plan(items):
            (place / name).write_bytes(NOISE[9:1_200_000])
            yield block

    threads = threading.active_count()
    monkeypatch.setattr(changed, "plan_tar", late)
    with pytest.raises(ContentError, match="changed while"):
        Build(settled(place), tmp_path / "second", first)
    assert threading.active_count() <= threads


def test_what_is_not_known_to_be_unchanged_is_read_by_processes(tmp_path: Path) -> None:
    place = tree_in(tmp_path / "tree")
    first, contents = Build(place, tmp_path / "first"), Contents.of(items_in(place))
    with ExitStack() as stack:
        blob = stack.enter_context(first.blob.open("rb")).fileno()
        index = BlockIndex(first.index.dump(), blob, first.stored(stack))
        assert is_changed_little(contents, index)
        assert not is_changed_little(contents, BlockIndex(first.index.dump(), blob))
        assert not is_changed_little(contents, BlockIndex())
        many = [(Entry(f"{n}", "file", size=1 << 20), one) for n, one in enumerate([UNKNOWN] * 40)]
        assert not is_changed_little(Contents.of(many), index)
