"""A GitOps repository on this machine, as a bare repository that others push to as well."""

from __future__ import annotations

import subprocess
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

KUSTOMIZATION = "images:\n  - name: {image}\n    newTag: none\n"


@dataclass(frozen=True)
class GitOps:
    """The repository at `remote`; git runs with `environ`."""

    remote: Path
    environ: Mapping[str, str]

    def git(self, *words: str, cwd: Path | None = None) -> str:
        done = subprocess.run(
            ("git", *words), cwd=cwd or self.remote, env=self.environ, capture_output=True
        )
        assert done.returncode == 0, done.stderr.decode()
        return done.stdout.decode()

    def show(self, path: str) -> str:
        return self.git("show", f"main:{path}")

    def subjects(self) -> list[str]:
        """The subjects of all commits, newest first."""
        return self.git("log", "--format=%s", "main").splitlines()

    def push(self, files: Mapping[str, str], message: str = "by hand") -> None:
        """A commit of somebody else."""
        with tempfile.TemporaryDirectory() as place:
            clone = Path(place)
            self.git("clone", "--quiet", str(self.remote), place)
            self.git("checkout", "--quiet", "-B", "main", cwd=clone)
            for path, text in files.items():
                (clone / path).parent.mkdir(parents=True, exist_ok=True)
                (clone / path).write_text(text)
            self.git("add", "--all", cwd=clone)
            self.git("commit", "--quiet", "--message", message, cwd=clone)
            self.git("push", "--quiet", "origin", "main", cwd=clone)


def new_gitops(remote: Path, environ: Mapping[str, str], files: Mapping[str, str]) -> GitOps:
    """A bare repository with these files on main."""
    made = GitOps(remote, environ)
    made.git("init", "--quiet", "--bare", "-b", "main", str(remote), cwd=remote.parent)
    made.push(files, "begin")
    return made
