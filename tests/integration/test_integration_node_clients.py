"""Real clients do all they can at our node, open and with accounts over TLS."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from layouts import write_layout
from places import Place, place

pytestmark = pytest.mark.peers


@pytest.fixture(scope="module", params=["open", "closed"])
def node(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Place]:
    with place(request.param, tmp_path_factory.mktemp(request.param)) as running:
        yield running


@pytest.fixture(scope="module")
def layout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_layout(tmp_path_factory.mktemp("image") / "layout")


def need(program: str) -> None:
    if not shutil.which(program):
        pytest.skip(f"needs {program}")


def skopeo(node: Place, verb: str, *words: str | Path) -> str:
    """With the option for HTTP where the node is named: as source, destination, or alone."""
    need("skopeo")
    plain = node.plain("skopeo")
    if verb in ("copy", "sync") and plain:
        plain = ("--src-tls-verify=false", "--dest-tls-verify=false")
    return node.run("skopeo", verb, *plain, *words)


def pushed(node: Place, layout: Path, name: str) -> str:
    """An image under team/NAME:v1; what it is called."""
    image = f"{node.address}/team/{name}"
    skopeo(node, "copy", f"oci:{layout}:latest", f"docker://{image}:v1")
    return image


def test_skopeo_copies_converts_syncs_and_deletes(
    node: Place, layout: Path, tmp_path: Path
) -> None:
    image = pushed(node, layout, "skopeo")
    place = f"docker://{image}"
    raw = json.loads(skopeo(node, "inspect", "--raw", f"{place}:v1"))
    assert raw["mediaType"].startswith("application/vnd.oci")
    skopeo(node, "copy", "--format", "v2s2", f"{place}:v1", f"{place}:docker")
    found = json.loads(skopeo(node, "inspect", "--raw", f"{place}:docker"))
    assert found["mediaType"].startswith("application/vnd.docker")
    skopeo(node, "copy", f"{place}:v1", f"docker://{node.address}/team/mounted:v1")
    assert json.loads(skopeo(node, "list-tags", place))["Tags"] == ["docker", "v1"]
    skopeo(node, "sync", "--src", "docker", "--dest", "dir", image, tmp_path)
    assert {found.name for found in tmp_path.iterdir()} == {
        f"skopeo:{tag}" for tag in ("docker", "v1")
    }
    skopeo(node, "delete", f"{place}:docker")
    assert json.loads(skopeo(node, "list-tags", place))["Tags"] == ["v1"]


def test_oras_pushes_attaches_discovers_copies_and_deletes(node: Place, tmp_path: Path) -> None:
    need("oras")
    image, plain = f"{node.address}/team/oras", node.plain("oras")
    for name, content in (("a.txt", "first"), ("b.txt", "second"), ("note", "a note")):
        (tmp_path / name).write_text(content)

    def oras(*words: str) -> str:
        return node.run("oras", *words, *plain, cwd=tmp_path)

    kind = ("--artifact-type", "text/files")
    oras("push", *kind, f"{image}:v1,v2", "a.txt:text/plain", "b.txt:text/plain")
    oras("attach", "--artifact-type", "text/note", f"{image}:v1", "note:text/plain")
    tree = json.loads(oras("discover", f"{image}:v1", "--format", "json"))
    (note,) = tree["manifests"]
    assert note["artifactType"] == "text/note"
    oras("attach", "--artifact-type", "text/about", f"{image}@{note['digest']}", "a.txt")
    filtered = oras("discover", f"{image}:v1", "--artifact-type", "text/none", "--format", "json")
    assert not json.loads(filtered)["manifests"]
    out = tmp_path / "out"
    oras("pull", f"{image}:v2", "-o", str(out))
    assert (out / "b.txt").read_text() == "second"
    assert oras("repo", "tags", image).split() == ["v1", "v2"]
    copied = f"{node.address}/team/oras-copy"
    both = ("--from-plain-http", "--to-plain-http") if plain else ()
    node.run("oras", "cp", "-r", *both, f"{image}:v1", f"{copied}:v1")
    again = json.loads(oras("discover", f"{copied}:v1", "--format", "json"))
    assert again["manifests"][0]["digest"] == note["digest"]
    oras("tag", f"{image}:v1", "v3", "v4")
    digest = oras("resolve", f"{image}:v4").strip()
    oras("manifest", "delete", "--force", f"{image}@{digest}")
    assert oras("repo", "tags", image).split() == []


def test_oras_handles_blobs_and_manifests(node: Place, tmp_path: Path) -> None:
    need("oras")
    image, plain = f"{node.address}/team/oras-blobs", node.plain("oras")
    (tmp_path / "blob").write_bytes(b"x" * 100_000)
    (tmp_path / "empty").write_text("{}")

    def oras(*words: str) -> str:
        return node.run("oras", *words, *plain, cwd=tmp_path)

    found = json.loads(oras("blob", "push", "--descriptor", image, "blob"))
    name = f"{image}@{found['digest']}"
    oras("blob", "fetch", name, "--output", "back")
    assert (tmp_path / "back").read_bytes() == b"x" * 100_000
    config = json.loads(oras("blob", "push", "--descriptor", image, "empty"))
    document: dict[str, Any] = {
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "artifactType": "text/one",
        "config": {**config, "mediaType": "application/vnd.oci.empty.v1+json"},
        "layers": [found],
    }
    (tmp_path / "manifest.json").write_text(json.dumps(document))
    oras("manifest", "push", f"{image}:one,two", "manifest.json")
    assert json.loads(oras("manifest", "fetch", f"{image}:two")) == document
    kept = node.attempt("oras", "blob", "delete", "--force", *plain, name)
    assert kept.returncode and "is referenced by" in kept.stderr
    digest = oras("resolve", f"{image}:one").strip()
    oras("manifest", "delete", "--force", f"{image}@{digest}")
    oras("blob", "delete", "--force", name)
    assert node.attempt("oras", "blob", "fetch", *plain, name, "--output", "-").returncode


def podman(node: Place, program: str, store: Path, *words: str | Path) -> str:
    need(program)
    where = ("--root", store / "root", "--runroot", store / "run", "--storage-driver", "vfs")
    return node.run(program, *where, *words)


@pytest.mark.root
def test_podman_pushes_lists_of_platforms(node: Place, layout: Path, tmp_path: Path) -> None:
    image, plain = pushed(node, layout, "podman"), node.plain("podman")
    podman(node, "podman", tmp_path, "pull", *plain, f"{image}:v1")
    podman(node, "podman", tmp_path, "manifest", "create", "list")
    add = ("manifest", "add", *plain, "list", f"docker://{image}:v1")
    podman(node, "podman", tmp_path, *add)
    push = ("manifest", "push", "--all", *plain, "list", f"docker://{image}:list")
    podman(node, "podman", tmp_path, *push)
    assert len(json.loads(skopeo(node, "inspect", "--raw", f"docker://{image}:list"))["manifests"])
    podman(node, "podman", tmp_path, "push", *plain, f"{image}:v1", f"{image}:again")
    chunked = ("push", *plain, "--compression-format", "zstd:chunked", f"{image}:v1")
    podman(node, "podman", tmp_path, *chunked, f"{image}:chunked")
    raw = skopeo(node, "inspect", "--raw", f"docker://{image}:chunked")
    assert "tar+zstd" in raw and "zstd-chunked" in raw
    podman(node, "podman", tmp_path, "rmi", "--all", "--force")
    podman(node, "podman", tmp_path, "pull", *plain, f"{image}:chunked")


@pytest.mark.root
def test_buildah_commits_and_pushes(node: Place, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("content")
    image, plain = f"{node.address}/team/buildah", node.plain("buildah")
    container = podman(node, "buildah", tmp_path, "from", "scratch").strip()
    podman(node, "buildah", tmp_path, "copy", container, tmp_path / "file", "/file")
    podman(node, "buildah", tmp_path, "commit", container, "made")
    podman(node, "buildah", tmp_path, "push", *plain, "made", f"docker://{image}:oci")
    docker = ("push", *plain, "--format", "v2s2", "made", f"docker://{image}:docker")
    podman(node, "buildah", tmp_path, *docker)
    podman(node, "buildah", tmp_path, "rmi", "--all", "--force")
    for tag in ("oci", "docker"):
        podman(node, "buildah", tmp_path, "pull", *plain, f"{image}:{tag}")


def test_cosign_signs_attests_attaches_copies_and_cleans(
    node: Place, layout: Path, tmp_path: Path
) -> None:
    need("cosign")
    image, plain = pushed(node, layout, "cosign"), node.plain("cosign")
    digest = json.loads(skopeo(node, "inspect", f"docker://{image}:v1"))["Digest"]
    name = f"{image}@{digest}"
    (tmp_path / "predicate").write_text('{"passed": true}')
    (tmp_path / "sbom").write_text('{"spdxVersion": "SPDX-2.3"}')

    def cosign(*words: str) -> str:
        return node.run("cosign", *words, cwd=tmp_path)

    cosign("generate-key-pair")
    local, offline = (
        ("--key", "cosign.key", "--tlog-upload=false", "--yes"),
        "--insecure-ignore-tlog",
    )
    public = ("--key", "cosign.pub", offline)
    cosign("sign", *plain, *local, name)
    assert "critical" in cosign("verify", *plain, *public, name)
    about = ("--predicate", "predicate", "--type", "custom")
    cosign("attest", *plain, *local, *about, name)
    assert "payload" in cosign("verify-attestation", *plain, *public, "--type", "custom", name)
    cosign("attach", "sbom", *plain, "--sbom", "sbom", name)
    tree = cosign("tree", *plain, name)
    assert "Signatures" in tree and "Attestations" in tree
    copied = f"{node.address}/team/cosign-copy:v1"
    cosign("copy", *plain, name, copied)
    assert "critical" in cosign("verify", *plain, *public, copied)
    cosign("clean", *plain, "--force", "--type", "all", name)
    assert node.attempt("cosign", "verify", *plain, *public, name, cwd=tmp_path).returncode


def test_our_own_client_builds_pushes_and_copies(node: Place, tmp_path: Path) -> None:
    (tmp_path / "Dockerfile").write_text("FROM scratch\nCOPY file /file\n")
    (tmp_path / "file").write_text("content")
    image = f"{node.address}/team/ours"
    build = ("shipline", "build", "--push", "--platform", "linux/amd64,linux/arm64")
    node.run(*build, "-t", f"{image}:v1", "-t", f"{image}:v2", tmp_path)
    assert "linux/arm64" in node.run("shipline", "imagetools", "inspect", f"{image}:v2")
    create = ("shipline", "imagetools", "create", "-t", f"{node.address}/team/ours-copy:v1")
    node.run(*create, f"{image}:v1")
