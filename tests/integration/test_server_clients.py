"""Clients that people have: skopeo to the node, from it, and from another registry to it."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from nodes import Node, node
from peers import Registry
from spec_client import INDEX, MANIFEST, Target, sha256, to_json

pytestmark = [
    pytest.mark.peers,
    pytest.mark.skipif(shutil.which("skopeo") is None, reason="skopeo is not installed"),
]


@pytest.fixture
def running(tmp_path: Path) -> Iterator[Node]:
    with node(tmp_path / "data") as started:
        yield started


def skopeo(*words: str) -> str:
    done = subprocess.run(["skopeo", *words], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return done.stdout


def two_platforms(target: Target) -> bytes:
    """An index of two images, tagged v1; its bytes."""
    entries = []
    for architecture in ("amd64", "arm64"):
        image = target.image(architecture)
        raw = to_json(image)
        assert target.push(image).status == 201
        platform = {"os": "linux", "architecture": architecture}
        entry = {"mediaType": MANIFEST, "digest": sha256(raw), "size": len(raw)}
        entries.append({**entry, "platform": platform})
    index = {"schemaVersion": 2, "mediaType": INDEX, "manifests": entries}
    assert target.push(index, "v1").status == 201
    return to_json(index)


def manifest_of(address: str) -> bytes:
    command = ["skopeo", "inspect", "--raw", "--tls-verify=false", f"docker://{address}"]
    return subprocess.run(command, capture_output=True, check=True, timeout=60).stdout


def test_image_goes_to_a_directory_and_back_unchanged(running: Node, tmp_path: Path) -> None:
    raw = two_platforms(Target(running.url, "first/image"))
    layout = f"oci:{tmp_path / 'layout'}:v1"
    source = f"docker://{running.address}/first/image:v1"
    skopeo("copy", "--all", "--preserve-digests", "--src-tls-verify=false", source, layout)
    back = f"docker://{running.address}/second/image:v2"
    skopeo("copy", "--all", "--preserve-digests", "--dest-tls-verify=false", layout, back)
    assert manifest_of(f"{running.address}/second/image:v2") == raw
    tags = json.loads(skopeo("list-tags", "--tls-verify=false", back.rpartition(":")[0]))
    assert tags["Tags"] == ["v2"]


def test_image_comes_from_another_registry(running: Node, registry: Registry) -> None:
    raw = two_platforms(Target(registry.url, "server/clients"))
    source = f"docker://{registry.address}/server/clients:v1"
    target = f"docker://{running.address}/copied/here:v1"
    insecure = ("--src-tls-verify=false", "--dest-tls-verify=false")
    skopeo("copy", "--all", "--preserve-digests", *insecure, source, target)
    assert manifest_of(f"{running.address}/copied/here:v1") == raw
    skopeo("copy", "--all", "--preserve-digests", *insecure, target, source.replace(":v1", ":v2"))
    assert manifest_of(f"{registry.address}/server/clients:v2") == raw


def test_skopeo_deletes(running: Node) -> None:
    target = Target(running.url, "to/delete")
    target.push(target.image("x"), "v1")
    skopeo("delete", "--tls-verify=false", f"docker://{running.address}/to/delete:v1")
    assert target.call("GET", "manifests/v1").status == 404
