"""Runs the git program in a directory: the only place that starts it and interprets its errors.

    git = Git(Path("."), os.environ)
    git.text("rev-parse", "HEAD")
    git.run("merge-base", "--is-ancestor", old, new, allowed=(0, 1)).status

Errors of git become a GitError with one clear message.
"""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from msgspec import Struct

from shipline.errors import ShiplineError
from shipline.net import without_logins
from shipline.tasks import check, on_cancel


class GitError(ShiplineError):
    """A git command failed, or the repository cannot be used."""

    code = "git"
    title = "git error"
    exit_code = 12


class GitMissing(GitError):
    """The git program is not installed."""

    code = "git-missing"


class NoRepository(GitError):
    """The directory is not in a git repository."""

    code = "git-no-repository"


class RemoteUnreachable(GitError):
    """The remote repository cannot be reached, or denies access."""

    code = "git-remote"


def explain(arguments: Sequence[str], text: str, directory: Path) -> GitError:
    """The error for the standard error of `git ARGUMENTS`."""
    for pattern, make in _KNOWN:
        if match := re.search(pattern, text, re.IGNORECASE):
            error = make(match, directory)
            if isinstance(error, RemoteUnreachable) and "--" in arguments[:-1]:
                remote = without_logins(arguments[arguments.index("--") + 1])
                error.message = error.message.replace("repository", f"repository {remote}", 1)
            return error
    lines = [line for line in text.splitlines() if line.strip()]
    fatal = next((line for line in lines if line.startswith(("fatal:", "error:"))), "")
    reason = (fatal or " ".join(lines[-1:])).removeprefix("fatal: ").removeprefix("error: ")
    return GitError(
        f"git {_verb(arguments)} failed: {reason or 'no reason given'}", code="git-failed"
    )


def _verb(arguments: Sequence[str]) -> str:
    return next((argument for argument in arguments if not argument.startswith("-")), "")


def _no_repository(match: re.Match[str], directory: Path) -> GitError:
    return NoRepository(
        f"not in a git repository: {directory.absolute()}",
        hint="run the command in a clone, or pass -C DIRECTORY",
    )


def _owned_by_another(match: re.Match[str], directory: Path) -> GitError:
    path = match.group(1)
    return GitError(
        f"the repository {path} belongs to another user, and git refuses to read it",
        code="git-ownership",
        hint=f"git config --global --add safe.directory {path}",
    )


def _unreachable(match: re.Match[str], directory: Path) -> GitError:
    error = RemoteUnreachable(f"the remote repository cannot be read: {match.group(0).strip()}")
    error.hint = "check the URL of the remote and your git credentials for it"
    return error


def _other_tag(match: re.Match[str], directory: Path) -> GitError:
    tag = match.group(1)
    return GitError(
        f"the git tag {tag} of this clone differs from that of the remote",
        code="git-tag-differs",
        hint=f"git tag -d {tag} deletes it here; the next fetch restores the remote's",
    )


def _corrupt(match: re.Match[str], directory: Path) -> GitError:
    return GitError(
        f"the repository is damaged or incomplete: {match.group(0).strip()}",
        code="git-damaged",
        hint="git fsck says more; a fresh clone repairs it",
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


_SETTINGS = {
    "LC_ALL": "C",  # messages are matched by `_KNOWN`
    "GIT_TERMINAL_PROMPT": "0",
    "GIT_OPTIONAL_LOCKS": "0",  # reading does not refresh the index
    "GIT_PAGER": "cat",
    "GIT_NO_REPLACE_OBJECTS": "1",  # the same history in every clone
    "GIT_GRAFT_FILE": os.devnull,
}


class GitResult(Struct, frozen=True):
    """The result of a git command: exit `status`, standard `output` and standard `errors`."""

    status: int
    output: bytes
    errors: str


class Git(Struct, frozen=True):
    """git in `directory`; `environ` is the environment it inherits (HOME, PATH, agents)."""

    directory: Path
    environ: Mapping[str, str]

    def run(
        self, *arguments: str, stdin: bytes = b"", allowed: tuple[int, ...] = (0,)
    ) -> GitResult:
        """Run `git ARGUMENTS` to its end; it is killed when the calling thread is cancelled.

        Raises GitMissing if git is not installed, GitError for a status that is not `allowed`.
        """
        process = self._start(arguments)
        with process, on_cancel(process.kill):
            output, errors = process.communicate(stdin)
        check()
        text = errors.decode(errors="replace").strip()
        if process.returncode not in allowed:
            raise explain(arguments, text, self.directory)
        return GitResult(process.returncode, output, text)

    def text(self, *arguments: str) -> str:
        """The output of git without the final newline. Bytes that are not UTF-8 become lone
        surrogates (PEP 383), so that names in any encoding survive a round trip. Raises GitError.
        """
        return self.run(*arguments).output.decode(errors="surrogateescape").rstrip("\n")

    def lines(self, *arguments: str) -> list[str]:
        """The lines that git prints. Raises GitError."""
        return self.text(*arguments).split("\n")

    def _start(self, arguments: tuple[str, ...]) -> subprocess.Popen[bytes]:
        try:
            return subprocess.Popen(
                ("git", "-c", "core.quotePath=false", *arguments),
                cwd=self.directory,
                env={**self.environ, **_SETTINGS},
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
            )
        except (FileNotFoundError, NotADirectoryError) as error:
            if not self.directory.is_dir():
                raise GitError(f"not a directory: {self.directory}", code="git-failed") from error
            raise GitMissing(
                "git is not installed, or not on the PATH", hint="install the package git"
            ) from error
        except PermissionError as error:
            raise GitError(
                f"cannot run git in {self.directory}: {error.strerror}", code="git-failed"
            ) from error
