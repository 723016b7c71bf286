"""Commits of remote repositories: a ref is resolved, and one commit is fetched without its history.

root/<sha256 of the URL>/   a bare repository for each remote
root/<...>.lock             held while it is used
"""

from __future__ import annotations

import base64
import hashlib
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from urllib.parse import urlsplit

from msgspec import Struct

from shipline.errors import UsageError
from shipline.git.isolated import IsolatedGit
from shipline.git.run import GitError, RemoteUnreachable
from shipline.git.source import GitSource, is_commit, is_ssh
from shipline.tasks import locked
from shipline.values import replace

_SHALLOW = ("--depth=1",)
_FETCH = ("fetch", "--quiet", "--progress", "--no-tags", "--force", "--no-recurse-submodules")
_LEFT = ("shallow.lock", "index.lock", "config.lock")  # of a git that was killed


class RefNotFound(GitError):
    """The repository has no such ref, commit or directory."""

    code = "git-not-found"


class GitCommit(Struct, frozen=True):
    """A resolved source: `object` is what `ref`, its full name, stands for: `commit`, or a tag of
    it. `ref` is empty for a commit that was named by its hash.
    """

    source: GitSource
    commit: str
    object: str
    ref: str = ""

    @property
    def keeps_git_dir(self) -> bool:
        return bool(self.source.keep_git_dir)

    @property
    def key(self) -> str:
        """What the files depend on, written as BuildKit does (source/git)."""
        key = self.commit
        if self.keeps_git_dir:
            key = f"{self.object}.git#{self.ref or self.object}"
        if self.source.subdir:
            key += f":{self.source.subdir}"
        if not self.source.submodules:
            key += "(skip-submodules)"
        return key + ("(mtime=commit)" if self.source.mtime == "commit" else "")


class GitStore(Struct, frozen=True):
    """Repositories below `root`; `on_use` is called with each one that is used, and its URL."""

    root: Path
    git: IsolatedGit
    on_use: Callable[[Path, str], object] = lambda repository, remote: None

    def with_login_of(self, source: GitSource) -> GitStore:
        """The store that sends the login of the source's URL, to its server alone."""
        if not source.login:
            return self
        parts = urlsplit(source.remote)
        encoded = base64.b64encode(source.login.encode()).decode("ascii")
        header = {f"{parts.scheme}://{parts.netloc}/": f"Authorization: Basic {encoded}"}
        return replace(self, git=replace(self.git, headers={**self.git.headers, **header}))

    def resolve(self, source: GitSource) -> GitCommit:
        """The commit of `source`; the server is asked unless its hash is given.

        Raises RefNotFound, RemoteUnreachable, GitError for another checksum, and UsageError for SSH
        without a login.
        """
        if source.by_commit and is_commit(source.checksum):
            source = replace(source, ref=source.checksum)
        self.require_ssh(source.remote, "the repository")
        if is_commit(source.ref):
            return GitCommit(source, source.ref, source.ref)
        with naming(source):
            ref, found = self.with_login_of(source)._advertised(source)
        commit = found.get(f"{ref}^{{}}", found[ref])
        if not (commit.startswith(source.checksum) or found[ref].startswith(source.checksum)):
            raise GitError(
                f"expected checksum to match: {source.shown} is {commit}, not {source.checksum}",
                code="checksum-mismatch",
                hint="if it was meant to change, update the checksum",
            )
        return GitCommit(source, commit, found[ref], ref)

    def _advertised(self, source: GitSource) -> tuple[str, dict[str, str]]:
        """The full name of the ref, and hashes by the names that the server has for it."""
        patterns = ("HEAD",) if not source.ref else (source.ref, f"{source.ref}^{{}}")
        listing = self.git.run("ls-remote", "--symref", "--", source.remote, *patterns)
        found, default = dict[str, str](), "HEAD"
        for line in listing.decode(errors="replace").splitlines():
            value, _, name = line.partition("\t")
            if value.startswith("ref: ") and name == "HEAD":
                default = value.removeprefix("ref: ")
            elif is_commit(value):
                found[name] = value
        if not source.ref:
            if "HEAD" not in found:
                raise RefNotFound("it has no default branch", hint="name a branch: URL#BRANCH")
            return default, {default: found["HEAD"]}
        for name in _meanings(source.ref):
            if name in found:
                return name, found
        short = len(source.ref) >= 4 and all(one in "0123456789abcdef" for one in source.ref)
        raise RefNotFound(
            f"repository does not contain ref {source.ref}",
            hint="a commit needs its full hash" if short else "",
        )

    @contextmanager
    def fetched(self, found: GitCommit) -> Iterator[Path]:
        """The repository of `found`, with its files, while no other build uses it.

        Raises RefNotFound, RemoteUnreachable, GitError.
        """
        with self.repository(found.source.remote, found.object) as repository:
            self.fetch(repository, found.source, found.object, found.ref)
            yield repository

    @contextmanager
    def repository(self, remote: str, hash: str) -> Iterator[Path]:
        """The bare repository of `remote` for hashes like `hash`, created if it is missing."""
        self.root.mkdir(parents=True, exist_ok=True)
        self.root.chmod(0o700)  # private repositories are here
        algorithm = "sha1" if len(hash) == 40 else "sha256"
        name = hashlib.sha256(f"{algorithm} {remote}".encode()).hexdigest()[:32]
        repository = self.root / name
        with locked(self.root / f"{name}.lock"):
            self.on_use(repository, remote)  # from here on it is not evicted
            if not (repository / "HEAD").exists():
                shutil.rmtree(repository, ignore_errors=True)
                init = ("init", "--bare", "--quiet", "--template=", f"--object-format={algorithm}")
                self.git.run(*init, "--", str(repository))
                self.on_use(repository, remote)
            for left in _LEFT:
                (repository / left).unlink(missing_ok=True)
            yield repository

    def remove(self, repository: Path, seen: os.stat_result) -> None:
        """Remove a repository that was found damaged, unless another build has made a new one."""
        with locked(self.root / f"{repository.name}.lock"), suppress(FileNotFoundError):
            if os.path.samestat(repository.stat(), seen):
                shutil.rmtree(repository, ignore_errors=True)

    def fetch(self, repository: Path, source: GitSource, hash: str, ref: str = "") -> None:
        """Bring the object `hash`, which is `ref` if that is given, and all its files.

        Raises RefNotFound, RemoteUnreachable, GitError.
        """
        if self._has(repository, hash):
            return
        git, at = self.with_login_of(source).git, f"--git-dir={repository}"
        for name, depth in _attempts(ref, hash):
            try:
                refspec = f"{name}:refs/shipline/{hash}"
                git.run(at, *_FETCH, *depth, "--", source.remote, refspec)
            except RemoteUnreachable:
                raise
            except GitError:
                continue
            if self._has(repository, hash):
                break
        else:
            self._fetch_all(git, repository, source.remote)
            if not self._has(repository, hash):
                raise RefNotFound(f"it has no commit {hash}")
        git.run(at, "update-ref", f"refs/shipline/{hash}", hash)  # keeps it

    def _fetch_all(self, git: IsolatedGit, repository: Path, remote: str) -> None:
        """All branches and tags with their history, of a server that gives no other commits."""
        refs = ("+refs/heads/*:refs/all/heads/*", "+refs/tags/*:refs/all/tags/*")
        whole = ("--unshallow",) if (repository / "shallow").exists() else ()
        git.run(f"--git-dir={repository}", *_FETCH, *whole, "--", remote, *refs)

    def _has(self, repository: Path, hash: str) -> bool:
        words = (f"--git-dir={repository}", "cat-file", "-t", hash)
        return self.git.run(*words, allowed=(0, 1, 128)).strip() in (b"commit", b"tag")

    def require_ssh(self, remote: str, name: str) -> None:
        """Raises UsageError if `remote` needs an SSH login and the build has none."""
        if is_ssh(remote) and self.git.ssh is None:
            raise UsageError(
                f"{name} {remote} is reached over SSH, and the build has no SSH agent",
                code="ssh-agent",
                hint="pass one with --ssh default",
            )


@contextmanager
def naming(source: GitSource) -> Iterator[None]:
    """Adds the repository to the messages of errors."""
    try:
        yield
    except GitError as error:
        if source.remote not in error.message:
            error.message = f"{source.shown}: {error.message}"
            error.args = (error.message,)
        raise


def _meanings(ref: str) -> tuple[str, ...]:
    """The full names that `ref` may mean; a branch comes before a tag, as in BuildKit."""
    return (
        f"refs/{ref.removeprefix('refs/')}",
        f"refs/heads/{ref.removeprefix('refs/heads/')}",
        f"refs/tags/{ref.removeprefix('refs/tags/')}",
    )


def _attempts(ref: str, hash: str) -> list[tuple[str, tuple[str, ...]]]:
    """What to ask a server for, in turn: some give no commit by its hash, some no single one."""
    names = [ref, hash] if ref else [hash]
    return [(name, depth) for depth in (_SHALLOW, ()) for name in names]
