"""shipline in the place of docker's buildx: `docker build` runs it, with two versions of docker."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest

from builds import context
from peers.docker import Docker, newest

pytestmark = pytest.mark.peers


@pytest.fixture(params=["the system's", "the newest"])
def environment(request: pytest.FixtureRequest, tmp_path: Path) -> Mapping[str, str]:
    """Variables for a docker that has no engine, and shipline as two plugins."""
    plugins = tmp_path / "config" / "cli-plugins"
    plugins.mkdir(parents=True)
    program = plugins / "docker-shipline"
    program.write_text(
        f"#!{sys.executable}\nfrom shipline.cli import main\nraise SystemExit(main())\n"
    )
    program.chmod(0o755)
    shutil.copy(program, plugins / "docker-buildx")
    found = newest() if request.param == "the newest" else {}
    return {
        **os.environ,
        **found,
        "DOCKER_HOST": f"unix://{tmp_path}/none",
        "SHIPLINE_HOME": str(tmp_path / "home"),
    }


def run(
    environment: Mapping[str, str], config: Path, *words: str
) -> subprocess.CompletedProcess[str]:
    command = ["docker", "--config", str(config), *words]
    return subprocess.run(command, env=environment, capture_output=True, text=True)


@pytest.mark.root
@pytest.mark.parametrize("words", [["shipline", "build"], ["buildx", "build"], ["build"]])
def test_docker_builds_with_it(
    environment: Mapping[str, str], tmp_path: Path, words: list[str]
) -> None:
    place = context(tmp_path / "context", "FROM scratch\nCOPY Dockerfile /\n")
    out = tmp_path / "out"
    done = run(environment, tmp_path / "config", *words, "-o", str(out), str(place))
    assert done.returncode == 0, done.stderr
    assert (out / "Dockerfile").exists()


@pytest.mark.root
def test_without_an_output_the_image_is_in_the_engine(
    environment: Mapping[str, str], docker: Docker, tmp_path: Path
) -> None:
    config = tmp_path / "config"
    place = context(tmp_path / "context", "FROM scratch\nCOPY Dockerfile /\n")
    bake = place / "docker-bake.hcl"
    bake.write_text(f'target "default" {{\n  context = "{place}"\n  tags = ["baked:1"]\n}}\n')
    there = {**environment, "DOCKER_HOST": docker.host}
    commands = {
        "built:1": ["build", "-t", "built:1", str(place)],
        "built:2": ["buildx", "build", "-t", "built:2", str(place)],
        "baked:1": ["buildx", "bake", "--allow", "fs.read=*", "-f", str(bake)],
        "built:5": ["build", "-o", "type=docker", "-o", "type=image,name=built:5", str(place)],
        "": ["shipline", "build", "-t", "built:3", str(place)],
    }
    for name, words in commands.items():
        done = run(there, config, *words)
        assert done.returncode == 0, done.stderr
        assert ("No output specified" in done.stderr) is (not name)
    unset = {**there, "BUILDX_NO_DEFAULT_LOAD": "1"}
    assert run(unset, config, "build", "-t", "built:4", str(place)).returncode == 0
    listed = docker.run("images", "--format", "{{.Repository}}:{{.Tag}}").stdout.split()
    assert {one for one in listed if one.startswith(("built:", "baked:"))} == {*commands} - {""}
    docker.run("rmi", *filter(None, commands))


@pytest.mark.root
def test_logs_and_references_are_those_of_buildx(
    environment: Mapping[str, str], tmp_path: Path
) -> None:
    config, place = tmp_path / "config", context(tmp_path / "context", "FROM scratch\nCOPY . /\n")
    bake, facts = place / "docker-bake.hcl", tmp_path / "facts.json"
    bake.write_text(f'target "default" {{\n context = "{place}"\n}}\n')
    words = ["--progress=plain", "--metadata-file", str(facts)]
    for command, steps in (
        (["build", *words, str(place)], ["#1 [internal] load build definition"]),
        (
            ["bake", *words, "--allow", "fs.read=*", "-f", str(bake)],
            ["#1 [internal] load local bake definitions", f"#1 reading {bake} "],
        ),
    ):
        nothing = {name: value for name, value in environment.items() if name != "DOCKER_HOST"}
        done = run(nothing, config, "buildx", *command)
        assert done.returncode == 0, done.stderr
        lines = done.stderr.splitlines()
        assert lines[0] == '#0 building with "native" instance using native driver'
        for step in steps:
            assert any(line.startswith(step) for line in lines), done.stderr
        found = json.loads(facts.read_text())
        reference = found.get("default", found)["buildx.build.ref"]
        noted = json.loads((config / "buildx" / "refs" / reference).read_text())
        assert noted["LocalPath"] == str(place)
        if group := noted.get("GroupRef"):
            kept = config / "buildx" / "refs" / "__group__" / group
            assert json.loads(kept.read_text())["Refs"] == [reference.rpartition("/")[2]]
        assert bool(group) is (command[0] == "bake")


@pytest.mark.root
def test_without_an_engine_an_image_is_in_the_cache(
    environment: Mapping[str, str], tmp_path: Path
) -> None:
    place = context(tmp_path / "context", "FROM scratch\nCOPY Dockerfile /\n")
    nothing = {name: value for name, value in environment.items() if name != "DOCKER_HOST"}
    done = run(nothing, tmp_path / "config", "build", "-t", "built:1", str(place))
    assert done.returncode == 0, done.stderr
    assert "No output specified" in done.stderr


def test_docker_lists_it(environment: Mapping[str, str], tmp_path: Path) -> None:
    done = run(environment, tmp_path / "config", "--help")
    assert "  shipline*" in done.stdout
