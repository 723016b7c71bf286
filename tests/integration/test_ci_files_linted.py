"""Generated files, the action and the workflows of the documents pass every linter."""

from __future__ import annotations

import re
from pathlib import Path
from textwrap import indent
from typing import Any

from ruamel.yaml import YAML

from linters import ACTION, GITLAB, SHELL, WORKFLOW, complaints
from shipline.deliver.ci import Pins, buildx_workflow, github_workflow, gitlab_pipeline
from workflows import ALL, FULL

ROOT = Path(__file__).parents[2]
PINS = Pins.load()


def read(text: str) -> Any:
    return YAML(typ="safe").load(text)


def test_no_linter_finds_anything_in_a_workflow(tmp_path: Path) -> None:
    place = tmp_path / ".github/workflows"
    place.mkdir(parents=True)
    for number, workflow in enumerate(ALL):
        for style in (github_workflow, buildx_workflow):
            (place / f"{style.__name__}-{number}.yml").write_text(style(workflow, PINS))
    assert complaints(WORKFLOW, *place.iterdir()) == ""


def test_the_linters_can_find_something(tmp_path: Path) -> None:
    file = tmp_path / "bad.yml"
    text = github_workflow(FULL, PINS).replace(
        "persist-credentials: false", "persist-credentials: true"
    )
    file.write_text(text)
    assert "artipacked" in complaints(WORKFLOW, file)


def test_pipelines_of_gitlab_fit_their_schema(tmp_path: Path) -> None:
    for number, workflow in enumerate(ALL):
        (tmp_path / f"{number}.gitlab-ci.yml").write_text(gitlab_pipeline(workflow))
    assert complaints(GITLAB, *tmp_path.iterdir()) == ""


def test_the_action_passes_the_linters() -> None:
    assert complaints(ACTION, ROOT / "action.yml") == ""


def test_scripts_of_gitlab_pass_shellcheck(tmp_path: Path) -> None:
    files = []
    for number, workflow in enumerate(ALL):
        for name, job in read(gitlab_pipeline(workflow)).items():
            if "script" in job:
                files.append(tmp_path / f"{number}-{name}.sh")
                lines = [*job["before_script"], *job["script"], *job.get("after_script", ())]
                files[-1].write_text("\n".join(["#!/bin/bash", *lines, ""]))
    assert complaints(SHELL, *files) == ""


def test_steps_that_the_documents_show_pass_the_linters(tmp_path: Path) -> None:
    shown = [
        block
        for page in sorted(ROOT.glob("docs/*.md"))
        if page.name != "migrate.md"  # it shows the workflows that people come from
        for block in re.findall(r"(?ms)^```yaml\n(- .*?)^```", page.read_text())
    ]
    assert shown
    for number, steps in enumerate(shown):
        (tmp_path / f"{number}.yml").write_text(_workflow(steps))
    assert complaints(WORKFLOW, *tmp_path.iterdir()) == ""


def _workflow(steps: str) -> str:
    """A whole workflow with the steps, in which a commit stands where the page has none."""
    steps = steps.replace("OWNER/shipline@COMMIT", f"owner/shipline@{'0' * 40} # v0.1.0")
    return f"""\
name: shown
on: {{push: {{branches: [main]}}}}
permissions: {{}}
concurrency: {{group: shown, cancel-in-progress: false}}
jobs:
  build:
    name: Build
    runs-on: ubuntu-24.04
    timeout-minutes: 10
    environment: release
    permissions:
      contents: read # check out
    steps:
{indent(steps, "      ")}"""
