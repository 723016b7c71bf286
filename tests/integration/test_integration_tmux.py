"""Progress in a window of tmux that is dragged: every step stays, and hardly anything else."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

WORK = """
import os, sys, time
from shipline.events import Stream
from shipline.observe import open_sinks
with Stream(*open_sinks("tty", sys.stderr, os.environ)) as stream, stream.step("build") as build:
    for number in range(40):
        with build.step(f"RUN step {number} " + "x" * 60, kind="run") as step:
            step.output(b"output " * 20 + b"\\n")
            time.sleep(0.06)
print("the end")
time.sleep(600)
"""
_PAUSE_S = 0.4  # after which the view takes a window for settled, or nearly so


@pytest.mark.peers
@pytest.mark.skipif(not shutil.which("tmux"), reason="needs tmux")
def test_a_window_that_is_dragged_keeps_every_step_and_few_heads(tmp_path: Path) -> None:
    def tmux(*words: str) -> str:
        command = ["tmux", "-S", str(tmp_path / "socket"), "-f", "/dev/null", *words]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout

    def shown_with(words: str) -> str:
        end = time.monotonic() + 120
        while words not in (shown := tmux("capture-pane", "-p", "-J", "-S", "-")):
            assert time.monotonic() < end, shown
            time.sleep(0.05)
        return shown

    (tmp_path / "work.py").write_text(WORK)
    tmux("new-session", "-d", "-x", "100", "-y", "12", f"{sys.executable} {tmp_path}/work.py")
    try:
        shown_with("[+] Building")
        pauses = _dragged(lambda width: tmux("resize-window", "-x", str(width)))
        shown = shown_with("the end")
    finally:
        tmux("kill-server")
    finished = [line for line in shown.splitlines() if re.search(r"RUN step .* \d\.\ds *$", line)]
    for number in range(40):
        assert any(f"step {number} " in line for line in finished), shown
    assert shown.count("[+] Building") <= 8 + pauses


def _dragged(resize: Callable[[int], object]) -> int:
    """Make the window narrower and wider; how often this took a pause."""
    pauses, last = 0, time.monotonic()
    for width in (*range(98, 48, -2), *range(50, 90, 2)):
        resize(width)
        time.sleep(0.05)
        now = time.monotonic()
        pauses, last = pauses + (now - last > _PAUSE_S), now
    return pauses
