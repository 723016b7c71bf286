"""Blocks: the same ones however a tar is cut up; few of them change; what is taken is intact."""

from __future__ import annotations

import itertools
import os
import random
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from shipline.content import Ingest, MemoryStore
from shipline.layer import (
    BlockIndex,
    Codec,
    Contents,
    Entry,
    Item,
    Layer,
    StoredTar,
    cut_tar,
    scan,
    stream,
    stream_blocks,
    stream_layer,
    write_tar,
)
from shipline.layer.blocks import LONGEST
from shipline.layer.codecs import CompressedBlock
from shipline.layer.tar_writer import TarBlock

CODECS = [Codec("gzip", 1), Codec("gzip", 6)]
SIZES = st.integers(0, 3000) | st.sampled_from(
    [0, 511, 512, (512 << 10) - 512, (1 << 20) - 512, 1 << 20, (1 << 20) + 1, 2_600_000]
)
NOISE = random.Random(7).randbytes(3_000_000)


def items_of(files: dict[str, bytes]) -> Iterator[Item]:
    for path, content in sorted(files.items()):
        yield Entry(path, "file", size=len(content), mtime_ns=len(path) * 10**9), content


def tree_of(sizes: list[int]) -> dict[str, bytes]:
    return {f"d/{number:05}": NOISE[number : number + size] for number, size in enumerate(sizes)}


def blocks_of(files: dict[str, bytes]) -> list[bytes]:
    return list(write_tar(items_of(files)))


@settings(max_examples=40)
@example([300_000], [])
@given(st.lists(SIZES, max_size=30), st.lists(st.integers(0, 6_000_000), max_size=8))
def test_a_tar_is_cut_where_it_is_written_in_blocks(sizes: list[int], cuts: list[int]) -> None:
    blocks = blocks_of(tree_of(sizes) | {"ü" * 120: b"long name"})
    tar = b"".join(blocks)
    edges = [0, *sorted(cut for cut in cuts if cut < len(tar)), len(tar)]
    assert list(cut_tar(tar[a:b] for a, b in itertools.pairwise(edges))) == blocks
    assert max(map(len, blocks)) <= 1 << 20


@pytest.mark.slow
@settings(max_examples=40)
@given(st.binary(max_size=3000), st.integers(0, 2), st.binary(min_size=1, max_size=1))
def test_anything_is_cut_without_loss(head: bytes, count: int, flag: bytes) -> None:
    header = bytearray(next(write_tar([(Entry("f", "file", size=700_000), NOISE[:700_000])])))
    header[156:157] = flag
    content = head + bytes(header) * count + NOISE
    blocks = list(cut_tar([content]))
    assert b"".join(blocks) == content
    assert max(map(len, blocks)) <= 1 << 20


def test_a_file_larger_than_tar_numbers_can_say_is_one_entry() -> None:
    size = 8 << 30
    blocks = write_tar([(Entry("huge", "file", size=size), iter_reader(size))])
    first = list(itertools.islice(blocks, 3))
    again = itertools.islice(cut_tar(itertools.chain(first, itertools.repeat(bytes(1 << 20)))), 3)
    assert list(again) == first


class iter_reader:
    """A reader of so many zeros."""

    def __init__(self, size: int) -> None:
        self._left = size

    def read(self, size: int = -1, /) -> bytes:
        size = min(size, self._left)
        self._left -= size
        return bytes(size)


@pytest.mark.parametrize("sizes", [[9_000] * 1500, [30_000, 200] * 400, [400_000] * 40])
@pytest.mark.parametrize("change", ["longer", "removed", "added", "first"])
def test_a_changed_file_changes_few_blocks(sizes: list[int], change: str) -> None:
    files = tree_of(sizes)
    before = set(blocks_of(files))
    middle = f"d/{len(sizes) // 2:05}"
    if change == "removed":
        del files[middle]
    elif change == "added":
        files[f"{middle}a"] = NOISE[:10_000]
    elif change == "longer":
        files[middle] += bytes(5000)
    else:
        files["0"] = b"a new file at the beginning"
    after = blocks_of(files)
    assert len(after) > 8
    assert sum(block not in before for block in after) <= 4


def written(place: Path, files: dict[str, bytes]) -> None:
    """Bring the files of a directory to those contents."""
    for path, content in files.items():
        (place / path).parent.mkdir(parents=True, exist_ok=True)
        if not (place / path).exists() or (place / path).read_bytes() != content:
            (place / path).write_bytes(content)
        os.utime(place / path, (len(path), len(path)))
    for found in place.rglob("*"):
        if found.is_file() and str(found.relative_to(place)) not in files:
            found.unlink()


def items_in(place: Path, *, known: bool = True) -> list[Item]:
    """The files of a directory, whose digests are `known` before they are read."""
    tree = scan(place)
    if known:
        tree.digest()
    tree.note_contents()
    return [item for item in tree.items() if item[0].kind == "file"]  # whose times are set


def built(items: Iterable[Item], codec: Codec) -> tuple[Layer, bytes]:
    store = MemoryStore()
    with store.ingest() as ingest:
        layer = stream_layer(write_tar(items), ingest, codec)
    with store.fetch(layer.descriptor) as reader:
        return layer, reader.read()


def test_blocks_are_made_before_all_items_are_known(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stream, "CPUS", 1)
    store, data, made = MemoryStore(), NOISE[:LONGEST], [0]
    contents = Contents(40 * len(data), 0, len(data), ())

    def items(ingest: Ingest) -> Iterator[Item]:
        for number in range(40):
            yield Entry(f"{number}", "file", size=len(data)), data
        made[0] = ingest.size

    with store.ingest() as ingest:
        stream_blocks(items(ingest), ingest, Codec(), BlockIndex(), contents=contents)
    assert made[0] > 10 * len(data)


def built_of_blocks(
    items: Iterable[Item], codec: Codec, index: BlockIndex, tar: Path
) -> tuple[Layer, bytes]:
    store = MemoryStore()
    with store.ingest() as ingest, tar.open("wb") as file:
        layer = stream_blocks(items, ingest, codec, index, file.fileno())
    with store.fetch(layer.descriptor) as reader:
        return layer, reader.read()


@contextmanager
def counted(monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, int]]:
    """How many blocks are read, and how many compressed."""
    counts = {"read": 0, "compressed": 0}
    fill, compress = TarBlock.fill, Codec.compress_block

    def counting_fill(self: TarBlock, view: memoryview) -> None:
        counts["read"] += 1
        fill(self, view)

    def counting_compress(self: Codec, block: memoryview) -> CompressedBlock:
        counts["compressed"] += len(block) > 0  # an empty one loads the library
        return compress(self, block)

    with monkeypatch.context() as patched:
        patched.setattr(TarBlock, "fill", counting_fill)
        patched.setattr(Codec, "compress_block", counting_compress)
        yield counts


EDITS = st.lists(
    st.tuples(st.sampled_from("+-~>"), st.integers(0, 40), st.integers(0, 1_200_000)), max_size=6
)


@pytest.mark.slow
@settings(max_examples=settings().max_examples // 8)
@given(st.lists(SIZES, min_size=3, max_size=20), EDITS, st.sampled_from(CODECS), st.data())
def test_reuse_changes_no_byte(
    tmp_path_factory: pytest.TempPathFactory,
    sizes: list[int],
    edits: list[tuple[str, int, int]],
    codec: Codec,
    data: st.DataObject,
) -> None:
    place = tmp_path_factory.mktemp("reuse")
    files, older_tar = tree_of(sizes), place / "older.tar"
    written(place / "files", files)
    index = BlockIndex()
    _, blob = built_of_blocks(items_in(place / "files"), codec, index, older_tar)
    for kind, number, size in edits:
        names = sorted(files)
        if kind == "+":
            files[f"d/{number:05}+"] = NOISE[-size - 1 :]
        elif names and kind == "-":
            del files[names[number % len(names)]]
        elif names and kind == "~":
            files[names[number % len(names)]] = NOISE[number : number + size]
        elif names:
            files[f"moved/{number}"] = files.pop(names[number % len(names)])
    written(place / "files", files)
    items = items_in(place / "files")
    whole = built(items, codec)
    tar = b"".join(write_tar(items))
    older = [(blob, older_tar.read_bytes())]
    older += [damaged(one, data) for one in older for _ in range(3)]
    for number, (old_blob, old_tar) in enumerate(older):
        paths = [place / f"blob{number}", place / f"tar{number}"]
        for path, content in zip(paths, (old_blob, old_tar), strict=True):
            path.write_bytes(content)
        with paths[0].open("rb") as one, paths[1].open("rb") as other:
            stored = StoredTar.whole(other.fileno())
            again = BlockIndex(index.dump(), one.fileno(), stored)
            assert built_of_blocks(items, codec, again, place / "new.tar") == whole
        assert (place / "new.tar").read_bytes() == tar
        fresh = BlockIndex()
        built_of_blocks(items, codec, fresh, place / "new.tar")
        assert again.dump() == fresh.dump()


def damaged(older: tuple[bytes, bytes], data: st.DataObject) -> tuple[bytes, bytes]:
    """Bits of a blob and of a tar turned, or their ends lost."""
    found = []
    for content in older:
        changed = bytearray(content)
        for at in data.draw(st.lists(st.integers(0, len(content) - 1), max_size=3)):
            changed[at] ^= 1 << data.draw(st.integers(0, 7))
        found.append(bytes(changed[: data.draw(st.integers(0, len(content)))]))
    return found[0], found[1]


@pytest.mark.parametrize("codec", CODECS, ids=str)
def test_only_changed_blocks_are_read_and_compressed(
    tmp_path: Path, codec: Codec, monkeypatch: pytest.MonkeyPatch
) -> None:
    files, tar, place = tree_of([20_000] * 300), tmp_path / "tar", tmp_path / "files"
    written(place, files)
    index = BlockIndex()
    with counted(monkeypatch) as counts:
        _, blob = built_of_blocks(items_in(place), codec, index, tar)
    assert min(counts.values()) >= 6
    (tmp_path / "blob").write_bytes(blob)
    written(place, files | {"d/00100": b"changed"})
    with (tmp_path / "blob").open("rb") as file, tar.open("rb") as older, counted(monkeypatch) as n:
        again = BlockIndex(index.dump(), file.fileno(), StoredTar.whole(older.fileno()))
        built_of_blocks(items_in(place), codec, again, tmp_path / "new")
    assert 1 <= n["compressed"] <= n["read"] <= 3


def test_files_that_nobody_has_read_before_are_not_compressed_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tar, place, codec = tmp_path / "tar", tmp_path / "files", Codec()
    written(place, {"large": NOISE[:2_900_000], "small": b"small"})
    index = BlockIndex()
    _, blob = built_of_blocks(items_in(place, known=False), codec, index, tar)
    (tmp_path / "blob").write_bytes(blob)
    with (tmp_path / "blob").open("rb") as file, counted(monkeypatch) as counts:
        again = BlockIndex(index.dump(), file.fileno())
        _, same = built_of_blocks(items_in(place, known=False), codec, again, tmp_path / "new")
    assert same == blob
    assert (counts["read"], counts["compressed"]) == (4, 0)
