"""shipline in the place of docker's buildx: `docker build` runs it, with two versions of docker."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest

from builds import context
from peers.docker import newest

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


@pytest.mark.root
@pytest.mark.parametrize("words", [["shipline", "build"], ["buildx", "build"], ["build"]])
def test_docker_builds_with_it(
    environment: Mapping[str, str], tmp_path: Path, words: list[str]
) -> None:
    place = context(tmp_path / "context", "FROM scratch\nCOPY Dockerfile /\n")
    out = tmp_path / "out"
    docker = ["docker", "--config", str(tmp_path / "config")]
    done = subprocess.run(
        [*docker, *words, "-o", str(out), str(place)],
        env=environment,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert (out / "Dockerfile").exists()


def test_docker_lists_it(environment: Mapping[str, str], tmp_path: Path) -> None:
    docker = ["docker", "--config", str(tmp_path / "config")]
    done = subprocess.run([*docker, "--help"], env=environment, capture_output=True, text=True)
    assert "  shipline*" in done.stdout
