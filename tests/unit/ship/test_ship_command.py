"""Commands: their environment, when they end, what is kept of their output."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from shipline.deliver.commands import CommandResult, argv_of, environment, run_command
from shipline.errors import Cancelled, StepFailed
from shipline.tasks import TaskGroup

PATH = {"PATH": os.environ["PATH"]}
MARK = f"77.{os.getpid()}"  # seconds that no other sleep on this machine has


def run(script: str, *, timeout_s: float = 20) -> tuple[CommandResult, bytes]:
    said: list[bytes] = []
    ended = run_command(
        argv_of(script), directory=Path("/"), environ=PATH, timeout_s=timeout_s, write=said.append
    )
    return ended, b"".join(said)


def alive(word: str) -> bool:
    for entry in Path("/proc").iterdir():
        try:
            if entry.name.isdecimal() and word.encode() in (entry / "cmdline").read_bytes():
                return True
        except OSError:
            continue
    return False


def gone(word: str) -> bool:
    """A process that was killed is there until it has had its turn."""
    end = time.monotonic() + 60
    while alive(word) and time.monotonic() < end:
        time.sleep(0.01)
    return not alive(word)


def test_output_comes_whole_and_in_order() -> None:
    ended, said = run("for i in $(seq 2000); do echo $i; done; echo end >&2; printf last")
    assert said == b"".join(b"%d\n" % n for n in range(1, 2001)) + b"end\nlast"
    assert ended.log[-2:] == ("end", "last")
    assert len(ended.log) == 30
    assert ended.ok


def test_a_script_stops_at_its_first_failure() -> None:
    ended, said = run("echo a; false; echo b")
    assert (ended.status, said) == (1, b"a\n")


def test_a_killed_command_has_the_status_of_shells() -> None:
    assert run("kill -9 $$")[0].status == 128 + signal.SIGKILL


def test_a_command_ends_when_its_time_is_over() -> None:
    start = time.monotonic()
    ended, _ = run(f"trap 'exit 3' TERM; sleep {MARK}1 & wait", timeout_s=0.3)
    assert ended.timed_out and not ended.ok
    assert time.monotonic() - start < 60
    assert gone(f"{MARK}1")


def test_what_a_command_leaves_running_ends_with_it() -> None:
    start = time.monotonic()
    ended, said = run(f"sleep {MARK}2 & echo started")
    assert ended.ok and said == b"started\n"
    assert time.monotonic() - start < 60
    assert gone(f"{MARK}2")


def test_an_interrupted_command_ends() -> None:
    group = TaskGroup()
    with pytest.raises(Cancelled), group:
        task = group.start(run, f"sleep {MARK}3")
        time.sleep(0.3)
        group.scope.cancel()
        task.result()
    assert gone(f"{MARK}3")


def test_a_command_ends_when_this_program_is_killed() -> None:
    program = (
        "from pathlib import Path; import os; from shipline.deliver.commands import *\n"
        f"run_command(argv_of('trap \"\" TERM; sleep {MARK}4 & wait'), directory=Path('/'),"
        " environ=os.environ, timeout_s=60, write=print)"
    )
    with subprocess.Popen([sys.executable, "-c", program]) as process:
        end = time.monotonic() + 60
        while not alive(f"{MARK}4\0") and time.monotonic() < end:
            time.sleep(0.05)
        process.kill()
    assert gone(f"{MARK}4\0")


def test_secrets_of_the_environment_stay_away_unless_they_are_named() -> None:
    environ = {"PATH": "p", "LC_ALL": "C", "NPM_TOKEN": "t", "NPM_X": "x", "COSIGN_PASSWORD": "c"}
    assert environment(environ, (), {"A": "a"}) == {"PATH": "p", "LC_ALL": "C", "A": "a"}
    assert environment(environ, ("NPM_*",), {}).keys() == {"PATH", "LC_ALL", "NPM_TOKEN", "NPM_X"}


@pytest.mark.parametrize(
    ("argv", "directory"), [(("no-such-program",), "/"), (("true",), "/no/such/directory")]
)
def test_a_command_that_cannot_start_says_why(argv: tuple[str, ...], directory: str) -> None:
    with pytest.raises(StepFailed, match=r"is not installed|does not exist"):
        run_command(argv, directory=Path(directory), environ=PATH, timeout_s=1, write=print)
