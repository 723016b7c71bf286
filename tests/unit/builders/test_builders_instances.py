"""Files of builders: as buildx writes them, and nothing else."""

from __future__ import annotations

import json
import os
import threading
from datetime import datetime
from pathlib import Path

import pytest

from shipline.builders.instances import NATIVE, Builder, BuilderStore, Node
from shipline.errors import ConfigError, UsageError
from shipline.oci import Platform

FARM = Builder(
    "farm",
    "remote",
    (
        Node(
            "farm0",
            "tcp://127.0.0.1:1234",
            (Platform.parse("linux/arm/v7"),),
            {"servername": "x"},
            ("--debug",),
            {"buildkitd.toml": b"[worker]\n"},
        ),
        Node("farm1", "unix:///socket"),
    ),
)


def test_a_builder_comes_back(tmp_path: Path) -> None:
    store = BuilderStore(tmp_path)
    assert store.find("farm") is None and store.stored() == []
    store.save(FARM)
    assert store.find("farm") == FARM and store.stored() == [FARM]
    document = json.loads((tmp_path / "instances/farm").read_text())
    assert document["Nodes"][0]["Platforms"] == [
        {"architecture": "arm", "os": "linux", "variant": "v7"}
    ]
    assert document["Nodes"][1]["Flags"] is None and document["Dynamic"] is False
    assert (tmp_path / "instances/farm").stat().st_mode & 0o777 == 0o600


def test_a_choice_ends_with_its_builder(tmp_path: Path) -> None:
    store = BuilderStore(tmp_path)
    assert store.selected() == NATIVE
    store.save(FARM)
    store.select("farm")
    assert store.selected() == "farm"
    assert store.remove("farm") and not store.remove("farm")
    assert store.selected() == NATIVE


def test_a_choice_made_while_the_builder_of_before_is_removed_stays(tmp_path: Path) -> None:
    other = threading.Thread(target=BuilderStore(tmp_path).select, args=("other",))

    class Slow(BuilderStore):
        def selected(self) -> str:
            name = super().selected()
            other.start()
            other.join(0.3)  # would end by then if the removal did not hold the lock
            return name

    store = Slow(tmp_path)
    store.save(FARM)
    store.select("farm")
    assert store.remove("farm")
    other.join()
    assert BuilderStore(tmp_path).selected() == "other"


@pytest.mark.parametrize("name", ["", "../x", "a/b", ".x", "-x", "1x", "a b"])
def test_names_are_no_paths(tmp_path: Path, name: str) -> None:
    store = BuilderStore(tmp_path)
    for use in (store.find, store.remove):
        with pytest.raises(UsageError, match="name of a builder"):
            use(name)


@pytest.mark.parametrize(
    "text", ["", "[]", '{"Name": 1}', '{"Nodes": [{}], "Name": "a"}', "\xff", "[" * 100_000]
)
def test_damaged_files_are_one_error(tmp_path: Path, text: str) -> None:
    (tmp_path / "instances").mkdir()
    (tmp_path / "instances/farm").write_text(text)
    with pytest.raises(UsageError, match="builder farm is damaged"):
        BuilderStore(tmp_path).find("farm")
    assert BuilderStore(tmp_path).stored() == []


def test_what_is_no_file_is_one_error_and_never_waited_for(tmp_path: Path) -> None:
    (tmp_path / "instances").mkdir()
    (tmp_path / "instances/zero").symlink_to("/dev/zero")
    os.mkfifo(tmp_path / "instances/fifo")
    (tmp_path / "instances/directory").mkdir()
    store = BuilderStore(tmp_path)
    for name in ("zero", "fifo", "directory"):
        with pytest.raises(ConfigError, match="files of builders cannot be read"):
            store.find(name)
    assert store.stored() == []
    (tmp_path / "shipline-builder").mkdir()
    with pytest.raises(ConfigError, match="shipline-builder"):
        store.selected()


def test_a_directory_that_cannot_be_written_is_one_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="cannot be written"):
        BuilderStore(tmp_path / "file").save(FARM)
    BuilderStore(tmp_path / "file").touch("farm")


def test_the_time_of_the_last_build_is_kept(tmp_path: Path) -> None:
    store = BuilderStore(tmp_path)
    assert store.last_activity("farm") == ""
    store.touch("farm")
    assert datetime.fromisoformat(store.last_activity("farm")).tzinfo is not None


def test_directories_are_those_of_buildx() -> None:
    assert BuilderStore.of({"BUILDX_CONFIG": "/x"}).directory == Path("/x")
    assert BuilderStore.of({"DOCKER_CONFIG": "/d"}).directory == Path("/d/buildx")
    assert BuilderStore.of({"HOME": "/h"}).directory == Path("/h/.docker/buildx")
