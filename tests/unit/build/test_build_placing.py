"""Where COPY puts files, over what is already there."""

from __future__ import annotations

from itertools import accumulate

import pytest
from layers_for_tests import table_of

from shipline.build.placing import CopyAttributes, Placement, parse_mode
from shipline.errors import UsageError
from shipline.layer import Entry, LayeredToc

NOW = 9_000_000_000
BASE = table_of(
    Entry("bin", "symlink", link="usr/bin"),
    Entry("usr", "dir", 0o755, mtime_ns=1),
    Entry("usr/bin", "dir", 0o700, 5, 6, mtime_ns=2),
    Entry("usr/bin/tool", "file", size=3),
    Entry("etc", "dir", 0o755),
    Entry("etc/host", "file", size=1),
    Entry("escape", "symlink", link="../../.."),
    Entry("loop", "symlink", link="loop"),
    Entry("absolute", "symlink", link="/usr/bin"),
    Entry("dangling", "symlink", link="srv/new"),
)


def placement(below: LayeredToc = BASE) -> Placement:
    return Placement(below, (7, 8), NOW)


def paths(made: Placement) -> list[str]:
    return [entry.path for entry, _ in made.items()]


@pytest.mark.parametrize(
    ("destination", "target"),
    [
        ("/new", "new"),
        ("/new/", "new/f"),
        ("/etc", "etc/f"),
        ("/etc/", "etc/f"),
        ("/etc/host", "etc/host"),
        ("/bin", "usr/bin/f"),
        ("/bin/", "usr/bin/f"),
        ("/bin/tool", "usr/bin/tool"),
        ("/absolute/x", "usr/bin/x"),
        ("/a/b/c", "a/b/c"),
        ("/a/b/c/", "a/b/c/f"),
        ("/", "f"),
        ("/.", "f"),
        ("/etc/.", "etc/f"),
        ("/escape/x", "x"),
        ("/dangling", "srv/new"),
    ],
)
def test_a_file_lands_where_the_destination_leads(destination: str, target: str) -> None:
    assert placement().target_of(destination, "f", contents=False) == target


@pytest.mark.parametrize(
    ("destination", "target"),
    [("/new", "new"), ("/new/", "new"), ("/bin", "usr/bin"), ("/", ""), ("/dangling", "srv/new")],
)
def test_a_directory_gives_its_contents_to_the_destination(destination: str, target: str) -> None:
    made = placement()
    assert made.target_of(destination, "d", contents=True) == target
    assert made.is_directory(target)


@pytest.mark.parametrize("destination", ["/etc/host/", "/etc/host/x", "/usr/bin/tool/a/b"])
def test_a_file_on_the_way_is_refused(destination: str) -> None:
    with pytest.raises(UsageError, match="is not a directory"):
        placement().target_of(destination, "f", contents=False)


def test_contents_over_a_file_are_refused() -> None:
    with pytest.raises(UsageError, match="is not a directory"):
        placement().target_of("/etc/host", "d", contents=True)


def test_missing_parents_are_made_for_the_owner() -> None:
    made = placement()
    made.target_of("/a/b/", "f", contents=False)
    entries = [entry for entry, _ in made.items()]
    assert entries == [Entry(path, "dir", 0o755, 7, 8, mtime_ns=NOW) for path in ("a", "a/b")]


def test_a_loop_of_links_is_refused() -> None:
    with pytest.raises(Exception, match="loop"):
        placement().target_of("/loop/x", "f", contents=False)


def test_existing_parents_are_repeated_and_the_last_has_a_new_time() -> None:
    made = placement()
    made.place_one(Entry("usr/bin/new", "file", size=1), b"x")
    found = {entry.path: entry for entry, _ in made.items()}
    assert list(found) == ["usr", "usr/bin", "usr/bin/new"]
    assert found["usr"] == Entry("usr", "dir", 0o755, mtime_ns=1)
    assert found["usr/bin"] == Entry("usr/bin", "dir", 0o700, 5, 6, mtime_ns=NOW)


def test_kinds_may_not_change_between_file_and_directory() -> None:
    made = placement()
    with pytest.raises(UsageError, match="non-directory"):
        made.place(Entry("etc/host", "dir", 0o755), None)
    with pytest.raises(UsageError, match="with file"):
        made.place(Entry("etc", "file"), b"")
    made.place(Entry("bin", "file"), b"")
    assert made.lookup("bin") == Entry("bin", "file")


def test_an_existing_directory_takes_the_look_of_one_that_is_part_of_the_source() -> None:
    made = placement()
    source = [(Entry("bin", "dir", 0o711, 1, 1, mtime_ns=3_000_000_000), None)]
    made.place_tree("usr", iter(source), CopyAttributes((0, 0)))
    assert made.lookup("usr/bin") == Entry("usr/bin", "dir", 0o711, 0, 0, mtime_ns=3_000_000_000)
    assert made.lookup("usr/bin/tool") is not None


LINKED = ((Entry("a", "file", size=1), b"x"), (Entry("b", "hardlink", link="a"), None))


def written(made: Placement) -> list[str]:
    return [f"{e.path} {e.kind} {e.link} {content!r}" for e, content in made.items()]


def test_hard_links_keep_to_their_tree() -> None:
    made = placement()
    made.place_tree("new/place", iter(LINKED), CopyAttributes())
    assert written(made) == ["new/place/a file  b'x'", "new/place/b hardlink new/place/a None"]


def unpack(made: Placement, target: str, *entries: Entry, listed: str = "") -> None:
    items = [(entry, b"x" if entry.kind == "file" else None) for entry in entries]
    made.place_archive(target, iter(items), CopyAttributes(), listed.split())


@pytest.mark.parametrize("archive", [True, False])
def test_other_names_of_a_file_keep_it_when_one_is_replaced(archive: bool) -> None:
    made = placement(LayeredToc([]))
    entries = [entry for entry, _ in LINKED] + [Entry("c", "hardlink", link="a")]
    if archive:
        unpack(made, "n", *entries)
    else:
        items = [(entry, b"x" if entry.kind == "file" else None) for entry in entries]
        made.place_tree("n", iter(items), CopyAttributes())
    made.place_one(Entry("n/a", "file", size=1), b"y")
    assert written(made) == ["n/a file  b'y'", "n/b file  b'x'", "n/c hardlink n/b None"]


def test_hard_links_of_an_archive_follow_their_file_through_links() -> None:
    made = placement()
    unpack(
        made, "", Entry("bin", "dir"), Entry("bin/z", "file"), Entry("c", "hardlink", link="bin/z")
    )
    assert written(made)[0] == "c file  b'x'"
    assert written(made)[-1] == "usr/bin/z hardlink c None"


def test_what_was_in_a_directory_that_an_archive_replaces_is_gone() -> None:
    made = placement(LayeredToc([]))
    unpack(made, "", Entry("d", "dir"), Entry("d/x", "file"), listed="d")
    unpack(made, "", Entry("d", "symlink", link="e"))
    assert written(made) == ["d symlink e None"]


def test_directories_on_the_way_to_a_name_of_an_archive_are_not_its_own() -> None:
    made = placement()
    way = Entry("bin", "dir", 0o711), Entry("new", "dir", 0o711, 1, 1)
    unpack(made, "", *way, Entry("bin/f", "file"), Entry("new/f", "file"))
    found = {entry.path: entry for entry, _ in made.items()}
    assert found["usr/bin"].mode == 0o700 and "bin" not in found
    assert found["new"] == Entry("new", "dir", 0o755, mtime_ns=NOW)


def test_a_directory_of_an_archive_takes_the_place_of_a_link() -> None:
    made = placement()
    unpack(made, "", Entry("bin", "dir", 0o711), Entry("bin/f", "file"), listed="bin")
    assert written(made) == ["bin dir  None", "bin/f file  b'x'"]


def test_a_directory_that_an_archive_adds_to_has_a_new_time() -> None:
    made = placement(LayeredToc([]))
    made.place_tree("", iter([(Entry("d", "dir", mtime_ns=5), None)]), CopyAttributes())
    unpack(made, "", Entry("d", "dir"), Entry("d/f", "file"))
    assert [entry.mtime_ns for entry, _ in made.items()] == [NOW, 0]
    unpack(made, "", Entry("d", "dir", mtime_ns=7_000_000_000), Entry("d/g", "file"), listed="d")
    assert [entry.mtime_ns for entry, _ in made.items()] == [7_000_000_000, 0, 0]


def test_links_on_the_way_through_an_archive_start_at_its_root() -> None:
    below = table_of(Entry("t", "dir"), Entry("t/l", "symlink", link="/real"), Entry("real", "dir"))
    made = placement(below)
    unpack(made, "t", Entry("l", "dir"), Entry("l/f", "file"))
    assert paths(made) == ["t", "t/real", "t/real/f"]


def test_a_file_at_the_root_is_no_place_for_a_directory() -> None:
    made = placement(LayeredToc([]))
    made.place_one(Entry("b", "file"), b"")
    with pytest.raises(UsageError, match="non-directory: /b"):
        made.place_tree("", iter([(Entry("b", "dir"), None)]), CopyAttributes())


def test_a_look_changes_owner_and_mode_but_never_a_links_mode() -> None:
    look = CopyAttributes((1, 2), parse_mode("640"))
    file = look.of(Entry("x", "file", 0o755, 9, 9, mtime_ns=1_700_000_000), "y")
    assert file == Entry("y", "file", 0o640, 1, 2, mtime_ns=1_000_000_000)
    assert look.of(Entry("l", "symlink", 0o777, link="x"), "l").mode == 0o777
    assert CopyAttributes().of(Entry("x", "file", 0o755, 9, 9), "x") == Entry(
        "x", "file", 0o755, 9, 9
    )


def test_what_is_placed_is_seen_by_the_next_source() -> None:
    made = placement(LayeredToc([]))
    assert made.target_of("/d/", "one", contents=False) == "d/one"
    made.place_one(Entry("d/one", "file"), b"")
    assert made.target_of("/d", "two", contents=False) == "d/two"
    made.place(Entry("link", "symlink", link="d"), None)
    assert made.target_of("/link/three", "x", contents=False) == "d/three"


@pytest.mark.parametrize("base", ["", "srv", "srv/app", "srv/app/old"])
@pytest.mark.parametrize("target", ["", "srv", "srv/app"])
@pytest.mark.parametrize("tree", [[], ["a", "a-b", "b/c"]])
def test_a_tree_that_is_streamed_is_placed_as_others(
    base: str, target: str, tree: list[str]
) -> None:
    below = table_of(*(Entry(path, "dir", 0o700) for path in accumulated(base)))
    found = (Entry(path, "dir", 0o750) for one in tree for path in accumulated(one))
    items = [(entry, None) for entry in found]
    streamed, placed = placement(below), placement(below)
    for made in (streamed, placed):
        made.target_of(f"/{target}/", "", contents=True)
        made.touch(target, 5 * 10**9)
    if not streamed.can_stream(target):
        assert base.startswith(target) and base != target
        return
    placed.place_tree(target, items, CopyAttributes((1, 2)))
    given = list(streamed.stream_tree(target, iter(items), CopyAttributes((1, 2))))
    assert given == list(placed.items())


def test_a_tree_beside_other_files_is_not_streamed() -> None:
    made = placement(LayeredToc([]))
    made.target_of("/srv/", "", contents=True)
    assert made.can_stream("srv")
    made.place(Entry("other", "file"), b"")
    assert not made.can_stream("srv")


def accumulated(path: str) -> list[str]:
    """The path, after those above it."""
    return list(accumulate(path.split("/"), "{}/{}".format)) if path else []


def test_a_file_over_a_directory_hides_what_was_in_it() -> None:
    made = placement()
    assert made.lookup("etc/host") is not None
    unpack(made, "", Entry("etc", "file"))
    assert made.lookup("etc/host") is None


def test_an_archive_replaces_what_it_meets() -> None:
    made = placement()
    unpack(made, "", Entry("etc/host", "dir", 0o755, mtime_ns=-5), listed="etc/host")
    host = made.lookup("etc/host")
    assert host is not None
    assert (host.kind, host.mtime_ns) == ("dir", 0)


def test_parents_come_before_what_they_hold() -> None:
    made = placement(LayeredToc([]))
    for path in ("a-b/x", "a/z", "a.b/y"):
        made.target_of(f"/{path}", "", contents=False)
        made.place(Entry(path, "file"), b"")
    order = paths(made)
    assert sorted(order) == ["a", "a-b", "a-b/x", "a.b", "a.b/y", "a/z"]
    for path in order:
        parent = path.rpartition("/")[0]
        assert not parent or order.index(parent) < order.index(path)
