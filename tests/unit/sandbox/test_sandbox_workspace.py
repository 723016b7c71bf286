"""Workspaces of the living are kept, those of the dead are swept up."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from sandboxes import in_build
from shipline.errors import SandboxError
from shipline.sandbox import Bind, open_workspace, remove_stale, remove_tree
from shipline.sandbox.mounts import attach


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


@pytest.mark.root
def test_closed_directories_are_removed_by_an_ordinary_user(tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    (tree / "work/work/deep").mkdir(parents=True)
    (tree / "work/work/deep/file").touch()
    (tree / "outside").symlink_to("/")
    for path in (tree / "work/work/deep", tree / "work/work"):
        path.chmod(0)
    program = (
        "import os, sys; from pathlib import Path; from shipline.sandbox import remove_tree\n"
        "os.setgid(65534); os.setuid(65534); remove_tree(Path(sys.argv[1]))"
    )
    for path in (tmp_path, *tree.rglob("*")):
        os.chown(path, 65534, 65534, follow_symlinks=False)
    os.chown(tree, 65534, 65534)
    for path in tmp_path.parents:  # the way to it
        if path.stat().st_mode & 0o1 == 0:
            path.chmod(path.stat().st_mode | 0o1)
    done = subprocess.run([sys.executable, "-c", program, str(tree)], check=False)
    assert done.returncode == 0 and not tree.exists()
    remove_tree(tree)


@pytest.mark.root
def test_what_is_mounted_below_is_not_removed(tmp_path: Path) -> None:
    precious, tree = tmp_path / "precious", tmp_path / "tree"
    precious.mkdir()
    (precious / "file").touch()
    (tree / "a b").mkdir(parents=True)

    def build() -> None:
        attach(Bind(precious, tree / "a b"))
        remove_tree(tree)

    in_build(build)
    assert (precious / "file").exists() and not tree.exists()


def test_an_unusable_state_directory_is_an_error_with_a_hint(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(SandboxError) as raised, open_workspace(tmp_path / "file"):
        pass
    assert raised.value.hint
