"""Commits and their ancestry."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from msgspec import Struct

from shipline.git.run import Git, GitError

_FIELDS = "%H%n%P%n%ct%n%cn <%ce>%n%an%n%B"
_ERE, _ESCAPED = re.compile(r"([.\[\]*^$+?(){}|\\])"), r"\\\1"
_LOG = ("log", "-z", "--no-show-signature", "--no-color", "--encoding=UTF-8")


class Commit(Struct, frozen=True):
    """A commit: `time` is the committer's, in seconds since 1970; `message` is complete. Bytes that
    are invalid in the commit's encoding are replaced (U+FFFD).
    """

    sha: str
    parents: tuple[str, ...] = ()
    time: int = 0
    committer: str = ""
    author: str = ""
    message: str = ""

    @property
    def subject(self) -> str:
        """The first line of the message."""
        return self.message.partition("\n")[0].strip()


def log(
    git: Git,
    *until: str,
    since: Sequence[str] = (),
    paths: Sequence[str] = (),
    lines: Sequence[str] = (),
    limit: int | None = None,
    ordered: bool = False,
) -> tuple[Commit, ...]:
    """The commits reachable from `until` and from none of `since`, newest first, at most `limit`.

    `paths` are globs from the top of the repository, `!` in front excludes; if given, only commits
    that change one of these files are returned, on every side of a merge. With `lines`, only
    commits are returned whose messages have all of these lines. Raises GitError.
    """
    excluded = [f"^{commit}" for commit in since]
    excluded += [f"--grep=^{_ERE.sub(_ESCAPED, line)}$" for line in lines]
    excluded += ["--all-match", "--extended-regexp"] if lines else []
    excluded += [f"--max-count={limit}"] if limit is not None else []
    limits = ["--full-history", "--", *_pathspecs(paths)] if paths else ["--"]
    excluded += ["--date-order"] if ordered else []
    done = git.run(*_LOG, f"--format={_FIELDS}", *until, *excluded, *limits)
    return tuple(_commit(record) for record in done.output.split(b"\0") if record)


def read_commit(git: Git, revision: str) -> Commit:
    """The commit of `revision`. Raises GitError if there is none."""
    done = git.run(*_LOG, "--max-count=1", f"--format={_FIELDS}", f"{revision}^{{commit}}", "--")
    return _commit(done.output.rstrip(b"\0"))


def author_of(git: Git, revision: str) -> str:
    """The author of a commit, `Name <address>`; empty if the clone does not have it."""
    shown = ("log", "--max-count=1", "--no-show-signature", "--format=%an <%ae>")
    done = git.run(*shown, f"{revision}^{{commit}}", "--", allowed=(0, 128))
    return done.output.decode(errors="replace").strip()


def parents(git: Git, commit: str) -> tuple[str, ...]:
    """The parents of the commit, including those missing in a shallow clone."""
    header = git.run("cat-file", "commit", commit).output.partition(b"\n\n")[0]
    lines = header.decode(errors="replace").splitlines()
    return tuple(line.removeprefix("parent ") for line in lines if line.startswith("parent "))


def is_ancestor(git: Git, old: str, new: str) -> bool:
    """Whether `old` is `new` or in its history; False for a commit that is not in the clone."""
    return git.run("merge-base", "--is-ancestor", old, new, allowed=(0, 1, 128)).status == 0


def merge_base(git: Git, left: str, right: str) -> str:
    """The best common ancestor of two commits; empty if there is none."""
    done = git.run("merge-base", left, right, allowed=(0, 1))
    return done.output.decode().strip()


def merged(git: Git, refs: Iterable[str], commit: str) -> frozenset[str]:
    """Those refs whose commit is `commit` or one of its ancestors."""
    names = [*refs]
    if not names:
        return frozenset()
    listing = ("for-each-ref", "--format=%(refname)", f"--merged={commit}")
    if len(names) > _MANY:
        return frozenset(git.lines(*listing, "refs/tags")) & frozenset(names)
    return frozenset(git.lines(*listing, *names)) & frozenset(names)


def abbreviate(git: Git, sha: str, width: int) -> str:
    """The shortest unique prefix of the SHA, of at least `width` digits."""
    done = git.run("rev-parse", f"--short={width}", f"{sha}^{{commit}}", allowed=(0, 128))
    return done.output.decode().strip() if done.status == 0 else sha[:width]


_MANY = 500  # names on one command line


def _pathspecs(paths: Sequence[str]) -> list[str]:
    positive = [f":(top,glob){path}" for path in paths if not path.startswith("!")]
    negative = [f":(top,exclude,glob){path[1:]}" for path in paths if path.startswith("!")]
    return [*(positive or [":(top)"]), *negative]


def _commit(record: bytes) -> Commit:
    parts = record.decode(errors="replace").split("\n", 5)
    if len(parts) != 6 or not parts[2].isdecimal():
        raise GitError(
            "git log printed an unknown format",
            code="git-output",
            hint="git 2.25 or newer is required",
        )
    sha, parents, time, committer, author, message = parts
    return Commit(sha, tuple(parents.split()), int(time), committer, author, message)
