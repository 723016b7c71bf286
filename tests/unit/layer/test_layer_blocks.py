"""Blocks: the same ones however a tar is cut up; few of them change; what is taken is intact."""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from shipline.content import MemoryStore
from shipline.layer import BlockIndex, Codec, Entry, Item, Layer, cut_tar, stream_layer, write_tar

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


def built(
    files: dict[str, bytes], codec: Codec, index: BlockIndex | None = None
) -> tuple[Layer, bytes]:
    store = MemoryStore()
    with store.ingest() as ingest:
        layer = stream_layer(write_tar(items_of(files)), ingest, codec, index=index)
    with store.fetch(layer.descriptor) as reader:
        return layer, reader.read()


class Counting(BlockIndex):
    """Counts the blocks that are compressed."""

    compressed = 0

    def part(self, block: bytes, compress: Callable[[bytes], object]) -> object:  # type: ignore[override]
        def counted(block: bytes) -> object:
            self.compressed += 1
            return compress(block)

        return super().part(block, counted)  # type: ignore[arg-type]


EDITS = st.lists(
    st.tuples(st.sampled_from("+-~>"), st.integers(0, 40), st.integers(0, 1_200_000)), max_size=6
)


@settings(max_examples=settings().max_examples // 8)
@given(st.lists(SIZES, min_size=3, max_size=20), EDITS, st.sampled_from(CODECS), st.data())
def test_reuse_changes_no_byte(
    tmp_path_factory: pytest.TempPathFactory,
    sizes: list[int],
    edits: list[tuple[str, int, int]],
    codec: Codec,
    data: st.DataObject,
) -> None:
    files = tree_of(sizes)
    index = BlockIndex()
    _, blob = built(files, codec, index)
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
    whole = built(files, codec)
    damaged = bytearray(blob)
    for at in data.draw(st.lists(st.integers(0, len(blob) - 1), max_size=3)):
        damaged[at] ^= 1 << data.draw(st.integers(0, 7))
    cut = data.draw(st.integers(0, len(blob)))
    for number, older in enumerate((blob, bytes(damaged), blob[:cut])):
        path = tmp_path_factory.mktemp("older") / str(number)
        path.write_bytes(older)
        with path.open("rb") as file:
            again = BlockIndex(index.dump(), file.fileno())
            assert built(files, codec, again) == whole
        fresh = BlockIndex()
        built(files, codec, fresh)
        assert again.dump() == fresh.dump()


@pytest.mark.parametrize("codec", CODECS, ids=str)
def test_only_changed_blocks_are_compressed(tmp_path: Path, codec: Codec) -> None:
    files = tree_of([20_000] * 300)
    index = Counting()
    _, blob = built(files, codec, index)
    assert index.compressed >= 6
    (tmp_path / "blob").write_bytes(blob)
    files["d/00100"] = b"changed"
    with (tmp_path / "blob").open("rb") as file:
        again = Counting(index.dump(), file.fileno())
        built(files, codec, again)
    assert 1 <= again.compressed <= 3
