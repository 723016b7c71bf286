"""A real Prometheus scrapes the node and answers the questions of the alerts (row M23)."""

from __future__ import annotations

import json
import shutil
import subprocess
import time
import urllib.parse
import urllib.request
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytest

from peers.prometheus import prometheus
from served import served
from spec_client import Target

ROOT = Path(__file__).resolve().parents[2]
RULES = ROOT / "docs" / "prometheus" / "registry.rules.yml"

pytestmark = pytest.mark.skipif(
    shutil.which("prometheus") is None, reason="needs the Debian package prometheus"
)


def scraping(work: Path, target: str) -> AbstractContextManager[int]:
    job = {"job_name": "shipline-registry", "static_configs": [{"targets": [target]}]}
    return prometheus(work, [job], rules=[RULES])


def ask(port: int, question: str) -> list[dict[str, Any]]:
    """The samples that an expression has now; waits until there are some."""
    query = urllib.parse.urlencode({"query": question})
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/api/v1/query?{query}") as answer:
            found: list[dict[str, Any]] = json.load(answer)["data"]["result"]
        if found:
            return found
        time.sleep(0.2)
    raise AssertionError(f"no answer to {question}")


def test_prometheus_scrapes_the_node(tmp_path: Path) -> None:
    with served(tmp_path) as node, scraping(tmp_path, node.address) as port:
        assert ask(port, "up == 1")
        target = Target(node.url, "team/app")
        before = ask(port, "shipline_registry_received_bytes_total")[0]["value"][1]
        assert target.push(target.image("x"), "v1").status == 201
        for _ in range(20):
            assert target.call("GET", "manifests/v1").status == 200
        pulls = 'shipline_registry_requests_total{route="manifests",method="GET"} >= 20'
        assert ask(port, pulls)[0]["metric"]["status"] == "200"
        assert float(before) == 0
        assert ask(port, "shipline_registry_received_bytes_total > 0")
        assert ask(port, 'shipline_registry_stored{kind="manifests"} == 1')
        assert ask(port, "shipline_registry_ready == 1")
        assert ask(port, "shipline_registry:request_duration_seconds:p99_5m > 0")


def test_rules_of_the_docs_are_good() -> None:
    done = subprocess.run(["promtool", "check", "rules", RULES], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
