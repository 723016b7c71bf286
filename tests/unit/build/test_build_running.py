"""What another step of this machine can do to one that ends, and to a cache that is written."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest
from layers_for_tests import AMD64, items_of, make_layer, open_worker

from shipline.build.blobs import Blobs
from shipline.build.caching import mounts as cache_mounts
from shipline.build.caching.mounts import CacheMounts
from shipline.build.executor import Executor, StepMounts
from shipline.build.graph import RunOp
from shipline.build.running import executed
from shipline.build.snapshots import Snapshot
from shipline.build.worker import StepOptions, Worker
from shipline.content import LocalStore
from shipline.errors import ContentError, SandboxError
from shipline.events import silent
from shipline.layer import Tree, codec, scan
from shipline.sandbox import mounts as sandbox_mounts
from shipline.sandbox.run import ExitStatus

pytestmark = pytest.mark.root


@pytest.fixture
def worker(tmp_path: Path) -> Iterator[Worker]:
    with open_worker(tmp_path / "state") as opened:
        yield opened


class Passing:
    """A sandbox whose command gives away what it has open, as through a socket."""

    def __init__(self, *, write: bool) -> None:
        self.write = write
        self.given: list[int] = []

    def run(self, spec: object, root: Path, on_output: object) -> ExitStatus:
        self.given.append(os.open(root, os.O_RDONLY | os.O_DIRECTORY))
        if self.write:
            self.given.append(os.open(root / "file", os.O_WRONLY | os.O_CREAT))
        return ExitStatus(0)


@pytest.mark.parametrize("write", [False, True])
def test_the_files_of_a_step_that_ended_are_written_by_nobody(
    worker: Worker, monkeypatch: pytest.MonkeyPatch, write: bool
) -> None:
    """They are the files of its layer, for other builds as well."""
    monkeypatch.setattr(sandbox_mounts, "_PATIENCE", 1)
    op = RunOp(("true",), (), "/", "", str(AMD64), network="none")
    base = Snapshot((make_layer(worker.store, items_of({"a": "content"})),))
    passing: Any = Passing(write=write)
    with silent() as step:
        mounts = CacheMounts(Blobs(LocalStore(worker.scratch / "s"), step), worker.scratch)
        executor = Executor(lambda: passing, {}, {}, {}, worker.scratch, mounts)
        step_files = executed(op, (base,), worker, executor, StepOptions(step))
        try:
            if write:
                with pytest.raises(SandboxError, match="open for writing"), step_files:
                    pass
            else:
                with step_files, pytest.raises(OSError, match="Read-only"):
                    os.mkdir("later", dir_fd=passing.given[0])
        finally:
            for one in passing.given:
                os.close(one)


@pytest.mark.parametrize("kind", ["link", "device"])
def test_a_cache_that_changes_while_it_is_written_does_not_lead_to_the_host(
    worker: Worker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    outside, cache = tmp_path / "outside", tmp_path / "cache"
    for place in (outside, cache / "d"):
        place.mkdir(parents=True)
        (place / "file").write_text(place.parent.name[:3])

    def swapping(place: Path) -> Tree:
        found = scan(place)
        if kind == "link":
            (cache / "d").rename(cache / "old")
            (cache / "d").symlink_to(outside)
        else:
            (cache / "d/file").unlink()
            os.mknod(cache / "d/file", 0o20600, os.makedev(1, 5))  # /dev/zero
        return found

    monkeypatch.setattr(cache_mounts, "scan", swapping)
    with silent() as step:
        store = LocalStore(tmp_path / "content")
        mounts = CacheMounts(Blobs(store, step), worker.scratch)
        mounts.use("name", cache)
        with pytest.raises(ContentError):
            list(mounts.layers(codec("gzip"), ""))


def test_a_cache_that_another_process_empties_first_is_empty(
    worker: Worker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = tmp_path / "mounts/name/0"
    cache.mkdir(parents=True)
    (cache / "old").touch()

    @contextmanager
    def try_late(path: Path) -> Iterator[bool]:
        """As after `prune`, which held the lock."""
        shutil.rmtree(path.with_suffix(""))
        yield True

    monkeypatch.setattr("shipline.build.executor.try_lock", try_late)
    unused: Any = None
    with ExitStack() as stack:
        StepMounts((), worker, unused, stack)._empty_cache(cache.parent)
    assert not cache.exists()
