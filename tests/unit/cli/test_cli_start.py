"""Start-up: what `shipline --version` loads, and the list of commands."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import click
import pytest

from commands import run_shipline
from shipline.cli.entry import is_interrupt
from shipline.cli.program import COMMANDS, POINTERS, LazyCommand

_HEAVY = {
    *("urllib3", "cryptography", "aiohttp", "zstandard", "packaging", "prometheus_client"),
    *("ssl", "asyncio", "tarfile"),
}


def python(program: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=True
    )
    return done.stdout


@pytest.mark.parametrize("arguments", [["--version"], ["--help"]])
def test_the_program_starts_without_what_it_does_not_need(arguments: list[str]) -> None:
    program = f"import sys; from shipline.cli import main; main({arguments}); print(*sys.modules)"
    loaded = set(python(program).splitlines()[-1].split())
    assert not loaded & _HEAVY
    own = {name for name in loaded if name.startswith("shipline.") and name.count(".") == 1}
    assert own <= {"shipline.cli", "shipline.errors"}


def test_the_help_of_a_copy_loads_nothing_of_builds_and_runs() -> None:
    program = "import sys, shipline.cli.copy; print(*sys.modules)"
    loaded = set(python(program).split())
    assert not loaded & {f"shipline.{one}" for one in ("build", "history", "images", "registry")}


def test_connections_load_neither_tls_nor_http_client_before_they_need_them() -> None:
    loaded = set(python("import sys, shipline.registry.transport; print(*sys.modules)").split())
    assert not loaded & {"http.client", "email", "ssl", "urllib3"}


def test_a_build_loads_nothing_of_logs_shared_caches_and_mistakes() -> None:
    loaded = set(python("import sys, shipline.build.engine; print(*sys.modules)").split())
    assert not loaded & {"logging", "difflib", "subprocess", "shipline.metadata.redis"}
    rarely = {"git.run", "sandbox.run", "build.caching.document", "observe.tty", "registry.login"}
    rarely |= {f"layer.{one}" for one in ("apply", "changed", "forks", "stream", "tar_reader")}
    assert not loaded & {
        "random",
        *(f"shipline.{one}" for one in rarely),
        "shipline.metadata.levels",
    }


def test_a_flag_of_one_letter_is_not_looked_up_as_a_misspelt_one() -> None:
    program = (
        "from shipline.cli.build import command\nfrom shipline.cli.failures import ProgramSettings"
    )
    parse = "command.make_context('build', ['-t', 'a', '.'], obj=ProgramSettings())"
    assert "difflib" not in python(f"import sys\n{program}\n{parse}\nprint(*sys.modules)").split()


def test_gates_load_what_knows_licences_only_for_a_rule_about_them() -> None:
    loaded = set(python("import sys, shipline.gates; print(*sys.modules)").split())
    assert not loaded & {"license_expression", "packageurl"}


ENTRIES = [entry for entries in COMMANDS.values() for entry in entries]


def usage_error(*arguments: str) -> str:
    done = run_shipline(*arguments)
    assert (done.returncode, done.stdout) == (2, "")
    assert "usage error" in done.stderr.splitlines()[0]
    return done.stderr


def test_help_lists_every_command_below_the_title_of_its_group() -> None:
    lines = python("from shipline.cli import main; main(['--help'])").splitlines()
    for title, entries in COMMANDS.items():
        start = lines.index(f"{title}:") + 1
        shown = [line.split()[0] for line in lines[start : start + len(entries)]]
        assert shown == [entry.name for entry in entries]
    assert lines.index("Build:") < lines.index("Release:") < lines.index("Serve:")


@pytest.mark.parametrize(
    ("words", "meant"),
    [
        (("biuld", "."), "'build'"),
        (("build", "--plattform", "linux/amd64", "."), "'--platform'"),
        (("registry", "sevre"), "'serve'"),
    ],
)
def test_a_misspelt_word_brings_the_nearest_one(words: tuple[str, ...], meant: str) -> None:
    said = usage_error(*words)
    assert "id you mean" in said
    assert meant in said
    assert f"lists the {'options' if '--plattform' in words else 'commands'}" in said


@pytest.mark.parametrize("name", sorted(POINTERS))
def test_commands_of_other_programs_are_answered_with_ours(name: str) -> None:
    assert not [entry for entry in ENTRIES if name in (entry.name, *entry.aliases)]
    assert POINTERS[name] in usage_error(name, "x")


@pytest.mark.parametrize("entry", ENTRIES, ids=lambda entry: entry.name)
def test_every_command_in_the_list_can_be_loaded(entry: LazyCommand) -> None:
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


@pytest.mark.parametrize(
    ("words", "found"),
    (
        ("explain step-ex", ["plain,step-exit"]),
        ("build --builder na", ["plain,native"]),
        ("builder use na", ["plain,native"]),
        ("build --progress rep", ["plain,report"]),
        ("build -f Docker", ["file,Docker"]),
        ("build ./src", ["file,./src"]),
        ("build --nonsense", [""]),
    ),
)
def test_shells_complete_names_that_are_known_and_files(words: str, found: list[str]) -> None:
    variables = {
        "COMP_WORDS": f"shipline {words}",
        "COMP_CWORD": str(len(words.split())),
        "_SHIPLINE_COMPLETE": "bash_complete",
    }
    assert python(f"{_START}os.environ.update({variables}); main([])").split("\n")[:-1] == found


def test_shells_complete_runs(tmp_path: Path) -> None:
    (tmp_path / "Dockerfile").write_text("FROM scratch\nCOPY Dockerfile /\n")
    build = ["build", "-q", "-o", "type=cacheonly", str(tmp_path)]
    start = f"{_START}os.environ['SHIPLINE_HOME'] = {str(tmp_path / 'state')!r}; "
    python(f"{start}main({build})")
    (run,) = os.listdir(tmp_path / "state" / "runs")
    for words in ("why", "history logs", "history rm", "report"):
        variables = {
            "COMP_WORDS": f"shipline {words} {run[:6]}",
            "COMP_CWORD": str(len(words.split()) + 1),
            "_SHIPLINE_COMPLETE": "bash_complete",
        }
        said = python(f"{start}os.environ.update({variables}); main([])")
        assert f"plain,{run}" in said


_START = "import os; from shipline.cli import main; "


def test_an_interrupt_where_a_class_is_made_is_one() -> None:
    """Python 3.11 raises RuntimeError from it."""

    def interrupted(self: object, owner: type, name: str) -> None:
        raise KeyboardInterrupt

    field = type("Field", (), {"__set_name__": interrupted})
    with pytest.raises((RuntimeError, KeyboardInterrupt)) as caught:
        type("Owner", (), {"field": field()})
    assert is_interrupt(caught.value)
    assert not is_interrupt(RuntimeError())
