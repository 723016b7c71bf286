"""The files of a layer that say what is installed, found by every name that they have."""

from __future__ import annotations

import io
import json
import os
from pathlib import Path

import pytest
from layers_for_tests import toc_of

from shipline.build.attestation.scanning import _files_at, _linked, _noting_links, _repeated
from shipline.layer import Entry, Item, read_tar, write_tar
from shipline.sbom import FileFacts, read_tree

PACKAGE = json.dumps({"name": "a", "version": "1.0.0"}).encode()
FIRST, SECOND = "node_modules/a/package.json", "other/node_modules/a/package.json"


def file(path: str) -> Item:
    return Entry(path, "file", size=len(PACKAGE)), PACKAGE


def link(path: str, target: str) -> Item:
    return Entry(path, "hardlink", link=target), None


def paths_in(items: list[Item], wanted: set[str]) -> list[str]:
    """The paths of packages in the tar of `items`."""
    tar = b"".join(write_tar(iter(items)))
    links: dict[str, str] = {}
    found = [*read_tree(_noting_links(read_tar(io.BytesIO(tar)), wanted, links))]
    found += _repeated(found, links)
    others = {path: target for path, target in links.items() if target not in wanted}
    found += _linked(read_tar(io.BytesIO(tar)), others)
    return sorted(facts.path for facts in found if facts.packages)


@pytest.mark.parametrize(
    "items",
    [
        [file(FIRST), file(SECOND)],
        [file(FIRST), link(SECOND, FIRST)],
        [file("store/ab/cd"), link(FIRST, "store/ab/cd"), link(SECOND, "store/ab/cd")],
    ],
)
def test_hard_links_of_a_tar_are_packages_too(items: list[Item]) -> None:
    assert paths_in(items, {FIRST, SECOND}) == [FIRST, SECOND]


def test_an_unpacked_file_is_read_once_for_all_its_names(tmp_path: Path) -> None:
    for path in (FIRST, SECOND):
        (tmp_path / path).parent.mkdir(parents=True)
    (tmp_path / FIRST).write_bytes(PACKAGE)
    os.link(tmp_path / FIRST, tmp_path / SECOND)
    toc = toc_of(file(FIRST)[0], file(SECOND)[0])
    items = [*_files_at(tmp_path, {FIRST, SECOND}, toc)]
    assert [entry.kind for entry, _ in items] == ["file", "hardlink"]
    links: dict[str, str] = {}
    found: list[FileFacts] = [*read_tree(_noting_links(items, {FIRST, SECOND}, links))]
    assert [facts.path for facts in _repeated(found, links)] == [SECOND]


def test_links_of_a_hostile_layer_lead_nowhere(tmp_path: Path) -> None:
    root, outside = tmp_path / "root", tmp_path / "outside/node_modules/a"
    outside.mkdir(parents=True)
    (outside / "package.json").write_bytes(PACKAGE)
    root.mkdir()
    (root / "node_modules").symlink_to(outside.parent)
    (root / "loop").symlink_to("loop")
    wanted = {FIRST, "loop/node_modules/a/package.json"}
    toc = toc_of(*(Entry(path, "file", size=9) for path in sorted(wanted)))
    assert [*_files_at(root, wanted, toc)] == []
