"""A file is there whole or not at all, and a device stays a device; large files grow on disks."""

from __future__ import annotations

import os
import stat
import threading
from itertools import accumulate
from pathlib import Path

import pytest

from shipline import files
from shipline.files import WriteBehind, open_whole, remove_whole, write_whole


def test_the_file_appears_at_the_end(tmp_path: Path) -> None:
    path = tmp_path / "f"
    path.write_text("old")
    with open_whole(path) as file:
        file.write(b"new")
        file.flush()
        assert path.read_text() == "old"
    assert path.read_text() == "new"
    assert os.listdir(tmp_path) == ["f"]


def test_after_a_failure_the_old_file_stays(tmp_path: Path) -> None:
    path = tmp_path / "f"
    path.write_text("old")
    with pytest.raises(RuntimeError), open_whole(path) as file:
        file.write(b"half")
        raise RuntimeError
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["f"]


def test_a_pipe_is_written_to(tmp_path: Path) -> None:
    path = tmp_path / "pipe"
    os.mkfifo(path)
    read: list[bytes] = []
    reader = threading.Thread(target=lambda: read.append(path.read_bytes()))
    reader.start()
    with open_whole(path) as file:
        file.write(b"x")
    reader.join()
    assert read == [b"x"] and stat.S_ISFIFO(path.lstat().st_mode)


def test_a_device_stays_a_device(tmp_path: Path) -> None:
    path = tmp_path / "null"
    path.symlink_to("/dev/null")
    for name in (path, Path("/dev/null")):
        with open_whole(name) as file:
            file.write(b"x")
        assert stat.S_ISCHR(name.stat().st_mode)
    assert path.is_symlink()


def test_what_is_replaced_is_removed_and_nothing_else(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to("target")
    (tmp_path / "null").symlink_to("/dev/null")
    os.mkfifo(tmp_path / "pipe")
    names = sorted(os.listdir(tmp_path))
    (tmp_path / "target").write_text("old")
    for name in (*names, "target", "absent"):
        remove_whole(tmp_path / name)
    assert sorted(os.listdir(tmp_path)) == names


def test_a_link_to_itself_is_replaced(tmp_path: Path) -> None:
    (tmp_path / "loop").symlink_to("loop")
    write_whole(tmp_path / "loop", b"new")
    assert (tmp_path / "loop").read_bytes() == b"new"


def test_a_link_stays_and_its_target_is_replaced(tmp_path: Path) -> None:
    (tmp_path / "target").write_text("old")
    (tmp_path / "link").symlink_to("target")
    with open_whole(tmp_path / "link") as file:
        file.write(b"new")
    assert (tmp_path / "target").read_text() == "new" and (tmp_path / "link").is_symlink()


def test_a_file_takes_the_place_of_a_pipe_without_waiting(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "f")
    files.replace_file(tmp_path / "f", b"new")
    assert (tmp_path / "f").read_bytes() == b"new" and os.listdir(tmp_path) == ["f"]


def test_a_durable_file_has_its_permissions_and_replaces_none_unasked(tmp_path: Path) -> None:
    path = tmp_path / "key"
    files.write_durably(path, b"one", 0o600)
    files.write_durably(path, b"two", 0o600)
    with pytest.raises(FileExistsError):
        files.write_durably(path, b"three", 0o600, replace=False)
    assert path.read_bytes() == b"two" and stat.S_IMODE(path.stat().st_mode) == 0o600
    assert os.listdir(tmp_path) == ["key"]


@pytest.mark.parametrize("size", [0, 1, 256 << 10, (1 << 20) + 7])
def test_bytes_are_written_at_their_position(tmp_path: Path, size: int) -> None:
    data = os.urandom(size)
    with (tmp_path / "f").open("wb") as file:
        assert files.write_in_pieces(file.fileno(), data, 5) == 5 + size
    assert (tmp_path / "f").read_bytes() == (bytes(5) + data if data else b"")


def test_no_write_is_so_long_that_the_kernel_moves_pages_for_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes: list[int] = []

    def pwrite(fd: int, data: memoryview, position: int) -> int:
        sizes.append(len(data))
        return min(len(data), 100_000)  # as if a signal came

    monkeypatch.setattr(os, "pwrite", pwrite)
    assert files.write_in_pieces(-1, bytes(1 << 20), 0) == 1 << 20
    assert max(sizes) <= 256 << 10


def test_a_growing_file_goes_to_its_disk_in_ranges_that_follow_each_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun: list[tuple[int, int]] = []

    def begin(fd: int, start: int, size: int, flags: int) -> None:
        begun.append((start, size))

    monkeypatch.setattr(files, "_sync_file_range", lambda: begin)
    written = WriteBehind(-1)
    for size in range(0, 50 << 20, 3 << 20):
        written.grown(size)
    starts, sizes = zip(*begun, strict=True)
    assert starts == (0, *accumulate(sizes[:-1]))
    assert min(sizes) >= 16 << 20
    assert sum(sizes) > 32 << 20


def test_what_cannot_be_written_early_stays_as_it_is(tmp_path: Path) -> None:
    with (tmp_path / "f").open("wb") as file:
        file.write(b"a")
        WriteBehind(file.fileno()).grown(1 << 30)
    WriteBehind(-1).grown(1 << 30)
    assert (tmp_path / "f").read_bytes() == b"a"
