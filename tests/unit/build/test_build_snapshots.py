"""Layers become directories once, whole, and only what their diff ID names."""

from __future__ import annotations

import os
import stat
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from layers_for_tests import items_of, make_layer

from shipline.build import layer_files
from shipline.build import snapshots as build_snapshots
from shipline.build.blobs import Blobs
from shipline.build.cache import LayerResult
from shipline.build.faults import Damage
from shipline.build.layer_files import LayerFiles
from shipline.build.snapshots import Snapshot, Snapshots
from shipline.content import LocalStore, MemoryStore, Repository
from shipline.content.readers import VerifiedReader
from shipline.errors import ContentError, DigestMismatch, NotFound
from shipline.events import Event, Started, Step, Stream, silent
from shipline.layer import Entry, Item, Layer, scan
from shipline.oci import Descriptor, Digest
from shipline.sandbox.mounts import unmount
from shipline.tasks import TaskGroup, time_limit

ME = (os.getuid(), os.getgid())


def texts(**texts: str) -> list[Item]:
    return [(entry._replace(uid=ME[0], gid=ME[1]), data) for entry, data in items_of(texts)]


class Counted(LocalStore):
    """A store that counts how often it is read, and reads slowly."""

    reads = 0

    @contextmanager
    def fetch(self, target: Descriptor) -> Iterator[VerifiedReader]:
        self.reads += 1
        threading.Event().wait(0.05)
        with super().fetch(target) as reader:
            yield reader


@pytest.fixture
def step() -> Iterator[Step]:
    with silent() as quiet:
        yield quiet


@pytest.fixture
def store(tmp_path: Path) -> Counted:
    return Counted(tmp_path / "content")


def open_snapshots(tmp_path: Path, store: LocalStore, step: Step) -> Snapshots:
    return open_files(tmp_path, store, step)[1]


def open_files(tmp_path: Path, store: LocalStore, step: Step) -> tuple[LayerFiles, Snapshots]:
    scratch = tmp_path / f"scratch-{os.urandom(4).hex()}"
    scratch.mkdir()
    files = LayerFiles(tmp_path, scratch, Damage(step))
    return files, Snapshots(tmp_path, scratch, Blobs(store, step, files), files, step)


def test_threads_that_ask_together_unpack_once(tmp_path: Path, store: Counted, step: Step) -> None:
    layer = make_layer(store, texts(a="content"))
    snapshots = open_snapshots(tmp_path, store, step)

    def look() -> str:
        with snapshots.mounted(Snapshot((layer,))) as root:
            return (root / "a").read_text()

    with TaskGroup() as group:
        tasks = [group.start(look) for _ in range(4)]
    assert [task.result() for task in tasks] == ["content"] * 4
    assert store.reads == 1


def test_builds_that_ask_together_unpack_once(tmp_path: Path, store: Counted, step: Step) -> None:
    layer = make_layer(store, texts(a="content"))

    def look() -> str:
        with open_snapshots(tmp_path, store, step).mounted(Snapshot((layer,))) as root:
            return (root / "a").read_text()

    with TaskGroup() as group:
        tasks = [group.start(look) for _ in range(3)]
    assert [task.result() for task in tasks] == ["content"] * 3
    assert store.reads == 1


def test_a_layer_that_is_not_its_diff_id_is_refused_and_not_kept(
    tmp_path: Path, store: Counted, step: Step
) -> None:
    honest = make_layer(store, texts(a="content"))
    wrong = Layer(honest.descriptor, Digest.of(b"another tar"))
    snapshots = open_snapshots(tmp_path, store, step)
    with pytest.raises(DigestMismatch, match="base image"), snapshots.mounted(Snapshot((wrong,))):
        pass
    with pytest.raises(DigestMismatch, match="base image"):
        snapshots.table(Snapshot((wrong,)))
    assert {path.name for path in (tmp_path / "layers").iterdir()} <= {".locks"}
    assert list((tmp_path / "toc").iterdir()) == []


def test_a_table_is_read_once_and_kept(tmp_path: Path, store: Counted, step: Step) -> None:
    layer = make_layer(store, texts(a="content"))
    for _ in range(2):
        found = open_snapshots(tmp_path, store, step).table(Snapshot((layer,))).lookup("a")
        assert found is not None
        assert found.size == 7
    assert store.reads == 1


def test_a_damaged_table_is_read_anew(tmp_path: Path, store: Counted, step: Step) -> None:
    layer = make_layer(store, texts(a="content"))
    (tmp_path / "toc").mkdir()
    for damage in (b"", b"garbage", b"shipline-toc-1\n"):
        (tmp_path / "toc" / layer.diff_id.hex).write_bytes(damage)
        table = open_snapshots(tmp_path, store, step).table(Snapshot((layer,)))
        assert table.lookup("a") is not None


def test_upper_layers_hide_lower_ones_in_the_table(
    tmp_path: Path, store: Counted, step: Step
) -> None:
    lower = make_layer(store, texts(a="1", b="2"))
    upper = make_layer(store, [(Entry(".wh.a", "file", uid=ME[0], gid=ME[1]), b"")])
    table = open_snapshots(tmp_path, store, step).table(Snapshot((lower, upper)))
    assert [entry.path for entry in table.walk()] == ["b"]


@pytest.mark.root
@pytest.mark.parametrize("below", [False, True])
def test_whiteouts_that_hide_nothing_are_not_there(
    tmp_path: Path, store: Counted, step: Step, below: bool
) -> None:
    names = ("d/c", ".wh.a", "d/.wh.b")
    layer = make_layer(store, [(Entry(name, "file"), b"") for name in names])
    under = (make_layer(store, texts(z="1")),) if below else ()
    with open_snapshots(tmp_path, store, step).mounted(Snapshot((*under, layer))) as root:
        assert [one.path for one in scan(root).entries()] == ["d", "d/c", *["z"] * below]
        assert not os.path.lexists(root / "a") and not os.path.lexists(root / "d/b")


def test_nothing_is_an_empty_directory(tmp_path: Path, store: Counted, step: Step) -> None:
    with open_snapshots(tmp_path, store, step).mounted(Snapshot()) as root:
        assert list(root.iterdir()) == []


def test_a_remote_layer_is_pulled_when_its_files_are_needed(tmp_path: Path, store: Counted) -> None:
    remote: Repository = MemoryStore()
    layer = make_layer(remote, texts(a="content"))
    seen: list[Event] = []
    with Stream(seen.append) as stream, stream.step("build") as step:
        (tmp_path / "scratch").mkdir()
        files = LayerFiles(tmp_path, tmp_path / "scratch", Damage(step))
        blobs = Blobs(store, step, files)
        blobs.offer(layer.descriptor, remote, "h/base")
        snapshots = Snapshots(tmp_path, tmp_path / "scratch", blobs, files, step)
        assert not store.exists(layer.descriptor)
        with snapshots.mounted(Snapshot((layer,))) as root:
            assert (root / "a").read_text() == "content"
    assert store.exists(layer.descriptor)
    assert len([one for one in seen if isinstance(one, Started) and "pull" in one.name]) == 1


def test_a_layer_that_was_made_here_is_pulled_once_its_files_and_blob_are_gone(
    tmp_path: Path, store: Counted, step: Step
) -> None:
    """As with a cache of another place, in which it is, too; the files are not waited for."""
    remote: Repository = MemoryStore()
    layer = make_layer(remote, texts(a="content"))
    (tmp_path / "scratch").mkdir()
    files = LayerFiles(tmp_path, tmp_path / "scratch", Damage(step))
    blobs = Blobs(store, step, files)
    blobs.remember(LayerResult(layer, "", 1))
    blobs.offer(layer.descriptor, remote, "h/base")
    snapshots = Snapshots(tmp_path, tmp_path / "scratch", blobs, files, step)
    seen: list[str] = []

    def read() -> None:
        with snapshots.mounted(Snapshot((layer,))) as root:
            seen.append((root / "a").read_text())

    thread = threading.Thread(target=read, daemon=True)
    thread.start()
    thread.join(60)
    assert seen == ["content"]


def test_who_waits_for_a_layer_goes_on_once_it_is_unpacked(
    tmp_path: Path, step: Step, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What unpacks it may need what that thread is doing."""
    layer = make_layer(MemoryStore(), texts(a="content"))
    (tmp_path / "scratch").mkdir()
    files = LayerFiles(tmp_path, tmp_path / "scratch", Damage(step))
    seen: list[bool] = []
    waits = threading.Thread(target=lambda: seen.append(files.has(layer.diff_id)), daemon=True)

    def look(diff_id: Digest) -> bool:
        waits.start()
        waits.join(0.2)
        return False

    with monkeypatch.context() as patched:
        patched.setattr(files, "_is_kept", look)
        with files.unpacking(layer.diff_id):
            waits.join(10)
            assert seen == [False]


def test_waiting_for_a_layer_can_be_interrupted(tmp_path: Path, step: Step) -> None:
    layer = make_layer(MemoryStore(), texts(a="content"))
    (tmp_path / "scratch").mkdir()
    files = LayerFiles(tmp_path, tmp_path / "scratch", Damage(step))
    other = LayerFiles(tmp_path, tmp_path / "scratch", Damage(step))
    waiting: list[Callable[[], object]] = [
        lambda: other.has(layer.diff_id),
        lambda: other.making(layer.diff_id).__enter__(),
    ]
    with files.making(layer.diff_id):
        for wait in waiting:
            with pytest.raises(TimeoutError), time_limit(0.1):
                wait()


def test_a_layer_that_is_nowhere_is_named(tmp_path: Path, store: Counted, step: Step) -> None:
    layer = make_layer(MemoryStore(), texts(a="content"))
    snapshots = open_snapshots(tmp_path, store, step)
    with pytest.raises(NotFound, match=layer.descriptor.digest.hex):
        snapshots.table(Snapshot((layer,)))


def test_what_is_no_layer_is_refused(tmp_path: Path, store: Counted, step: Step) -> None:
    content = store.add(b"{}", "application/json")
    snapshots = open_snapshots(tmp_path, store, step)
    with pytest.raises(ContentError, match="is not a layer"):
        snapshots.table(Snapshot((Layer(content, Digest.of(b"")),)))


def test_compression_does_not_change_what_a_snapshot_is(store: Counted) -> None:
    one, two = (make_layer(store, texts(a="1"), kind) for kind in ("gzip", "zstd"))
    assert one.descriptor != two.descriptor
    assert Snapshot((one,)).diff_ids == Snapshot((two,)).diff_ids


@pytest.mark.root
def test_the_files_kept_for_a_layer_are_those_of_its_tar(
    tmp_path: Path, store: Counted, step: Step
) -> None:
    """What a step only copied up would show below other images with an equal layer."""
    snapshots = open_snapshots(tmp_path, store, step)
    for number, items in enumerate(([], texts(a="content"))):
        layer = make_layer(store, items)
        upper = tmp_path / f"upper-{number}"
        (upper / "etc").mkdir(parents=True, mode=0o700)
        (upper / "etc/passwd").write_text("copied up")
        upper.chmod(0o700)
        for entry, data in items:
            assert isinstance(data, bytes)
            (upper / entry.path).write_bytes(data)
        snapshots.adopt(layer, upper)
        assert not upper.exists()
        with snapshots.mounted(Snapshot((layer,))) as root:
            assert sorted(os.listdir(root)) == [entry.path for entry, _ in items]
            assert root.stat().st_mode & 0o777 == 0o755


@pytest.mark.root
@pytest.mark.parametrize("big", [0, 1 << 40], ids=["mounted from its tar", "unpacked"])
def test_the_root_of_a_step_belongs_to_root_alone(
    tmp_path: Path, store: Counted, step: Step, monkeypatch: pytest.MonkeyPatch, big: int
) -> None:
    """Source: containerd, archive.Apply, which ignores the root of a tar."""
    monkeypatch.setattr(build_snapshots, "BIG", big)
    layer = make_layer(store, texts(a="content"))
    try:
        with open_snapshots(tmp_path, store, step).writable(Snapshot((layer,))) as place:
            status = place.root.stat()
            assert (place.root / "a").read_text() == "content"
    finally:  # in a build, mounts end with its namespace
        for target in tmp_path.glob("scratch-*/erofs/*"):
            unmount(target)
    assert (stat.S_IMODE(status.st_mode), status.st_uid, status.st_gid) == (0o755, 0, 0)


@pytest.mark.root
def test_files_that_are_not_those_of_the_tar_are_not_kept(
    tmp_path: Path, store: Counted, step: Step
) -> None:
    layer = make_layer(store, texts(a="content"))
    upper = tmp_path / "upper"
    upper.mkdir()
    (upper / "a").write_text("other")
    snapshots = open_snapshots(tmp_path, store, step)
    snapshots.adopt(layer, upper)
    with snapshots.mounted(Snapshot((layer,))) as root:
        assert (root / "a").read_text() == "content"


def files_of(snapshots: Snapshots, layer: Layer) -> list[str]:
    with snapshots.mounted(Snapshot((layer,))) as root:
        return sorted(os.listdir(root))


def test_a_layer_that_is_not_known_to_be_on_the_disk_counts_in_the_boot_that_wrote_it(
    tmp_path: Path, store: Counted, step: Step, monkeypatch: pytest.MonkeyPatch
) -> None:
    layer = make_layer(store, texts(a="content"))

    def look(boot: str, *, sync: bool = False) -> int:
        monkeypatch.setattr(layer_files, "_boot", lambda: boot)
        files, snapshots = open_files(tmp_path, store, step)
        assert files_of(snapshots, layer) == ["a"]
        if sync:
            files.sync()
        return store.reads

    assert [look("one"), look("one")] == [1, 1]
    assert look("two") == 2, "power was lost: unpacked again"
    assert look("two", sync=True) == 2
    assert look("three") == 2, "it was synced"


def test_files_are_on_the_disk_before_the_layer_is_called_synced(
    tmp_path: Path, store: Counted, step: Step, monkeypatch: pytest.MonkeyPatch
) -> None:
    layer = make_layer(store, texts(a="content"))
    files, snapshots = open_files(tmp_path, store, step)
    files_of(snapshots, layer)
    synced = tmp_path / "layers" / layer.diff_id.hex / "synced"
    seen = []

    def record(path: Path) -> None:
        seen.append((path, (synced.parent / "fs/a").read_text(), synced.exists()))

    monkeypatch.setattr(layer_files, "sync_file_system", record)
    files.sync()
    assert seen == [(tmp_path / "layers", "content", False)]
    assert synced.exists()
    files.sync()
    assert len(seen) == 1, "nothing is left to sync"


def test_a_verified_build_reads_the_files_of_layers_again(
    tmp_path: Path, store: Counted, step: Step
) -> None:
    layer = make_layer(store, texts(a="content"))
    files, snapshots = open_files(tmp_path, store, step)
    files_of(snapshots, layer)
    assert files.exact(layer.diff_id)
    (tmp_path / "layers" / layer.diff_id.hex / "fs/a").write_text("changed")
    assert files.has(layer.diff_id), "its names and sizes are right"
    seen: list[Path] = []
    again = LayerFiles(tmp_path, tmp_path, seen.append, verified=True)
    assert not again.has(layer.diff_id)
    assert seen == [tmp_path / "layers" / layer.diff_id.hex]
