"""The commit that is shipped, and the work tree around it."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from shipline.git import Git, GitError

_SHORT = 12  # digits of a commit that is shown


@dataclass(frozen=True, slots=True)
class Source:
    """What git knows. `tree` names the files as they are now, so it is not the commit's where the
    work tree is dirty; `changes` are then some of the paths that differ.
    """

    root: Path
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
        return self.commit[:_SHORT]


def read_source(root: Path, environ: Mapping[str, str], *, ignore: tuple[str, ...] = ()) -> Source:
    """The state of the repository around `root`; it is not written to.

    Changes of the paths in `ignore` (relative to `root`) do not count: reports that steps write.
    Raises GitError where there is no repository or no commit.
    """
    git = Git(root, environ)
    if git.run("rev-parse", "--verify", "--quiet", "HEAD", allowed=(0, 1, 128)).status:
        git.text("rev-parse", "--git-dir")
        raise GitError("the repository has no commit yet", hint="commit first: that is what ships")
    commit, tree, committed = git.text("log", "-1", "--format=%H %T %ct").split()
    changes = _changes(git, ignore)
    return Source(
        root=root,
        commit=commit,
        tree=_written_tree(git, ignore) if changes else tree,
        committed=int(committed),
        branch=git.text("branch", "--show-current"),
        url=git.run("config", "--get", "remote.origin.url", allowed=(0, 1)).output.decode().strip(),
        changes=changes,
    )


def _changes(git: Git, ignore: tuple[str, ...]) -> tuple[str, ...]:
    found = git.text("status", "--porcelain", "-z", "--", ".", *_excluded(ignore))
    return tuple(entry[3:] for entry in found.split("\0") if entry[2:3] == " ")


def _written_tree(git: Git, ignore: tuple[str, ...]) -> str:
    """The tree object of the work tree, computed in a store and an index of its own."""
    objects = git.text("rev-parse", "--path-format=absolute", "--git-path", "objects")
    index = Path(git.text("rev-parse", "--path-format=absolute", "--git-path", "index"))
    with TemporaryDirectory(prefix="shipline-tree-") as scratch:
        copy = Path(scratch) / "index"
        if index.exists():
            copy.write_bytes(index.read_bytes())
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


def _excluded(paths: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(f":(exclude,glob){os.path.normpath(path)}" for path in paths)
