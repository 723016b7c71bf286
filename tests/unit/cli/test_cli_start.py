"""Start-up: what `shipline --version` loads, and the list of commands."""

from __future__ import annotations

import subprocess
import sys

import click
import pytest

from shipline.cli.lazy import Entry
from shipline.cli.program import COMMANDS

_HEAVY = ("rich", "urllib3", "cryptography", "granian", "zstandard", "ssl", "asyncio", "tarfile")


def python(program: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=True
    )
    return done.stdout


@pytest.mark.parametrize("arguments", [["--version"], ["--help"]])
def test_the_program_starts_without_what_it_does_not_need(arguments: list[str]) -> None:
    program = f"import sys; from shipline.cli import main; main({arguments}); print(*sys.modules)"
    loaded = set(python(program).splitlines()[-1].split())
    assert not loaded & set(_HEAVY)
    own = {name for name in loaded if name.startswith("shipline.") and name.count(".") == 1}
    assert own <= {"shipline.cli", "shipline.errors"}


@pytest.mark.parametrize("entry", COMMANDS, ids=lambda entry: entry.name)
def test_every_command_in_the_list_can_be_loaded(entry: Entry) -> None:
    loaded = entry.load()
    assert isinstance(loaded, click.Command)
    assert loaded.help


def test_the_version_is_the_same_on_both_ways() -> None:
    program = "from shipline.cli import main; main(['--version']); main(['-D', '--version'])"
    first, second = python(program).splitlines()
    assert first == second


@pytest.mark.parametrize("shell", ["zsh", "fish"])
def test_completion_scripts_call_the_program(shell: str) -> None:
    script = python(f"from shipline.cli import main; main(['completion', '{shell}'])")
    assert "_SHIPLINE_COMPLETE" in script
