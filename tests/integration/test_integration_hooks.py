"""Hooks beside the tools that manage hooks too: nobody's is lost, and none runs in a circle."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from commits import Work
from toolboxes import toolbox

OURS, THEIRS = "The release may go on", "said by the framework"
SETTINGS = """
repos:
- repo: local
  hooks:
  - {id: say, name: say, entry: echo said by the framework, language: system, verbose: true,
     always_run: true, pass_filenames: false}
"""
HUSKY = """#!/usr/bin/env sh
name=$(basename "$0")
script=$(dirname "$(dirname "$0")")/$name
[ ! -f "$script" ] && exit 0
sh -e "$script" "$@"
"""  # how husky 9 finds what to run


@pytest.fixture
def work(tmp_path: Path) -> Work:
    work = Work.init(tmp_path / "work")
    (work.path / "shipline.yaml").write_text("gates:\n  tests: {reports: junit.xml, early: true}\n")
    (work.path / "junit.xml").write_text('<testsuites><testcase name="a"/></testsuites>')
    (work.path / ".pre-commit-config.yaml").write_text(SETTINGS)
    work.git("add", ".")
    work.commit("chore: first")
    return work


def run(work: Work, *command: str | Path, expected: int = 0) -> str:
    path = f"{Path(sys.executable).parent}{os.pathsep}{work.environ['PATH']}"
    done = subprocess.run(
        [*map(str, command)],
        cwd=work.path,
        env={**work.environ, "PATH": path},
        capture_output=True,
        text=True,
    )
    said = done.stdout + done.stderr
    assert done.returncode == expected, said
    return said


def commit(work: Work) -> str:
    return run(work, "git", "commit", "--allow-empty", "-m", "fix: a")


def test_the_framework_pre_commit_and_ours_run_once_each_in_every_order(
    work: Work, pytestconfig: pytest.Config
) -> None:
    store = pytestconfig.cache.mkdir("hook-tools-1")
    theirs = toolbox(store, "pre-commit==4.7.0") / "pre-commit"
    for command in ("theirs", "ours", "theirs", "ours", "ours"):
        if command == "ours":
            run(work, "shipline", "hooks", "install", "--pre-commit")
        else:
            run(work, theirs, "install")
    said = commit(work)
    assert (said.count(OURS), said.count(THEIRS)) == (1, 1)
    assert "pre-commit: installed, run by pre-commit" in run(work, "shipline", "hooks", "status")
    run(work, "shipline", "hooks", "uninstall")
    said = commit(work)
    assert (said.count(OURS), said.count(THEIRS)) == (0, 1)


def test_husky_keeps_its_hooks_and_is_told_the_line_for_ours(work: Work) -> None:
    written = work.path / ".husky" / "_"
    written.mkdir(parents=True)
    work.git("config", "core.hooksPath", ".husky/_")
    (written / "pre-commit").write_text(HUSKY)
    (written / "pre-commit").chmod(0o755)
    own = work.path / ".husky" / "pre-commit"
    own.write_text("echo said by husky\n")
    told = run(work, "shipline", "hooks", "install", expected=3)
    assert "`shipline gate --hook pre-commit` to .husky/pre-commit" in told
    assert "said by husky" in commit(work)
    own.write_text("echo said by husky\nshipline gate --hook pre-commit\n")
    said = commit(work)
    assert "said by husky" in said and OURS in said
    assert "pre-commit: installed, run by husky" in run(work, "shipline", "hooks", "status")
