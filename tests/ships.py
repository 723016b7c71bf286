"""A project of its own that is shipped: a git repository with a remote, a registry, a home."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from builds import Done
from commands import main_hashing_cheaply, run_shipline
from nodes import Node
from shipline.cli import main

TIMEOUT_S = 300
PLATFORMS = "[linux/amd64, linux/arm64]"
_AUTHOR = {
    "GIT_CONFIG_GLOBAL": "/dev/null",
    "GIT_CONFIG_SYSTEM": "/dev/null",
    "GIT_AUTHOR_NAME": "n",
    "GIT_AUTHOR_EMAIL": "n@example.org",
    "GIT_COMMITTER_NAME": "n",
    "GIT_COMMITTER_EMAIL": "n@example.org",
}
_CI = ("GITHUB_", "GITLAB_", "CI", "SHIPLINE_", "DOCKER_", "COSIGN_")


@dataclass(frozen=True)
class Project:
    """A clone at `root` of a bare repository at `remote`."""

    root: Path
    remote: Path
    home: Path
    node: Node
    environment: Mapping[str, str] = field(default_factory=dict)

    @property
    def image(self) -> str:
        return f"{self.node.address}/team/app"

    def environ(self) -> dict[str, str]:
        kept = {name: value for name, value in os.environ.items() if not name.startswith(_CI)}
        own = {"SHIPLINE_HOME": str(self.home), "DOCKER_CONFIG": str(self.home / "docker")}
        return {**kept, **_AUTHOR, **own, **self.environment}

    def git(self, *words: str) -> str:
        done = subprocess.run(
            ("git", *words), cwd=self.root, env=self.environ(), capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    def write(self, name: str, text: str) -> None:
        (self.root / name).parent.mkdir(parents=True, exist_ok=True)
        (self.root / name).write_text(text)

    def commit(self, message: str, **files: str) -> str:
        """Commit everything and push; `__` in a keyword stands for a dot."""
        for name, text in files.items():
            self.write(name.replace("__", "."), text)
        self.git("add", "--all")
        self.git("commit", "--quiet", "--allow-empty", "--message", message)
        self.git("push", "--quiet", "origin", "HEAD")
        return self.git("rev-parse", "HEAD")

    def start(self, *words: str, **environment: str) -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            [sys.executable, "-m", "shipline", *words],
            cwd=self.root,
            env=self.environ() | environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )

    def run(self, *words: str, **environment: str) -> Done:
        """Run a command in the clone; cosign cannot open the keys of `key generate`."""
        program = main_hashing_cheaply if words[0] == "key" else main
        environ = self.environ() | environment
        done = run_shipline(
            *words, cwd=self.root, environ=environ, timeout_s=TIMEOUT_S, program=program
        )
        return Done(done.returncode, done.stdout, done.stderr)

    def ship(self, *words: str, **environment: str) -> Done:
        return self.run("ship", "--progress", "plain", *words, **environment)

    def record(self, run: str = "latest") -> dict[str, Any]:
        """A run as its record has it."""
        found: dict[str, Any] = json.loads(self.run("runs", "show", "--json", run).ok().out)
        return found

    def states(self, run: str = "latest") -> dict[str, str]:
        return {step["name"]: step["state"] for step in self.record(run)["steps"]}


def new_project(place: Path, node: Node, configuration: str, **files: str) -> Project:
    """A repository with one commit on main; `{image}` in the configuration is the image's name."""
    root, remote = place / "clone", place / "remote.git"
    root.mkdir(parents=True)
    project = Project(root, remote, place / "home", node)
    subprocess.run(("git", "init", "--quiet", "--bare", "-b", "main", str(remote)), check=True)
    project.git("init", "--quiet", "-b", "main")
    project.git("remote", "add", "origin", str(remote))
    text = configuration.replace("{image}", project.image).replace("{platforms}", PLATFORMS)
    dockerfile = "FROM scratch\nCOPY app /app\n"
    project.commit(
        "feat: begin", **{"Dockerfile": dockerfile, "app": "one\n", "shipline__yaml": text, **files}
    )
    return project


def coverage(covered: int, total: int = 10) -> str:
    """A Cobertura report of one file."""
    lines = "".join(f'<line number="{n}" hits="{int(n <= covered)}"/>' for n in range(1, total + 1))
    return (
        '<?xml version="1.0"?><coverage><packages><package name="."><classes>'
        f'<class name="a.py" filename="a.py"><lines>{lines}</lines></class>'
        "</classes></package></packages></coverage>\n"
    )
