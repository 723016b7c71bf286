"""`shipline registry gc` and `retention` on a running node, as the administrator alone."""

from __future__ import annotations

import base64
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from guarded import ADMIN, Guarded, guarded

RULES = """
version: 1
registry:
  policy: {retention: [{tags: ["old-*"], latest: 0}]}
  webhooks: [{name: dead, url: "http://127.0.0.1:9/", allow: [127.0.0.0/8], events: [quota]}]
"""


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Guarded]:
    root = tmp_path_factory.mktemp("node")
    (root / "shipline.yaml").write_text(RULES)
    with guarded(root / "data", "--accounts", "--config", str(root / "shipline.yaml")) as running:
        yield running


def registry(
    node: Guarded, place: Path, login: str, *words: str
) -> subprocess.CompletedProcess[str]:
    """A command beside the node, logged in with `name:secret`."""
    auth = {"auth": base64.b64encode(login.encode()).decode()}
    (place / "config.json").write_text(json.dumps({"auths": {node.address: auth}}))
    return subprocess.run(
        [sys.executable, "-m", "shipline", "registry", *words],
        env={**os.environ, "DOCKER_CONFIG": str(place), "REGISTRY_AUTH_FILE": ""},
        cwd=place,
        capture_output=True,
        text=True,
        timeout=60,
    )


def test_a_node_collects_for_its_administrator(node: Guarded, tmp_path: Path) -> None:
    assert node.blob("team/app", b"not needed", node.admin).status == 201
    admin, on = f"{ADMIN}:{node.password}", ("--node", f"http://{node.address}/")
    would = registry(node, tmp_path, admin, "gc", *on, "--grace", "0", "--dry-run")
    assert would.stdout.startswith("would free 10 B in 1 files"), would.stderr
    young = registry(node, tmp_path, admin, "gc", *on)
    assert young.stdout.startswith("freed 0 B in 0 files"), young.stderr
    done = registry(node, tmp_path, admin, "gc", *on, "--grace", "0", "--json")
    assert json.loads(done.stdout)["bytes"] == 10


def test_a_node_retains_by_its_own_rules(node: Guarded, tmp_path: Path) -> None:
    for tag in ("old-1", "new-1"):
        assert node.push("team/tags", tag, node.admin).status == 201
    admin, on = f"{ADMIN}:{node.password}", ("--node", node.address)
    would = registry(node, tmp_path, admin, "retention", *on, "--dry-run")
    assert "would remove  team/tags:old-1  not one of the last 0" in would.stdout, would.stderr
    done = registry(node, tmp_path, admin, "retention", *on)
    assert "removed 1 of 1 tags" in done.stderr
    listed = node.call("GET", "/v2/team/tags/tags/list", None, node.admin)
    assert listed.json["tags"] == ["new-1"]


def test_webhooks_are_listed_tried_and_sent_again(node: Guarded, tmp_path: Path) -> None:
    admin, on = f"{ADMIN}:{node.password}", ("--node", node.address)
    listed = registry(node, tmp_path, admin, "webhook", "ls", *on)
    assert listed.stdout.splitlines()[1].split()[:3] == ["dead", "0", "0"], listed.stderr
    tried = registry(node, tmp_path, admin, "webhook", "test", "dead", *on)
    assert tried.returncode == 6 and "127.0.0.1:9" in tried.stderr
    assert "Traceback" not in tried.stderr
    again = registry(node, tmp_path, admin, "webhook", "redeliver", "dead", *on)
    assert "0 events" in again.stderr
    unknown = registry(node, tmp_path, admin, "webhook", "test", "none", *on)
    assert unknown.returncode == 6 and "there is: dead" in unknown.stderr


def test_nobody_else_is_obeyed(node: Guarded, tmp_path: Path) -> None:
    node.user("bob")
    bob = registry(node, tmp_path, "bob:pass of bob 1", "gc", "--node", node.address)
    assert bob.returncode == 7 and "403" in bob.stderr and "Traceback" not in bob.stderr
    wrong = registry(node, tmp_path, f"{ADMIN}:wrong", "gc", "--node", node.address)
    assert wrong.returncode == 7 and "Traceback" not in wrong.stderr


def test_one_place_is_named(node: Guarded, tmp_path: Path) -> None:
    for words in (("gc",), ("gc", "--data", ".", "--node", "x"), ("gc", "--node", "a b")):
        done = registry(node, tmp_path, "a:b", *words)
        assert done.returncode == 2 and "Traceback" not in done.stderr, words
    both = registry(node, tmp_path, "a:b", "retention", "--node", "x", "--data", ".")
    assert both.returncode == 2 and "own rules" in both.stderr
