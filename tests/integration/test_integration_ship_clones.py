"""Clones as CI makes them: what the clone does not have is fetched, not guessed."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from builds import document
from nodes import Node, node
from shipline.values import replace
from ships import Project, new_project


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Node]:
    with node(tmp_path_factory.mktemp("clones") / "data") as running:
        yield running


def _shallow(project: Project, branch: str, place: Path) -> Project:
    """A clone of the newest commit alone, as CI systems make it."""
    words = ("git", "clone", "--quiet", "--depth=1", "--branch", branch)
    subprocess.run((*words, project.remote.as_uri(), str(place)), check=True)
    return replace(project, root=place)


def _developed(place: Path, registry: Node) -> tuple[Project, str]:
    """A project whose `latest` is the first of three commits of develop; with that commit."""
    name = place.name.replace("_", "-")
    project = new_project(place, registry, f"image: {{image}}-{name}\n")
    project.git("checkout", "--quiet", "-b", "develop")
    first = project.commit("feat: one", app="1\n")
    project.ship().ok()
    project.commit("feat: two", app="2\n")
    project.commit("feat: three", app="3\n")
    return project, first


def _latest(project: Project) -> str:
    line = (project.root / "shipline.yaml").read_text().splitlines()[0]
    repository = line.removeprefix("image: ").partition("/")[2]
    config = document(project.node, repository, "latest")
    return str(config["annotations"]["org.opencontainers.image.revision"])


def test_plan_of_a_clone_without_tags_says_that_it_guesses(tmp_path: Path, registry: Node) -> None:
    project = new_project(
        tmp_path, registry, f"image: {{image}}-{tmp_path.name.replace('_', '-')}\n"
    )
    project.ship().ok()
    project.commit("feat: two", app="2\n")
    place = tmp_path / "tagless"
    project.git("clone", "--quiet", "--no-tags", str(project.remote), str(place))
    clone = replace(project, root=place)
    planned = clone.ship("--plan").ok().out
    assert "note: the version cannot be determined: this clone lacks v0.1.0 of origin" in planned
    assert "v0.2.0" in clone.ship("--plan", "--fetch").ok().out


def test_plan_of_a_clone_without_a_remote_says_that_it_cannot_run(
    tmp_path: Path, registry: Node
) -> None:
    project = new_project(tmp_path, registry, "image: {image}-local\n")
    assert "cannot be reserved" not in project.ship("--plan").ok().out
    project.git("remote", "remove", "origin")
    planned = project.ship("--plan").ok().out
    problem = "cannot run: the version v0.1.0 cannot be reserved: the clone has no remote"
    assert problem in planned.partition("\nsteps\n")[0]
    assert "the clone has no remote" in project.ship().failed(12)


def test_moving_tag_goes_forward_from_a_shallow_clone(tmp_path: Path, registry: Node) -> None:
    project, _ = _developed(tmp_path, registry)
    clone = _shallow(project, "develop", tmp_path / "shallow")
    clone.ship().ok()
    assert _latest(clone) == clone.git("rev-parse", "HEAD")


def test_moving_tag_stays_on_what_is_newer_than_a_shallow_clone(
    tmp_path: Path, registry: Node
) -> None:
    project, first = _developed(tmp_path, registry)
    project.ship().ok()
    newest = project.git("rev-parse", "HEAD")
    project.git("push", "--quiet", "origin", f"{first}~0:refs/heads/old")
    clone = _shallow(project, "old", tmp_path / "shallow")
    clone.ship("--ref", "develop").ok()
    assert _latest(clone) == newest


def test_shallow_clone_that_cannot_be_completed_stops_the_run_first(
    tmp_path: Path, registry: Node
) -> None:
    project, _ = _developed(tmp_path, registry)
    clone = _shallow(project, "develop", tmp_path / "shallow")
    clone.git("remote", "set-url", "origin", str(tmp_path / "gone.git"))
    said = clone.ship().failed(12)
    assert "the clone is shallow" in said
    assert "build the image" not in said
    plan = clone.ship("--plan").ok().out
    assert "the clone is shallow" in plan
