"""The git program, run in one directory: the only place that starts it.

    git = Git(Path("."), os.environ)
    git.text("rev-parse", "HEAD")
    git.run("merge-base", "--is-ancestor", old, new, allowed=(0, 1)).status

Every answer of git that means trouble becomes a GitError with one clear message.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from shipline.git.failures import GitError, GitMissing, explain
from shipline.tasks import check, on_cancel

_SETTINGS = {
    "LC_ALL": "C",  # messages are read by `failures`
    "GIT_TERMINAL_PROMPT": "0",
    "GIT_OPTIONAL_LOCKS": "0",  # reading refreshes no index
    "GIT_PAGER": "cat",
    "GIT_NO_REPLACE_OBJECTS": "1",  # history is what commits say, in every clone alike
    "GIT_GRAFT_FILE": os.devnull,
}


@dataclass(frozen=True, slots=True)
class Done:
    """How a run of git ended: `status` is its exit status, `output` and `errors` what it wrote."""

    status: int
    output: bytes
    errors: str


@dataclass(frozen=True, slots=True)
class Git:
    """git at work in `directory`; `environ` is the environment it inherits (HOME, PATH, agents)."""

    directory: Path
    environ: Mapping[str, str]

    def run(self, *arguments: str, stdin: bytes = b"", allowed: tuple[int, ...] = (0,)) -> Done:
        """Run `git ARGUMENTS` to its end; it is killed when the calling thread is cancelled.

        Raises GitMissing where there is no git, GitError for a status that is not `allowed`.
        """
        process = self._start(arguments)
        with process, on_cancel(process.kill):
            output, errors = process.communicate(stdin)
        check()
        text = errors.decode(errors="replace").strip()
        if process.returncode not in allowed:
            raise explain(arguments, text, self.directory)
        return Done(process.returncode, output, text)

    def text(self, *arguments: str) -> str:
        """What git prints, without the last line end; names in any encoding survive a round trip.

        Bytes that are no UTF-8 become lone surrogates (PEP 383). Raises GitError.
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
                raise GitError(f"not a directory: {self.directory}") from error
            raise GitMissing(
                "git is not installed, or not on the PATH", hint="install the package git"
            ) from error
        except PermissionError as error:
            raise GitError(f"cannot run git in {self.directory}: {error.strerror}") from error
