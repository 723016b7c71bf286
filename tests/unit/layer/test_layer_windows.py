"""Layers of Windows: where files are in them, what is said of each, and reading them again."""

from __future__ import annotations

import base64
import io
import struct
import tarfile

import pytest

from shipline.layer import Entry, Item, Source, from_windows, read_tar, to_windows, write_tar

_MADE = 1_700_000_000
ITEMS: list[Item] = [
    (Entry("app", "dir", 0o755, mtime_ns=_MADE * 10**9), None),
    (Entry("app/.wh.old", "file"), b""),
    (Entry("app/a", "file", 0o640, 5, 6, size=2, mtime_ns=(_MADE + 1) * 10**9), b"a\n"),
    (Entry("app/hard", "hardlink", 0o640, link="app/a"), None),
    (Entry("app/l", "symlink", 0o777, link="a"), None),
]


def written(items: list[Item]) -> bytes:
    return b"".join(write_tar(to_windows(items)))


def test_files_are_below_files_and_links_lead_there() -> None:
    with tarfile.open(fileobj=io.BytesIO(written(ITEMS))) as tar:
        members = tar.getmembers()
    assert [(one.name, one.linkname) for one in members] == [
        ("Hives", ""),
        ("Files", ""),
        ("Files/app", ""),
        ("Files/app/.wh.old", ""),
        ("Files/app/a", ""),
        ("Files/app/hard", "Files/app/a"),
        ("Files/app/l", "Files/a"),
    ]
    named = {one.name: one for one in members}
    assert [one.pax_headers.get("MSWINDOWS.fileattr") for one in members] == [
        *("16", "16", "16", "32", "32", None, None)
    ]
    assert named["Files/app/a"].pax_headers["LIBARCHIVE.creationtime"] == f"{_MADE + 1}.0"
    assert (named["Files/app"].mode, named["Files/app/a"].mode) == (0o40755, 0o100640)
    assert (named["Files/app/a"].uid, named["Files/app/a"].gid) == (5, 6)
    assert "MSWINDOWS.rawsd" in named["Files/app"].pax_headers
    assert "MSWINDOWS.rawsd" not in named["Files"].pax_headers


@pytest.mark.parametrize("items", [ITEMS, []])
def test_what_was_written_is_read_again(items: list[Item]) -> None:
    tar = written(items)
    with tarfile.open(fileobj=io.BytesIO(tar)) as opened:
        assert {one.mtime for one in opened.getmembers()[:2]} == {_MADE if items else 0}
    found: list[Item] = []
    for entry, content in from_windows(read_tar(io.BytesIO(tar))):
        assert content is None or not isinstance(content, bytes | Source)
        found.append((entry, None if content is None else content.read()))
    assert found == items


def test_other_directories_of_a_layer_are_no_files() -> None:
    names = ("Files", "Files/x", "Hives/Sam_Delta", "UtilityVM/Files/x", "other")
    kept = [*from_windows((Entry(name, "file"), None) for name in names)]
    assert [entry.path for entry, _ in kept] == ["x"]


@pytest.mark.parametrize(("name", "rights"), [("Files/app", 7), ("Files/app/a", 3)])
def test_the_security_descriptor_is_one(name: str, rights: int) -> None:
    with tarfile.open(fileobj=io.BytesIO(written(ITEMS))) as tar:
        raw = base64.b64decode(tar.getmember(name).pax_headers["MSWINDOWS.rawsd"])
    _, _, control, owner, group, system, acl = struct.unpack_from("<BBHIIII", raw)
    assert (control, system) == (0x8004, 0), "self-relative, with rights"
    assert raw[owner:group] == bytes((1, 2, 0, 0, 0, 0, 0, 5)) + struct.pack("<II", 32, 544)
    _, _, size, count, _ = struct.unpack_from("<BBHHH", raw, acl)
    assert (acl + size, count) == (len(raw), rights)
    position = acl + 8
    for _ in range(count):
        position += int(struct.unpack_from("<H", raw, position + 2)[0])
    assert position == len(raw)
