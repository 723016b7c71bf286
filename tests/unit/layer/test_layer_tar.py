"""tar: what was written is read back, by us and by others; what is broken is refused."""

from __future__ import annotations

import io
import os
import subprocess
import tarfile
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shipline.errors import ContentError
from shipline.layer import Content, Entry, Item, Kind, OpenDirectory, Source, read_tar, write_tar

NAME = st.binary(min_size=1, max_size=130).filter(
    lambda raw: not set(raw) & {0, 47} and raw not in (b".", b"..")
)
PATH = st.lists(NAME, min_size=1, max_size=4).map(lambda parts: os.fsdecode(b"/".join(parts)))
SECONDS = st.integers(-(1 << 40), 1 << 40)
TIME = SECONDS.map(lambda seconds: seconds * 10**9) | st.integers(-(1 << 62), 1 << 62)
IDS = st.integers(0, 0o7777777) | st.integers(0, (1 << 32) - 2)
XATTRS = st.dictionaries(
    st.sampled_from(["security.capability", "user.ä", "user.x"]), st.binary(max_size=40), max_size=2
).map(lambda found: tuple(sorted(found.items())))


@st.composite
def members(draw: st.DrawFn) -> tuple[Entry, bytes | None]:
    kind = draw(st.sampled_from(get_args(Kind)))
    entry = Entry(
        draw(PATH), kind, draw(st.integers(0, 0o7777)), draw(IDS), draw(IDS),
        mtime_ns=draw(TIME), xattrs=draw(XATTRS),
    )  # fmt: skip
    if kind == "file":
        content = draw(st.binary(max_size=1500))
        return entry._replace(size=len(content)), content
    if kind in ("symlink", "hardlink"):
        return entry._replace(link=draw(PATH)), None
    if kind in ("char", "block"):
        major, minor = draw(st.integers(0, (1 << 12) - 1)), draw(st.integers(0, (1 << 20) - 1))
        return entry._replace(major=major, minor=minor), None
    return entry, None


ARCHIVES = st.lists(members(), max_size=8)


def written(items: Iterable[Item]) -> bytes:
    return b"".join(write_tar(items))


def read(archive: bytes) -> list[tuple[Entry, bytes | None]]:
    found = read_tar(io.BytesIO(archive))
    return [(entry, None if content is None else content.read()) for entry, content in found]


@pytest.mark.slow
@given(ARCHIVES)
def test_what_was_written_is_read_back(items: list[tuple[Entry, bytes | None]]) -> None:
    archive = written(items)
    assert read(archive) == items
    assert len(archive) % 512 == 0
    assert written(list(read_tar(io.BytesIO(archive)))[:0]) == bytes(1024)


@given(ARCHIVES)
def test_an_archive_can_be_rewritten_while_it_is_read(
    items: list[tuple[Entry, bytes | None]],
) -> None:
    archive = written(items)
    assert b"".join(write_tar(read_tar(io.BytesIO(archive)))) == archive


@given(ARCHIVES)
def test_tarfile_reads_the_same(items: list[tuple[Entry, bytes | None]]) -> None:
    with tarfile.open(fileobj=io.BytesIO(written(items)), errors="surrogateescape") as archive:
        found = archive.getmembers()
        assert len(found) == len(items)
        for member, (entry, content) in zip(found, items, strict=True):
            assert member.name == entry.path
            assert (member.mode, member.uid, member.gid) == (entry.mode, entry.uid, entry.gid)
            assert abs(member.mtime - entry.mtime_ns / 10**9) <= abs(entry.mtime_ns) / 10**15
            assert (member.uname, member.gname) == ("", "")
            if content is not None:
                stored = archive.extractfile(member)
                assert stored is not None and stored.read() == content
            if entry.link:
                assert member.linkname == entry.link
            if entry.kind in ("char", "block"):
                assert (member.devmajor, member.devminor) == (entry.major, entry.minor)


@given(ARCHIVES, st.sampled_from([tarfile.PAX_FORMAT, tarfile.GNU_FORMAT]))
def test_what_tarfile_wrote_is_read(items: list[tuple[Entry, bytes | None]], form: int) -> None:
    kinds = {
        "file": tarfile.REGTYPE, "dir": tarfile.DIRTYPE, "symlink": tarfile.SYMTYPE,
        "hardlink": tarfile.LNKTYPE, "char": tarfile.CHRTYPE, "block": tarfile.BLKTYPE,
        "fifo": tarfile.FIFOTYPE,
    }  # fmt: skip
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=form, errors="surrogateescape") as archive:
        for entry, content in items:
            member = tarfile.TarInfo(entry.path)
            member.type, member.mode, member.size = kinds[entry.kind], entry.mode, entry.size
            member.uid, member.gid, member.linkname = entry.uid, entry.gid, entry.link
            member.mtime = entry.mtime_ns // 10**9
            member.devmajor, member.devminor = entry.major, entry.minor
            archive.addfile(member, io.BytesIO(content or b""))
    expected = [
        (entry._replace(xattrs=(), mtime_ns=entry.mtime_ns // 10**9 * 10**9), content)
        for entry, content in items
    ]
    assert read(buffer.getvalue()) == expected


def tree(root: Path) -> None:
    (root / "dir").mkdir(mode=0o1777)
    (root / "dir" / ("long" * 40)).write_bytes(b"x" * 5000)
    (root / "dir/ünï").write_bytes(b"")
    (root / "dir/link").symlink_to("to/" + "somewhere" * 20)
    (root / "hard").hardlink_to(root / "dir/ünï")
    os.mkfifo(root / "fifo", 0o600)
    deep = root / "/".join(["d" * 60] * 5)
    deep.mkdir(parents=True)
    (deep / "f").write_bytes(b"deep")


@pytest.mark.parametrize("form", ["gnu", "posix", "ustar", "oldgnu", "v7"])
def test_gnu_tar_is_read(tmp_path: Path, form: str) -> None:
    source = tmp_path / "source"
    source.mkdir()
    tree(source)
    if form in ("ustar", "v7"):
        subprocess.run(["rm", "-r", source / "dir/link", source / ("d" * 60)], check=True)
        subprocess.run(["rm", source / "dir" / ("long" * 40)], check=True)
    if form == "v7":
        (source / "fifo").unlink()
    command = ["tar", "-C", str(source), f"--format={form}", "-cf", "-", "."]
    archive = subprocess.run(command, check=True, capture_output=True).stdout
    found = {entry.path: (entry, content) for entry, content in read(archive)}
    assert sorted(found) == sorted(str(path.relative_to(source)) for path in source.rglob("*"))
    for path, (entry, content) in found.items():
        status = (source / path).lstat()
        assert (entry.mode, entry.uid, entry.gid) == (
            status.st_mode & 0o7777, status.st_uid, status.st_gid,
        ) or entry.kind == "symlink"  # fmt: skip
        assert entry.mtime_ns // 10**9 == status.st_mtime_ns // 10**9
        if entry.kind == "file":
            assert content == (source / path).read_bytes()
        if entry.kind == "symlink":
            assert entry.link == os.readlink(source / path)


def test_gnu_tar_unpacks_what_was_written(tmp_path: Path) -> None:
    items: list[tuple[Entry, bytes | None]] = [
        (Entry("a" * 90, "dir", 0o750, mtime_ns=10**18), None),
        (Entry("a" * 90 + "/" + "b" * 150, "file", 0o4711, size=3, mtime_ns=-(10**9)), b"abc"),
        (Entry("ü", "symlink", 0o777, link="x" * 150), None),
        (Entry("hard", "hardlink", link="a" * 90 + "/" + "b" * 150), None),
        (Entry(os.fsdecode(b"\xff\xfe"), "file", 0o600, size=600, mtime_ns=10**19), b"y" * 600),
    ]
    subprocess.run(["tar", "-C", tmp_path, "-xpf", "-"], input=written(items), check=True)
    target = tmp_path / ("a" * 90) / ("b" * 150)
    assert target.read_bytes() == b"abc"
    assert target.stat().st_mode & 0o7777 == 0o4711
    assert target.stat().st_mtime_ns == -(10**9)
    assert target.stat().st_nlink == 2
    assert os.readlink(tmp_path / "ü") == "x" * 150
    raw = Path(os.fsdecode(bytes(tmp_path) + b"/\xff\xfe"))
    assert (raw.read_bytes(), raw.stat().st_mtime_ns) == (b"y" * 600, 10**19)


@pytest.mark.parametrize("version", ["old", "0.0", "0.1", "1.0"])
def test_sparse_files_are_filled(tmp_path: Path, version: str) -> None:
    content = bytearray(8 << 20)
    for at in range(0, len(content), 256 << 10):
        content[at : at + 4096] = os.urandom(4096)
    file = tmp_path / "sparse"
    subprocess.run(["truncate", "-s", str(len(content) + 77), file], check=True)
    with file.open("r+b") as output:
        for at in range(0, len(content), 256 << 10):
            output.seek(at)
            output.write(content[at : at + 4096])
    form = ["--format=gnu"] if version == "old" else [
        "--format=posix", f"--sparse-version={version}",
    ]  # fmt: skip
    command = ["tar", "-C", str(tmp_path), "-S", *form, "-cf", "-", "sparse"]
    archive = subprocess.run(command, check=True, capture_output=True).stdout
    assert len(archive) < 1 << 20
    ((entry, found),) = read(archive)
    assert (entry.path, entry.size, found) == (
        "sparse",
        len(content) + 77,
        bytes(content + bytes(77)),
    )


def test_a_file_that_changes_while_it_is_read_is_an_error(tmp_path: Path) -> None:
    root = OpenDirectory(tmp_path)
    for size, listed in ((10, 11), (10, 9), (3 << 20, (3 << 20) + 1), (3 << 20, (3 << 20) - 1)):
        (tmp_path / "f").write_bytes(bytes(size))
        item: Item = (Entry("f", "file", size=listed), Source(root, "f"))
        with pytest.raises(ContentError, match="changed while"):
            written([item])
    contents: list[Content] = [b"123", io.BytesIO(b"123"), None]
    for content in contents:
        for listed in (2, 4):
            with pytest.raises(ContentError, match="changed while"):
                written([(Entry("f", "file", size=listed), content)])
    os.mkfifo(tmp_path / "pipe")
    for name in ("gone", "pipe"):
        with pytest.raises(ContentError):
            written([(Entry("f", "file", size=4), Source(root, name))])


def test_files_of_any_length_keep_their_bytes(tmp_path: Path) -> None:
    root = OpenDirectory(tmp_path)
    sizes = [
        0,
        1,
        511,
        512,
        513,
        (1 << 20) - 512,
        1 << 20,
        (1 << 20) + 1,
        700_000,
        700_000,
        5 << 20,
    ]
    items: list[Item] = []
    for index, size in enumerate(sizes):
        (tmp_path / str(index)).write_bytes(os.urandom(size))
        items.append((Entry(str(index), "file", size=size), Source(root, str(index))))
    pieces = list(write_tar(items))
    assert max(map(len, pieces)) == 1 << 20
    for entry, content in read(b"".join(pieces)):
        assert content == (tmp_path / entry.path).read_bytes()


def test_names_come_normal() -> None:
    with tempfile.TemporaryFile() as file:
        with tarfile.open(fileobj=file, mode="w") as archive:
            for name in ("./", "./a//b/./c", "/etc", "../up", "a/../b", "..data"):
                archive.addfile(tarfile.TarInfo(name))
        file.seek(0)
        assert [entry.path for entry, _ in read(file.read())] == [
            "a/b/c", "etc", "../up", "a/../b", "..data",
        ]  # fmt: skip


def test_broken_archives_are_refused() -> None:
    items: list[tuple[Entry, bytes | None]] = [
        (Entry("f" * 120, "file", size=1000), b"z" * 1000),
        (Entry("g", "file", size=5), b"12345"),
    ]
    archive = written(items)
    for end in range(1, len(archive) - 1024, 100):
        if end not in (0, 512 * 3 + 1024):
            with pytest.raises(ContentError):
                read(archive[:end])
    for at in (0, 100, 124, 148, 512 * 2 + 3):
        damaged = bytearray(archive)
        damaged[at] ^= 1
        with pytest.raises(ContentError):
            read(bytes(damaged))


def test_the_other_end_of_an_archive_is_reached() -> None:
    source = io.BytesIO(written([]) + bytes(9000))
    assert list(read_tar(source)) == []
    assert source.read() == b""


def _patched(field: slice, value: bytes) -> bytes:
    block = bytearray(written([(Entry("f", "file"), b"")])[:512])
    block[field] = value
    block[148:156] = b"        "
    block[148:156] = b"%06o\0 " % sum(block)
    return bytes(block) + bytes(1024)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        (slice(124, 136), b"\xff" * 12),
        (slice(124, 136), b"-0000000001\0"),
        (slice(124, 136), b"0x00000001\0 "),
        (slice(124, 136), b"00000000009\0"),
        (slice(108, 116), b"\xff" * 8),
        (slice(156, 157), b"M"),
    ],
)
def test_wrong_fields_are_refused(field: slice, value: bytes) -> None:
    assert read(_patched(slice(0, 1), b"f"))
    with pytest.raises(ContentError):
        read(_patched(field, value))


@pytest.mark.parametrize(
    "body",
    [
        b"10 path=a",
        b"8 path=a\n",
        b"99 path=a\n",
        b"0 a=b\n",
        b"x path=a\n",
        b"5 =b\n",
        b"12 size=-5\n\n",
        b"12 path=a\0b\n",
        b"16 linkpath=a\0b\n",
        b"26 SCHILY.xattr.user.a\0b=\n",
    ],
)
def test_malformed_records_are_refused(body: bytes) -> None:
    block = bytearray(_patched(slice(156, 157), b"x")[:512])
    block[124:136] = b"%011o\0" % len(body)
    block[148:156] = b"        "
    block[148:156] = b"%06o\0 " % sum(block)
    archive = bytes(block) + body.ljust(512, b"\0") + written([(Entry("f", "file"), b"")])
    with pytest.raises(ContentError):
        read(archive)


def test_an_endless_extended_header_is_refused() -> None:
    block = bytearray(_patched(slice(156, 157), b"x")[:512])
    block[124:136] = b"%011o\0" % (1 << 30)
    block[148:156] = b"        "
    block[148:156] = b"%06o\0 " % sum(block)
    with pytest.raises(ContentError, match="extended header"):
        read(bytes(block))


def _with_holes(count: int, size: int) -> bytes:
    """Files of `size` bytes of which nothing is stored."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT) as archive:
        for number in range(count):
            member = tarfile.TarInfo(str(number))
            member.pax_headers = {"GNU.sparse.size": str(size), "GNU.sparse.map": ""}
            archive.addfile(member, io.BytesIO(b""))
    return buffer.getvalue()


@pytest.mark.parametrize(("count", "size"), [(1, 1 << 40), (1, (1 << 62) + 1), (100, 20 << 20)])
def test_14_holes_that_would_fill_a_disk_are_refused(count: int, size: int) -> None:
    with pytest.raises(ContentError, match="far more than is stored"):
        list(read_tar(io.BytesIO(_with_holes(count, size))))
    assert len(list(read_tar(io.BytesIO(_with_holes(10, 20 << 20))))) == 10
