"""A child and its group: ended as a whole, and never signalled once its number may be another's."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from shipline.processes import ProcessGroup, python_command


def started(script: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        ["sh", "-c", script], start_new_session=True, stdout=subprocess.PIPE, bufsize=0
    )


def test_the_end_takes_all_that_the_child_started() -> None:
    process = started("sleep 1000 & echo up")
    assert process.stdout is not None
    with process.stdout as said:
        group = ProcessGroup(process)
        assert group.ended()
        assert group.end() == 0
        assert said.read() == b"up\n"  # ends when nobody holds the pipe any more


def test_a_child_that_runs_is_killed() -> None:
    group = ProcessGroup(started("exec sleep 1000"))
    assert not group.ended(0)
    group.kill()
    assert group.ended()
    assert group.end() == -signal.SIGKILL


def test_nothing_is_signalled_before_it_is_known_to_be_ours_or_after_the_end(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    process = started("exit 7")
    group = ProcessGroup(process)
    group.ended()
    states: list[bool] = []
    monkeypatch.setattr(os, "killpg", lambda *_: states.append(process.returncode is None))
    group.kill()
    assert group.end() == 7
    group.kill()
    assert states == [True, True]  # twice, and both before the child was waited for


def test_a_new_interpreter_has_the_modules_of_this_one_and_none_of_the_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one_file, here = tmp_path / "one-file", tmp_path / "here"
    for place, said in ((one_file, "print('ours')"), (here, "print('theirs')")):
        place.mkdir()
        (place / "only_there.py").write_text(said)
    monkeypatch.setattr(sys, "path", [str(one_file), *sys.path])
    command = python_command("import only_there")
    assert subprocess.check_output(command, cwd=here, text=True) == "ours\n"
