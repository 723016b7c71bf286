"""Real clients pull through a node: containerd by `ns`, Docker and skopeo by the name's host."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from nodes import Node
from peers import Containerd, Docker, Registry
from proxy import FaultProxy
from spec_client import Target
from upstream_nodes import in_front_of

pytestmark = pytest.mark.peers
_IMAGE = "docker.io/library/busybox:latest"


@pytest.fixture(scope="module")
def edge(
    tmp_path_factory: pytest.TempPathFactory, base_images: Registry
) -> Iterator[tuple[Node, FaultProxy]]:
    """In front of the registry with the base images, as if it were Docker Hub."""
    root = tmp_path_factory.mktemp("edge")
    with in_front_of(root, base_images.port, match="docker.io/*", fresh="1h") as running:
        yield running


def layers_of(edge: Node) -> set[str]:
    """The blobs of the image, as the node has them."""
    target = Target(edge.url, "docker.io/library/busybox")
    manifest = target.call("GET", "manifests/latest").json
    if "manifests" in manifest:
        (entry,) = [
            one for one in manifest["manifests"] if one["platform"]["architecture"] == "amd64"
        ]
        manifest = target.call("GET", f"manifests/{entry['digest']}").json
    return {manifest["config"]["digest"], *(layer["digest"] for layer in manifest["layers"])}


@pytest.mark.skipif(shutil.which("skopeo") is None, reason="skopeo is not installed")
def test_skopeo_copies_from_it(edge: tuple[Node, FaultProxy], tmp_path: Path) -> None:
    node, _ = edge
    words = ["copy", "--src-tls-verify=false", f"docker://{node.address}/{_IMAGE}"]
    done = subprocess.run(["skopeo", *words, f"dir:{tmp_path / 'image'}"], capture_output=True)
    assert done.returncode == 0, done.stderr
    manifest = json.loads((tmp_path / "image" / "manifest.json").read_bytes())
    assert manifest["config"]["digest"] in layers_of(node)


@pytest.mark.root
def test_containerd_pulls_by_the_name_of_the_registry(
    edge: tuple[Node, FaultProxy], image_store: Containerd, tmp_path: Path
) -> None:
    node, _ = edge
    hosts = tmp_path / "hosts" / "docker.io"
    hosts.mkdir(parents=True)
    (hosts / "hosts.toml").write_text(
        'server = "https://docker.invalid"\n'
        f'[host."{node.url}"]\n  capabilities = ["pull", "resolve"]\n'
    )
    done = image_store.ctr("images", "pull", "--hosts-dir", hosts.parent, _IMAGE)
    assert done.returncode == 0, done.stdout
    assert _IMAGE in image_store.images()


@pytest.mark.root
def test_docker_pulls_from_it(edge: tuple[Node, FaultProxy], docker: Docker) -> None:
    node, _ = edge
    done = docker.run("pull", f"{node.address}/{_IMAGE}")
    assert done.returncode == 0, done.stdout


def test_what_the_clients_pulled_was_fetched_once(edge: tuple[Node, FaultProxy]) -> None:
    node, proxy = edge
    target = Target(node.url, "docker.io/library/busybox")
    for digest in layers_of(node):
        assert target.call("GET", f"blobs/{digest}").status == 200
        assert len(proxy.seen("GET", digest)) == 1


def test_the_content_of_another_registry_is_not_served_instead(
    edge: tuple[Node, FaultProxy],
) -> None:
    node, _ = edge
    target = Target(node.url, "library/busybox")
    found = target.call("GET", "manifests/latest?ns=docker.io")
    assert found.status == 200 and found["OCI-Namespace"] == "docker.io"
    assert target.call("GET", "manifests/latest?ns=quay.io").status == 404
