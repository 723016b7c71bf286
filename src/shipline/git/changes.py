"""How files differ: the work tree from its commit, a branch from its target branch."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from tempfile import TemporaryDirectory

from msgspec import Struct

from shipline.git.history import merge_base
from shipline.git.repository import resolve
from shipline.git.run import Git, GitError

_DIFF = (
    "diff", "--unified=0", "--no-color", "--no-ext-diff", "--no-textconv", "--ignore-submodules",
    "--find-renames", "--diff-filter=d", "--src-prefix=a/", "--dst-prefix=b/",
    "--inter-hunk-context=0", "--output-indicator-new=+", "--output-indicator-old=-",
)  # fmt: skip
_HUNK = re.compile(rb"@@ -\d+(?:,(\d+))? \+(\d+)(?:,(\d+))? @@")
_ESCAPE = re.compile(rb'\\([abfnrtv"\\]|[0-7]{3})')
_ESCAPED = dict(zip(b'abfnrtv"\\', b'\a\b\f\n\r\t\v"\\', strict=True))


class ChangedLines(Struct, frozen=True):
    """`lines` has the added and changed lines of each changed file, by path from the top of the
    repository; `files` are all paths of the repository. Deletions have no lines.
    """

    lines: Mapping[str, tuple[range, ...]]
    files: frozenset[str] = frozenset()
    base: str = ""

    def touches(self, path: str, line: int) -> bool:
        """Whether the line was added or changed; line 0 means any line of the file."""
        spans = self.lines.get(path, ())
        return any(line in span for span in spans) if line else bool(spans)


def changed_lines(git: Git, base: str, head: str = "", *, staged: bool = False) -> ChangedLines:
    """The changes from the merge base of `base` and `head` to `head`, as in a merge request.
    Without `head` the work tree is compared, with `staged` the index; untracked files do not count.
    Raises GitError if `base` or `head` is not a commit, or they have no common ancestor.
    """
    end = head or "HEAD"
    for name in (base, end):
        if not resolve(git, name):
            raise GitError(
                f"there is no commit {name} in this clone",
                code="git-commit-missing",
                hint=f"git fetch origin {name} (GitHub: fetch-depth: 0, GitLab: GIT_DEPTH: 0)",
            )
    start = merge_base(git, base, end)
    if not start:
        raise GitError(
            f"{base} and {end} have no common ancestor in this clone",
            code="git-commit-missing",
            hint="git fetch --unshallow, or use another base",
        )
    options = ("--cached",) if staged and not head else ()
    output = git.run("-C", _top(git), *_DIFF, *options, start, *filter(None, (head,)), "--").output
    listing = ("ls-tree", "-r", "-z", "--name-only", "--full-tree", head) if head else _INDEX
    files = git.run(*listing).output.decode(errors="surrogateescape").split("\0")
    lines = {path: tuple(spans) for path, spans in _parse(output).items()}
    return ChangedLines(lines, frozenset(filter(None, files)), start)


_INDEX = ("ls-files", "-z", "--full-name", ":/")


def _top(git: Git) -> str:
    return git.text("rev-parse", "--show-toplevel")


def _parse(output: bytes) -> dict[str, list[range]]:
    """Skips the lines of a hunk by its counts, so that file content is never read as a header."""
    changes: dict[str, list[range]] = {}
    spans: list[range] = []
    lines = iter(output.split(b"\n"))
    for line in lines:
        if line.startswith(b"+++ "):
            spans = changes.setdefault(_path(line[4:]), [])
        elif hunk := _HUNK.match(line):
            removed, start, added = (int(number) if number else 1 for number in hunk.groups())
            _pass_over(lines, removed + added)
            if added:
                spans.append(range(start, start + added))
    return changes


def _pass_over(lines: Iterator[bytes], count: int) -> None:
    for _ in range(count):
        if next(lines, b"").startswith(b"\\"):  # "\ No newline at end of file"
            next(lines, b"")


def _path(text: bytes) -> str:
    """Unquote a path: git quotes names with special characters as C strings."""
    text = text.removesuffix(b"\t")
    if text.startswith(b'"'):
        text = _ESCAPE.sub(_unescaped, text[1:-1])
    return text.removeprefix(b"b/").decode(errors="surrogateescape")


def _unescaped(match: re.Match[bytes]) -> bytes:
    code = match[1]
    return bytes([int(code, 8) if len(code) == 3 else _ESCAPED[code[0]]])


_SHOWN = 12  # digits of a commit


class WorkTree(Struct, frozen=True):
    """The checked-out commit. `tree` is the tree object of the current files, and differs from the
    commit's if there are `changes`: paths that differ. `committed` is in Unix time.
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
    """The state of the work tree below `git.directory`; the repository is not changed.

    Paths in `ignore`, relative to that directory, do not count. Raises GitError without a
    repository or a commit.
    """
    if git.run("rev-parse", "--verify", "--quiet", "HEAD", allowed=(0, 1, 128)).status:
        git.text("rev-parse", "--git-dir")
        raise GitError(
            "the repository has no commit yet",
            code="git-no-commit",
            hint="commit something first: commits are shipped",
        )
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
    status = git.text("status", "--porcelain", "-z", "--", ".", *excluded)
    return tuple(entry[3:] for entry in status.split("\0") if entry[2:3] == " ")


def _written_tree(git: Git, ignore: tuple[str, ...]) -> str:
    """The tree object of the work tree, computed with a temporary object store and index."""
    objects = git.text("rev-parse", "--path-format=absolute", "--git-path", "objects")
    index = Path(git.text("rev-parse", "--path-format=absolute", "--git-path", "index"))
    with TemporaryDirectory(prefix="shipline-tree-") as scratch:
        copy = Path(scratch) / "index"
        if index.exists():
            shutil.copy2(index, copy)  # its time tells git which entries to compare by content
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
