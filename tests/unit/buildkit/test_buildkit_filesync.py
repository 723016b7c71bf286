"""What of a directory is sent: neither more than was asked for, nor less."""

from __future__ import annotations

from pathlib import Path

import pytest

from shipline.buildkit.filesync import _selection, _stat, follow
from shipline.layer import Entry, scan


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for name in ("a/one.txt", "a/two.bin", "a/deep/three.txt", "b/four.txt", "five.txt", "other"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(name)
    (tmp_path / "link").symlink_to("a")
    (tmp_path / "b" / "up").symlink_to("../a/deep")
    (tmp_path / "absolute").symlink_to("/b")
    (tmp_path / "loop").symlink_to("loop")
    (tmp_path / "round").symlink_to("a/../round")
    return tmp_path


def sent(root: Path, **metadata: list[str]) -> set[str]:
    headers = {name.replace("_", "-"): values for name, values in metadata.items()}
    entries = scan(root, prune=_selection(root, headers)).entries()
    return {entry.path for entry in entries if entry.kind != "dir"}


@pytest.mark.parametrize(
    ("patterns", "expected"),
    [
        (["other"], {"other"}),
        (["/other"], {"other"}),
        (["a"], {"a/one.txt", "a/two.bin", "a/deep/three.txt"}),
        (["a/*.txt", "five*"], {"a/one.txt", "five.txt"}),
        (["link/one.txt"], {"link", "a/one.txt"}),
        (["b/up/*"], {"b/up", "a/deep/three.txt"}),
        (["absolute/four.txt"], {"absolute", "b/four.txt"}),
        (["loop", "round/x"], {"loop", "round"}),
        (["missing", "a/missing/deeper"], set()),
        (["../../other"], {"other"}),
    ],
)
def test_paths_are_followed_with_their_links(
    root: Path, patterns: list[str], expected: set[str]
) -> None:
    assert sent(root, followpaths=patterns) == expected


def test_all_is_sent_where_all_is_needed(root: Path) -> None:
    assert follow(root, ["."]) is None and follow(root, ["a", "/"]) is None
    assert len(sent(root)) == 11


def test_ignored_files_stay_however_they_are_asked_for(root: Path) -> None:
    rules = ["a", "!a/deep", "**/*.bin"]
    assert sent(root, exclude_patterns=rules, followpaths=["a", "five.txt"]) == {
        "a/deep/three.txt",
        "five.txt",
    }
    assert sent(root, include_patterns=["**/*.txt"]) == {
        *("a/one.txt", "a/deep/three.txt", "b/four.txt", "five.txt")
    }


def test_patterns_may_be_escaped(root: Path) -> None:
    (root / "ü b").write_text("x")
    headers = {"followpaths": ["%C3%BC%20b"], "followpaths-encoded": ["1"]}
    entries = scan(root, prune=_selection(root, headers)).entries()
    assert [entry.path for entry in entries if entry.kind != "dir"] == ["ü b"]


def test_modes_are_those_of_go() -> None:
    assert _stat(Entry("d", "dir", 0o1777), {}).mode == 1 << 31 | 1 << 20 | 0o777
    assert _stat(Entry("f", "file", 0o4755, size=3), {}).mode == 1 << 23 | 0o755
    assert _stat(Entry("l", "symlink", 0o777, link="f"), {}).mode == 1 << 27 | 0o777
    assert _stat(Entry("c", "char", 0o600, major=1, minor=3), {}).device_minor == 3
    link = _stat(Entry("g", "hardlink", 0o755, link="f"), {"f": 3})
    assert (link.link_name, link.size) == ("f", 3), "without the size, it is sent again and again"
