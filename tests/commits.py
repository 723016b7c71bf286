"""Real repositories for tests: made in milliseconds, the same commits every time."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

from shipline.git import Git

START = 1_700_000_000  # seconds since 1970, of the first commit
WHO = "A U Thor <author@example.org>"


def environment(home: Path) -> dict[str, str]:
    """An environment in which no setting of the machine or the user shows."""
    return {
        "PATH": os.environ["PATH"],
        "HOME": str(home),
        "GIT_CONFIG_NOSYSTEM": "1",
        "GIT_AUTHOR_NAME": "A U Thor",
        "GIT_AUTHOR_EMAIL": "author@example.org",
        "GIT_COMMITTER_NAME": "A U Thor",
        "GIT_COMMITTER_EMAIL": "author@example.org",
    }


@dataclass
class Work:
    """A clone at `path`; each commit is a minute after the one before it."""

    path: Path
    minutes: int = 0
    environ: dict[str, str] = field(default_factory=dict)

    @classmethod
    def init(cls, path: Path, *options: str) -> Work:
        path.mkdir(parents=True, exist_ok=True)
        work = cls(path, environ=environment(path.parent))
        work.git("init", "-q", "-b", "main", *options)
        return work

    @classmethod
    def clone(cls, source: Path, path: Path, *options: str) -> Work:
        environ = environment(path.parent)
        subprocess.run(
            ["git", "clone", "-q", *options, f"file://{source}", str(path)], env=environ, check=True
        )
        return cls(path, minutes=1000, environ=environ)

    @property
    def asked(self) -> Git:
        """The repository for the code under test."""
        return Git(self.path, self.environ)

    def git(self, *arguments: str, stdin: bytes = b"") -> str:
        at = f"{START + 60 * self.minutes} +0000"
        dates = {"GIT_AUTHOR_DATE": at, "GIT_COMMITTER_DATE": at}
        done = subprocess.run(
            ["git", *arguments],
            cwd=self.path,
            env={**self.environ, **dates},
            input=stdin,
            capture_output=True,
        )
        assert done.returncode == 0, done.stderr.decode(errors="replace")
        return done.stdout.decode(errors="surrogateescape").strip()

    def commit(self, message: str | bytes = "chore: nothing", path: str = "") -> str:
        """A commit, empty unless it touches `path`; its hash."""
        self.minutes += 1
        if path:
            target = self.path / path
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_text(f"{self.minutes}\n")
            self.git("add", path)
        text = message.encode() if isinstance(message, str) else message
        options = ("-q", "--allow-empty", "--allow-empty-message", "--cleanup=verbatim", "-F", "-")
        self.git("commit", *options, stdin=text)
        return self.git("rev-parse", "HEAD")

    def tag(self, name: str, revision: str = "HEAD") -> None:
        self.git("tag", "-a", "-m", name, name, revision)

    def merge(self, branch: str, message: str) -> str:
        self.minutes += 1
        self.git("merge", "-q", "--no-ff", "-m", message, branch)
        return self.git("rev-parse", "HEAD")

    def state(self) -> str:
        """Everything that reading must leave alone: refs, HEAD, index, files."""
        refs = self.git("for-each-ref")
        return "\n".join([refs, self.git("rev-parse", "HEAD"), self.git("status", "--porcelain")])


def with_remote(place: Path) -> tuple[Work, Path]:
    """A repository with a first version, pushed to a bare remote of its own."""
    made, _ = _with_remote()
    for name in ("remote.git", "work"):
        shutil.copytree(made.path.with_name(name), place / name, symlinks=True)
    config = place / "work/.git/config"
    config.write_text(config.read_text().replace(f"{made.path.parent}/", f"{place}/"))
    return Work(place / "work", made.minutes, environment(place)), place / "remote.git"


@cache
def _with_remote() -> tuple[Work, tempfile.TemporaryDirectory[str]]:
    """What `with_remote` copies, which takes a tenth of the time."""
    directory = tempfile.TemporaryDirectory()
    remote = Path(directory.name, "remote.git")
    Work.init(remote, "--bare").git("config", "uploadpack.allowFilter", "true")
    work = Work.init(remote.with_name("work"))
    work.git("remote", "add", "origin", f"file://{remote}")
    work.commit("feat: first")
    work.tag("v1.0.0")
    work.git("push", "-q", "--follow-tags", "-u", "origin", "main")
    return work, directory


def fast_history(path: Path, *, commits: int, tags: int) -> Work:
    """A line of `commits` commits with `tags` version tags, through git fast-import."""
    work = Work.init(path)
    work.git("fast-import", "--quiet", stdin=b"".join(_stream(commits, tags)))
    work.git("pack-refs", "--all")
    work.minutes = commits
    return work


def _stream(commits: int, tags: int) -> Iterator[bytes]:
    every, made = max(1, commits // max(1, tags)), 0
    for number in range(1, commits + 1):
        when = f"{WHO} {START + 60 * number} +0000"
        message = f"fix: number {number}\n\n{'Words that say why. ' * 10}\n"
        yield f"commit refs/heads/main\nmark :{number}\ncommitter {when}\n".encode()
        yield f"data {len(message)}\n{message}".encode()
        yield f"from :{number - 1}\n".encode() if number > 1 else b""
        yield f"M 644 inline {number % 50}.txt\ndata {len(str(number))}\n{number}\n".encode()
        if number % every == 0 and made < tags and number < commits - 10:
            made += 1
            yield f"tag v1.{made}.0\nfrom :{number}\ntagger {when}\ndata 1\n.\n".encode()
