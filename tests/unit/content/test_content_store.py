"""LocalStore: whole or absent, also when two write at once or one is killed."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from shipline.content import (
    CHUNK,
    Follow,
    LocalStore,
    MemoryStore,
    OciLayout,
    adding_images,
    copy_graph,
    fetch_all,
)
from shipline.errors import Cancelled, ContentError, DamagedContent, DigestMismatch, NotFound
from shipline.oci import (
    IMAGE_NAME,
    LAYOUT_FILE,
    REF_NAME,
    Descriptor,
    Digest,
    Index,
    Manifest,
    media,
)
from shipline.tasks import TaskGroup
from shipline.values import replace

BLOB = b"layer" * 1000
TARGET = Descriptor.of(BLOB, media.OCI_LAYER)


def pieces(follow: Follow) -> list[bytes]:
    with follow:
        return list(follow)


def read_all(follow: Follow) -> bytes:
    return b"".join(pieces(follow))


def test_what_was_added_is_read_back(tmp_path: Path) -> None:
    store = LocalStore(tmp_path)
    with store.fetch(store.add(BLOB, media.OCI_LAYER)) as reader:
        assert reader.read() == BLOB


def test_uncommitted_bytes_never_exist(tmp_path: Path) -> None:
    store = LocalStore(tmp_path)
    with store.ingest() as ingest:
        ingest.write(BLOB)
    assert not store.exists(TARGET)
    assert [*tmp_path.rglob("*.*"), *(tmp_path / "blobs/sha256").iterdir()] == []


def test_wrong_bytes_are_not_committed(tmp_path: Path) -> None:
    store = LocalStore(tmp_path)
    with store.ingest() as ingest:
        ingest.write(BLOB[:-1] + b"x")
        with pytest.raises(DigestMismatch):
            ingest.commit(TARGET)
    assert not store.exists(TARGET)


def test_altered_file_is_never_read_to_its_end(tmp_path: Path) -> None:
    store = LocalStore(tmp_path)
    store.add(BLOB, media.OCI_LAYER)
    path = store.path(TARGET.digest)
    path.chmod(0o644)
    for altered in (BLOB[:-1], BLOB + b"x", b"L" + BLOB[1:]):
        path.write_bytes(altered)
        with store.fetch(TARGET) as reader, pytest.raises(DigestMismatch):
            reader.read()


def test_absent_content_is_not_found(tmp_path: Path) -> None:
    with pytest.raises(NotFound), LocalStore(tmp_path).fetch(TARGET):
        pass


def test_follower_sees_every_byte_while_they_are_written(tmp_path: Path) -> None:
    store = LocalStore(tmp_path)
    with store.ingest() as ingest, TaskGroup() as group:
        seen = group.start(read_all, ingest.follow())
        for start in range(0, len(BLOB), 700):
            ingest.write(BLOB[start : start + 700])
        ingest.commit(TARGET)
        assert seen.result() == BLOB


def test_follower_waits_for_a_chunk_or_the_end(tmp_path: Path) -> None:
    content = bytes(CHUNK * 2 + 5)
    with LocalStore(tmp_path).ingest() as ingest, TaskGroup() as group:
        seen = group.start(lambda: list(map(len, pieces(ingest.follow()))))
        for start in range(0, len(content), 70_001):
            ingest.write(content[start : start + 70_001])
        ingest.commit(Descriptor.of(content, "text/plain"))
        assert seen.result() == [CHUNK, CHUNK, 5]


def test_follower_of_abandoned_content_is_cancelled(tmp_path: Path) -> None:
    store = LocalStore(tmp_path)
    with store.ingest() as ingest:
        ingest.write(BLOB * (CHUNK // len(BLOB) + 1))
        follow = ingest.follow()
        follower = iter(follow)
        assert len(next(follower)) == CHUNK
    with follow, pytest.raises(Cancelled):
        next(follower)


def test_killed_writer_leaves_nothing(tmp_path: Path) -> None:
    program = (
        "import sys, time; from pathlib import Path; from shipline.content import LocalStore\n"
        "with LocalStore(Path(sys.argv[1])).ingest() as ingest:\n"
        "    ingest.write(b'x' * 100000); print('written', flush=True); time.sleep(60)\n"
    )
    writer = subprocess.Popen(
        [sys.executable, "-c", program, str(tmp_path)], stdout=subprocess.PIPE
    )
    assert writer.stdout is not None
    with writer:
        assert writer.stdout.readline() == b"written\n"
        os.kill(writer.pid, signal.SIGKILL)
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


def test_two_writers_of_equal_content_both_succeed(tmp_path: Path) -> None:
    store = LocalStore(tmp_path)
    with store.ingest() as one, store.ingest() as two:
        for ingest in (one, two):
            ingest.write(BLOB)
        for ingest in (one, two):
            ingest.commit(TARGET)
    assert store.exists(TARGET)


def test_copy_writes_children_before_parents() -> None:
    config, layer = b"{}", b"layer"
    manifest = Manifest.make(
        Descriptor.of(config, media.OCI_CONFIG), [Descriptor.of(layer, media.OCI_LAYER)]
    )
    index = Index.make([manifest.descriptor])
    source = MemoryStore(config, layer, manifest.raw, index.raw)
    destination = MemoryStore()
    copy_graph(source, destination, index.descriptor)
    order = list(destination.blobs)
    assert set(order) == set(source.blobs)
    assert order[-2:] == [Digest.of(manifest.raw), Digest.of(index.raw)]


def _flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[0] ^= 1
    path.chmod(0o644)
    path.write_bytes(content)


def test_what_fails_its_digest_is_removed_and_told_where_that_is_asked_for(tmp_path: Path) -> None:
    told: list[Path] = []
    target = LocalStore(tmp_path).add(b"content", "text/plain")
    store = LocalStore(tmp_path, told.append)
    _flip(store.path(target.digest))
    with pytest.raises(DigestMismatch), LocalStore(tmp_path).fetch(target) as reader:
        reader.read()
    assert store.path(target.digest).exists(), "only told by those who asked for it"
    with pytest.raises(DamagedContent), store.fetch(target) as reader:
        reader.read()
    assert told == [store.path(target.digest)]
    assert not store.exists(target)


def test_an_error_of_the_reader_is_not_taken_for_damage(tmp_path: Path) -> None:
    store = LocalStore(tmp_path, lambda path: pytest.fail(f"{path} is whole"))
    target = store.add(b"content", "text/plain")
    with pytest.raises(KeyError), store.fetch(target):
        raise KeyError
    assert not store.exists(replace(target, size=3)), "a wrong size in a document harms nothing"
    assert store.exists(target)


def test_a_store_that_verifies_finds_damage_of_the_same_size(tmp_path: Path) -> None:
    told: list[Path] = []
    target = LocalStore(tmp_path).add(b"content", "text/plain")
    _flip(LocalStore(tmp_path).path(target.digest))
    assert LocalStore(tmp_path, told.append).exists(target)
    store = LocalStore(tmp_path, told.append, verified=True)
    assert not store.exists(target)
    store.add(b"content", "text/plain")
    assert store.exists(target)
    assert len(told) == 1


def test_what_is_committed_takes_the_place_of_a_damaged_file(tmp_path: Path) -> None:
    store = LocalStore(tmp_path)
    target = store.add(b"content", "text/plain")
    _flip(store.path(target.digest))
    with store.ingest() as ingest:
        ingest.write(b"content")
        ingest.commit(target)
    assert fetch_all(store, target, 100) == b"content"
    assert [path.name for path in (tmp_path / "blobs").iterdir() if path.is_file()] == []


def test_16_links_in_a_layout_lead_nowhere(tmp_path: Path) -> None:
    """A layout of others may hold links to files of this machine."""
    secret = tmp_path / "secret"
    secret.write_bytes(b"{}")
    target = Descriptor.of(b"{}", media.OCI_CONFIG)
    layout = OciLayout(tmp_path / "layout", create=True)
    blob = tmp_path / "layout/blobs/sha256" / target.digest.hex
    blob.symlink_to(secret)
    with pytest.raises(ContentError, match="symbolic link"), layout.fetch(target) as reader:
        reader.read()
    assert not layout.exists(target)
    assert layout.add(b"{}", media.OCI_CONFIG) == target and not blob.is_symlink()
    assert fetch_all(layout, target, 100) == b"{}"
    (tmp_path / "layout/index.json").unlink(missing_ok=True)
    (tmp_path / "layout/index.json").symlink_to(secret)
    with pytest.raises(ContentError, match="is not a file"):
        layout.index()
    (tmp_path / "layout/index.json").unlink()
    os.mkfifo(tmp_path / "layout/index.json")  # it would be read until somebody writes
    with pytest.raises(ContentError, match="is not a file"):
        layout.index()


def test_a_layout_that_cannot_be_written_keeps_its_index_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    layout = OciLayout(tmp_path / "layout", create=True)
    store, first = _index_of(b"a")
    layout.tag(first, store, "first")
    before = sorted(path.name for path in layout.root.iterdir())
    store, second = _index_of(b"b")
    layout.push(second, store)

    def full(fd: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(ContentError, match="No space left"):
        layout.tag(second, store, "second")
    assert sorted(path.name for path in layout.root.iterdir()) == before
    assert layout.resolve("first") == first


def _index_of(data: bytes) -> tuple[MemoryStore, Descriptor]:
    raw = b'{"schemaVersion":2,"manifests":[],"annotations":{"a":"%s"}}' % data
    return MemoryStore(raw), Descriptor.of(raw, media.OCI_INDEX)


def test_writers_of_one_layout_keep_the_images_of_each_other(tmp_path: Path) -> None:
    def entry(name: str) -> Descriptor:
        return replace(TARGET, annotations={IMAGE_NAME: f"x.example/{name}:1", REF_NAME: "1"})

    def add(number: int) -> None:
        with adding_images(tmp_path, [entry(f"app{number}")]):
            (tmp_path / "oci-layout").unlink(missing_ok=True)
            time.sleep(0.01)
            (tmp_path / "oci-layout").write_bytes(LAYOUT_FILE)

    with TaskGroup() as group:
        for number in range(8):
            group.start(add, number)
    with pytest.raises(ZeroDivisionError), adding_images(tmp_path, [entry("broken")]):
        raise ZeroDivisionError
    add(3)
    names = [one.annotations[IMAGE_NAME] for one in OciLayout(tmp_path).index().manifests]
    assert sorted(names) == [f"x.example/app{number}:1" for number in range(8)]


def test_a_layout_that_another_process_changes_is_read_again(tmp_path: Path) -> None:
    ours, theirs = (OciLayout(tmp_path / "layout", create=True) for _ in range(2))
    image, *referring = (MemoryStore(), MemoryStore(), MemoryStore())
    root = image.add(Index.make([]).raw, media.OCI_INDEX)
    ours.tag(root, image, "v1")
    for number, store in enumerate(referring):
        assert len(ours.referrers(root)) == number
        about = Manifest.make(
            store.add(b"{}", media.OCI_EMPTY), [], subject=root, artifact_type=f"kind/{number}"
        )
        theirs.push(Descriptor.of(b"{}", media.OCI_EMPTY), store)
        theirs.push(store.add(about.raw, media.OCI_MANIFEST), store)
    assert [one.artifact_type for one in ours.referrers(root)] == ["kind/0", "kind/1"]
    assert len(ours.referrers(root, "kind/1")) == 1
