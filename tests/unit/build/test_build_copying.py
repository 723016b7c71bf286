"""Layers of COPY are shared where they are equal, and only there."""

from __future__ import annotations

import io
import os
import tarfile
import time
from collections.abc import Iterator
from itertools import product
from pathlib import Path
from random import Random
from typing import Any

import pytest
from layers_for_tests import AMD64, make_layer, open_solver, open_worker

from shipline.build import copying
from shipline.build.base_images import BaseImage
from shipline.build.cache import LayerResult
from shipline.build.graph import ContextOp, CopyOp, ImageOp, MakeDirectoryOp, Vertex
from shipline.build.selecting import ContextDirectory, select
from shipline.build.snapshots import Snapshot
from shipline.build.worker import Source, Worker
from shipline.errors import ContentError, DockerfileError
from shipline.events import silent
from shipline.layer import Entry, Item, Layer, StatCache, Tree
from shipline.oci import Digest, ImageConfig, Reference
from shipline.tasks import TaskGroup
from shipline.values import replace


@pytest.fixture
def context(tmp_path: Path) -> ContextDirectory:
    place = tmp_path / "context"
    place.mkdir()
    (place / "a").write_text("content")
    return ContextDirectory(place, "the context")


def base_with(worker: Worker, *entries: Entry) -> Snapshot:
    return Snapshot((make_layer(worker.store, [(entry, None) for entry in entries]),))


def solved(
    op: CopyOp | MakeDirectoryOp, base: Snapshot, source: Source | None, worker: Worker
) -> LayerResult:
    """What a solver makes of the operation, with `base` and `source` as its inputs."""
    images: dict[ImageOp, BaseImage] = {}
    contexts: dict[str, ContextDirectory] = {}

    def vertex(files: Source) -> Vertex:
        if isinstance(files, ContextDirectory):
            contexts["context"] = files
            return Vertex(ContextOp("context"))
        image = ImageOp(Digest.of(" ".join(files.diff_ids).encode()))
        images[image] = BaseImage(Reference.parse("a"), image, ImageConfig(AMD64), files.layers)
        return Vertex(image)

    root = Vertex(op, tuple(vertex(one) for one in (base, source) if one is not None))
    with silent() as step, TaskGroup() as group:
        solver = open_solver(worker, step, images, contexts)
        solver.start(group, root)
    found = solver.result(root).added
    assert found is not None
    return found


def test_equal_files_on_two_bases_are_one_layer(tmp_path: Path, context: ContextDirectory) -> None:
    with open_worker(tmp_path / "home") as worker:
        bases = [base_with(worker, Entry("bin", "dir", 0o755), Entry(n, "fifo")) for n in "xy"]
        layers = [solved(CopyOp(("a",), "/new/"), base, context, worker).layer for base in bases]
    assert layers[0] == layers[1]


def test_a_layer_keeps_the_modes_of_its_own_base(tmp_path: Path, context: ContextDirectory) -> None:
    with open_worker(tmp_path / "home") as worker:
        for mode in (0o755, 0o700):
            base = base_with(worker, Entry("etc", "dir", mode))
            made = solved(CopyOp(("a",), "/etc/"), base, context, worker)
            table = worker.snapshots.table(base.plus(made.layer))
            etc = table.lookup("etc")
            assert etc is not None and oct(etc.mode) == oct(mode)


def test_times_do_not_matter_and_contents_do(tmp_path: Path, context: ContextDirectory) -> None:
    op = CopyOp(("a",), "/")
    file = context.path / "a"
    layers = []
    with open_worker(tmp_path / "home") as worker:
        for text, time_ns in (("content", 10**18), ("content", 2 * 10**18), ("changed", 10**18)):
            file.write_text(text)
            os.utime(file, ns=(time_ns, time_ns))
            fresh_look = ContextDirectory(context.path, "the context")
            layers.append(solved(op, Snapshot(), fresh_look, worker).layer)
    assert layers[0] == layers[1] != layers[2]


def test_a_directory_that_exists_makes_an_empty_layer(tmp_path: Path) -> None:
    with open_worker(tmp_path / "home") as worker:
        base = base_with(worker, Entry("srv", "dir", 0o700))
        made = solved(MakeDirectoryOp("/srv"), base, None, worker)
        again = solved(MakeDirectoryOp("/srv/x"), base, None, worker)
        assert list(worker.snapshots.table(Snapshot((made.layer,))).walk()) == []
        found = worker.snapshots.table(base.plus(again.layer)).lookup("srv")
    assert found is not None and found.mode == 0o700


def test_directories_of_another_epoch_are_not_those_of_an_earlier_build(tmp_path: Path) -> None:
    """As in BuildKit, the epoch is in the key of WORKDIR; nothing is made again without need."""
    base = Entry("srv", "dir", 0o700, mtime_ns=0)
    with open_worker(tmp_path / "home") as worker:
        root, times, there = base_with(worker, base), [], []
        for seconds in (100, 200, 100):
            op = MakeDirectoryOp("/new", timestamp=seconds * 10**9)
            made = solved(op, root, None, worker)
            found = worker.snapshots.table(Snapshot((made.layer,))).lookup("new")
            times.append(found and found.mtime_ns // 10**9)
            there.append(solved(replace(op, path="/srv"), root, None, worker).layer.diff_id)
    assert times == [100, 200, 100]
    assert len({*there}) == 1


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
    with open_worker(tmp_path / "home") as worker, pytest.raises(ContentError, match="leads out"):
        solved(op, Snapshot(), context, worker)


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
    return ContextDirectory(place, "the context")


def outcome(
    op: CopyOp, base: tuple[Entry, ...], source: ContextDirectory | None, worker: Worker
) -> str:
    """What the instruction says or makes, from a context or, where that is None, from an image."""
    root = base_with(worker, *base)
    try:
        if source is None:
            image = Snapshot((make_layer(worker.store, image_items()),))
            return str(solved(op, root, image, worker).layer.descriptor.digest)
        return str(solved(op, root, source, worker).layer.descriptor.digest)
    except DockerfileError as error:
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
        with open_worker(tmp_path / home) as worker:
            return outcome(OPERATIONS[op], BASES[base], source, worker)

    cold = {case: build(case, f"cold {number}") for number, case in enumerate(cases)}
    assert len(set(cold.values())) > len(OPERATIONS), "some are refused, some are made"
    Random(1).shuffle(cases)
    assert {case: build(case, "warm") for case in cases} == cold


def test_files_that_are_listed_while_they_are_hashed_make_the_same_layers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    context = sources(tmp_path / "context")
    streamed: list[bool] = []
    plain = copying._can_stream

    def noted(*args: Any) -> bool:
        streamed.append(plain(*args))
        return streamed[-1]

    def outcomes(home: str) -> list[str]:
        with open_worker(tmp_path / home) as worker:
            ops = [OPERATIONS[name] for name in ("tree", "part", "linked", "parents", "two trees")]
            return [outcome(op, base, context, worker) for base in BASES.values() for op in ops]

    monkeypatch.setattr(copying, "_can_stream", noted)
    found = outcomes("streamed")
    assert {*streamed} == {True, False}
    monkeypatch.setattr(copying, "_can_stream", lambda *args: False)
    assert outcomes("listed") == found


def test_files_of_a_context_and_of_an_image_are_told_apart(tmp_path: Path) -> None:
    """An image's files bring their capabilities; those of a context do not."""
    source = sources(tmp_path / "context")
    layers = set()
    with open_worker(tmp_path / "home") as worker:
        for origin in (source, None):
            layers.add(outcome(OPERATIONS["file"], (), origin, worker))
    assert len(layers) == 2


@pytest.fixture
def unread(context: ContextDirectory, monkeypatch: pytest.MonkeyPatch) -> ContextDirectory:
    """A context whose files are read once, for the layer and for its key."""
    monkeypatch.setattr(copying, "_WORTH_NOTING", 1)
    (context.path / "sub").mkdir()
    (context.path / "sub/long").write_bytes(bytes(3_000_000))
    (context.path / "sub/empty").touch()
    os.link(context.path / "a", context.path / "sub/again")
    os.symlink("a", context.path / "link")
    return context


def copied_all(context: ContextDirectory, worker: Worker, base: Snapshot | None = None) -> Layer:
    files = ContextDirectory(context.path, "the context")  # scanned again
    return solved(CopyOp((".",), "/new/"), base or Snapshot(), files, worker).layer


def test_a_layer_made_before_its_key_is_found_by_it(
    tmp_path: Path, unread: ContextDirectory, monkeypatch: pytest.MonkeyPatch
) -> None:
    with open_worker(tmp_path / "home") as worker:
        first = copied_all(unread, worker)
        base = base_with(worker, Entry("other", "fifo"))
    for least in (1, 1 << 40):
        monkeypatch.setattr(copying, "_WORTH_NOTING", least)
        with open_worker(tmp_path / "home") as worker:
            copied_all(unread, worker, base)
            (made,) = {one.layer for one in worker.cache.used.values()}
            assert made == first


def test_other_files_of_the_same_size_are_another_layer(
    tmp_path: Path, unread: ContextDirectory
) -> None:
    with open_worker(tmp_path / "home") as worker:
        first = copied_all(unread, worker)
        (unread.path / "a").write_text("CONTENT")
        second = copied_all(unread, worker)
        assert second != first
        (unread.path / "a").write_text("content")
        assert copied_all(unread, worker) == first


def test_a_file_that_changes_while_it_is_read_is_not_under_the_old_key(
    tmp_path: Path, unread: ContextDirectory
) -> None:
    with open_worker(tmp_path / "home") as worker:
        files = ContextDirectory(unread.path, "the context")
        select(files, (".",), ())  # scans
        (unread.path / "a").write_text("CONTENT")
        changed = solved(CopyOp((".",), "/new/"), Snapshot(), files, worker).layer
    with open_worker(tmp_path / "home") as worker:
        (unread.path / "a").write_text("content")
        assert copied_all(unread, worker) != changed


def test_a_changed_file_among_known_ones_is_read_once(
    tmp_path: Path, unread: ContextDirectory, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(copying, "_WORTH_NOTING", 1_000_000)
    with open_worker(tmp_path / "home") as worker, StatCache.open(tmp_path / "stats") as cache:

        def copied() -> Layer:
            time.sleep(0.05)  # what is younger is not cached
            files = ContextDirectory(unread.path, "the context", cache=cache)
            return solved(CopyOp((".",), "/new/"), Snapshot(), files, worker).layer

        first = copied()
        (unread.path / "sub/empty").write_text("changed")
        read_for_the_key: list[str] = []
        monkeypatch.setattr(Tree, "_file_identity", lambda *read: read_for_the_key.append(read[1]))
        assert copied() != first
        assert not read_for_the_key
