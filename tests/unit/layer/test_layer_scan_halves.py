"""A scan of which another process does the end finds what one process finds, in order."""

from __future__ import annotations

import errno
import os
import random
import time
from itertools import count
from pathlib import Path

import pytest

from shipline.errors import ContentError
from shipline.layer import Prune, StatCache, Tree, scan, tree
from shipline.layer.stat_cache import Directories, Stat

NAMES = ["a", "a-b", "a b", "a.b", "b", "é", "Z", "z\udcff", "\n"]


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(tree, "CPUS", 2)
    monkeypatch.setattr(tree, "_WORTH_FORKING", 40)
    chosen = random.Random(5)
    for _ in range(60):
        directory = tmp_path / "context" / os.path.join(*chosen.choices(NAMES, k=3))
        directory.mkdir(parents=True, exist_ok=True)
        (directory / "file").write_bytes(chosen.randbytes(10))
        (directory / "skipped").mkdir(exist_ok=True)
    return tmp_path / "context"


def by_name(path: str, is_directory: bool) -> bool | None:
    """Omits some, and keeps some directories only if they have entries."""
    if path.endswith("b/file"):
        return True
    return None if is_directory and path.endswith(("skipped", "b")) else False


def found(scanned: Tree) -> list[object]:
    """All that was found, in the order in which it was."""
    return list(scanned._directories.items())


def alone(place: Path, path: str = "", prune: Prune | None = None) -> Tree:
    """The scan by one process."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tree, "CPUS", 1)
        return scan(place, path, prune=prune)


@pytest.fixture
def taken(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The directories that this process takes from the other one, which is given time for them."""
    taken: list[str] = []
    real_take, real_found = tree._Scanner._take, tree._OtherEnd.found

    def take(scanner: tree._Scanner, path: str, found: Directories) -> None:
        taken.append(path)
        real_take(scanner, path, found)

    def wait(other: tree._OtherEnd, path: str) -> Directories:
        time.sleep(0.005)
        return real_found(other, path)

    monkeypatch.setattr(tree._Scanner, "_take", take)
    monkeypatch.setattr(tree._OtherEnd, "found", wait)
    return taken


@pytest.mark.parametrize("path", ["", "a"])
@pytest.mark.parametrize("prune", [None, by_name])
def test_two_processes_find_what_one_finds(
    place: Path, path: str, prune: Prune | None, taken: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for worth in (4, 40):
        monkeypatch.setattr(tree, "_WORTH_FORKING", worth)
        expected, cache = alone(place, path, prune), StatCache()
        for _ in range(2):
            again = scan(place, path, prune=prune, cache=cache)
            assert found(again) == found(expected)
            assert again.digest() == expected.digest()
        assert taken


def test_what_the_other_process_fails_at_is_done_here(place: Path, taken: list[str]) -> None:
    expected, parent = found(alone(place)), os.getpid()
    calls = count()

    def fails_there(path: str, is_directory: bool) -> bool:
        if os.getpid() != parent and next(calls) == 60:
            raise ZeroDivisionError
        return False

    assert found(scan(place, prune=fails_there)) == expected
    calls = count()

    def hangs_there(path: str, is_directory: bool) -> bool:
        if os.getpid() != parent and next(calls) == 60:
            os.read(os.pipe()[0], 1)
        return False

    assert found(scan(place, prune=hangs_there)) == expected
    assert not taken


def test_a_directory_that_cannot_be_read_is_the_same_error(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = tree._listed

    def refuses(directory: int, kinds: set[int], *, whiteouts: bool) -> list[Stat]:
        if os.readlink(f"/proc/self/fd/{directory}").endswith("/é"):
            raise PermissionError(13, "Permission denied", "é")
        return real(directory, kinds, whiteouts=whiteouts)

    monkeypatch.setattr(tree, "_listed", refuses)
    for scanned in (scan, alone):
        with pytest.raises(ContentError, match="cannot read é: Permission denied"):
            scanned(place)


@pytest.mark.parametrize("missing", ["memfd_create", "pidfd_open"])
def test_one_process_does_it_all_where_a_sandbox_forbids_the_other(
    place: Path, monkeypatch: pytest.MonkeyPatch, missing: str
) -> None:
    def refuse(*_: object) -> int:
        raise OSError(errno.ENOSYS, "Function not implemented")

    monkeypatch.setattr(os, missing, refuse)
    assert found(scan(place)) == found(alone(place))
