"""apply: a layer becomes the tree that it describes, and nothing outside of that tree."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path

import pytest

from shipline.errors import ContentError
from shipline.layer import Content, Entry, Item, UnsafeEntry, scan, unpack
from shipline.layer.apply import Whiteouts

TIME = 1_600_000_000 * 10**9


def file(path: str, content: bytes = b"x", mode: int = 0o644, uid: int = 0, gid: int = 0) -> Item:
    return Entry(path, "file", mode, uid, gid, len(content), TIME), content


def link(path: str, target: str) -> Item:
    return Entry(path, "symlink", 0o777, link=target, mtime_ns=TIME), None


def directory(path: str, mode: int = 0o755) -> Item:
    return Entry(path, "dir", mode, mtime_ns=TIME), None


def put(
    place: Path, *items: Item, whiteouts: Whiteouts = "apply", devices: bool = True
) -> list[str]:
    owned = [
        (entry._replace(uid=entry.uid or os.geteuid(), gid=entry.gid or os.getegid()), content)
        for entry, content in items
    ]
    unpack(owned, place, whiteouts=whiteouts, devices=devices)
    return sorted(str(path.relative_to(place)) for path in place.rglob("*"))


@pytest.fixture
def place(tmp_path: Path) -> Path:
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside/secret").write_bytes(b"secret")
    (tmp_path / "place").mkdir()
    return tmp_path / "place"


def test_entries_become_files_with_all_that_is_said_of_them(place: Path) -> None:
    found = put(
        place,
        directory("d", 0o1750),
        file("d/f", b"abc" * 1_000_000, 0o4711),
        (Entry("d/hard", "hardlink", 0o4710, link="d/f", mtime_ns=TIME + 9), None),
        link("d/l", "../nowhere"),
        (Entry("d/pipe", "fifo", 0o600, mtime_ns=TIME + 5), None),
        file("implied/deep/f"),
    )
    assert found == ["d", "d/f", "d/hard", "d/l", "d/pipe", "implied", "implied/deep",
                     "implied/deep/f"]  # fmt: skip
    status = (place / "d/f").stat()
    assert (status.st_mode & 0o7777, status.st_mtime_ns, status.st_nlink) == (0o4710, TIME + 9, 2)
    assert (place / "d/hard").read_bytes() == b"abc" * 1_000_000
    assert os.readlink(place / "d/l") == "../nowhere"
    assert (place / "d/l").lstat().st_mtime_ns == TIME
    assert (place / "d").stat().st_mode & 0o7777 == 0o1750
    assert (place / "d").stat().st_mtime_ns == TIME
    assert stat.S_ISFIFO((place / "d/pipe").lstat().st_mode)


@pytest.mark.parametrize(
    "path",
    ["../evil", "a/../../evil", "/evil", "..", "a/..", "", ".wh...", ".wh..", ".wh.", "a/" * 300],
)
def test_15_paths_out_of_the_tree_are_refused(place: Path, path: str) -> None:
    with pytest.raises(UnsafeEntry):
        put(place, directory("a"), file(path))
    with pytest.raises(UnsafeEntry):
        put(place, (Entry("ok", "hardlink", link="../outside/secret"), None))
    assert (place.parent / "outside/secret").stat().st_nlink == 1
    assert sorted(os.listdir(place.parent)) == ["outside", "place"]


def test_a_hard_link_to_itself_is_refused(place: Path) -> None:
    with pytest.raises(ContentError, match="a is a hard link to itself"):
        put(place, file("a"), (Entry("a", "hardlink", link="a"), None))


def test_a_hard_link_to_what_is_not_in_the_archive_is_named(place: Path) -> None:
    with pytest.raises(ContentError, match="'a' is a hard link to 'd/b', which is not before"):
        put(place, (Entry("a", "hardlink", link="d/b"), None))


@pytest.mark.parametrize(
    "target", ["/outside", "../outside", "../../../outside", "loop/../../outside"]
)
@pytest.mark.parametrize("whiteouts", ["apply", "overlay", "keep"])
def test_15_links_never_lead_out(place: Path, target: str, whiteouts: Whiteouts) -> None:
    absolute = (
        target.replace("/outside", str(place.parent / "outside")) if target[0] == "/" else target
    )
    put(place, link("way", absolute), file("way/new"), whiteouts=whiteouts)
    with pytest.raises(ContentError):
        put(place, (Entry("stolen", "hardlink", link="way/secret"), None), whiteouts=whiteouts)
    put(place, file("way/secret", b"altered"), whiteouts=whiteouts)
    put(place, link("last", absolute + "/secret"), file("last"), whiteouts=whiteouts)
    if whiteouts == "apply":
        put(place, file("way/.wh.secret"), file("way/.wh..wh..opq"))
    assert os.listdir(place.parent / "outside") == ["secret"]
    assert (place.parent / "outside/secret").read_bytes() == b"secret"


def test_links_in_the_tree_are_followed(place: Path) -> None:
    put(place, directory("usr"), link("lib", "usr/lib"), file("lib/f"), link("abs", "/usr"))
    put(place, file("abs/g"))
    assert sorted(os.listdir(place / "usr")) == ["g", "lib"]
    assert os.listdir(place / "usr/lib") == ["f"]
    with pytest.raises(ContentError):
        put(place, link("a", "b"), link("b", "a"), file("a/x"))


def test_later_entries_replace_earlier_ones(place: Path) -> None:
    put(place, file("a"), directory("b"), file("b/x"), link("c", "a"), file("d/e/f"))
    found = put(place, directory("a"), file("b", b"new"), file("c", b"new"), file("d/e", b"1"),
                file("a/in"))  # fmt: skip
    assert found == ["a", "a/in", "b", "c", "d", "d/e"]
    assert (place / "b").read_bytes() == (place / "c").read_bytes() == b"new"
    assert (place / "a").is_dir()
    (place / "b").unlink()
    (place / "b").symlink_to("../outside/secret")
    put(place, file("b", b"mine"))
    assert (place.parent / "outside/secret").read_bytes() == b"secret"


def test_whiteouts_delete_what_earlier_layers_left(place: Path) -> None:
    lower = (file("a"), file("d/x"), file("d/y"), file("e/x"), file("e/sub/y"), file("f/x"))
    put(place, *lower)
    found = put(
        place,
        file(".wh.a", b""), file("d/.wh.x", b""), file("e/new"), file("e/.wh..wh..opq", b""),
        file(".wh.f", b""), file("f/new"), file(".wh.gone", b""), file(".wh..wh.plnk", b""),
    )  # fmt: skip
    assert found == ["d", "d/y", "e", "e/new", "f", "f/new"]


def test_whiteouts_spare_what_their_own_layer_has(place: Path) -> None:
    put(place, file("d/old"), file("f"), file("e/old/x"))
    found = put(place, file("d/new"), file(".wh.d", b""), file("f", b"2"), file(".wh.f", b""),
                file("e/old/y"), file("e/.wh..wh..opq", b""))  # fmt: skip
    assert found == ["d", "d/new", "e", "e/old", "e/old/y", "f"]


def test_whiteouts_can_be_kept(place: Path) -> None:
    assert put(place, file(".wh.a"), file("d/.wh..wh..opq"), whiteouts="keep") == [
        ".wh.a", "d", "d/.wh..wh..opq",
    ]  # fmt: skip


@pytest.mark.root
def test_whiteouts_become_those_of_overlayfs(place: Path) -> None:
    put(
        place,
        file("d/.wh.x", b""), file("o/.wh..wh..opq", b""), file("o/f"),
        file(".wh.again", b""), directory("again"), file("both", b"2"), file(".wh.both", b""),
        whiteouts="overlay",
    )  # fmt: skip
    status = (place / "d/x").lstat()
    assert stat.S_ISCHR(status.st_mode) and status.st_rdev == 0
    assert os.getxattr(place / "o", "trusted.overlay.opaque") == b"y"
    assert os.getxattr(place / "again", "trusted.overlay.opaque") == b"y"
    assert (place / "both").read_bytes() == b"2"


@pytest.mark.root
def test_15_an_image_cannot_forge_the_marks_of_overlayfs(place: Path) -> None:
    with pytest.raises(UnsafeEntry):
        put(place, (Entry("w", "char"), None), whiteouts="overlay")
    entry, content = file("f")
    marks = (("trusted.overlay.whiteout", b"y"), ("user.overlay.opaque", b"y"), ("user.x", b"1"))
    put(place, (entry._replace(xattrs=marks), content), whiteouts="overlay")
    assert [name for name in os.listxattr(place / "f") if "overlay" in name] == []


@pytest.mark.root
def test_owner_capability_and_devices(place: Path) -> None:
    capability = bytes.fromhex("0100000200040000000000000000000000000000")
    entry, content = file("f", mode=0o6755, uid=12, gid=34)
    put(
        place,
        (entry._replace(xattrs=(("security.capability", capability),)), content),
        (Entry("null", "char", 0o666, 1, 2, major=1, minor=3), None),
    )
    status = (place / "f").stat()
    assert (status.st_uid, status.st_gid, status.st_mode & 0o7777) == (12, 34, 0o6755)
    assert os.getxattr(place / "f", "security.capability") == capability
    device = (place / "null").lstat()
    assert (device.st_rdev, device.st_mode, device.st_uid) == (os.makedev(1, 3), 0o20666, 1)
    with pytest.raises(ContentError, match="device"):
        put(place, (Entry("n", "block", major=8), None), devices=False)


def test_14_limits_hold(place: Path) -> None:
    items = [file(str(number), b"12345") for number in range(10)]
    owned = [(entry._replace(uid=os.geteuid(), gid=os.getegid()), data) for entry, data in items]
    unpack(owned, place, whiteouts="apply", max_entries=10, max_bytes=50)
    with pytest.raises(ContentError):
        unpack(owned, place, whiteouts="apply", max_entries=9)
    with pytest.raises(ContentError):
        unpack(owned, place, whiteouts="apply", max_bytes=49)


@pytest.mark.parametrize("path", ["n" * 300, "\udcff" * 300, "d/" * 200 + "n" * 256])
def test_18_names_that_no_file_system_takes_are_named(place: Path, path: str) -> None:
    with pytest.raises(ContentError, match="cannot unpack"):
        put(place, file(path))


def test_full_disk_is_named_with_what_frees_it(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("shipline.layer.apply._Writer.write", full)
    with pytest.raises(ContentError, match="No space left") as caught:
        put(place, file("f", b"1"))
    assert caught.value.code == "disk-full"
    assert "shipline prune" in caught.value.hint


def test_18_attributes_of_odd_names_are_left_out(place: Path) -> None:
    odd = ("user." + "x" * 300, "no namespace", "user.", "\udcff", "trusted.overlay.opaque")
    entry, content = file("f", b"1")
    put(place, (entry._replace(xattrs=tuple((name, b"v") for name in odd)), content))
    assert (place / "f").read_bytes() == b"1"
    assert not [one for one in os.listxattr(place / "f") if "overlay" in one]


def test_content_must_be_as_long_as_promised(place: Path) -> None:
    contents: list[Content] = [b"12", b"1234", None]
    for content in contents:
        with pytest.raises(ContentError, match="3 bytes"):
            put(place, (Entry("f", "file", size=3), content))


def test_a_scanned_tree_is_copied(place: Path, tmp_path: Path) -> None:
    put(place, directory("d", 0o700), file("d/f", b"z" * 3_000_000), link("l", "d/f"),
        (Entry("h", "hardlink", link="d/f"), None))  # fmt: skip
    copy = tmp_path / "copy"
    copy.mkdir()
    unpack(scan(place).items(), copy, whiteouts="keep")
    assert scan(copy).digest() == scan(place).digest()
    assert list(scan(copy).entries()) == list(scan(place).entries())
    assert (copy / "h").stat().st_nlink == 2
