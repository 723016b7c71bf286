"""A scan of which another process does the second half finds what one process finds, in order."""

from __future__ import annotations

import errno
import os
import random
from pathlib import Path

import pytest

from shipline.errors import ContentError
from shipline.layer import Prune, StatCache, Tree, scan, tree

NAMES = ["a", "a-b", "a b", "a.b", "b", "é", "Z", "z\udcff", "\n"]


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(tree, "CPUS", 2)
    monkeypatch.setattr(tree, "_WORTH_FORKING", 4)
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


@pytest.mark.parametrize("path", ["", "a"])
@pytest.mark.parametrize("prune", [None, by_name])
def test_two_processes_find_what_one_finds(place: Path, path: str, prune: Prune | None) -> None:
    cache = StatCache()
    before = scan(place, path, prune=prune, cache=cache)
    before.digest()
    for change in (None, add, remove):
        if change is not None:
            change(place)
        assert cache.middle(path)
        again = scan(place, path, prune=prune, cache=cache)
        assert found(again) == found(scan(place, path, prune=prune))
        assert again.digest() == scan(place, path, prune=prune).digest()


def add(place: Path) -> None:
    for number, directory in enumerate(list(place.rglob("skipped"))):
        if number % 3 == 0:
            (directory / "new").mkdir()
            (directory / "new" / "file").write_bytes(b"new")
    (place / "b/é/a").mkdir(parents=True, exist_ok=True)
    (place / "b/é/a/file").touch()


def remove(place: Path) -> None:
    (place / "b/é/a/file").unlink()


def test_what_the_other_process_fails_at_is_done_here(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache, parent = StatCache(), os.getpid()
    scan(place, cache=cache).digest()
    expected = found(scan(place))

    def fails_there(path: str, is_directory: bool) -> bool:
        if os.getpid() != parent:
            raise ZeroDivisionError
        return False

    assert found(scan(place, prune=fails_there, cache=cache)) == expected

    def hangs_there(path: str, is_directory: bool) -> bool:
        if os.getpid() != parent:
            os.read(os.pipe()[0], 1)
        return False

    assert found(scan(place, prune=hangs_there, cache=cache)) == expected


def test_a_directory_that_cannot_be_read_is_the_same_error(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = StatCache()
    scan(place, cache=cache).digest()
    real = tree._listed

    def refuses(directory: int, kinds: set[int], *, whiteouts: bool) -> list[tree.Stat]:
        if os.readlink(f"/proc/self/fd/{directory}").endswith("/é"):
            raise PermissionError(13, "Permission denied", "é")
        return real(directory, kinds, whiteouts=whiteouts)

    monkeypatch.setattr(tree, "_listed", refuses)
    for used in (cache, None):
        with pytest.raises(ContentError, match="é: Permission denied"):
            scan(place, cache=used)


@pytest.mark.parametrize("missing", ["memfd_create", "pidfd_open"])
def test_one_process_does_it_all_where_a_sandbox_forbids_the_other(
    place: Path, monkeypatch: pytest.MonkeyPatch, missing: str
) -> None:
    def refuse(*_: object) -> int:
        raise OSError(errno.ENOSYS, "Function not implemented")

    cache = StatCache()
    scan(place, cache=cache).digest()
    assert cache.middle("")
    monkeypatch.setattr(os, missing, refuse)
    assert found(scan(place, cache=cache)) == found(scan(place))
