"""The whole history for a shallow clone."""

from __future__ import annotations

from shipline.git.failures import GitError
from shipline.git.run import Git

_FETCH = ("fetch", "--no-recurse-submodules", "--tags")  # --quiet would hide why it fails


class ShallowClone(GitError):
    """The clone lacks the commits that the answer depends on."""

    code = "git-shallow"


def complete_history(git: Git, remote: str, *, trees: bool = False) -> None:
    """Fetch all commits and tags of `remote` into a shallow clone; `trees` tells to have paths too.

    Commits come without trees, or without file contents, where the server can leave them out. No
    branch, index or file of the clone changes. Raises ShallowClone with the command to run.
    """
    if not remote:
        raise shallow_clone(remote, "it has no remote to fetch from")
    wanted = f"--filter={'blob:none' if trees else 'tree:0'}"
    try:
        git.run(*_FETCH, "--unshallow", wanted, remote)
    except GitError:
        _plainly(git, remote)
    if git.text("rev-parse", "--is-shallow-repository") == "true":
        raise shallow_clone(remote, "the remote is shallow itself")


def fetch_tags(git: Git, remote: str) -> None:
    """Bring the tags of `remote` here, with the commits they need; tags that are here stay.

    Raises GitError where one that is here is another commit's in the remote.
    """
    git.run(*_FETCH, remote)


def shallow_clone(remote: str, why: str) -> ShallowClone:
    """The error for a clone that is shallow and stays so."""
    return ShallowClone(
        f"the clone is shallow, so older versions cannot be seen: {why}",
        hint=f"git fetch --tags --unshallow {remote or 'REMOTE'}"
        " (GitHub: fetch-depth: 0, GitLab: GIT_DEPTH: 0), or --fetch",
    )


def _plainly(git: Git, remote: str) -> None:
    try:
        git.run(*_FETCH, "--unshallow", remote)
    except GitError as error:
        raise shallow_clone(remote, error.message) from error
