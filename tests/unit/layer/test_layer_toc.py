"""toc: lookups through layers show what the unpacked layers show."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shipline.errors import ContentError
from shipline.layer import Entry, Item, LayeredToc, SymlinkLoop, Toc, TocBuilder, unpack


def toc(*entries: Entry) -> Toc:
    builder = TocBuilder()
    for entry in entries:
        builder.add(entry)
    return builder.toc()


def file(path: str) -> Entry:
    return Entry(path, "file")


def link(path: str, target: str) -> Entry:
    return Entry(path, "symlink", link=target)


def folder(path: str, mode: int = 0o755) -> Entry:
    return Entry(path, "dir", mode)


NAMES = st.sampled_from(["a", "b", "c"])
PATHS = st.lists(NAMES, min_size=1, max_size=3).map("/".join)
WHITEOUTS = PATHS.map(lambda path: f"{path}/.wh..wh..opq") | PATHS.map(
    lambda path: "/".join((*path.split("/")[:-1], ".wh." + path.split("/")[-1]))
)
ENTRIES = (
    st.builds(folder, PATHS, st.sampled_from([0o700, 0o755]))
    | st.builds(file, PATHS)
    | st.builds(file, WHITEOUTS)
)


@st.composite
def layers(draw: st.DrawFn) -> list[Entry]:
    """A layer as builders write them: no name twice, no parent that is not a directory."""
    entries: dict[str, Entry] = {}
    for entry in draw(st.lists(ENTRIES, max_size=6)):
        hidden = entry.path.replace(".wh.", "")
        parents = [entry.path[:at] for at, c in enumerate(entry.path) if c == "/"]
        if entry.path in entries or any(
            p in entries and entries[p].kind == "file" for p in parents
        ):
            continue
        if any(path.startswith(entry.path + "/") for path in entries) or hidden in entries:
            continue
        entries[entry.path] = entry
    return list(entries.values())


@pytest.mark.root
@settings(max_examples=2 * settings().max_examples)
@given(st.lists(layers(), max_size=4))
def test_a_lookup_shows_what_unpacking_shows(stack: list[list[Entry]]) -> None:
    view = LayeredToc([toc(*entries) for entries in stack])
    with tempfile.TemporaryDirectory() as name:
        place = Path(name)
        for entries in stack:
            items: list[Item] = [(entry, b"") for entry in entries]
            unpack(items, place, whiteouts="apply")
        expected = {str(path.relative_to(place)): path.is_dir() for path in place.rglob("*")}
        found = {entry.path: entry.kind == "dir" for entry in view.walk()}
        assert found == expected
        for path in expected:
            entry = view.lookup(path)
            assert entry is not None and entry.kind == ("dir" if expected[path] else "file")
            assert view.children(path) == (
                sorted(os.listdir(place / path)) if expected[path] else []
            )
        for path in ("a", "b/c", "a/b/c", "c/c/c", "a/a"):
            assert (view.lookup(path) is None) == (path not in expected)


def test_a_table_is_loaded_as_it_was_dumped() -> None:
    full = Entry("d/ü\udcff", "file", 0o4755, 1, 2, 3, -(10**18), "", 0, 0, (("user.x", b"\0"),))
    table = toc(full, file("d/.wh.gone"), file("e/.wh..wh..opq"), link("l", "d"))
    assert Toc.load(table.dump()) == table
    assert LayeredToc([Toc.load(table.dump())]).lookup(full.path) == full
    assert [entry.path for entry in table.entries()] == ["l", full.path]
    for damaged in (b"", table.dump()[:-5], b"x" + table.dump()):
        with pytest.raises(ContentError):
            Toc.load(damaged)


def test_an_implied_directory_takes_its_metadata_from_below() -> None:
    view = LayeredToc([toc(folder("d", 0o700)), toc(file("d/e/f"))])
    assert view.lookup("d") == folder("d", 0o700)
    assert view.lookup("d/e") == folder("d/e")
    assert LayeredToc([toc(file("d")), toc(file("d/e/f"))]).lookup("d") == folder("d")


def test_hard_links_are_what_they_link_to() -> None:
    target = Entry("f", "file", 0o711, size=7)
    table = toc(target, Entry("g", "hardlink", link="f"))
    assert LayeredToc([table]).lookup("g") == target._replace(path="g")


@pytest.mark.parametrize(
    ("path", "canonical"),
    [
        ("lib/x", "usr/lib/x"),
        ("lib", "usr/lib"),
        ("abs/lib/../bin", "usr/bin"),
        ("up/lib", "usr/lib"),
        ("/lib//./x/", "usr/lib/x"),
        ("new/../lib", "usr/lib"),
        ("", ""),
        ("../..", ""),
        ("dangling/x", "nowhere/x"),
    ],
)
def test_paths_resolve_inside_the_root(path: str, canonical: str) -> None:
    view = LayeredToc([
        toc(folder("usr"), folder("usr/lib"), link("up", "../../../usr")),
        toc(link("lib", "usr/lib"), link("abs", "/usr"), link("dangling", "nowhere")),
    ])  # fmt: skip
    assert view.resolve(path) == canonical


def test_a_last_link_is_kept_if_asked_and_loops_end() -> None:
    view = LayeredToc([toc(link("a", "b"), link("b", "a"), link("self", "self/x"), file("f"))])
    assert view.resolve("a", follow_last=False) == "a"
    for path in ("a", "a/x", "self"):
        with pytest.raises(SymlinkLoop):
            view.resolve(path)
    assert LayeredToc([*view.tocs, toc(file("a"))]).resolve("a") == "a"


def test_entries_below_a_link_of_their_layer_are_where_it_leads() -> None:
    view = LayeredToc([toc(folder("usr"), link("lib", "usr/lib"), file("lib/f"))])
    assert view.children("usr/lib") == ["f"]
    assert view.lookup("usr/lib/f") == file("usr/lib/f")
