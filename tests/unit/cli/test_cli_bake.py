"""`shipline bake` at the command line: what it prints of definitions that others wrote."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import pytest

from commands import run_shipline


def bake(place: Path, text: str, *words: str) -> subprocess.CompletedProcess[str]:
    (place / "docker-bake.hcl").write_text(text)
    environ = {"PATH": os.environ["PATH"], "SHIPLINE_HOME": str(place / "home")}
    return run_shipline("bake", *words, environ=environ, cwd=place, stdin=b"", timeout_s=60)


def test_lists_and_warnings_cannot_write_to_the_terminal(tmp_path: Path) -> None:
    text = (
        'variable "A" {\n default = "\\u001b]0;title\\u0007red\\nB  forged"\n'
        ' description = "\\u001b[31mx"\n}\n'
        'target "a" { description = "\\u001b]0;x\\u0007told\\nforged  row" }\n'
    )
    for what in ("variables", "targets"):
        done = bake(tmp_path, text, "--list", what)
        assert done.returncode == 0 and "\x1b" not in done.stdout and "\a" not in done.stdout
        assert len(done.stdout.splitlines()) == 2
    (tmp_path / "b.json").write_text('{"target": {"a": {"\\u001b[31mx": 1}}}')
    done = bake(tmp_path, "", "-f", "b.json", "--print", "a")
    assert "\x1b" not in done.stderr and "warning: " in done.stderr


def test_lists_are_aligned_with_tabs_as_those_of_buildx(tmp_path: Path) -> None:
    text = (
        'variable "A" {\n default = "x"\n description = "An a"\n}\n'
        'variable "LONGNAME" {\n type = list(string)\n default = ["a", "b"]\n}\n'
        'variable "N" {\n type = number\n}\n'
        'target "default" {\n description = "told"\n}\ntarget "webapp-long" {}\n'
    )
    assert bake(tmp_path, text, "--list", "variables").stdout == (
        "VARIABLE\tTYPE\t\tVALUE\t\tDESCRIPTION\n"
        "A\t\t\t\tx\t\tAn a\n"
        'LONGNAME\tlist of string\t["a","b"]\t\n'
        "N\t\tnumber\t\t<null>\t\t\n"
    )
    assert bake(tmp_path, text, "--list", "targets").stdout == (
        "TARGET\t\tDESCRIPTION\ndefault\t\ttold\nwebapp-long\t\n"
    )


@pytest.mark.parametrize("flag", ["--no-cache", "--pull"])
def test_a_switch_that_is_false_wins_over_the_file(tmp_path: Path, flag: str) -> None:
    text = 'target "default" {\n no-cache = true\n pull = true\n}\n'
    name = flag.removeprefix("--")
    for words, value in (([], True), ([f"{flag}=false"], False), ([f"{flag}=true"], True)):
        done = bake(tmp_path, text, *words, "--print")
        assert json.loads(done.stdout)["target"]["default"][name] is value


def test_a_url_that_is_none_is_one_message(tmp_path: Path) -> None:
    for command in (("bake", "https://[::1/x.git"), ("build", "https://[::1/x.git")):
        environ = {"PATH": os.environ["PATH"], "SHIPLINE_HOME": str(tmp_path)}
        done = run_shipline(*command, environ=environ, stdin=b"", timeout_s=60)
        assert done.returncode == 2 and "is not a URL" in done.stderr


def test_a_remote_definition_is_read_with_the_keys_of_bake(tmp_path: Path) -> None:
    key, tried = tmp_path / "key", tmp_path / "tried"
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", key], check=True)
    ssh = tmp_path / "bin" / "ssh"
    ssh.parent.mkdir()
    ssh.write_text(f'#!/bin/sh\necho "$@" >> {tried}\nexit 1\n')
    ssh.chmod(0o755)
    done = run_shipline(
        "bake",
        "--print",
        "ssh://git@host.example/a.git",
        environ={
            **os.environ,
            "PATH": f"{ssh.parent}{os.pathsep}{os.environ['PATH']}",
            "SHIPLINE_HOME": str(tmp_path / "home"),
            "BUILDX_BAKE_GIT_SSH": str(key),
        },
    )
    assert done.returncode != 0
    assert f"-i {key}" in tried.read_text()
