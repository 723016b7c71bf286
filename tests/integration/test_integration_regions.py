"""`make bench-regions`, small: it measures what it says, and leaves nothing behind."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from sources import SOURCE

pytestmark = [pytest.mark.peers, pytest.mark.root]

CLIENTS = 20
SMALL = ("--size", "4MB", "--eight", "1MB", "--crowd", "200kB", "--clients", str(CLIENTS))


def test_clients_of_an_edge_wait_for_one_fetch(tmp_path: Path) -> None:
    """Over a line of 40 Mbit/s, that all parties of the benchmark have."""
    results = tmp_path / "results.json"
    command = [sys.executable, "-m", "bench.regions", *SMALL, "--round-trip", "0.05"]
    command += ["--only", "shipline edge", "--work", str(tmp_path), "--results", str(results)]
    done = subprocess.run(
        command, cwd=SOURCE.parents[1], capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stdout + done.stderr
    found = json.loads(results.read_text())["results"]
    direct, edge = found["direct"], found["shipline edge"]
    assert direct["cold"]["last_s"] > 4 * 8 / 40, "the line has its rate"
    assert edge["warm"]["origin_bytes"] < 100_000 < direct["warm"]["origin_bytes"]
    assert edge["warm"]["last_s"] < direct["warm"]["last_s"]
    for what, clients in (("eight", 8), ("crowd", CLIENTS)):
        assert direct[what]["fetches"] == clients and edge[what]["fetches"] == 1, what
        assert edge[what]["origin_bytes"] * 4 < direct[what]["origin_bytes"]
    assert "| shipline edge |" in done.stdout
    assert not list(tmp_path.glob("tmp*"))
    left = subprocess.run(["pgrep", "--full", str(tmp_path)], capture_output=True, text=True)
    assert not left.stdout, "no process is left"
