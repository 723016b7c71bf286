"""The state of a repository: HEAD, refs, remote and depth of its history; fetching into it, and
reserving a tag in its remote.
"""

from __future__ import annotations

import enum
import re
from collections.abc import Callable, Mapping

from msgspec import Struct

from shipline.git.history import Commit, is_ancestor
from shipline.git.run import Git, GitError, GitResult

_TAGS = "%(refname)%00%(objectname)%00%(*objectname)"


class GitRepository(Struct, frozen=True):
    """The state of a clone: `head` is empty before the first commit, `branch` on a detached HEAD.
    `remote` is the remote of releases and `url` its address; both are empty without a remote.
    """

    head: str
    branch: str
    shallow: bool
    remote: str = ""
    url: str = ""


def read_repository(git: Git, *, remote: str = "") -> GitRepository:
    """The state of the repository of `git`. The remote is `remote`, by default `origin` or the only
    one. Raises NoRepository, or GitError for a remote that does not exist and a HEAD whose commit
    is missing.
    """
    shallow = git.lines("rev-parse", "--is-shallow-repository")
    head = git.run("rev-parse", "--verify", "--quiet", "HEAD^{commit}", allowed=(0, 1, 128))
    if head.status:
        _require_unborn(git)
    branch = git.run("symbolic-ref", "--quiet", "HEAD", allowed=(0, 1)).output
    chosen, url = _choose(_remotes(git), remote)
    return GitRepository(
        head=head.output.decode().strip(),
        branch=_decode(branch).removeprefix("refs/heads/"),
        shallow=shallow == ["true"],
        remote=chosen,
        url=url,
    )


def _require_unborn(git: Git) -> None:
    """Raises GitError if HEAD names a commit that cannot be read."""
    named_head = git.run("rev-parse", "--verify", "--quiet", "HEAD", allowed=(0, 1, 128))
    if sha := named_head.output.decode().strip():
        raise GitError(
            f"the repository is damaged or incomplete: the commit {sha[:12]} of HEAD is unreadable",
            code="git-damaged",
            hint="git fsck says more; a fresh clone repairs it",
        )


def remote_tags(git: Git, remote: str) -> frozenset[str]:
    """The tags of `remote`. Raises GitError if it cannot be reached."""
    lines = git.lines("ls-remote", "--quiet", "--tags", "--refs", remote)
    return frozenset(line.partition("\trefs/tags/")[2] for line in lines if line)


def tags(git: Git) -> dict[str, str]:
    """Every tag with its object, annotated tags peeled. Raises GitError for an unreadable tag,
    which could be the last version.
    """
    commits = {}
    done = git.run("for-each-ref", f"--format={_TAGS}", "refs/tags")
    if broken := re.search(r"broken ref (\S+)", done.errors):
        raise GitError(
            f"the repository is damaged or incomplete: {broken[1]} names no object",
            code="git-damaged",
            hint=f"git update-ref -d {broken[1]} deletes it; the next fetch restores the remote's",
        )
    for line in _decode(done.output).split("\n"):
        if line:
            name, direct, peeled = line.split("\0")
            commits[name.removeprefix("refs/tags/")] = peeled or direct
    return commits


def branches_containing(git: Git, commit: str, remote: str) -> tuple[str, ...]:
    """The remote branches that contain `commit`; local ones if no remote branch does."""
    for namespace in (f"refs/remotes/{remote}/", "refs/heads/"):
        if namespace == "refs/remotes//":
            continue
        listing = ("for-each-ref", "--format=%(refname)%00%(symref)", f"--contains={commit}")
        lines = [line.split("\0") for line in git.lines(*listing, namespace) if line]
        if names := [name.removeprefix(namespace) for name, symref in lines if not symref]:
            return tuple(names)
    return ()


def resolve(git: Git, ref: str) -> str:
    """The commit of `ref`; empty if there is none."""
    done = git.run("rev-parse", "--verify", "--quiet", f"{ref}^{{commit}}", allowed=(0, 1, 128))
    return done.output.decode().strip()


def default_branch(git: Git, remote: str) -> str:
    """The default branch of the remote as known to the clone; empty if unknown."""
    done = git.run("symbolic-ref", "--quiet", f"refs/remotes/{remote}/HEAD", allowed=(0, 1, 128))
    return _decode(done.output).removeprefix(f"refs/remotes/{remote}/")


def remote_default_branch(git: Git, remote: str) -> str:
    """The default branch that a remote, by name or URL, reports; empty if it has none. Raises
    GitError.
    """
    for line in git.lines("ls-remote", "--symref", "--", remote, "HEAD"):
        if match := re.fullmatch(r"ref: refs/heads/(.+)\tHEAD", line):
            return match[1]
    return ""


def web_address(url: str) -> str:
    """The address of the repository on the web; empty for a local path.

    Credentials in the URL are dropped; `git@host:name.git` and ssh URLs become https.
    """
    if match := re.fullmatch(r"(?:[^@/:]+@)?([^/:@]+\.[^/:@]+):(?!//)/?(.+?)(?:\.git)?/?", url):
        return f"https://{match[1]}/{match[2]}"
    pattern = r"(https?|ssh|git)(?:\+ssh)?://(?:[^@/]*@)?([^/:]+)(:\d+)?/(.+?)(?:\.git)?/?"
    if not (match := re.fullmatch(pattern, url)):
        return ""
    scheme, port = (match[1], match[3] or "") if match[1].startswith("http") else ("https", "")
    return f"{scheme}://{match[2]}{port}/{match[4]}"


def _remotes(git: Git) -> dict[str, str]:
    done = git.run("config", "-z", "--get-regexp", r"^remote\..*\.url$", allowed=(0, 1))
    entries = [line.partition("\n") for line in _decode(done.output).split("\0") if line]
    return {
        key.removeprefix("remote.").removesuffix(".url"): url for key, _, url in reversed(entries)
    }


def _choose(remotes: Mapping[str, str], preferred: str) -> tuple[str, str]:
    if preferred and preferred not in remotes:
        known = ", ".join(sorted(remotes)) or "none"
        raise GitError(
            f"there is no remote {preferred}",
            code="git-no-remote",
            hint=f"remotes of this clone: {known}",
        )
    name = preferred or ("origin" if "origin" in remotes else "")
    if not name and len(remotes) == 1:
        name = next(iter(remotes))
    return name, remotes.get(name, "")


def _decode(output: bytes) -> str:
    return output.decode(errors="surrogateescape").strip("\n")


_FETCH = (
    "fetch",
    "--no-recurse-submodules",
    "--tags",
)  # --quiet would hide the reason of a failure


class ShallowClone(GitError):
    """The clone is shallow, and lacks commits that are needed."""

    code = "git-shallow"


def complete_history(git: Git, remote: str, *, trees: bool = False) -> None:
    """Fetch all commits and tags of `remote` into a shallow clone, with `trees` also their trees.
    Trees or file contents are left out if the server supports that. No branch, index or file of the
    clone changes. Raises ShallowClone with the command to run.
    """
    if not remote:
        raise shallow_clone(remote, "it has no remote to fetch from")
    object_filter = f"--filter={'blob:none' if trees else 'tree:0'}"
    try:
        git.run(*_FETCH, "--unshallow", object_filter, remote)
    except GitError:
        _plainly(git, remote)
    if git.text("rev-parse", "--is-shallow-repository") == "true":
        raise shallow_clone(remote, "the remote is shallow itself")


def fetch_tags(git: Git, remote: str) -> None:
    """Fetch the tags of `remote` with their commits; existing tags are kept. Raises GitError if one
    of them is on another commit in the remote.
    """
    git.run(*_FETCH, remote)


def shallow_clone(remote: str, reason: str) -> ShallowClone:
    """The error for a clone that remains shallow, with the command that completes it."""
    return ShallowClone(
        f"the clone is shallow and lacks older versions: {reason}",
        hint=f"git fetch --tags --unshallow {remote or 'REMOTE'}"
        " (GitHub: fetch-depth: 0, GitLab: GIT_DEPTH: 0), or --fetch",
    )


def _plainly(git: Git, remote: str) -> None:
    try:
        git.run(*_FETCH, "--unshallow", remote)
    except GitError as error:
        raise shallow_clone(remote, error.message) from error


CommitOrder = Callable[[str, str], bool]
"""Whether the first of two commits is in the history of the second."""


def commit_order(git: Git, remote: str, *, fetch: bool) -> CommitOrder:
    """A function that tells whether one commit is in the history of another. A shallow clone is
    completed from `remote` (the default one if empty) before the function returns False; it raises
    ShallowClone if that fails or is not allowed.
    """

    def older(old: str, new: str) -> bool:
        if is_ancestor(git, old, new):
            return True
        clone = read_repository(git, remote=remote)
        if not clone.shallow:
            return False
        if not fetch:
            raise shallow_clone(clone.remote, "nothing is fetched without --fetch")
        complete_history(git, clone.remote)
        return is_ancestor(git, old, new)

    return older


class Reserved(enum.Enum):
    """The result of a successful reservation."""

    NEW = "new"
    OURS = "ours"


class TagTaken(GitError):
    """The tag belongs to another commit."""

    code = "git-tag-taken"

    def __init__(self, name: str, commit: str) -> None:
        super().__init__(f"the git tag {name} is taken by commit {commit[:12]}", retriable=True)
        self.name = name
        self.commit = commit


def reserve_tag(git: Git, remote: str, name: str, commit: Commit, message: str) -> Reserved:
    """Create the tag `name` for `commit` in `remote`, atomically. The clone gets no ref. The tag
    object depends on the commit alone (its committer and time), so that a second push for the same
    commit is nothing new to git. Raises TagTaken if another commit has the tag, GitError if the
    remote refuses it.
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
    raise GitError(
        f"{remote} refused the tag {name}: {push_refusal(done)}", code="git-push-refused"
    )


def _holder(git: Git, remote: str, name: str) -> str:
    """The commit of the tag in the remote; empty if there is none."""
    ref = f"refs/tags/{name}"
    lines = git.lines("ls-remote", "--quiet", remote, ref, f"{ref}^{{}}")
    commits = {ref: sha for sha, _, ref in (line.partition("\t") for line in lines if line)}
    return commits.get(f"{ref}^{{}}", commits.get(ref, ""))


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


def push_refusal(done: GitResult) -> str:
    """Why a push was refused: what the remote says, else git's summary of the ref."""
    lines = [line.strip() for line in done.errors.splitlines()]
    messages = [line.removeprefix("remote:").strip() for line in lines if line[:7] == "remote:"]
    said = [message for message in messages if message.strip("=- ")]
    refused = [
        line for line in done.output.decode(errors="replace").splitlines() if line[:1] == "!"
    ]
    own = [line for line in lines if line and not line.startswith(("hint:", "To "))]
    return (said or [line.split("\t")[-1] for line in refused] or own or ["no reason given"])[0]
