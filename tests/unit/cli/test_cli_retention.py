"""`shipline registry retention` says what it does, and does only that."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest

from commands import run_shipline
from node_app import fill
from shipline.oci import Descriptor, ImageConfig, Manifest, Platform, media
from shipline.server import Storage
from shipline.server.manifests import Manifests
from shipline.server.uploads import UploadStore

FILE = """
registry:
  data: data
  policy:
    immutable: [{tags: [v*]}]
    retention: [{tags: ["dev-*", "v*"], latest: 1}]
"""
DAY = 86_400.0


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A directory with shipline.yaml and a node's data: four tags, a day apart."""
    (tmp_path / "shipline.yaml").write_text(FILE)
    now = [1_700_000_000.0]
    storage = Storage(tmp_path / "data", clock=lambda: now[0])
    config = ImageConfig(Platform("linux", "amd64")).to_bytes()
    target = Descriptor.of(config, media.OCI_CONFIG)
    fill(UploadStore(storage).put("team/app", target.digest, len(config)), [config])
    image = Manifest.make(target, [])
    for tag in ("main", "v1", "dev-1", "dev-2"):
        Manifests(storage).put("team/app", image.descriptor.digest, image, (tag,))
        now[0] += DAY
    storage.close()
    return tmp_path


def retention(place: Path, *words: str) -> subprocess.CompletedProcess[str]:
    return run_shipline("registry", "retention", *words, cwd=place)


def tags(place: Path) -> list[str]:
    storage = Storage(place / "data")
    try:
        return Manifests(storage).tags("team/app", "", 10)
    finally:
        storage.close()


def test_a_dry_run_tells_and_leaves_everything(place: Path) -> None:
    done = retention(place, "--dry-run")
    assert done.returncode == 0, done.stderr
    assert "would remove  team/app:dev-1  not one of the last 1" in done.stdout
    assert "would remove 1 of 3 tags" in done.stderr
    assert tags(place) == ["dev-1", "dev-2", "main", "v1"]


def test_the_dry_run_says_what_is_done(place: Path) -> None:
    done = retention(place, "--json")
    kept = {one["tag"]: one["kept"] for one in json.loads(done.stdout)}
    assert kept == {"dev-1": False, "dev-2": True, "v1": True}
    assert tags(place) == ["dev-2", "main", "v1"]


def test_without_rules_or_a_node_there_is_nothing_to_do(tmp_path: Path) -> None:
    (tmp_path / "shipline.yaml").write_text("registry: {data: data}\n")
    done = retention(tmp_path)
    assert done.returncode == 2 and "registry.policy.retention" in done.stderr
    (tmp_path / "shipline.yaml").write_text(FILE)
    done = retention(tmp_path)
    assert done.returncode == 2 and "not the data directory of a registry" in done.stderr
    assert not (tmp_path / "data").exists()
