"""Processes that make blocks: the same layers and errors as without, whatever becomes of them."""

from __future__ import annotations

import os
import random
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest

from shipline.content import MemoryStore
from shipline.errors import Cancelled, ContentError
from shipline.layer import BlockIndex, Codec, StatCache, scan, stream, stream_blocks, tar_writer
from shipline.layer.forks import SharedJobs
from shipline.layer.tar_writer import TarBlock
from shipline.tasks import TaskGroup

pytestmark = pytest.mark.slow

JOBS = 60


@pytest.fixture(autouse=True)
def no_process_is_left() -> Iterator[None]:
    """Whatever happens in a test."""
    before = children()
    yield
    assert children() <= before


def children() -> set[str]:
    place = Path(f"/proc/self/task/{threading.get_native_id()}/children")
    return set(place.read_text().split())


@pytest.fixture
def tree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(stream, "CPUS", 2)
    place = tmp_path / "tree"
    place.mkdir()
    for number in range(300):
        (place / f"{number:03}").write_bytes(random.Random(number).randbytes(number * 100 + 1))
    (place / "large").write_bytes(random.Random(1).randbytes(3_000_000))
    return place


def made(tree: Path, tar: Path, *, worth: int, monkeypatch: pytest.MonkeyPatch) -> object:
    """The layer, its index and its tar."""
    monkeypatch.setattr(stream, "WORTH_FORKING", worth)
    scanned, index, store = scan(tree), BlockIndex(), MemoryStore()
    scanned.note_contents()
    with store.ingest() as ingest, tar.open("wb") as file:
        layer = stream_blocks(scanned.items(), ingest, Codec(), index, file.fileno())
    return layer, index.dump(), tar.read_bytes()


def test_processes_make_the_same_layer(
    tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    by_processes, by_threads = (
        made(tree, tmp_path / "tar", worth=worth, monkeypatch=monkeypatch) for worth in (0, 1 << 60)
    )
    assert by_processes == by_threads


def test_what_processes_have_read_is_not_read_again(
    tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stream, "WORTH_FORKING", 0)
    scanned = scan(tree)
    digest = scan(tree).digest()
    scanned.note_contents()
    with MemoryStore().ingest() as ingest:
        stream_blocks(scanned.items(), ingest, Codec(), BlockIndex())
    monkeypatch.setattr(os, "open", lambda *_, **__: pytest.fail("a file is opened again"))
    assert scanned.digest() == digest


@pytest.mark.parametrize("change", ["longer", "removed"])
def test_a_file_that_changes_is_the_same_error(
    tree: Path, monkeypatch: pytest.MonkeyPatch, change: str
) -> None:
    items = list(scan(tree).items())
    if change == "longer":
        (tree / "200").write_bytes(b"longer" * 10_000)
    else:
        (tree / "200").unlink()
    before, errors = threading.active_count(), set()
    for worth in (0, 1 << 60):
        monkeypatch.setattr(stream, "WORTH_FORKING", worth)
        with pytest.raises(ContentError) as raised, MemoryStore().ingest() as ingest:
            stream_blocks(items, ingest, Codec(), BlockIndex())
        errors.add((raised.value.message, raised.value.hint))
    assert len(errors) == 1
    assert threading.active_count() == before


@pytest.mark.parametrize("worth", [0, 1 << 60])
@pytest.mark.parametrize("cached", [False, True])
def test_a_large_file_that_changes_after_it_was_identified_is_an_error(
    tree: Path, monkeypatch: pytest.MonkeyPatch, worth: int, cached: bool
) -> None:
    """Its key would name other bytes, in this build and in all that find it in the cache."""
    monkeypatch.setattr(stream, "WORTH_FORKING", worth)
    cache, index = StatCache(), BlockIndex()
    scanned = scan(tree, cache=cache)
    scanned.note_contents()
    with MemoryStore().ingest() as ingest:
        stream_blocks(scanned.items(), ingest, Codec(), index)
    scanned.digest()
    scanned = scan(tree, cache=cache if cached else None)
    scanned.note_contents()
    items = list(scanned.items())
    identify = tar_writer.identify_large

    def changed(block: TarBlock) -> None:
        identify(block)
        if any(part.source.name == "large" for part in block.parts()):
            (tree / "large").write_bytes(random.Random(2).randbytes(3_000_000))

    monkeypatch.setattr(stream, "identify_large", changed)
    with pytest.raises(ContentError, match="changed while"), MemoryStore().ingest() as ingest:
        stream_blocks(items, ingest, Codec(), BlockIndex(index.dump()))


class Numbers:
    """Jobs that are numbers."""

    def __init__(self, work: Callable[[int, memoryview], bytes]) -> None:
        self.make = work

    def pack(self, job: int) -> bytes:
        return b"%d " % job

    def unpack(self, packed: memoryview) -> int:
        return int(bytes(packed).split()[0])


def parent_of_jobs(work: Callable[[int, memoryview], bytes]) -> Iterator[tuple[int, bytes]]:
    jobs = SharedJobs(range(JOBS), Numbers(work), size=4096, lag=1)
    with closing(jobs.on_processes([])) as results:
        for _, view, message in results:
            yield view[0], message
            jobs.release()


def test_jobs_are_done_while_others_are_not_known_yet() -> None:
    known: list[int] = []
    jobs = (known.append(number) or number for number in range(JOBS))  # type: ignore[func-returns-value]
    shared = SharedJobs(jobs, Numbers(lambda number, view: b"done"), size=4096, lag=1)
    with closing(shared.on_processes([])) as results:
        next(results)
        assert len(known) < JOBS // 2


def test_killed_and_failed_processes_change_no_result() -> None:
    parent = os.getpid()

    def work(number: int, view: memoryview) -> bytes:
        if os.getpid() != parent and number % 20 == 7:
            os.kill(os.getpid(), signal.SIGKILL)
        if os.getpid() != parent and number % 10 == 3:
            raise ZeroDivisionError
        view[0] = number
        return b"%d" % number

    assert list(parent_of_jobs(work)) == [(number, b"%d" % number) for number in range(JOBS)]


def test_a_job_that_fails_here_too_ends_all_processes() -> None:
    def work(number: int, view: memoryview) -> bytes:
        return b"%d" % (1 // (number - 30))

    with pytest.raises(ZeroDivisionError):
        list(parent_of_jobs(work))


def test_an_interruption_ends_the_wait_for_processes() -> None:
    def work(number: int, view: memoryview) -> bytes:
        signal.pause()
        return b""

    with pytest.raises(Cancelled), TaskGroup() as group:
        threading.Timer(0.2, group.scope.cancel).start()
        list(parent_of_jobs(work))


def test_processes_hold_no_files_of_others() -> None:
    ours, theirs = os.pipe()

    def work(number: int, view: memoryview) -> bytes:
        return b"1" if os.path.exists(f"/proc/self/fd/{theirs}") else b"0"

    assert {message for _, message in parent_of_jobs(work)} == {b"0"}
    os.close(ours)
    os.close(theirs)
