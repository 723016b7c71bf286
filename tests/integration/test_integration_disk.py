"""The cache can be looked after at any time: builds that run beside a prune come out the same."""

from __future__ import annotations

import subprocess
import threading
from pathlib import Path

import pytest

from builds import Shipline, context, leftovers
from commands import run_shipline
from peers import Registry

pytestmark = [pytest.mark.peers, pytest.mark.root]


def cache(shipline: Shipline, *words: str) -> str:
    done = run_shipline(*words, environ=shipline.environ())
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture
def source(tmp_path: Path) -> Path:
    dockerfile = (
        "FROM busybox AS base\n"
        "RUN --mount=type=cache,target=/c date > /c/$(date +%N) && ls /c | wc -l > /count\n"
        "FROM busybox\nCOPY big /\nCOPY --from=base /bin/busybox /copy\nRUN rm /copy\n"
    )
    place = context(tmp_path / "context", dockerfile)
    (place / "big").write_bytes(bytes(range(256)) * 40_000)
    return place


def test_builds_beside_a_prune_succeed(base_images: Registry, source: Path, tmp_path: Path) -> None:
    shipline = Shipline(tmp_path / "home", base_images.address)
    done = threading.Event()
    pruned = 0

    def keep_pruning() -> None:
        nonlocal pruned
        while not done.is_set():
            pruned += "true" in cache(shipline, "prune", "-f")

    pruner = threading.Thread(target=keep_pruning)
    pruner.start()
    try:
        for number in range(6):
            (source / "big").write_bytes(bytes([number]) * 5_000_000)
            shipline.build("-o", "type=cacheonly", source).ok()
    finally:
        done.set()
        pruner.join()
    assert pruned > 1
    cache(shipline, "prune", "-f")
    assert cache(shipline, "du").splitlines()[-1] == "Total:\t\t0B"
    assert leftovers(tmp_path / "home") == []


def test_prune_keeps_the_disk_free_and_the_next_build_works(
    base_images: Registry, source: Path, tmp_path: Path
) -> None:
    shipline = Shipline(tmp_path / "home", base_images.address)
    shipline.build("-o", "type=cacheonly", source).ok()
    assert "exec.cachemount" in cache(shipline, "du", "--format", "{{.Type}}")
    both = run_shipline("du", "--verbose", "--format=json", environ=shipline.environ())
    assert both.returncode == 2
    cache(shipline, "prune", "-f", "--filter", "type=exec.cachemount")
    assert "exec.cachemount" not in cache(shipline, "du", "--format", "{{.Type}}")
    out = source.with_name("out")
    shipline.build("--target", "base", "--no-cache", "-o", out, source).ok()
    assert (out / "count").read_text() == "1\n"
    assert "CACHED" in shipline.build("-o", "type=cacheonly", source).ok().err


def test_the_cache_stays_within_its_limit(
    base_images: Registry, source: Path, tmp_path: Path
) -> None:
    limit = {"SHIPLINE_MAX_USED_SPACE": "12MB"}
    shipline = Shipline(tmp_path / "home", base_images.address, limit)
    for number in range(4):
        (source / "big").write_bytes(bytes([number]) * 3_000_000)
        shipline.build("-o", "type=cacheonly", source).ok()
        taken = subprocess.run(
            ["du", "-sk", *(tmp_path / "home" / name for name in ("content", "layers", "mounts"))],
            capture_output=True,
            text=True,
        )
        assert sum(int(line.split()[0]) for line in taken.stdout.splitlines()) < 12_500
    assert "CACHED" in shipline.build("-o", "type=cacheonly", source).ok().err
