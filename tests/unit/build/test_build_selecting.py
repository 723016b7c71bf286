"""Which files a source of COPY means."""

from __future__ import annotations

from pathlib import Path

import pytest

from shipline import dockerfile as df
from shipline.build.selecting import ContextDirectory, Root, find_source, select
from shipline.errors import UsageError


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for name in ("a.txt", "b.txt", "src/main.c", "src/sub/x.c", "src/sub/x.h", "docs/x.c"):
        place = tmp_path / "root" / name
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_text(name)
    (tmp_path / "outside").write_text("secret")
    (tmp_path / "root" / "link").symlink_to("src/sub")
    (tmp_path / "root" / "out").symlink_to("../outside")
    return tmp_path / "root"


def written(root: Root, *sources: str) -> list[str]:
    return [one.written for one in select(root, sources, ())]


def content(root: Root, source: str, *excludes: str) -> list[str]:
    (selected,) = select(root, (source,), excludes)
    return [entry.path for entry, _ in selected.items()]


@pytest.mark.parametrize(
    ("source", "found"),
    [
        ("a.txt", ["a.txt"]),
        ("/a.txt", ["a.txt"]),
        ("./src/../a.txt", ["a.txt"]),
        ("../../a.txt", ["a.txt"]),
        ("*.txt", ["a.txt", "b.txt"]),
        ("[ab].txt", ["a.txt", "b.txt"]),
        ("?.txt", ["a.txt", "b.txt"]),
        ("*/x.c", ["docs/x.c"]),
        ("**/x.c", ["docs/x.c"]),
        ("link/*.c", ["link/x.c"]),
        ("l*k", ["link"]),
        ("none*", []),
    ],
)
def test_wildcards_are_replaced_in_order(root: Path, source: str, found: list[str]) -> None:
    assert written(Root(root, "the context"), source) == found


def test_a_source_that_names_nothing_is_refused(root: Path) -> None:
    with pytest.raises(UsageError, match=r'"/missing": not found in the context'):
        select(Root(root, "the context"), ("missing",), ())


@pytest.mark.parametrize(
    ("source", "hint"),
    [
        ("A.TXT", "a.txt exists: names are case-sensitive"),
        ("src/Main.c", "src/main.c exists: names are case-sensitive"),
        ("SRC/main.c", "src exists: names are case-sensitive"),
        ("a.tx", "did you mean a.txt?"),
        ("src/sub/other.file", "src/sub has x.c, x.h"),
        ("out", "out is a link to ../outside, which does not exist"),
        ("../else", "nothing outside of the context can be copied"),
        ("/etc/passwd", "relative to the context, not to the root"),
    ],
)
def test_what_was_meant_by_a_source_that_is_not_there_is_told(
    root: Path, source: str, hint: str
) -> None:
    with pytest.raises(UsageError) as caught:
        select(ContextDirectory(root, "the context"), (source,), ())
    assert hint in caught.value.hint


def test_an_excluded_source_is_told_with_the_line_that_excludes_it(root: Path) -> None:
    text = "# comment\n*.md\nsrc\n!src/main.c\n\ndocs/*.c\n"
    rules = df.IgnoreRules.parse(text, file=".dockerignore")
    context = ContextDirectory(root, "the context", rules.prune(), rules=rules)
    for source, line in (("src/sub/x.h", "3: src"), ("docs/x.c", "6: docs/*.c")):
        with pytest.raises(UsageError) as caught:
            select(context, (source,), ())
        assert f"is excluded from the context by .dockerignore:{line}" in caught.value.message
        assert f"!{source}" in caught.value.hint
    with pytest.raises(UsageError, match="not found"):
        select(context, ("src/nothing",), ())


def test_what_a_stage_lacks_is_told_of_the_stage(root: Path) -> None:
    with pytest.raises(UsageError) as caught:
        select(Root(root, "the stage build"), ("/src/binary",), ())
    assert ": not found in the stage build" in caught.value.message
    assert caught.value.hint == "/src has main.c, sub"


def test_links_lead_nowhere_out_of_the_root(root: Path) -> None:
    with pytest.raises(UsageError, match="not found"):
        select(Root(root, "the context"), ("out",), ())


def test_a_link_to_a_directory_gives_its_contents(root: Path) -> None:
    (found,) = select(Root(root, "the context"), ("link",), ())
    assert found.is_directory
    assert (found.path, found.name) == ("src/sub", "link")
    assert [entry.path for entry, _ in found.items()] == ["x.c", "x.h"]


@pytest.mark.parametrize(
    ("source", "pivot"),
    [("src/sub/x.c", "src/sub/x.c"), ("src/./sub/x.c", "sub/x.c"), ("./src/main.c", "src/main.c")],
)
def test_the_pivot_says_which_parents_are_kept(root: Path, source: str, pivot: str) -> None:
    (found,) = select(Root(root, "the context"), (source,), (), parents=True)
    assert found.pivot == pivot


def test_excludes_are_relative_to_the_source(root: Path) -> None:
    base = Root(root, "the context")
    assert content(base, "src", "*.c") == ["sub", "sub/x.c", "sub/x.h"]
    assert content(base, "src", "**/*.c") == ["sub", "sub/x.h"]
    assert content(base, "src", "src") == ["main.c", "sub", "sub/x.c", "sub/x.h"]
    assert content(base, "src", "/sub", "!/main.c", "main.c") == ["sub", "sub/x.c", "sub/x.h"]


@pytest.mark.parametrize(
    ("excludes", "found"),
    [
        (["sub", "!sub/x.c"], ["main.c", "sub", "sub/x.c"]),
        (["**", "!**/x.h"], ["sub", "sub/x.h"]),
        (["sub", "!sub/none"], ["main.c"]),
    ],
)
def test_an_exception_is_found_below_what_is_excluded(
    root: Path, excludes: list[str], found: list[str]
) -> None:
    assert content(Root(root, "the context"), "src", *excludes) == found


def test_an_exception_brings_back_no_file_that_is_ignored(root: Path) -> None:
    base = Root(root, "the context", df.IgnoreRules.of(["src/sub/x.c"]).prune())
    assert content(base, "src", "sub", "!sub/x.c") == ["main.c"]
    assert content(base, "src", "sub", "!sub") == ["main.c", "sub", "sub/x.h"]


def test_ignored_files_are_not_there(root: Path) -> None:
    rules = df.IgnoreRules.of(["*.txt", "src", "!src/main.c"])
    base = Root(root, "the context", rules.prune())
    assert written(base, "*.txt") == []
    with pytest.raises(UsageError, match="not found"):
        select(base, ("a.txt",), ())
    assert content(base, "src") == ["main.c"]
    assert df.IgnoreRules.of(()).prune() is None


@pytest.mark.parametrize(
    ("source", "rule", "step"),
    [("link/x.c", "src/sub/x.c", "src/sub/x.c"), ("link/x.h", "link", "link")],
)
def test_links_lead_to_nothing_that_is_ignored(
    root: Path, source: str, rule: str, step: str
) -> None:
    rules = df.IgnoreRules.parse(rule, file=".dockerignore")
    context = ContextDirectory(root, "the context", rules.prune(), rules=rules)
    for choose in (lambda: select(context, (source,), ()), lambda: find_source(context, source)):
        with pytest.raises(UsageError) as caught:
            choose()
        assert f"leads to {step!r}, which is excluded from the context" in caught.value.message


@pytest.mark.parametrize("source", ["ou?", "*", "dangl*", "lo*"])
def test_a_link_that_a_wildcard_finds_leads_somewhere(root: Path, source: str) -> None:
    (root / "dangling").symlink_to("nothing")
    (root / "loop").symlink_to("loop")
    with pytest.raises(UsageError, match=": not found in the context"):
        select(Root(root, "the context"), (source,), ())


def test_ignoring_everything_leaves_nothing(root: Path) -> None:
    base = Root(root, "the context", df.IgnoreRules.of(["**"]).prune())
    assert content(base, ".") == []


def test_the_time_of_the_context_itself_does_not_count(root: Path) -> None:
    (whole,) = select(ContextDirectory(root, "the context"), (".",), ())
    (part,) = select(ContextDirectory(root, "the context"), ("src",), ())
    assert whole.mtime_ns is None
    assert part.mtime_ns == (root / "src").stat().st_mtime_ns


def test_several_double_stars_look_once_at_each_directory(root: Path) -> None:
    (root / "/".join("a" * 40)).mkdir(parents=True)
    base = Root(root, "the context")
    found = select(base, ("**/" * 12 + "x.c",), (), parents=True)
    assert sorted(one.path for one in found) == ["docs/x.c", "src/sub/x.c"]
    assert select(base, ("**/a/" * 12 + "none*",), (), parents=True) == []
