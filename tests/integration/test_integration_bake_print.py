"""`bake --print` is that of buildx: each file in tests/conformance/bake is read by both.

A file may say in comments which arguments, variables and further files it is read with. Where
buildx refuses a file, shipline does, on the same line.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from commands import run_shipline
from peers.docker import newest

pytestmark = pytest.mark.peers

CASES = Path(__file__).parents[1] / "conformance" / "bake"
FILES = sorted(path.name for path in CASES.iterdir() if not path.name.startswith("extra."))
DIFFERENT = {
    "compose_no_build.yaml": "an empty list instead of null",
    "group_cycle.hcl": "a cycle is an error that names it",
    "inherits_cycle.hcl": "a cycle is an error",
    "set_lists_dropped.hcl": "buildx drops the value",
    "syntax_division.hcl": "division by zero is an error",
    "syntax_short_circuit.hcl": "newer versions of HCL do not evaluate what && and || do not need",
    "compose_ulimit_short.yaml": "newer versions of buildx read it",
}
NEARER = frozenset(
    {"attributes_null.hcl", "json_broken.json", "matrix_bad_name.hcl", "matrix_group.hcl"}
    | {"matrix_name_alone.hcl", "matrix_not_list.hcl", "matrix_not_map.hcl"}
    | {"syntax_heredoc_unclosed.hcl", "validation_no_message.hcl", "variable_cycle.hcl"}
    | {"variable_typed_wrong.hcl"}
)
"""Errors whose line is that of the cause, where buildx has that of the block or the next one."""


def options(name: str) -> tuple[list[str], dict[str, str]]:
    """The arguments and the variables for a case."""
    text = (CASES / name).read_text()
    told = dict(re.findall(r'(?:# |"//": ")(args|env|files): (.+?)(?:",)?$', text, re.M))
    files = [word for file in (name, *told.get("files", "").split()) for word in ("-f", file)]
    variables = dict(word.split("=", 1) for word in told.get("env", "").split())
    return [*files, *shlex.split(told.get("args", ""))], variables


def environment(variables: dict[str, str]) -> dict[str, str]:
    return {"PATH": os.environ["PATH"], "HOME": os.environ["HOME"], **variables}


def of_buildx(name: str, place: Path) -> tuple[dict[str, Any] | None, str]:
    """What it prints, None for an error; and what it says."""
    words, variables = options(name)
    programs = Path(newest()["PATH"].partition(os.pathsep)[0])
    plugin = programs.parent / "libexec/docker/cli-plugins/docker-buildx"
    done = subprocess.run(
        [plugin, "bake", "--progress=quiet", "--print", *words],
        cwd=place,
        env=environment(variables),
        capture_output=True,
        text=True,
        timeout=60,
    )
    return (json.loads(done.stdout) if done.returncode == 0 else None), done.stderr


def of_shipline(name: str, place: Path) -> tuple[dict[str, Any] | None, str]:
    words, variables = options(name)
    environ = environment(variables)
    done = run_shipline("bake", "--print", *words, cwd=place, environ=environ)
    assert "Traceback" not in done.stderr, done.stderr
    if done.returncode:
        assert done.returncode in (2, 3), done.stderr
        return None, done.stderr
    return json.loads(done.stdout), done.stderr


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the cases: buildx makes the files of outputs also where it only prints."""
    return Path(shutil.copytree(CASES, tmp_path_factory.mktemp("bake") / "cases"))


@pytest.mark.parametrize("name", FILES)
def test_what_is_printed_is_that_of_buildx(name: str, place: Path) -> None:
    theirs, told = of_buildx(name, place)
    ours, said = of_shipline(name, place)
    if name in DIFFERENT:
        assert ours != theirs or ours is None, f"{name} is no longer different"
        return
    if name.startswith("matrix_"):  # buildx goes over the axes in any order
        for found in (ours, theirs):
            for group in (found or {}).get("group", {}).values():
                group["targets"].sort()
    assert ours == theirs, told + said
    line = re.search(r"ERROR: [^:\n]+:(\d+),", told)
    if line and name not in NEARER:
        assert re.search(rf"{re.escape(name)}:{line[1]}\b", said), told + said
