"""Mounts show what they should, in their own namespace, and are gone afterwards."""

from __future__ import annotations

import io
import os
import tarfile
from pathlib import Path

import pytest

from sandboxes import in_build
from shipline.errors import SandboxError
from shipline.sandbox import (
    Bind,
    Erofs,
    Overlay,
    Tmpfs,
    can_mount_files,
    kernel,
    make_erofs_index,
    mounted,
    private_mounts,
)
from shipline.tasks import TaskGroup

pytestmark = pytest.mark.root
by_option = pytest.mark.parametrize("release", [(6, 18), (5, 15)], ids=["options", "links"])


def trees(base: Path, count: int) -> tuple[Path, ...]:
    paths = []
    for number in range(count):
        path = base / "a, comma: colon and \\ and a long name ".ljust(120, "x") / str(number)
        path.mkdir(parents=True)
        (path / f"only-{number}").touch()
        (path / "top").write_text(str(number))
        paths.append(path)
    return tuple(paths)


def directories(base: Path, *names: str) -> tuple[Path, ...]:
    for name in names:
        (base / name).mkdir()
    return tuple(base / name for name in names)


@by_option
def test_five_hundred_layers_are_one_tree(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, release: tuple[int, int]
) -> None:
    monkeypatch.setattr(kernel, "release", lambda: release)
    lowers = trees(tmp_path, 500)
    target, upper, work = directories(tmp_path, "target", "upper, with: \\", "work")

    def build() -> tuple[str, int, str]:
        with mounted(Overlay(target, lowers, upper, work)):
            (target / "new").write_text("new")
            (target / "only-7").unlink()
            names = os.listdir(target)
            mounts = Path("/proc/thread-self/mounts").read_text().splitlines()
            options = next(line for line in mounts if str(target) in line)
            return (target / "top").read_text(), len(names), options

    top, count, options = in_build(build)
    assert (top, count) == ("0", 501)
    assert "redirect_dir=on" not in options and "metacopy=on" not in options
    assert sorted(os.listdir(upper)) == ["new", "only-7"]
    assert os.stat(upper / "only-7").st_rdev == 0 and os.listdir(target) == []


@by_option
@pytest.mark.parametrize("count", [1, 2])
def test_without_an_upper_nothing_can_be_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, release: tuple[int, int], count: int
) -> None:
    monkeypatch.setattr(kernel, "release", lambda: release)
    lowers = trees(tmp_path, count)
    (target,) = directories(tmp_path, "target")

    def build() -> None:
        with mounted(Overlay(target, lowers)):
            assert (target / "top").read_text() == "0"
            (target / "new").touch()

    with pytest.raises(OSError, match="Read-only"):
        in_build(build)
    assert not (lowers[0] / "new").exists()


def test_mounts_are_undone_in_reverse_and_after_failure(tmp_path: Path) -> None:
    target, source = directories(tmp_path, "target", "source")
    (source / "inside").mkdir()

    def build() -> str:
        missing = Bind(tmp_path / "missing", target)
        with (
            pytest.raises(SandboxError, match=r"cannot mount .*missing on .*: No such file"),
            mounted(Bind(source, target), Tmpfs(target / "inside", size=1 << 20), missing),
        ):
            pass
        return Path("/proc/thread-self/mounts").read_text()

    assert str(tmp_path) not in in_build(build)


def test_the_namespace_is_of_the_thread_and_its_descendants(tmp_path: Path) -> None:
    (target,) = directories(tmp_path, "target")

    def look() -> bool:
        return (target / "here").exists()

    def build(group: TaskGroup) -> tuple[bool, bool, str]:
        private_mounts()
        with mounted(Tmpfs(target)):
            (target / "here").touch()
            with TaskGroup() as inner:
                started = inner.start(look)
            outside.append(main_sees())
            process = os.popen(f"ls {target}").read()
            return look(), started.result(), process

    def main_sees() -> bool:
        return Path(f"/proc/{os.getpid()}/root{target}/here").exists()

    outside: list[bool] = []
    with TaskGroup() as group:
        task = group.start(build, group)
    assert task.result() == (True, True, "here\n")
    assert outside == [False] and not look()


def test_control_groups_are_read_only_and_of_one_kind_in_a_build() -> None:
    def build() -> tuple[list[list[str]], bool]:
        lines = [line.split() for line in Path("/proc/thread-self/mounts").read_text().splitlines()]
        unified = Path("/sys/fs/cgroup/unified")
        return lines, unified.exists() and list(unified.iterdir()) != []

    mounts, hybrid = in_build(build)
    groups = [line for line in mounts if line[2] in ("cgroup", "cgroup2")]
    covered = [line[1] for line in mounts if line[2] == "tmpfs"]
    assert groups and not hybrid
    assert all("ro" in line[3].split(",") or line[1] in covered for line in groups)


def test_a_tar_is_mounted_by_its_index(tmp_path: Path) -> None:
    assert can_mount_files(tmp_path)
    tar, index = tmp_path / "layer, with: odd \\ name.tar", tmp_path / "index"
    with tarfile.open(tar, "w", format=tarfile.PAX_FORMAT) as file:
        for name, data in (("dir/file", b"content" * 1000), ("dir/.wh.gone", b"")):
            entry = tarfile.TarInfo(name)
            entry.size, entry.mtime, entry.uid, entry.mode = len(data), 1_234_567_890, 7, 0o640
            file.addfile(entry, io.BytesIO(data))
    make_erofs_index(tar, index)
    assert index.stat().st_size < tar.stat().st_size
    lower, target, base = directories(tmp_path, "lower", "target", "base")
    (base / "dir").mkdir()
    (base / "dir/gone").touch()

    def build() -> tuple[bytes, os.stat_result, list[str]]:
        with mounted(Erofs(index, lower, device=tar), Overlay(target, (lower, base))):
            path = target / "dir/file"
            return path.read_bytes(), path.stat(), os.listdir(target / "dir")

    data, status, names = in_build(build)
    assert data == b"content" * 1000
    assert (status.st_mtime, status.st_uid, status.st_mode) == (1_234_567_890, 7, 0o100640)
    assert names == ["file"]


def test_what_is_no_tar_has_no_index(tmp_path: Path) -> None:
    (tmp_path / "tar").write_bytes(b"no tar at all" * 100)
    with pytest.raises(SandboxError, match="cannot index"):
        make_erofs_index(tmp_path / "tar", tmp_path / "index")
