"""Commits on a branch of a remote repository, without a working tree: files are read and written as
they are in the repository, so that no filter or conversion of line ends changes them.

root/<hash of the URL>/       a bare repository for each remote, with the branches that were used
root/<hash of the URL>.lock   held while it is used
"""

from __future__ import annotations

import hashlib
import re
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from msgspec import Struct

from shipline.git.history import Commit, is_ancestor, log
from shipline.git.repository import push_refusal, remote_default_branch
from shipline.git.run import Git, GitError, GitResult
from shipline.net import without_logins
from shipline.tasks import locked

_LOCATIONS = ("GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE", "GIT_OBJECT_DIRECTORY", "GIT_PREFIX")
_LOST = ("non-fast-forward", "fetch first", "stale info", "cannot lock ref", "reference already")
_NOBODY = {"NAME": "shipline", "EMAIL": "shipline@localhost"}  # where git knows no user


SIGNING = (
    "with an SSH key: git config gpg.format ssh; git config user.signingkey ~/.ssh/id_ed25519.pub"
)
"""How git is configured to sign commits."""


class PushRefused(GitError):
    """The remote repository does not take the commit."""

    code = "git-push-refused"


class BranchRewritten(GitError):
    """Commits that the branch had are not in its history any more."""

    code = "git-branch-rewritten"


class CommittedFile(Struct, frozen=True):
    """A file of a commit: its mode as git writes it, and its object."""

    mode: str
    object: str


class RemoteBranch(Struct, frozen=True):
    """The branch `name` of the repository at `url`; `git` runs in a bare repository here."""

    git: Git
    url: str
    name: str

    @property
    def shown(self) -> str:
        """The branch with its repository, without logins."""
        return f"{without_logins(self.url)}, branch {self.name}"

    def fetch(self, beside: str = "") -> str:
        """The commit at the tip of the branch, with its history. At the same moment another branch
        is fetched, for `local_tip`, if there is one. Raises RemoteUnreachable, GitError if there is
        no such branch, and BranchRewritten, once, for one that lost commits since the last time.
        """
        ref = f"refs/heads/{self.name}"
        fetch = ("fetch", "--quiet", "--no-tags", "--no-recurse-submodules", "--prune", "--")
        # unlike a name, a pattern may match nothing
        also = (f"+refs/heads/{beside}*:refs/heads/{beside}*",) if beside else ()
        before = self._tips()
        try:
            self.git.run(*fetch, self.url, f"+{ref}:{ref}", *also)
        except GitError as error:
            if "couldn't find remote ref" in error.message:
                raise GitError(
                    f"the GitOps repository has no branch {self.name}",
                    code="git-branch-missing",
                    hint="create it with a first commit, or name another one with `branch`",
                ) from None
            raise
        tips = self._tips()
        for name, tip in before.items():
            now = tips.get(name, "")
            if tip != now and not is_ancestor(self.git, tip, now):
                raise BranchRewritten(
                    f"{without_logins(self.url)}, branch {name}: its history was rewritten, and"
                    f" lacks {tip[:12]}: deployments, approvals and holds may be lost",
                    hint="if that was meant, run the command again; else push the commit again",
                )
        return tips[self.name]

    def files(self, commit: str) -> dict[str, CommittedFile]:
        """The regular files of a commit, by path."""
        listing = self.git.run("ls-tree", "-r", "-z", "--full-tree", commit).output
        files = {}
        for entry in filter(None, listing.decode(errors="surrogateescape").split("\0")):
            facts, _, path = entry.partition("\t")
            mode, kind, name = facts.split()
            if kind == "blob" and mode.startswith("100"):
                files[path] = CommittedFile(mode, name)
        return files

    def read(self, file: CommittedFile) -> bytes:
        return self.git.run("cat-file", "blob", file.object).output

    def local_tip(self, branch: str) -> str:
        """The commit of a branch as it was fetched; empty if there is none."""
        return self._tips().get(branch, "")

    def _tips(self) -> dict[str, str]:
        """The commits of all branches that were fetched."""
        listing = ("for-each-ref", "--format=%(refname:lstrip=2) %(objectname)", "refs/heads")
        return dict(line.split() for line in self.git.lines(*listing) if line)

    def log(self, commits: Sequence[str], lines: Sequence[str]) -> tuple[Commit, ...]:
        """The commits up to `commits` whose messages have all of these lines, newest first, and
        none before one that follows from it.
        """
        return log(self.git, *commits, lines=lines, ordered=True)

    def changes(self, commit: str, paths: Sequence[str], *, since: str) -> tuple[Commit, ...]:
        """The commits up to `commit`, and not up to `since`, that change files at or below `paths`;
        the empty one is the root of the repository.
        """
        names = [re.sub(r"([\\*?\[])", r"\\\1", path) for path in paths if "" not in paths]
        globs = [glob for name in names for glob in (name, f"{name}/**")]
        return log(self.git, commit, since=[since], paths=globs)

    def ordered(self, commits: Sequence[str]) -> list[str]:
        """All commits up to these, in the order of `log`; empty names are left out."""
        return self.git.lines("rev-list", "--date-order", *filter(None, commits), "--")

    def last_change(self, commit: str, path: str) -> str:
        """The last commit up to `commit` that changed a file, with its committer and day."""
        shown = ("log", "--max-count=1", "--format=%h by %cn <%ce>, %cs", commit, "--", path)
        return self.git.text("--literal-pathspecs", *shown)

    def commit(
        self,
        parent: str,
        files: Mapping[str, CommittedFile],
        changes: Mapping[str, bytes],
        message: str,
        *,
        sign: bool = False,
    ) -> str:
        """A new commit in which some of the `files` of its parent have the given contents; it is
        not pushed. Files keep their modes. `sign` signs it as git is configured to.
        """
        with tempfile.TemporaryDirectory(prefix="shipline-git-") as scratch:
            git = Git(
                self.git.directory,
                {**self.git.environ, **_author(self.git), "GIT_INDEX_FILE": f"{scratch}/index"},
            )
            git.run("read-tree", parent)
            for path, content in changes.items():
                written = git.run("hash-object", "-w", "--stdin", stdin=content).output.decode()
                entry = f"{files[path].mode} {written.strip()}\t{path}\0".encode(
                    errors="surrogateescape"
                )
                git.run("update-index", "-z", "--add", "--index-info", stdin=entry)
            tree = git.text("write-tree")
            signing = ("-S",) if sign else ()
            words = ("commit-tree", *signing, "-p", parent, "-F", "-", tree)
            try:
                return git.run(*words, stdin=message.encode()).output.decode().strip()
            except GitError as error:
                if not sign:
                    raise
                raise GitError(
                    f"git cannot sign the commit: {error.message.rstrip(':')}",
                    code="git-signing",
                    hint=SIGNING,
                ) from None

    def push(self, commit: str, *, to: str = "", replaces: str | None = None) -> bool:
        """Push a commit to the branch, or to another one; False if the branch moved meanwhile.

        The branch `to` is replaced whatever it has, if it still has `replaces`, empty for none.
        Raises PushRefused.
        """
        ref = f"refs/heads/{to or self.name}"
        lease = () if replaces is None else (f"--force-with-lease={ref}:{replaces}",)
        done = self.git.run(
            *("push", "--porcelain", "--no-verify", "--no-follow-tags", *lease),
            *("--", self.url, f"{commit}:{ref}"),
            allowed=(0, 1, 128),
        )
        if done.status == 0:
            return True
        text = f"{done.output.decode(errors='replace')}\n{done.errors}"
        if any(reason in text for reason in _LOST):
            return False
        raise _refused(self, done, text)

    @property
    def committer(self) -> str:
        """Whom commits here are by: `Name <address>`."""
        git = Git(self.git.directory, {**self.git.environ, **_author(self.git)})
        return git.text("var", "GIT_COMMITTER_IDENT").rsplit(" ", 2)[0]

    def signer(self, commit: str, allowed: Path) -> str:
        """Whose SSH key signed a commit, as the file of allowed signers names him (ssh-keygen,
        "ALLOWED SIGNERS"); empty without a valid signature by one of them.
        """
        header = self.git.run("cat-file", "commit", commit).output.partition(b"\n\n")[0]
        if b"\ngpgsig -----BEGIN SSH SIGNATURE-----" not in header:
            return ""
        setting = f"gpg.ssh.allowedSignersFile={allowed}"
        words = ("-c", setting, "log", "--max-count=1", "--no-show-signature", "--format=%G? %GS")
        trust, _, name = self.git.text(*words, commit, "--").partition(" ")
        return name if trust == "G" else ""

    def tip_of(self, branch: str) -> str:
        """The commit of another branch of the remote, empty if there is none."""
        return self.git.text("ls-remote", "--", self.url, f"refs/heads/{branch}").partition("\t")[0]


@contextmanager
def remote_branch(
    root: Path, environ: Mapping[str, str], url: str, name: str = ""
) -> Iterator[RemoteBranch]:
    """A branch of a repository, by default its default branch, for this process alone. git runs
    with the user's configuration and credentials. Raises RemoteUnreachable, GitError.
    """
    root.mkdir(parents=True, exist_ok=True, mode=0o700)
    directory = root / hashlib.sha256(url.encode()).hexdigest()[:32]
    clean = {key: value for key, value in environ.items() if key not in _LOCATIONS}
    with locked(directory.with_suffix(".lock")):
        if not (directory / "HEAD").exists():
            shutil.rmtree(directory, ignore_errors=True)
            Git(root, clean).run("init", "--quiet", "--bare", "--template=", "--", str(directory))
        git = Git(directory, {**clean, "GIT_DIR": str(directory)})
        if not (branch := name or remote_default_branch(git, url)):
            raise GitError(
                "the GitOps repository has no default branch",
                code="git-branch-missing",
                hint="name one with `branch`; if the repository is empty, push a first commit",
            )
        yield RemoteBranch(git, url, branch)


def _author(git: Git) -> dict[str, str]:
    """Variables that name an author where git knows none, as in CI."""
    if git.run("var", "GIT_COMMITTER_IDENT", allowed=(0, 128)).status == 0:
        return {}
    return {
        f"GIT_{who}_{key}": value
        for who in ("AUTHOR", "COMMITTER")
        for key, value in _NOBODY.items()
    }


def _refused(branch: RemoteBranch, done: GitResult, text: str) -> GitError:
    protected = re.search(r"protected|GH00[0-9]|hook declined|pre-receive", text)
    denied = re.search(r"denied|403|401|read-only|Authentication|not allowed to push", text)
    hint = "give the user of this pipeline the right to push there" if denied else ""
    if "checked out" in text:
        hint = "push to a bare repository"
    elif protected:
        hint = "if the branch is protected, propose the change with `pull-request` instead"
    return PushRefused(f"{branch.shown}: the push was refused: {push_refusal(done)}", hint=hint)
