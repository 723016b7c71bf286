"""No path leaves its root, and what was made for a mount goes without a trace."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from shipline.errors import SandboxError
from shipline.sandbox import read_in_root, resolve_in_root
from shipline.sandbox.rooted import make_in_root, remove_created

names = st.sampled_from(["..", ".", "a", "b", "link", "up", "abs", "loop", "new"])


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("outer") / "root"
    (root / "a/b").mkdir(parents=True)
    (root / "a/file").write_text("file")
    (root / "link").symlink_to("a/b")
    (root / "up").symlink_to("../../../../a")
    (root / "abs").symlink_to("/a/new")
    (root / "loop").symlink_to("loop")
    return root


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(names, max_size=6))
def test_no_path_leaves_the_root(root: Path, parts: list[str]) -> None:
    try:
        place = resolve_in_root(root, "/".join(parts))
    except SandboxError:
        return
    assert place == root or root in place.parents
    assert place.parent.exists()


@pytest.mark.parametrize(
    ("path", "place"),
    [
        ("/", "."),
        ("", "."),
        ("../../a", "a"),
        ("link/..", "a"),
        ("up/file", "a/file"),
        ("abs", "a/new"),
        ("a/missing", "a/missing"),
    ],
)
def test_links_mean_what_they_mean_inside(root: Path, path: str, place: str) -> None:
    assert resolve_in_root(root, path) == root / place


@pytest.mark.parametrize("path", ["loop", "loop/x", "missing/x", "a/file/x"])
def test_what_leads_nowhere_is_an_error(root: Path, path: str) -> None:
    with pytest.raises(SandboxError):
        resolve_in_root(root, path)


def test_only_regular_files_are_read(root: Path, tmp_path: Path) -> None:
    assert read_in_root(root, "/up/file") == b"file"
    assert read_in_root(root, "/a") == b"" == read_in_root(root, "/nothing")
    os.mkfifo(tmp_path / "pipe")
    assert read_in_root(tmp_path, "pipe") == b""


@pytest.mark.root
def test_no_device_is_opened(tmp_path: Path) -> None:
    os.mknod(tmp_path / "device", stat.S_IFCHR, os.makedev(0, 1))  # to open it is an error
    assert read_in_root(tmp_path, "device") == b""


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(names.filter(lambda name: name != "loop"), min_size=1, max_size=6), st.booleans())
def test_what_was_created_is_removed(root: Path, parts: list[str], directory: bool) -> None:
    def state() -> dict[Path, int]:
        return {path: os.lstat(path).st_mode for path in (root.parent, root, *root.rglob("*"))}

    before = state()
    place, made = make_in_root(root, "/".join(parts), directory=directory)
    assert place.exists() and (place == root or root in place.parents)
    remove_created(made)
    assert state() == before


def test_what_somebody_filled_stays(tmp_path: Path) -> None:
    _, made = make_in_root(tmp_path, "x/y/file", directory=False)
    (tmp_path / "x/y/file").write_text("content")
    remove_created(made)
    assert (tmp_path / "x/y/file").read_text() == "content"
    _, made = make_in_root(tmp_path, "x/z", directory=True)
    (tmp_path / "x/other").touch()
    os.utime(tmp_path / "x", ns=(0, 5))
    remove_created(made)
    assert not (tmp_path / "x/z").exists() and os.stat(tmp_path / "x").st_mtime_ns == 5
