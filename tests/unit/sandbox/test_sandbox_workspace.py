"""Workspaces of the living are kept, those of the dead are swept up."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from shipline.sandbox import open_workspace, remove_stale


def test_a_workspace_is_there_for_its_block(tmp_path: Path) -> None:
    with open_workspace(tmp_path) as scratch, open_workspace(tmp_path) as other:
        assert scratch.is_dir() and other.is_dir() and scratch != other
        (scratch / "file").touch()
        remove_stale(tmp_path)
        assert (scratch / "file").exists()
    assert list((tmp_path / "tmp").iterdir()) == []


def test_what_a_killed_process_left_is_swept(tmp_path: Path) -> None:
    program = (
        "import os, sys; from pathlib import Path; from shipline.sandbox import open_workspace\n"
        "with open_workspace(Path(sys.argv[1])) as scratch:\n"
        "    (scratch / 'work/work').mkdir(parents=True); (scratch / 'work/work').chmod(0)\n"
        "    os.kill(os.getpid(), 9)\n"
    )
    subprocess.run([sys.executable, "-c", program, str(tmp_path)], check=False)
    assert len(list((tmp_path / "tmp").iterdir())) == 2
    with open_workspace(tmp_path) as scratch:
        assert {path.name for path in (tmp_path / "tmp").iterdir()} == {
            scratch.name,
            f"{scratch.name}.lock",
        }


def test_an_unusable_state_directory_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(NotADirectoryError), open_workspace(tmp_path / "file"):
        pass
