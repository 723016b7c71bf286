"""`shipline history` while runs go on."""

from __future__ import annotations

from pathlib import Path

import pytest

from commands import run_shipline
from shipline.history import RunHistory, RunRecorder, RunSummary


@pytest.mark.parametrize("state", ["running", "interrupted"])
def test_a_run_without_an_end_can_be_inspected(tmp_path: Path, state: str) -> None:
    history = RunHistory(tmp_path)
    run = history.new_id()
    recorder = RunRecorder(
        history.directory(run), RunSummary(run, "build", "app", history.clock() - 60)
    )
    if state == "interrupted":
        recorder._file.close()
    environ = {"SHIPLINE_HOME": str(tmp_path)}
    done = run_shipline("history", "inspect", environ=environ)
    assert (done.returncode, done.stderr) == (0, "")
    assert ("1m" in done.stdout, state in done.stdout.lower()) == (state == "running", True)
    recorder._file.close()
