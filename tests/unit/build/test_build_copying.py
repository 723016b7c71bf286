"""Layers of COPY are shared where they are equal, and only there."""

from __future__ import annotations

import io
import os
import tarfile
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import product
from pathlib import Path
from random import Random

import pytest
from layers_for_tests import make_layer, open_shop

from shipline.build.cache import LayerResult
from shipline.build.copying import StepOptions, copy, make_directory
from shipline.build.graph import CopyOp, MakeDirectoryOp
from shipline.build.snapshots import Snapshot
from shipline.build.workshop import ContextDirectory, Worker
from shipline.errors import ContentError, UsageError
from shipline.events import silent
from shipline.layer import Entry, Item


@contextmanager
def use() -> Iterator[StepOptions]:
    with silent() as step:
        yield StepOptions(None, False, False, step)


@pytest.fixture
def context(tmp_path: Path) -> ContextDirectory:
    place = tmp_path / "context"
    place.mkdir()
    (place / "a").write_text("content")
    return ContextDirectory("context", place, None, None)


def base_with(shop: Worker, *entries: Entry) -> Snapshot:
    return Snapshot((make_layer(shop.store, [(entry, None) for entry in entries]),))


def copied(op: CopyOp, base: Snapshot, source: ContextDirectory, shop: Worker) -> LayerResult:
    with use() as how:
        return copy(op, base, source, shop, how)


def test_equal_files_on_two_bases_are_one_layer(tmp_path: Path, context: ContextDirectory) -> None:
    with open_shop(tmp_path / "home") as shop:
        bases = [base_with(shop, Entry("bin", "dir", 0o755), Entry(n, "fifo")) for n in "xy"]
        layers = [copied(CopyOp(("a",), "/new/"), base, context, shop).layer for base in bases]
    assert layers[0] == layers[1]


def test_a_layer_keeps_the_modes_of_its_own_base(tmp_path: Path, context: ContextDirectory) -> None:
    with open_shop(tmp_path / "home") as shop:
        for mode in (0o755, 0o700):
            base = base_with(shop, Entry("etc", "dir", mode))
            made = copied(CopyOp(("a",), "/etc/"), base, context, shop)
            table = shop.snapshots.table(base.plus(made.layer))
            etc = table.lookup("etc")
            assert etc is not None and oct(etc.mode) == oct(mode)


def test_times_do_not_matter_and_contents_do(tmp_path: Path, context: ContextDirectory) -> None:
    op = CopyOp(("a",), "/")
    file = context.path / "a"
    layers = []
    with open_shop(tmp_path / "home") as shop:
        for text, time_ns in (("content", 10**18), ("content", 2 * 10**18), ("changed", 10**18)):
            file.write_text(text)
            os.utime(file, ns=(time_ns, time_ns))
            fresh_look = ContextDirectory("context", context.path, None, None)
            layers.append(copied(op, Snapshot(), fresh_look, shop).layer)
    assert layers[0] == layers[1] != layers[2]


def test_a_directory_that_exists_makes_an_empty_layer(tmp_path: Path) -> None:
    with open_shop(tmp_path / "home") as shop, use() as how:
        base = base_with(shop, Entry("srv", "dir", 0o700))
        made = make_directory(MakeDirectoryOp("/srv"), base, shop, how)
        again = make_directory(MakeDirectoryOp("/srv/x"), base, shop, how)
        assert list(shop.snapshots.table(Snapshot((made.layer,))).walk()) == []
        found = shop.snapshots.table(base.plus(again.layer)).lookup("srv")
    assert found is not None and found.mode == 0o700


def test_archive_through_a_link_out_of_it_is_refused(
    tmp_path: Path, context: ContextDirectory
) -> None:
    archive = io.BytesIO()
    with tarfile.open(fileobj=archive, mode="w") as tar:
        link = tarfile.TarInfo("up")
        link.type, link.linkname = tarfile.SYMTYPE, "../../tmp"
        tar.addfile(link)
        tar.addfile(tarfile.TarInfo("up/file"))
    (context.path / "a").write_bytes(archive.getvalue())
    op = CopyOp(("a",), "/d/", unpack="archives")
    with open_shop(tmp_path / "home") as shop, pytest.raises(ContentError, match="leads out"):
        copied(op, Snapshot(), context, shop)


BASES: dict[str, tuple[Entry, ...]] = {
    "empty": (),
    "directory": (Entry("lib", "dir", 0o755), Entry("lib/foo", "dir", 0o755)),
    "file": (Entry("lib", "fifo"),),
    "deep file": (Entry("lib", "dir", 0o755), Entry("lib/foo", "fifo")),
    "deep directory": tuple(Entry(path, "dir", 0o755) for path in ("lib", "lib/foo", "lib/foo/f")),
    "link": (Entry("lib", "symlink", link="usr"), Entry("usr", "dir", 0o755)),
    "deep link": (Entry("lib", "dir", 0o755), Entry("lib/foo", "symlink", link="/usr")),
    "dangling link": (Entry("lib", "symlink", link="nowhere"),),
    "file over directory": (Entry("a", "dir", 0o755), Entry("lib", "dir", 0o700)),
}
OPERATIONS = {
    "tree": CopyOp(("rootfs",), "/"),
    "tree and file": CopyOp(("rootfs", "a"), "/"),
    "part": CopyOp(("rootfs/lib",), "/lib"),
    "file": CopyOp(("a",), "/lib"),
    "file in directory": CopyOp(("a",), "/lib/"),
    "two trees": CopyOp(("rootfs", "other"), "/"),
    "linked": CopyOp(("rootfs",), "/", link=True),
    "archive": CopyOp(("rootfs.tar",), "/", unpack="archives"),
    "parents": CopyOp(("rootfs/./lib/foo/f",), "/", parents=True),
    "inline": CopyOp((), "/lib/foo", files=(("f", "text"),)),
}


def sources(place: Path) -> ContextDirectory:
    (place / "rootfs/lib/foo").mkdir(parents=True)
    (place / "rootfs/lib/foo/f").write_text("content")
    (place / "other").mkdir()
    (place / "other/lib").write_text("a file")
    (place / "a").write_text("content")
    with tarfile.open(place / "rootfs.tar", "w") as tar:
        tar.add(place / "rootfs", ".")
    return ContextDirectory("context", place, None, None)


def outcome(
    op: CopyOp, base: tuple[Entry, ...], source: ContextDirectory | None, shop: Worker
) -> str:
    """What the instruction says or makes, from a context or, where that is None, from an image."""
    root = base_with(shop, *base)
    try:
        if source is None:
            image = Snapshot((make_layer(shop.store, image_items()),))
            with use() as how:
                return str(copy(op, root, image, shop, how).layer)
        return str(copied(op, root, source, shop).layer)
    except UsageError as error:
        return error.message


def image_items() -> Iterator[Item]:
    for path in ("rootfs", "rootfs/lib", "rootfs/lib/foo", "other"):
        yield Entry(path, "dir", 0o755), None
    for path in ("rootfs/lib/foo/f", "other/lib", "a", "rootfs.tar"):
        yield Entry(path, "file", 0o644, size=7), b"content"


def test_no_earlier_build_changes_what_a_copy_makes_or_refuses(tmp_path: Path) -> None:
    cases = list(product(BASES, OPERATIONS, ("context", "image")))
    context = sources(tmp_path / "context")

    def build(case: tuple[str, str, str], home: str) -> str:
        base, op, origin = case
        source = context if origin == "context" else None
        with open_shop(tmp_path / home) as shop:
            return outcome(OPERATIONS[op], BASES[base], source, shop)

    cold = {case: build(case, f"cold {number}") for number, case in enumerate(cases)}
    assert len(set(cold.values())) > len(OPERATIONS), "some are refused, some are made"
    Random(1).shuffle(cases)
    assert {case: build(case, "warm") for case in cases} == cold


def test_files_of_a_context_and_of_an_image_are_told_apart(tmp_path: Path) -> None:
    """An image's files bring their capabilities; those of a context do not."""
    source = sources(tmp_path / "context")
    layers = set()
    with open_shop(tmp_path / "home") as shop:
        for origin in (source, None):
            layers.add(outcome(OPERATIONS["file"], (), origin, shop))
    assert len(layers) == 2
