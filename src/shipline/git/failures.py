"""What git could not do, told in one message with what to do about it."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from pathlib import Path

from shipline.errors import ShiplineError


class GitError(ShiplineError):
    """The repository, or what it was asked for, cannot be used."""

    code = "git"
    title = "git error"
    exit_code = 12


class GitMissing(GitError):
    """The git program is not there."""

    code = "git-missing"


class NoRepository(GitError):
    """The directory is not in a git repository."""

    code = "git-no-repository"


class Unreachable(GitError):
    """The remote repository did not answer or did not let us in."""

    code = "git-remote"


def explain(arguments: Sequence[str], text: str, directory: Path) -> GitError:
    """The error for what git wrote to its standard error while it ran `arguments`."""
    for pattern, make in _KNOWN:
        if found := re.search(pattern, text, re.IGNORECASE):
            return make(found, directory)
    lines = [line for line in text.splitlines() if line.strip()]
    told = next((line for line in lines if line.startswith(("fatal:", "error:"))), "")
    reason = (told or " ".join(lines[-1:])).removeprefix("fatal: ").removeprefix("error: ")
    return GitError(f"git {_verb(arguments)} failed: {reason or 'no reason given'}")


def _verb(arguments: Sequence[str]) -> str:
    return next((one for one in arguments if not one.startswith("-")), "")


def _no_repository(found: re.Match[str], directory: Path) -> GitError:
    return NoRepository(
        f"not in a git repository: {directory.absolute()}",
        hint="run it inside a clone, or name one with -C",
    )


def _owned_by_another(found: re.Match[str], directory: Path) -> GitError:
    place = found.group(1)
    return GitError(
        f"the repository {place} belongs to another user, so git refuses to read it",
        hint=f"git config --global --add safe.directory {place}",
    )


def _unreachable(found: re.Match[str], directory: Path) -> GitError:
    error = Unreachable(f"the remote repository cannot be read: {found.group(0).strip()}")
    error.hint = "check the URL of the remote and the credentials git has for it"
    return error


def _other_tag(found: re.Match[str], directory: Path) -> GitError:
    tag = found.group(1)
    return GitError(
        f"the git tag {tag} of this clone is not that of the remote",
        hint=f"git tag -d {tag} takes it away here; the next fetch brings the remote's",
    )


def _corrupt(found: re.Match[str], directory: Path) -> GitError:
    return GitError(
        f"the repository is damaged or incomplete: {found.group(0).strip()}",
        hint="git fsck tells more; a fresh clone repairs it",
    )


_KNOWN: tuple[tuple[str, Callable[[re.Match[str], Path], GitError]], ...] = (
    (r"not a git repository", _no_repository),
    (r"\[rejected\]\s+(\S+)\s.*would clobber existing tag", _other_tag),
    (r"detected dubious ownership in repository at '([^']*)'", _owned_by_another),
    (
        r"could not read from remote repository|could not resolve host[^\n]*"
        r"|could not read username[^\n]*|authentication failed[^\n]*"
        r"|unable to access[^\n]*|does not appear to be a git repository",
        _unreachable,
    ),
    (r"unable to read [0-9a-f]{40}|bad object [^\n]*|object file [^\n]* is empty", _corrupt),
)
