"""changeset: apply(diff(a, b), a) = b, on real overlay mounts, by BuildKit's rules."""

from __future__ import annotations

import ctypes
import io
import os
import random
import shutil
import stat
import subprocess
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest

from shipline.layer import (
    Entry,
    LayeredToc,
    TocBuilder,
    changeset,
    conform,
    lower_directory,
    read_tar,
    scan,
    unpack,
    unpacked_items,
    write_tar,
)

pytestmark = [pytest.mark.root]
SECOND = 10**9


def mount_overlay(lower: str, upper: Path, work: Path, merged: Path) -> None:
    options = (
        f"lowerdir={lower},upperdir={upper},workdir={work},redirect_dir=off,metacopy=off,index=off"
    )
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.mount(b"overlay", bytes(merged), b"overlay", 0, options.encode()):
        raise OSError(ctypes.get_errno(), "mount")


class Case:
    """A lower tree, and a step that worked on it under a mount that is gone now."""

    def __init__(
        self, base: Path, prepare: Callable[[Path], object], step: Callable[[Path], object]
    ):
        self.lower, self.upper, self.merged = base / "lower", base / "upper", base / "merged"
        for place in (self.lower, self.upper, self.merged, base / "work", base / "after"):
            place.mkdir(parents=True)
        prepare(self.lower)
        _whole_seconds(self.lower)
        mount_overlay(str(self.lower), self.upper, base / "work", self.merged)
        try:
            step(self.merged)
            self.after = base / "after"
            unpack(scan(self.merged).items(), self.after, whiteouts="keep")
        finally:
            subprocess.run(["umount", str(self.merged)], check=True)

    def layer(self) -> list[Entry]:
        with lower_directory(self.lower) as lower:
            return [entry for entry, _ in changeset(self.upper, lower)]

    def paths(self) -> list[str]:
        return [entry.path for entry in self.layer()]

    def law(self, *, ordered: bool = True) -> None:
        """The lower tree with the layer applied is the tree that the step left; `ordered` layers
        can be made again from their files.
        """
        with lower_directory(self.lower) as lower:
            archive = b"".join(write_tar(changeset(self.upper, lower)))
        unpack(read_tar(io.BytesIO(archive)), self.lower, whiteouts="apply")
        assert _shown(self.lower) == _shown(self.after)
        assert scan(self.lower).digest() == scan(self.after).digest()
        self.conforms(archive, ordered)

    def conforms(self, archive: bytes, ordered: bool) -> None:
        """The upper directory becomes what unpacking the layer makes."""
        unpacked = self.lower.with_name("unpacked")
        unpacked.mkdir()
        toc = TocBuilder()
        unpack(toc.through(read_tar(io.BytesIO(archive))), unpacked, whiteouts="overlay")
        assert conform(self.upper, toc.toc())
        assert _exactly(self.upper) == _exactly(unpacked)
        for place in (self.upper, unpacked):
            assert b"".join(write_tar(unpacked_items(place))) == archive or not ordered


def _shown(root: Path) -> list[Entry]:
    """Entries as a layer tells them: times in seconds, those of unchanged directories unknown."""
    return [
        entry._replace(mtime_ns=0 if entry.kind == "dir" else entry.mtime_ns // SECOND * SECOND)
        for entry in scan(root).entries()
    ]


def _exactly(root: Path) -> list[tuple[Entry, int, list[tuple[str, bytes]]]]:
    """Entries with their links and all attributes; of whiteouts, the names."""
    found: list[tuple[Entry, int, list[tuple[str, bytes]]]] = []
    for entry in scan(root).entries():
        place = root / entry.path
        if not place.lstat().st_rdev and stat.S_ISCHR(place.lstat().st_mode):
            found.append((Entry(entry.path, "char"), 0, []))
            continue
        names = os.listxattr(place, follow_symlinks=False)
        attributes = [(name, os.getxattr(place, name, follow_symlinks=False)) for name in names]
        found.append((entry, place.lstat().st_nlink, sorted(attributes)))
    return found


def _whole_seconds(root: Path) -> None:
    for path in [*root.rglob("*")][::-1]:
        os.utime(path, (1_500_000_000, 1_500_000_000), follow_symlinks=False)


def base(root: Path) -> None:
    for name in ("d/x", "d/y", "d/sub/z", "e/f", "f", "g"):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(name.encode())
    (root / "h1").write_bytes(b"hard")
    (root / "h2").hardlink_to(root / "h1")
    (root / "l").symlink_to("f")


def run(tmp_path: Path, step: Callable[[Path], object]) -> Case:
    return Case(tmp_path / "case", base, step)


@pytest.fixture(autouse=True)
def tmpfs_free_of_mounts(tmp_path: Path) -> None:
    probe = tmp_path / "probe"
    for name in ("l", "u", "w", "m"):
        (probe / name).mkdir(parents=True)
    try:
        mount_overlay(str(probe / "l"), probe / "u", probe / "w", probe / "m")
    except OSError as error:
        pytest.skip(f"overlayfs cannot be mounted here: {error}")
    subprocess.run(["umount", str(probe / "m")], check=True)


def test_what_was_only_copied_up_is_dropped(tmp_path: Path) -> None:
    def step(root: Path) -> None:
        for name in ("f", "d/x", "d"):
            mode = (root / name).stat().st_mode
            (root / name).chmod(0o700)
            (root / name).chmod(mode)
        os.utime(root / "l", (1_500_000_000, 1_500_000_000), follow_symlinks=False)
        content = (root / "g").read_bytes()
        (root / "g").write_bytes(content)
        os.utime(root / "g", (1_500_000_000, 1_500_000_000))

    case = run(tmp_path, step)
    assert {"f", "g", "d"} <= set(os.listdir(case.upper))
    assert case.layer() == []
    case.law()
    assert os.listdir(case.upper) == []


def test_same_size_and_time_but_other_content_is_a_change(tmp_path: Path) -> None:
    def step(root: Path) -> None:
        (root / "g").write_bytes(b"G")
        os.utime(root / "g", (1_500_000_000, 1_500_000_000))

    case = run(tmp_path, step)
    assert case.paths() == ["g"]
    case.law()


def test_parents_of_a_change_come_with_it(tmp_path: Path) -> None:
    case = run(tmp_path, lambda root: (root / "d/sub/z").write_bytes(b"new"))
    assert case.paths() == ["d", "d/sub", "d/sub/z"]
    assert all(entry.mtime_ns % SECOND == 0 for entry in case.layer())
    case.law()


def test_a_deletion_is_one_empty_whiteout(tmp_path: Path) -> None:
    def step(root: Path) -> None:
        shutil.rmtree(root / "d")
        (root / "f").unlink()
        (root / "new").write_bytes(b"")
        (root / "new").unlink()

    case = run(tmp_path, step)
    assert case.layer() == [Entry(".wh.d", "file", 0), Entry(".wh.f", "file", 0)]
    case.law()


def test_a_directory_made_anew_hides_names_one_by_one(tmp_path: Path) -> None:
    def step(root: Path) -> None:
        shutil.rmtree(root / "d")
        (root / "d/sub").mkdir(parents=True)
        (root / "d/y").write_bytes(b"again")

    case = run(tmp_path, step)
    assert os.getxattr(case.upper / "d", "trusted.overlay.opaque") == b"y"
    assert case.paths() == ["d", "d/sub", "d/sub/.wh.z", "d/.wh.x", "d/y"] or case.paths() == [
        "d", "d/sub/.wh.z", "d/.wh.x", "d/y",
    ]  # fmt: skip
    assert all(entry.xattrs == () for entry in case.layer())
    case.law()


def test_a_new_name_of_an_old_file_brings_the_old_name(tmp_path: Path) -> None:
    case = run(tmp_path, lambda root: (root / "z").hardlink_to(root / "f"))
    found = {entry.path: entry for entry in case.layer()}
    assert found["z"].kind == "file"
    assert (found["f"].kind, found["f"].link) == ("hardlink", "z")
    case.law(ordered=False)


def test_types_may_change(tmp_path: Path) -> None:
    def step(root: Path) -> None:
        shutil.rmtree(root / "d")
        (root / "d").write_bytes(b"file now")
        (root / "f").unlink()
        (root / "f").mkdir()
        (root / "f/in").symlink_to("/absolute")
        (root / "e/f").unlink()
        (root / "e").rmdir()
        (root / "e").symlink_to("d")
        os.mkfifo(root / "pipe")
        os.mknod(root / "null", 0o20666, os.makedev(1, 3))

    case = run(tmp_path, step)
    case.law()


def test_only_capabilities_remain_of_the_attributes(tmp_path: Path) -> None:
    raw = bytes.fromhex("0100000200040000000000000000000000000000")

    def step(root: Path) -> None:
        os.setxattr(root / "f", "security.capability", raw)
        os.setxattr(root / "g", "trusted.mark", b"1")
        (root / "g").write_bytes(b"changed")

    case = run(tmp_path, step)
    assert {entry.path: entry.xattrs for entry in case.layer()} == {
        "f": (("security.capability", raw),),
        "g": (),
    }
    case.law()


def test_attribute_whiteouts_and_sockets(tmp_path: Path) -> None:
    (tmp_path / "lower").mkdir()
    (tmp_path / "upper/o").mkdir(parents=True)
    base(tmp_path / "lower")
    for name, mark in (("f", "trusted.overlay.whiteout"), ("g", "user.overlay.whiteout")):
        (tmp_path / "upper" / name).touch()
        os.setxattr(tmp_path / "upper" / name, mark, b"y")
    os.mknod(tmp_path / "upper/gone", 0o20000, 0)
    os.mknod(tmp_path / "upper/socket", 0o140600)
    with lower_directory(tmp_path / "lower") as lower:
        paths = [entry.path for entry, _ in changeset(tmp_path / "upper", lower)]
    assert paths == [".wh.f", ".wh.g", "o"]


def test_a_link_in_the_lower_tree_is_never_followed(tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "x").write_bytes(b"")
    for name in ("lower", "upper/way"):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / "lower/way").symlink_to(outside)
    os.mknod(tmp_path / "upper/way/x", 0o20000, 0)
    with lower_directory(tmp_path / "lower") as lower:
        assert [entry.path for entry, _ in changeset(tmp_path / "upper", lower)] == ["way"]


def test_a_table_serves_as_lower_tree(tmp_path: Path) -> None:
    case = run(tmp_path, lambda root: (root / "d/y").unlink())
    builder = TocBuilder()
    for entry in scan(case.lower).entries():
        builder.add(entry)
    lower = LayeredToc([builder.toc()])
    assert [entry.path for entry, _ in changeset(case.upper, lower)] == ["d", "d/.wh.y"]


def write(path: Path, content: bytes) -> None:
    flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_NONBLOCK
    with open(os.open(path, flags, 0o644), "wb") as file:
        file.write(content)


def remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)


def replace(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
        path.mkdir()
    else:
        path.unlink()
        path.write_bytes(b"abc")


def mutate(root: Path, chance: random.Random) -> None:
    """One random act of a person in a tree."""
    names = [str(path.relative_to(root)) for path in root.rglob("*")]
    old = root / chance.choice(names or ["x"])
    parents = [root, *(path for path in root.rglob("*") if path.is_dir() and not path.is_symlink())]
    new = chance.choice(parents) / chance.choice("abcdef")
    acts: list[Callable[[], object]] = [
        lambda: write(new, chance.randbytes(chance.choice([0, 3, 3, 5000]))),
        lambda: new.mkdir(),
        lambda: new.symlink_to(chance.choice(["a", "/a/b", "../c"])),
        lambda: os.rename(old, new),
        lambda: os.link(old, new, follow_symlinks=False),
        lambda: os.mkfifo(new),
        lambda: old.unlink(),
        lambda: remove(old),
        lambda: os.chmod(old, chance.choice([0o600, 0o755, 0o4755, 0o1777])),
        lambda: os.lchown(old, chance.choice([0, 7]), 0),
        lambda: os.utime(old, (1_500_000_000 + chance.randrange(3),) * 2, follow_symlinks=False),
        lambda: replace(old),
    ]
    with suppress(OSError, shutil.SameFileError):
        chance.choice(acts)()


@pytest.mark.parametrize("seed", range(40))
def test_applying_a_changeset_gives_the_tree_that_was_left(tmp_path: Path, seed: int) -> None:
    chance = random.Random(seed)

    def many(root: Path) -> None:
        for _ in range(chance.choice([3, 30])):
            mutate(root, chance)

    def before(root: Path) -> None:
        base(root)
        many(root)

    case = Case(tmp_path / "case", before, many)
    case.law()


def test_what_a_layer_cannot_say_is_taken_off_the_upper_directory(tmp_path: Path) -> None:
    def step(root: Path) -> None:
        shutil.rmtree(root / "d")
        (root / "d").mkdir()
        (root / "d/new").write_bytes(b"with attributes")
        for name in ("d", "d/new"):
            os.setxattr(root / name, "user.note", b"mine")
        os.setxattr(root / "f", "user.note", b"copied up")

    case = run(tmp_path, step)
    assert os.getxattr(case.upper / "d", "trusted.overlay.opaque") == b"y"
    case.law()


def test_an_upper_directory_of_another_layer_does_not_conform(tmp_path: Path) -> None:
    case = run(tmp_path, lambda root: (root / "f").write_bytes(b"new"))
    toc = TocBuilder()
    for entry in case.layer():
        toc.add(entry._replace(size=4))
    assert not conform(case.upper, toc.toc())
    toc.add(Entry("missing", "dir", 0o755))
    assert not conform(case.upper, toc.toc())
