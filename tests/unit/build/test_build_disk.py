"""The cache stays within its limit, and nothing that a running build relies on goes."""

from __future__ import annotations

import errno
import fcntl
import os
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from pathlib import Path

import pytest

from shipline.build import disk
from shipline.build.cache import Cache, LayerResult, open_records
from shipline.build.disk import CacheRecord, PruneLimits, grew, limit_of, prune, scan
from shipline.build.faults import Damage, repair
from shipline.build.layer_files import LayerFiles
from shipline.content import LocalStore, Recency
from shipline.errors import UsageError
from shipline.events import silent
from shipline.layer import Layer
from shipline.metadata import walk
from shipline.oci import Descriptor, Digest, media
from shipline.sandbox import open_workspace

OLD = 1_000_000_000.0  # seconds since the epoch


@pytest.fixture
def store(tmp_path: Path) -> LocalStore:
    return LocalStore(tmp_path / "content", recency=Recency(tmp_path / "use.lock"))


def blob(store: LocalStore, text: bytes, used: float) -> Descriptor:
    target = store.add(text * 10_000, media.OCI_LAYER_GZIP)
    os.utime(store.path(target.digest), (used, used))
    return target


def cache_mount(state: Path, name: str, used: float) -> Path:
    place = state / "mounts" / name / "0"
    place.mkdir(parents=True)
    (place / "file").write_bytes(b"x" * 50_000)
    lock = place.with_name("0.lock")
    lock.touch()
    os.utime(lock, (used, used))
    return place


@pytest.mark.parametrize(
    "limits, used, free, kept",
    [
        (PruneLimits(), 100, 0, 0),
        (PruneLimits(max_used=40), 100, 0, 40),
        (PruneLimits(max_used=400), 100, 0, 400),
        (PruneLimits(reserved=30), 100, 0, 30),
        (PruneLimits(min_free=20), 100, 50, 100),
        (PruneLimits(min_free=80), 100, 50, 70),
        (PruneLimits(min_free=500, reserved=10), 100, 50, 10),
        (PruneLimits(max_used=40, min_free=80), 100, 50, 40),
        (PruneLimits(max_used=40, reserved=60), 100, 50, 60),
    ],
)
def test_limits_say_what_may_stay(limits: PruneLimits, used: int, free: int, kept: int) -> None:
    assert limits.keep(used, free) == kept


def test_the_least_recently_used_goes_first(tmp_path: Path, store: LocalStore) -> None:
    first, second, third = (blob(store, bytes([65 + n]), OLD + n) for n in (2, 0, 1))
    sizes = {record.description: record.size for record in scan(tmp_path)}
    limit = sum(sizes.values()) - 1
    gone = [record.description for record in prune(tmp_path, PruneLimits(max_used=limit))]
    assert gone == [f"blob {second.digest}"]
    assert store.exists(third)  # and thereby used
    gone = [record.description for record in prune(tmp_path, PruneLimits(max_used=limit // 2))]
    assert gone == [f"blob {first.digest}"]
    assert [record.description for record in prune(tmp_path, PruneLimits())] == [
        f"blob {third.digest}"
    ]
    assert scan(tmp_path) == []


def test_what_a_running_build_has_used_stays(tmp_path: Path, store: LocalStore) -> None:
    used, unused = blob(store, b"a", OLD), blob(store, b"b", OLD)
    with open_workspace(tmp_path):
        assert store.exists(used)
        assert [record.in_use for record in scan(tmp_path)] == [False, True]
        gone = [record.description for record in prune(tmp_path, PruneLimits())]
        assert gone == [f"blob {unused.digest}"]
    assert not any(record.in_use for record in scan(tmp_path))
    assert len(list(prune(tmp_path, PruneLimits()))) == 1


def test_a_cache_mount_in_use_stays(tmp_path: Path) -> None:
    free, used = cache_mount(tmp_path, "free", OLD), cache_mount(tmp_path, "used", OLD)
    with used.with_name("0.lock").open() as lock:
        fcntl.flock(lock, fcntl.LOCK_SH)
        found = {record.path: record for record in scan(tmp_path)}
        assert found[used].in_use and not found[free].in_use
        assert found[free].type == "exec.cachemount" and found[free].size >= 50_000
        assert [record.path for record in prune(tmp_path, PruneLimits())] == [free]
        assert used.exists()
    assert [record.path for record in prune(tmp_path, PruneLimits())] == [used]
    assert not [*tmp_path.glob("mounts/*/*.size")]


def test_kept_contexts_of_clients_are_shown_and_go_unless_a_build_uses_them(tmp_path: Path) -> None:
    free, used = (tmp_path / "contexts" / name for name in ("free", "used"))
    for place in (free, used):
        (place / "files-1").mkdir(parents=True)
        (place / "files-1/file").write_bytes(b"x" * 50_000)
        place.with_suffix(".lock").touch()
    with used.with_suffix(".lock").open() as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        found = {record.path: record for record in scan(tmp_path)}
        assert found[free].type == "source.local" and found[free].size >= 50_000
        assert found[used].in_use and not found[free].in_use
        assert [record.path for record in prune(tmp_path, PruneLimits())] == [free]
        assert not free.exists() and (used / "files-1/file").exists()
    assert [record.path for record in prune(tmp_path, PruneLimits())] == [used]
    assert scan(tmp_path) == []


def test_the_size_of_a_cache_mount_is_counted_after_each_use(tmp_path: Path) -> None:
    place = cache_mount(tmp_path, "npm", OLD)
    before = scan(tmp_path)[0].size
    (place / "more").write_bytes(b"x" * 100_000)
    assert scan(tmp_path)[0].size == before
    os.utime(place.with_name("0.lock"), (time.time() + 1, time.time() + 1))
    assert scan(tmp_path)[0].size >= before + 100_000


def test_only_what_is_chosen_goes(tmp_path: Path, store: LocalStore) -> None:
    blob(store, b"a", OLD)
    cache_mount(tmp_path, "npm", OLD)

    def chosen(record: CacheRecord) -> bool:
        return record.type == "exec.cachemount"

    assert [record.type for record in prune(tmp_path, PruneLimits(), chosen)] == ["exec.cachemount"]
    assert [record.type for record in scan(tmp_path)] == ["regular"]


def test_results_whose_layer_went_are_forgotten(tmp_path: Path, store: LocalStore) -> None:
    gone, kept = blob(store, b"a", OLD), blob(store, b"b", OLD + 1)
    with open_records(tmp_path / "cache.db", print) as records:
        cache = Cache(records, store, tmp_path)
        for name, target in (("gone", gone), ("kept", kept)):
            layer = Layer(target, Digest.of(name.encode()))
            cache.put(name, LayerResult(layer, "2026-01-01T00:00:00Z"))
    os.utime(store.path(gone.digest), (OLD, OLD))
    used = sum(record.size for record in scan(tmp_path))
    assert len(list(prune(tmp_path, PruneLimits(max_used=used - 1)))) == 1
    with open_records(tmp_path / "cache.db", print) as records:
        assert [key for key, _ in records.scan(())] == [("layers", "kept")]


def test_what_a_build_has_used_is_stored_twice_until_it_ends(
    tmp_path: Path, store: LocalStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(disk, "_WORTH", 1)
    with (
        silent() as step,
        open_workspace(tmp_path) as scratch,
        open_records(tmp_path / "cache.db", print) as records,
    ):
        files = LayerFiles(tmp_path, scratch, Damage(step))
        blobs = [blob(store, text, OLD) for text in (b"a", b"b")]
        for target in blobs:
            diff_id = Digest.of(target.digest.hex.encode())
            with files.making(diff_id) as building:
                assert building is not None
                (building / "layer.tar").write_bytes(b"tar")
            result = LayerResult(Layer(target, diff_id), "2026-01-01T00:00:00Z", 1)
            Cache(records, store, tmp_path).put(target.digest.hex, result)
            os.utime(store.path(target.digest), (OLD, OLD if target is blobs[0] else time.time()))

        def left(*, unused: bool) -> list[bool]:
            disk.keep_once(tmp_path, scratch, records, files, step, unused=unused)
            return [store.path(one.digest).exists() for one in blobs]

        assert left(unused=True) == [True, True], "their files are not on the disk yet"
        files.sync()
        assert left(unused=True) == [False, True]
        assert left(unused=False) == [False, False]


def test_a_touch_and_an_eviction_never_both_succeed(tmp_path: Path) -> None:
    recency, path, trash = Recency(tmp_path / "lock"), tmp_path / "blob", tmp_path / "trash"
    start = threading.Barrier(2)
    since = time.time() - 60

    def touch() -> bool:
        start.wait()
        return recency.touch(path)

    with ThreadPoolExecutor(1) as pool:
        for _ in range(300):
            path.write_bytes(b"")
            os.utime(path, (OLD, OLD))
            touched = pool.submit(touch)
            start.wait()
            evicted = recency.evict(path, path, lambda: since, trash)
            assert touched.result() == path.exists() == (not evicted)


def test_growth_is_noticed(tmp_path: Path, store: LocalStore) -> None:
    now = time.time() - 0.1  # file times are those of the last tick
    os.utime(tmp_path / "content/blobs/sha256", (OLD, OLD))
    assert not grew(tmp_path, now)
    store.add(b"new", media.OCI_LAYER_GZIP)
    assert grew(tmp_path, now)


def test_the_limit_can_be_set(tmp_path: Path) -> None:
    assert limit_of("2GB", tmp_path) == 2_000_000_000
    assert limit_of("unlimited", tmp_path) is None
    assert 5_000_000_000 <= (limit_of("", tmp_path / "missing") or 0) <= 50_000_000_000
    with pytest.raises(UsageError, match="SHIPLINE_MAX_USED_SPACE: 'much' is not a size"):
        limit_of("much", tmp_path)


def test_records_that_go_while_they_are_read_are_left_out(
    tmp_path: Path, store: LocalStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    gone, kept = blob(store, b"a", OLD), blob(store, b"b", OLD)
    lstat = Path.lstat

    def evicting(path: Path) -> os.stat_result:
        store.path(gone.digest).unlink(missing_ok=True)
        return lstat(path)

    monkeypatch.setattr(Path, "lstat", evicting)
    assert [record.path for record in scan(tmp_path)] == [store.path(kept.digest)]


def test_a_repair_leaves_the_locks_of_git_repositories_alone(tmp_path: Path) -> None:
    """Whoever holds one would share its repository with the next, who makes a new file."""
    name = "7580fc0306f600911405f4bcc2300bf7"
    (tmp_path / "git" / name).mkdir(parents=True)
    lock = tmp_path / "git" / f"{name}.lock"
    lock.touch()
    damaged: list[Path] = []
    assert not repair(tmp_path, damaged.append, time.time_ns())
    assert damaged == [] and lock.exists()


def test_what_another_build_has_repaired_counts_as_repaired(tmp_path: Path) -> None:
    """It failed at the same thing, and starts again, too."""
    began = time.time_ns()
    (tmp_path / "toc").write_text("a file")
    damaged: list[Path] = []
    assert repair(tmp_path, damaged.append, began)
    assert damaged == [tmp_path / "toc"]
    assert repair(tmp_path, damaged.append, began)
    assert not repair(tmp_path, damaged.append, time.time_ns())
    assert len(damaged) == 1


def test_what_one_build_made_stays_when_another_one_repairs(tmp_path: Path) -> None:
    for number in range(50):
        state, ready = tmp_path / str(number), threading.Barrier(4)
        state.mkdir()
        (state / "content").write_text("a file")

        def begin(name: str, state: Path = state, ready: threading.Barrier = ready) -> None:
            ready.wait()
            repair(state, lambda path: None, 0)
            (state / "content" / "blobs").mkdir(parents=True, exist_ok=True)
            (state / "content" / name).touch()

        with ThreadPoolExecutor(4) as pool:
            list(pool.map(begin, "abcd"))
        assert sorted(os.listdir(state / "content")) == ["a", "b", "blobs", "c", "d"]


def test_what_ends_during_a_repair_is_not_damaged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lock = tmp_path / "tmp" / "1-0.lock"
    lock.parent.mkdir()
    lock.touch()
    stat = Path.stat

    def ending(path: Path) -> os.stat_result:
        lock.unlink(missing_ok=True)
        return stat(path)

    monkeypatch.setattr(Path, "stat", ending)
    damaged: list[Path] = []
    assert not repair(tmp_path, damaged.append, time.time_ns())
    assert damaged == []


def test_records_in_the_place_of_damaged_ones_stay(tmp_path: Path) -> None:
    """Several builds find the damage, one after another."""
    path, damaged = tmp_path / "cache.db", list[Path]()
    found = OSError(errno.EIO, "the disk image is malformed", str(path))
    with suppress(OSError), ExitStack() as stack:
        for _ in range(2):
            records = stack.enter_context(open_records(path, damaged.append))
            records.write({("damaged",): b""})
        with suppress(OSError), open_records(path, damaged.append):
            raise found
        with open_records(path, damaged.append) as records:
            records.write({("new",): b""})
        raise found
    assert len(damaged) == 3
    with open_records(path, damaged.append) as records:
        assert [key for key, _ in walk(records, ())] == [("new",)]


def test_many_builds_open_damaged_records(tmp_path: Path) -> None:
    """One makes them again, the others use them."""
    for number in range(20):
        path, ready = tmp_path / f"{number}.db", threading.Barrier(4)
        path.write_bytes(b"garbage" * 1000)

        def begin(name: str, path: Path = path, ready: threading.Barrier = ready) -> None:
            ready.wait()
            with open_records(path, lambda damaged: None) as records:
                records.write({(name,): b""})

        with ThreadPoolExecutor(4) as pool:
            list(pool.map(begin, "abcd"))
        with open_records(path, lambda damaged: None) as records:
            assert [key for key, _ in walk(records, ())] == [("a",), ("b",), ("c",), ("d",)]


def test_a_run_that_another_asks_about_is_not_in_use(tmp_path: Path) -> None:
    run = tmp_path / "runs" / "20260101-000000-abcdef"
    run.mkdir(parents=True)
    for name in ("record.json", "events"):
        (run / name).touch()
    with (run / "events").open() as asked:
        fcntl.flock(asked, fcntl.LOCK_SH)
        assert [record.in_use for record in scan(tmp_path)] == [False]
        fcntl.flock(asked, fcntl.LOCK_EX)
        assert [record.in_use for record in scan(tmp_path)] == [True]
