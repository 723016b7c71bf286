"""`shipline registry user|project|robot|token|audit` on a directory that is not being served."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from shipline.cli.registry import group
from shipline.errors import UsageError
from shipline.server.access import AccountStore

ROBOT = "robot$team+ci"


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return tmp_path


def run(data: Path, *words: str, stdin: str = "") -> str:
    """What a command prints on standard output."""
    done = CliRunner().invoke(
        group, [*words, "--data", str(data)], input=stdin, catch_exceptions=False
    )
    assert done.exit_code == 0, done.output
    return done.stdout


def test_a_directory_that_is_not_there_is_made_by_the_node(data: Path) -> None:
    with pytest.raises(UsageError, match="there is no directory") as refused:
        run(data / "new", "user", "ls")
    assert "registry serve --data" in refused.value.hint and not (data / "new").exists()


def test_people_and_projects(data: Path) -> None:
    run(data, "user", "add", "bob", "--password-stdin", stdin="password 1\n")
    run(data, "user", "add", "root", "--admin", "--password-stdin", stdin="password 2\n")
    run(data, "project", "add", "team", "--public")
    run(data, "project", "member", "team", "bob", "developer")
    assert "bob (developer)" in run(data, "project", "ls")
    run(data, "project", "set", "team", "--private")
    run(data, "project", "member", "team", "bob", "none")
    assert "private" in run(data, "project", "ls") and "bob" not in run(data, "project", "ls")
    run(data, "user", "set", "bob", "--disable")
    assert "disabled" in run(data, "user", "ls")
    run(data, "user", "rm", "bob")
    assert "bob" not in run(data, "user", "ls")
    run(data, "user", "passwd", "root", "--password-stdin", stdin="password 3\n")
    with pytest.raises(UsageError, match="last administrator"):
        run(data, "user", "rm", "root")
    with pytest.raises(UsageError, match="characters"):
        run(data, "user", "passwd", "root", "--password-stdin", stdin="short\n")


def test_a_robots_secret_is_the_only_output_and_comes_once(data: Path) -> None:
    run(data, "project", "add", "team")
    options = ("--project", "team", "--allow", "pull", "--allow", "create", "--tag", "v*")
    first = run(data, "robot", "add", "ci", *options).strip()
    second = run(data, "robot", "rotate", ROBOT, "--overlap", "1h").strip()
    assert first.startswith("shp_") and second.startswith("shp_") and first != second
    listed = run(data, "robot", "ls")
    assert f"{ROBOT}  pull,create team tags v*  ok" in listed
    assert first not in listed and second not in listed
    directory = AccountStore(data)
    assert len(directory.view().logins[ROBOT].secrets) == 2
    directory.close()
    run(data, "robot", "set", ROBOT, "--disable")
    assert "disabled" in run(data, "robot", "ls")
    run(data, "robot", "rm", ROBOT)
    with pytest.raises(UsageError, match="no such robot"):
        run(data, "robot", "rotate", ROBOT)


def test_what_was_done_is_printed(data: Path) -> None:
    run(data, "project", "add", "team")
    key = run(data, "token", "rotate-key").strip()
    assert run(data, "token", "ls").split() == ["ACCOUNT", "CLIENT", "CREATED", "EXPIRES"]
    lines = run(data, "audit").splitlines()
    assert len(lines) == 2 and "project team added" in lines[0] and key in lines[1]
    last = json.loads(run(data, "audit", "--json", "--last", "1"))
    assert last["kind"] == "account" and last["actor"].endswith("(local)")


@pytest.mark.parametrize("command", [("gc",), ("user", "ls")])
def test_a_command_has_one_target(data: Path, command: tuple[str, ...]) -> None:
    runner = CliRunner()
    with pytest.raises(UsageError, match="no target given"):
        runner.invoke(group, command, catch_exceptions=False)
    with pytest.raises(UsageError, match="cannot be combined"):
        runner.invoke(
            group, [*command, "--data", str(data), "--node", "localhost"], catch_exceptions=False
        )
