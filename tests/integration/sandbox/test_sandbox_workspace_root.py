"""Workspaces of the living are kept, those of the dead are swept up."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from sandboxes import in_build
from shipline.sandbox import Bind, remove_tree
from shipline.sandbox.mounts import attach


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
