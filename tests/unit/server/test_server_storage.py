"""The data directory and upload sessions, without the network."""

from __future__ import annotations

import errno
import os
import threading
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import pytest

from node_app import fill
from shipline.errors import UsageError
from shipline.oci import Descriptor, Digest, Manifest
from shipline.server.cache import UPLOADING
from shipline.server.entries import Changes
from shipline.server.http import PAUSE, READ, ClientGone
from shipline.server.manifests import Manifests
from shipline.server.problems import Problem
from shipline.server.storage import Storage
from shipline.server.upload_session import UploadSession
from shipline.server.uploads import UploadStore

A, B = b"a" * 3_000_000, b"b" * 10


@pytest.fixture
def storage(tmp_path: Path) -> Iterator[Storage]:
    opened = Storage(tmp_path)
    yield opened
    opened.close()


@pytest.fixture
def uploads(storage: Storage) -> Iterator[UploadStore]:
    opened = UploadStore(storage)
    yield opened
    opened.close()


def content_of(storage: Storage, name: str, digest: Digest) -> bytes | None:
    blob = storage.open_blob(name, digest)
    if blob is None:
        return None
    with os.fdopen(blob.fd, "rb") as file:
        return file.read()


def files(directory: Path) -> list[str]:
    return sorted(str(one.relative_to(directory)) for one in directory.rglob("*") if one.is_file())


def test_one_process_at_a_time(storage: Storage) -> None:
    with pytest.raises(UsageError, match="another process"):
        Storage(storage.root)


def test_session_goes_on_in_another_process(tmp_path: Path) -> None:
    first = Storage(tmp_path)
    identity = UploadStore(first).start("repo", "sha256")
    uploads = UploadStore(first)
    assert fill(uploads.append("repo", identity, None, None), [A]) == len(A)
    first.close()
    second = Storage(tmp_path)
    uploads = UploadStore(second)
    uploads.recover()
    assert uploads.size("repo", identity) == len(A)
    fill(uploads.append("repo", identity, f"{len(A)}-{len(A + B) - 1}", len(B)), [B])
    fill(uploads.finish("repo", identity, Digest.of(A + B), None, None))
    assert content_of(second, "repo", Digest.of(A + B)) == A + B
    second.close()


@pytest.mark.parametrize("algorithm", ["sha256", "sha512"])
def test_digest_of_another_algorithm_than_the_session_began_with(
    storage: Storage, uploads: UploadStore, algorithm: str
) -> None:
    identity = uploads.start("repo", algorithm)
    fill(uploads.append("repo", identity, None, None), [A])
    other = "sha512" if algorithm == "sha256" else "sha256"
    digest = Digest.of(A + B, other)
    fill(uploads.finish("repo", identity, digest, None, None), [B])
    assert content_of(storage, "repo", digest) == A + B


def test_refused_chunk_leaves_the_session_as_it_was(storage: Storage, uploads: UploadStore) -> None:
    identity = uploads.start("repo", "sha256")
    fill(uploads.append("repo", identity, None, None), [A])
    with pytest.raises(Problem) as refused:
        fill(uploads.append("repo", identity, f"{len(A)}-{len(A) + len(B) - 1}", None), [B, B])
    assert refused.value.status == 400
    with pytest.raises(Problem) as refused:
        fill(uploads.finish("repo", identity, Digest.of(A), None, len(B)), [B])
    assert refused.value.reason == "DIGEST_INVALID"
    assert uploads.size("repo", identity) == len(A)
    fill(uploads.finish("repo", identity, Digest.of(A), None, None))
    assert content_of(storage, "repo", Digest.of(A)) == A


def test_broken_connection_keeps_what_came(storage: Storage, uploads: UploadStore) -> None:
    identity = uploads.start("repo", "sha256")

    def broken() -> Iterator[bytes]:
        yield B
        raise ClientGone

    with pytest.raises(ClientGone):
        fill(uploads.append("repo", identity, None, len(A + B)), broken())
    assert uploads.size("repo", identity) == len(B)
    fill(uploads.finish("repo", identity, Digest.of(B + A), None, len(A)), [A])
    assert content_of(storage, "repo", Digest.of(B + A)) == B + A


def test_a_broken_upload_in_one_request_waits_for_no_disk(
    storage: Storage, uploads: UploadStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken() -> Iterator[bytes]:
        yield B
        raise ClientGone

    monkeypatch.setattr(os, "fdatasync", lambda fd: pytest.fail("what goes needs no disk"))
    with pytest.raises(ClientGone):
        fill(uploads.put("repo", Digest.of(A + B), len(A + B)), broken())
    assert not [*storage.incoming.iterdir()]


def test_cancelled_session_ends_while_it_is_filled(storage: Storage, uploads: UploadStore) -> None:
    identity = uploads.start("repo", "sha256")
    begun, cancelled = threading.Event(), threading.Event()
    refused: list[Problem] = []

    def body() -> Iterator[bytes]:
        yield B
        begun.set()
        cancelled.wait(60)
        yield B

    def push() -> None:
        try:
            fill(uploads.append("repo", identity, None, None), body())
        except Problem as problem:
            refused.append(problem)

    thread = threading.Thread(target=push)
    thread.start()
    begun.wait(60)
    uploads.cancel("repo", identity)
    cancelled.set()
    thread.join()
    assert [problem.reason for problem in refused] == ["BLOB_UPLOAD_UNKNOWN"]
    assert files(storage.incoming) == []


def test_a_session_that_is_cancelled_as_it_is_opened_is_unknown(
    uploads: UploadStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    identity, opened = uploads.start("repo", "sha256"), UploadSession.opened

    def cancel_first(session: UploadSession) -> AbstractContextManager[None]:
        uploads.cancel("repo", identity)
        return opened(session)

    monkeypatch.setattr(UploadSession, "opened", cancel_first)
    with pytest.raises(Problem, match="no upload"):
        fill(uploads.append("repo", identity, None, None), [B])


def test_a_session_that_is_cancelled_before_its_record_is_durable_has_none(
    storage: Storage, uploads: UploadStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    identity, write = uploads.start("repo", "sha256"), storage.records.write
    key = ("upload", identity)

    def cancel_first(changes: Changes, **options: Any) -> None:
        if changes.get(key) is not None:
            uploads.cancel("repo", identity)
        write(changes, **options)

    monkeypatch.setattr(storage.records, "write", cancel_first)
    with pytest.raises(Problem, match="no upload"):
        fill(uploads.append("repo", identity, None, None), [B])
    assert storage.records.get(key) is None


def test_a_session_is_not_found_again_while_it_is_cancelled(
    storage: Storage, uploads: UploadStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    identity, write = uploads.start("repo", "sha256"), storage.records.write

    def push_first(changes: Changes, **options: Any) -> None:
        monkeypatch.setattr(storage.records, "write", write)
        with pytest.raises(Problem, match="no upload"):
            fill(uploads.append("repo", identity, None, None), [B])
        write(changes, **options)

    uploads.size("repo", identity)
    monkeypatch.setattr(storage.records, "write", push_first)
    uploads.cancel("repo", identity)
    assert files(storage.incoming) == []


def test_what_a_broken_connection_leaves_is_durable_with_its_name(
    storage: Storage, uploads: UploadStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    identity, write = uploads.start("repo", "sha256"), storage.records.write
    durable = list[Changes]()

    def note(changes: Changes, **options: Any) -> None:
        write(changes, **options)
        if options.get("durable", True):
            durable.append(changes)

    def broken() -> Iterator[bytes]:
        yield B
        raise ClientGone

    monkeypatch.setattr(storage.records, "write", note)
    with pytest.raises(ClientGone):
        fill(uploads.append("repo", identity, None, len(A)), broken())
    assert uploads.size("repo", identity) == len(B)
    assert [("upload", identity) in changes for changes in durable] == [True]


def test_old_sessions_expire_and_young_ones_stay(storage: Storage, uploads: UploadStore) -> None:
    old, young = (uploads.start("repo", "sha256") for _ in range(2))
    os.utime(storage.incoming / old, (0, time.time() - 100))
    assert uploads.expire(50) == 1
    assert files(storage.incoming) == [young]
    assert uploads.size("repo", young) == 0
    with pytest.raises(Problem, match="no upload"):
        uploads.size("repo", old)


def test_where_to_resume_is_known_once_the_last_bytes_were_counted(
    storage: Storage, uploads: UploadStore
) -> None:
    """They may be counted while the client that comes back already asks."""
    identity = uploads.start("repo", "sha256")
    first = uploads.append("repo", identity, None, len(A + B))
    assert next(first) is READ
    status = uploads.settled_size("repo", identity)
    assert next(status) is PAUSE
    assert first.send(B) is READ
    assert status.send(b"") is PAUSE
    with pytest.raises(ClientGone):
        first.throw(ClientGone())
    with pytest.raises(StopIteration) as ended:
        status.send(b"")
    assert ended.value.value == len(B)


def test_size_that_a_client_was_told_survives_a_power_cut(
    storage: Storage, uploads: UploadStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Bytes that a killed process had written are durable before they are reported."""
    identity = uploads.start("repo", "sha256")
    (storage.incoming / identity).write_bytes(A)
    synced, sync = list[int](), os.fdatasync

    def note(fd: int) -> None:
        synced.append(os.fstat(fd).st_size)
        sync(fd)

    monkeypatch.setattr(os, "fdatasync", note)
    restarted = UploadStore(storage)
    assert [restarted.size("repo", identity) for _ in range(3)] == [len(A)] * 3
    assert synced == [len(A)]
    restarted.close()


def refuse(monkeypatch: pytest.MonkeyPatch, storage: Storage, calls: int = 1) -> None:
    """The records' disk is full, for a number of writes."""
    write, left = storage.records.write, calls

    def full(changes: Changes, **options: Any) -> None:
        nonlocal left
        left -= 1
        if left >= 0:
            raise OSError(errno.ENOSPC, "full")
        write(changes, **options)

    monkeypatch.setattr(storage.records, "write", full)


@pytest.mark.parametrize("elsewhere", [False, True])
@pytest.mark.parametrize("patched", [0, len(A), len(A + B)])
def test_upload_whose_records_found_no_room_can_be_repeated(
    storage: Storage,
    uploads: UploadStore,
    monkeypatch: pytest.MonkeyPatch,
    patched: int,
    elsewhere: bool,
) -> None:
    content = A + B
    digest, rest = Digest.of(content), content[patched:]
    if elsewhere:
        fill(uploads.put("other", digest, None), [content])
    identity = uploads.start("repo", "sha256")
    if patched:
        fill(uploads.append("repo", identity, None, patched), [content[:patched]])
    for _ in range(2):
        refuse(monkeypatch, storage)
        with pytest.raises(OSError, match="full"):
            fill(uploads.finish("repo", identity, digest, None, len(rest)), [rest])
        assert uploads.size("repo", identity) == patched
        assert storage.store.path(digest).exists() is elsewhere
    fill(uploads.finish("repo", identity, digest, None, len(rest)), [rest])
    for name in ("repo", "other")[: 1 + elsewhere]:
        assert content_of(storage, name, digest) == content
    assert files(storage.incoming) == []
    assert not storage.totals.total("repo")[UPLOADING]


def test_chunk_whose_records_found_no_room_can_be_repeated(
    storage: Storage, uploads: UploadStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    identity = uploads.start("repo", "sha256")
    refuse(monkeypatch, storage)
    with pytest.raises(OSError, match="full"):
        fill(uploads.append("repo", identity, None, len(A)), [A])
    assert uploads.size("repo", identity) == 0
    fill(uploads.append("repo", identity, None, len(A)), [A])
    fill(uploads.finish("repo", identity, Digest.of(A + B), None, len(B)), [B])
    assert content_of(storage, "repo", Digest.of(A + B)) == A + B


def test_recover_deletes_files_of_no_session(storage: Storage, uploads: UploadStore) -> None:
    known = uploads.start("repo", "sha256")
    (storage.incoming / "manifest-half").write_bytes(b"{")
    uploads.recover()
    assert files(storage.incoming) == [known]


def test_one_request_push_leaves_nothing_when_refused(
    storage: Storage, uploads: UploadStore
) -> None:
    with pytest.raises(Problem):
        fill(uploads.put("repo", Digest.of(B), len(A)), [A])
    assert files(storage.incoming) == []
    assert not storage.exists("repo")


def test_blob_is_read_only_through_repositories_that_have_it(
    storage: Storage, uploads: UploadStore
) -> None:
    digest = Digest.of(A)
    fill(uploads.put("one", digest, None), [A])
    assert content_of(storage, "two", digest) is None
    assert not storage.mount(digest, "two", "three")
    assert storage.mount(digest, "two", "one")
    assert storage.delete_blob("one", digest)
    assert content_of(storage, "one", digest) is None
    assert content_of(storage, "two", digest) == A
    assert storage.mount(digest, "four", None)


def test_pushing_again_repairs_a_damaged_blob(storage: Storage, uploads: UploadStore) -> None:
    digest = Digest.of(A)
    fill(uploads.put("repo", digest, None), [A])
    storage.store.path(digest).chmod(0o644)
    storage.store.path(digest).write_bytes(b"rotten")
    fill(uploads.put("repo", digest, None), [A])
    assert content_of(storage, "repo", digest) == A
    assert storage.store.path(digest).stat().st_mode & 0o777 == 0o444


def image(uploads: UploadStore, name: str) -> Manifest:
    for content in (A, B):
        fill(uploads.put(name, Digest.of(content), None), [content])
    layer = Descriptor.of(A, "application/vnd.oci.image.layer.v1.tar")
    return Manifest.make(Descriptor.of(B, "application/vnd.oci.image.config.v1+json"), [layer])


def test_every_file_has_a_holder_until_it_is_deleted(
    storage: Storage, uploads: UploadStore
) -> None:
    """What a collector relies on: no holder, no need."""
    manifests, content = Manifests(storage), image(uploads, "repo")
    digest = content.descriptor.digest
    manifests.put("repo", digest, content, ("v1",))

    def holders(one: Digest) -> list[tuple[str, ...]]:
        return [key for key, _ in storage.records.scan(("holder", str(one)))]

    assert holders(digest) == [("repo", "manifest")]
    assert holders(Digest.of(A)) == [("repo", "blob")]
    assert len(files(storage.root / "blobs")) == 3
    manifests.delete("repo", digest)
    storage.delete_blob("repo", Digest.of(A))
    assert holders(digest) == holders(Digest.of(A)) == []


def test_manifest_delete_takes_thousands_of_tags(storage: Storage, uploads: UploadStore) -> None:
    manifests, content = Manifests(storage), image(uploads, "repo")
    digest = content.descriptor.digest
    manifests.put("repo", digest, content, tuple(f"t{number}" for number in range(2500)))
    assert manifests.get("repo", "t77") is not None
    assert manifests.delete("repo", digest)
    assert manifests.tags("repo", "", 10) == []
    assert manifests.get("repo", "t77") is None
    assert storage.records.scan(("tagged", "repo")) == []


def test_an_upload_is_taken_back_from_a_blob_that_is_collected_meanwhile(
    storage: Storage, uploads: UploadStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another repository holds it while the lock is held, and no longer."""
    identity = uploads.start("other", "sha256")
    digest = Digest.of(B)
    fill(uploads.finish("other", identity, digest, None, None), [B])
    exclusive = storage.exclusive

    @contextmanager
    def collected_after() -> Iterator[None]:
        with exclusive():
            yield
        storage.store.path(digest).unlink()

    monkeypatch.setattr(storage, "exclusive", collected_after)
    file = storage.incoming / "session"
    storage.take_back(digest, file)
    assert file.read_bytes() == B
