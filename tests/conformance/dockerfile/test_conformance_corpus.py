"""The comparison itself: layers are applied as the specification says, differences are seen."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path

import pytest
from corpus import CONFIG, HISTORY, LAYERS, TREE, load
from corpus.context import content, write
from corpus.difference import compare
from corpus.entry import Entry, parse
from corpus.image import Image, Tree


def layer(*lines: str) -> bytes:
    return content(Entry("layer", "file", data="\n".join(lines).encode(), archive="none"))


def tree(*layers: bytes) -> Tree:
    made = Tree()
    for each in layers:
        made.apply(each)
    return made


def test_whiteout_removes_what_lies_below_and_nothing_of_its_own_layer() -> None:
    made = tree(layer("d/", "d/old", "e"), layer("d/", "d/.wh.old", "d/new", ".wh.e", "e"))
    assert sorted(made.nodes()) == ["d", "d/new", "e"]


def test_opaque_directory_hides_the_lower_entries() -> None:
    made = tree(layer("d/", "d/old", "d/sub/", "d/sub/x"), layer("d/", "d/new", "d/.wh..wh..opq"))
    assert sorted(made.nodes()) == ["d", "d/new"]


def test_file_in_the_place_of_a_directory_removes_what_was_in_it() -> None:
    assert sorted(tree(layer("d/", "d/x"), layer("d")).nodes()) == ["d"]


def test_hard_links_share_until_one_name_is_replaced() -> None:
    made = tree(layer("a data=x", "b => a", "c => a"), layer("b data=y"))
    nodes = made.nodes()
    assert nodes["a"].linked == nodes["c"].linked == ("a", "c")
    assert nodes["b"].linked == ()


def test_hard_link_to_nothing_is_refused() -> None:
    with pytest.raises(LookupError, match="does not exist"):
        tree(layer("b => a"))


def test_names_twice_in_a_layer_are_refused() -> None:
    with pytest.raises(LookupError, match="twice"):
        tree(layer("a", "a"))


@pytest.mark.parametrize(
    "change",
    ["f mode=600", "f uid=1", "f gid=1", "f data=y", "f mtime=5", "f -> x", "f/", "g data=x"],
)
def test_every_property_of_a_file_is_compared(change: str) -> None:
    assert {each.kind for each in compare(image("f data=x"), image(change))} >= {TREE}


def test_configuration_history_and_layers_are_compared() -> None:
    want = image("f", config={"Env": ["A=1"]}, history=[{"created_by": "x"}])
    got = image("f", ".wh.g", config={"Env": []}, history=[{"created_by": "y"}])
    assert {each.kind for each in compare(want, got)} == {CONFIG, HISTORY, LAYERS}
    assert not compare(want, want)


def image(*lines: str, **config: object) -> dict[str, Image]:
    made = Tree()
    names = made.apply(layer(*lines))
    return {"linux/amd64": Image(made.nodes(), (names,), config)}


def test_context_is_written_as_the_entries_say(tmp_path: Path) -> None:
    entries = [parse("d/ mode=750 mtime=7"), parse("d/f mode=4711", "text"), parse("d/%E4 -> f")]
    write(entries, tmp_path / "context")
    directory = tmp_path / "context/d"
    assert (directory.stat().st_mode & 0o7777, directory.stat().st_mtime) == (0o750, 7)
    assert (directory / "f").read_text() == "text"
    assert (directory / "\udce4").readlink() == Path("f")


def test_case_with_an_unknown_key_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "x.case"
    path.write_text("exepct: failure\n=== Dockerfile\nFROM a\n")
    with pytest.raises(ValueError, match="exepct"):
        load(path)


def test_archive_section_is_an_archive() -> None:
    with tarfile.open(fileobj=io.BytesIO(layer("d/", "d/x data=1 uid=5"))) as archive:
        assert [(entry.name, entry.uid) for entry in archive] == [("d", 0), ("d/x", 5)]
