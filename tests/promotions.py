"""A project with two published versions, and GitOps repositories that describe its environments."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from builds import Done
from gitops import KUSTOMIZATION, GitOps, new_gitops
from nodes import Node
from ships import Project, coverage, new_project

CHAIN = {"dev": "", "staging": "after: dev", "production": "after: staging"}
"""The keys of environments, each after the one before."""
CONFIGURATION = """\
image: {image}
build: {platforms: [linux/amd64]}
steps: {test: {run: cp given.xml coverage.xml, reports: {coverage: coverage.xml}}}
gates: {coverage: {min: 50}}
sign: {key: ../ship.key}
"""
PASSWORD = {"SHIPLINE_KEY_PASSWORD": "secret"}


@dataclass(frozen=True)
class Published:
    """A project with the versions v0.1.0 and v0.2.0 in a registry, signed and judged."""

    project: Project
    text: str


def publish(place: Path, node: Node) -> Published:
    """Publish both versions."""
    configuration = CONFIGURATION
    project = new_project(place, node, "", given__xml=coverage(9), __gitignore="coverage.xml\n")
    project.run("key", "generate", "--output-key-prefix", "../ship", **PASSWORD).ok()
    configuration = configuration.replace("{image}", project.image)
    for subject, app in (("feat: one", "one\n"), ("feat: two", "two\n")):
        project.commit(subject, app=app, shipline__yaml=configuration)
        project.ship(**PASSWORD).ok()
    return Published(project, configuration)


@dataclass(frozen=True)
class Delivered:
    """The environments of a project, in a GitOps repository of their own."""

    project: Project
    gitops: GitOps

    @property
    def image(self) -> str:
        return self.project.image

    def run(
        self,
        *words: str,
        by: str = "ops@example.org",
        at: float = 0,
        environ: Mapping[str, str] | None = None,
    ) -> Done:
        """Run shipline as a person; `at` is what the clock of git says, in seconds from now."""
        date = {"GIT_COMMITTER_DATE": f"@{int(time.time() + at)} +0000"} if at else {}
        return self.project.run(*words, **{"GIT_COMMITTER_EMAIL": by, **date, **(environ or {})})

    def tip(self) -> str:
        return self.gitops.git("rev-parse", "main").strip()

    def deployed(self, environment: str) -> str:
        """The tag that the files of an environment have."""
        lines = self.gitops.show(f"{environment}/kustomization.yaml").splitlines()
        return next(line.partition("newTag: ")[2] for line in lines if "newTag" in line)

    def trailers(self, name: str) -> list[str]:
        """The values of a trailer in the newest commit."""
        shown = f"--format=%(trailers:key=Shipline-{name},valueonly)"
        return self.gitops.git("log", "-1", shown, "main").split("\n")[:-2]

    def status(self) -> dict[str, Any]:
        rows = json.loads(self.run("status", "--json").ok().out)
        return {row["environment"]: row for row in rows}


def delivered(
    published: Published, place: Path, rules: Mapping[str, str], more: str = ""
) -> Delivered:
    """Environments with these keys, each as flow YAML, in a new GitOps repository."""
    place.mkdir(exist_ok=True)
    files = {
        f"{name}/kustomization.yaml": KUSTOMIZATION.replace("{image}", published.project.image)
        for name in rules
    }
    gitops = new_gitops(place / "deploy.git", published.project.environ(), files)
    lines = ["environments:"]
    for name, keys in rules.items():
        lines.append(f"  {name}:")
        lines.append(
            f"    gitops: {{repository: {gitops.remote}, updates: [{{kustomization: {name}}}]}}"
        )
        lines += [f"    {key}" for key in keys.split("\n") if key]
    published.project.write("shipline.yaml", "\n".join([published.text, more, *lines, ""]))
    return Delivered(published.project, gitops)


def deploy(where: Delivered, version: str = "v0.1.0", at: float = 0) -> None:
    """Deploy a version to the first environment."""
    where.run("deploy", "--env", "dev", f"{where.image}:{version}", at=at).ok()
