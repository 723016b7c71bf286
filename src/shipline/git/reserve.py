"""A tag of the remote repository, taken for one commit before anything is published under it.

The tag object is made of the commit alone (its committer and time), so that two pipelines that tag
the same commit make the same object, and a second push of it is nothing new to git.
"""

from __future__ import annotations

import enum

from shipline.git.history import Commit
from shipline.git.run import Git, GitError, GitResult


class Reserved(enum.Enum):
    """How a reservation ended well."""

    NEW = "new"
    OURS = "ours"


class TagTaken(GitError):
    """Another commit has the tag."""

    code = "git-tag-taken"

    def __init__(self, name: str, commit: str) -> None:
        super().__init__(f"the git tag {name} is taken by commit {commit[:12]}", retriable=True)
        self.name = name
        self.commit = commit


def reserve_tag(git: Git, remote: str, name: str, commit: Commit, message: str) -> Reserved:
    """Make `name` stand for `commit` in `remote`: atomically, and only if it is free or ours.

    The clone gets no ref. Raises TagTaken, or GitError where the remote refuses for other reasons.
    """
    if holder := _holder(git, remote, name):
        if holder != commit.sha:
            raise TagTaken(name, holder)
        return Reserved.OURS
    tag = git.run("mktag", stdin=_tag(name, commit, message)).output.decode().strip()
    done = git.run(
        "push", "--atomic", "--porcelain", "--no-verify", "--no-follow-tags", remote,
        f"{tag}:refs/tags/{name}", allowed=(0, 1),
    )  # fmt: skip
    if done.status == 0:
        return Reserved.NEW
    holder = _holder(git, remote, name)
    if holder == commit.sha:
        return Reserved.OURS
    if holder:
        raise TagTaken(name, holder)
    raise GitError(f"{remote} refused the tag {name}: {_reason(done)}")


def _holder(git: Git, remote: str, name: str) -> str:
    """The commit of the tag in the remote; empty if there is none."""
    ref = f"refs/tags/{name}"
    lines = git.lines("ls-remote", "--quiet", remote, ref, f"{ref}^{{}}")
    found = {ref: sha for sha, _, ref in (line.partition("\t") for line in lines if line)}
    return found.get(f"{ref}^{{}}", found.get(ref, ""))


def _tag(name: str, commit: Commit, message: str) -> bytes:
    lines = [
        f"object {commit.sha}",
        "type commit",
        f"tag {name}",
        f"tagger {commit.committer} {commit.time} +0000",
        "",
        message,
    ]
    return ("\n".join(lines).rstrip() + "\n").encode(errors="surrogateescape")


def _reason(done: GitResult) -> str:
    """The messages of the remote, else the error of git."""
    lines = [line.strip() for line in done.errors.splitlines()]
    messages = [
        line.removeprefix("remote:").strip() for line in lines if line.startswith("remote:")
    ]
    refused = [
        line for line in done.output.decode(errors="replace").splitlines() if line[:1] == "!"
    ]
    return (messages or [line.split("\t")[-1] for line in refused] or lines or ["no reason given"])[
        0
    ]
