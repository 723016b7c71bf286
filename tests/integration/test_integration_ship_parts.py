"""Chains of which the file declares only parts."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from nodes import Node, node
from ships import Project, coverage, new_project

PASSWORD = {"SHIPLINE_KEY_PASSWORD": "secret"}


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Node]:
    with node(tmp_path_factory.mktemp("parts") / "data") as running:
        yield running


def _signed(place: Path, registry: Node, more: str = "") -> Project:
    """A project with a key; `more` is the rest of its file."""
    image = f"image: {{image}}-{place.name.replace('_', '-')}\n"
    text = f"{image}sign: {{key: release.key}}\n{more}"
    project = new_project(place, registry, text)
    project.run("key", "generate", "-o", "release", **PASSWORD).ok()
    project.commit("build: key")
    return project


def test_image_without_gates_is_signed_with_its_provenance(tmp_path: Path, registry: Node) -> None:
    project = _signed(tmp_path, registry)
    name = project.ship(**PASSWORD).ok().out.partition("@")[0]
    key = ("--key", "release.pub")
    project.run("verify", *key, name).ok()
    project.run("verify-attestation", *key, "--type", "slsaprovenance1", name).ok()
    project.run("verify-attestation", *key, "--type", "test-result", name).failed(9)


def test_packages_of_the_image_are_judged_and_signed(tmp_path: Path, registry: Node) -> None:
    more = "build: {provenance: max, sbom: true}\ngates: {sbom: {deny-licenses: ['GPL-*']}}\n"
    project = _signed(tmp_path, registry, more)
    project.commit("build: packages", app='{"name": "a", "version": "1.0", "license": "MIT"}')
    place = "COPY app /node_modules/a/package.json"
    project.commit("build: place", Dockerfile=f"FROM scratch\n{place}\n")
    name = project.ship(**PASSWORD).ok().out.strip()
    format = ("--format", "{{(index .SBOM.SPDX.packages 1).name}} {{.Provenance.SLSA.runDetails}}")
    assert project.run("imagetools", "inspect", *format, name).ok().out.startswith("a ")
    (digest,) = project.record()["steps"][0]["results"]["platforms"].values()
    place = f"{name.partition('@')[0].rpartition(':')[0]}@{digest}"
    project.run("verify-attestation", "--key", "release.pub", "--type", "spdx", place).ok()
    project.commit("fix: licence", app='{"name": "a", "version": "1.1", "license": "GPL-3.0"}')
    assert "denied licence" in project.ship(**PASSWORD).failed(9)


def test_every_step_that_did_something_has_a_log(tmp_path: Path, registry: Node) -> None:
    gate = "gates: {coverage: {min: 80, reports: [coverage.xml]}}\n"
    project = _signed(tmp_path, registry, gate)
    project.commit("test: cover", coverage__xml=coverage(5))
    project.ship(**PASSWORD).failed(9)
    assert "5 of 10 lines" in project.run("runs", "logs", "latest", "gates").ok().out
    build = project.run("runs", "logs", "latest", "build").ok().out
    assert "COPY app" in build
    project.ship("--resume", **PASSWORD).failed(9)
    assert project.run("runs", "logs", "latest", "build").ok().out == build


def test_password_of_the_key_may_be_in_a_file(tmp_path: Path, registry: Node) -> None:
    project = _signed(tmp_path, registry)
    (tmp_path / "password").write_text("secret\n")
    name = project.ship("--password-file", str(tmp_path / "password")).ok().out.partition("@")[0]
    project.run("verify", "--key", "release.pub", name).ok()


def test_missing_scanner_is_reported_before_any_work(tmp_path: Path, registry: Node) -> None:
    text = "image: {image}-scanned\nsteps: {scan: {scanner: grype}}\n"
    project = new_project(tmp_path, registry, text)
    tools = tmp_path / "tools"
    tools.mkdir()
    (tools / "git").symlink_to(shutil.which("git") or "git")
    said = project.ship(PATH=str(tools)).failed(5)
    assert "grype is not installed" in said and "build the image" not in said


def test_reserved_version_is_known_to_the_clone(tmp_path: Path, registry: Node) -> None:
    project = new_project(tmp_path, registry, "image: {image}-known\n")
    project.ship().ok()
    assert project.git("tag", "--list") == "v0.1.0"
    project.commit("fix: more", app="2\n")
    assert "v0.1.1" in project.ship("--plan").ok().out


def test_missing_dockerfile_is_reported_before_any_work(tmp_path: Path, registry: Node) -> None:
    text = "image: {image}-bare\nsteps: {gen: mkdir -p out && mv moved out/Dockerfile}\n"
    project = new_project(tmp_path, registry, text, __gitignore="out\n")
    project.git("mv", "Dockerfile", "moved")
    project.commit("fix: none")
    assert "there is no Dockerfile" in project.ship("--plan").ok().out
    assert "shipline init --dockerfile" in project.ship().failed(3)
    project.ship("--only", "gen", "--plan").ok()
    build = "build: {file: out/Dockerfile, needs: [gen]}\n"
    text = (project.root / "shipline.yaml").read_text().replace("mv moved", "cp moved")
    project.commit("fix: made by a step", shipline__yaml=text + build)
    project.ship().ok()


@pytest.mark.parametrize(("build", "named"), [("secrets: [nonsense]", "nonsense")])
def test_what_a_build_refuses_is_refused_before_any_work(
    tmp_path: Path, registry: Node, build: str, named: str
) -> None:
    text = f"image: {{image}}-refused\nsteps: {{lint: 'true'}}\nbuild: {{{build}}}\n"
    project = new_project(tmp_path, registry, text)
    assert named in project.ship("--plan").ok().out
    said = project.ship().failed(3)
    assert "shipline.yaml: build:" in said and named in said and "lint" not in said
