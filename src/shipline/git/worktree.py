"""The work tree: the commit that is checked out, and how the files differ from it."""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from shipline.git.run import Git, GitError

_SHOWN = 12  # digits of a commit


@dataclass(frozen=True, slots=True)
class WorkTree:
    """The commit that is checked out. `tree` names the files as they are now, so it is not the
    commit's where there are `changes`: some of the paths that differ. `committed` is Unix time.
    """

    commit: str
    tree: str
    committed: int
    branch: str = ""
    url: str = ""
    changes: tuple[str, ...] = ()

    @property
    def dirty(self) -> bool:
        return bool(self.changes)

    @property
    def short(self) -> str:
        return self.commit[:_SHOWN]


def read_work_tree(git: Git, *, ignore: tuple[str, ...] = ()) -> WorkTree:
    """The state of the work tree from `git.directory` down; the repository is not written to.

    Changes of the paths in `ignore`, relative to that directory, do not count. Raises GitError
    where there is no repository or no commit.
    """
    if git.run("rev-parse", "--verify", "--quiet", "HEAD", allowed=(0, 1, 128)).status:
        git.text("rev-parse", "--git-dir")
        raise GitError("the repository has no commit yet", hint="commit first: that is what ships")
    commit, tree, committed = git.text("log", "-1", "--format=%H %T %ct").split()
    changes = _changes(git, ignore)
    return WorkTree(
        commit=commit,
        tree=_written_tree(git, ignore) if changes else tree,
        committed=int(committed),
        branch=git.text("branch", "--show-current"),
        url=git.run("config", "--get", "remote.origin.url", allowed=(0, 1)).output.decode().strip(),
        changes=changes,
    )


def _changes(git: Git, ignore: tuple[str, ...]) -> tuple[str, ...]:
    excluded = (f":(exclude,glob){os.path.normpath(path)}" for path in ignore)
    found = git.text("status", "--porcelain", "-z", "--", ".", *excluded)
    return tuple(entry[3:] for entry in found.split("\0") if entry[2:3] == " ")


def _written_tree(git: Git, ignore: tuple[str, ...]) -> str:
    """The tree object of the work tree, computed in a store and an index of its own."""
    objects = git.text("rev-parse", "--path-format=absolute", "--git-path", "objects")
    index = Path(git.text("rev-parse", "--path-format=absolute", "--git-path", "index"))
    with TemporaryDirectory(prefix="shipline-tree-") as scratch:
        copy = Path(scratch) / "index"
        if index.exists():
            shutil.copy2(index, copy)  # its time tells git which entries it must not trust
        aside = {
            "GIT_INDEX_FILE": str(copy),
            "GIT_OBJECT_DIRECTORY": scratch,
            "GIT_ALTERNATE_OBJECT_DIRECTORIES": objects,
        }
        other = Git(git.directory, {**git.environ, **aside})
        other.run("add", "--all", "--", ".")
        if ignore:
            other.run("reset", "--quiet", "--", *(f":(glob){os.path.normpath(p)}" for p in ignore))
        return other.text("write-tree")
