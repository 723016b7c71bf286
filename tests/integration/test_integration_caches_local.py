"""Caches in directories, and builds that have nothing to store."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from builds import Shipline, context, get
from peers import Registry

FILE = "FROM scratch\nCOPY file /\n"


@pytest.fixture
def shipline(tmp_path: Path) -> Shipline:
    return Shipline(tmp_path / "home")


def blobs(cache: Path) -> set[str]:
    return {path.name for path in (cache / "blobs/sha256").iterdir()}


def reachable(cache: Path) -> set[str]:
    """The blobs that index.json leads to, which has caches alone."""
    found = set()
    for one in json.loads((cache / "index.json").read_bytes())["manifests"]:
        hexadecimal = one["digest"].partition(":")[2]
        manifest = json.loads((cache / "blobs/sha256" / hexadecimal).read_bytes())
        parts = [manifest["config"], *manifest["layers"]]
        found |= {hexadecimal, *(part["digest"].partition(":")[2] for part in parts)}
    return found


def test_a_cache_that_is_reset_has_what_the_last_build_stored(
    shipline: Shipline, tmp_path: Path
) -> None:
    cache = tmp_path / "cache"
    kept = f"type=local,dest={cache},tag=kept"
    shipline.build("--cache-to", kept, context(tmp_path / "kept", FILE, file="0")).ok()
    sizes = []
    for content in "123":
        place = context(tmp_path / content, FILE, file=content)
        shipline.build("--cache-to", f"type=local,dest={cache},reset=true", place).ok()
        assert blobs(cache) == reachable(cache)
        sizes.append(len(blobs(cache)))
    assert sizes == sizes[:1] * 3
    again = Shipline(tmp_path / "another")
    source = f"type=local,src={cache},tag=kept"
    assert "CACHED" in again.build("--cache-from", source, tmp_path / "kept").ok().err


def test_without_reset_a_cache_grows(shipline: Shipline, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    sizes = []
    for content in "12":
        place = context(tmp_path / content, FILE, file=content)
        shipline.build("--cache-to", f"type=local,dest={cache}", place).ok()
        sizes.append(len(blobs(cache)))
    assert sizes[0] < sizes[1]


@pytest.mark.parametrize("kind", ["registry", "local"])
def test_a_build_without_layers_writes_no_cache(
    kind: str, shipline: Shipline, registry: Registry, tmp_path: Path
) -> None:
    place = context(tmp_path / "context", "FROM scratch\nLABEL a=b\n")
    cache = tmp_path / "cache"
    where = f"ref={registry.address}/caches/empty" if kind == "registry" else f"dest={cache}"
    said = shipline.build("--cache-to", f"type={kind},{where}", place).ok().err
    assert "skipping cache export for empty result" in said
    assert get(registry, "/v2/caches/empty/manifests/latest")[0] == 404
    assert not list(cache.glob("blobs/*/*"))
