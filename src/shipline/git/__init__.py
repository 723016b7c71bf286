"""The git program in one place: history, refs and remotes of clones, trees of repositories."""

from shipline.git.branches import (
    SIGNING,
    BranchRewritten,
    CommittedFile,
    PushRefused,
    RemoteBranch,
    remote_branch,
)
from shipline.git.changes import ChangedLines, WorkTree, changed_lines, read_work_tree
from shipline.git.history import (
    Commit,
    abbreviate,
    author_of,
    is_ancestor,
    log,
    merge_base,
    merged,
    parents,
    read_commit,
)
from shipline.git.isolated import IsolatedGit, SshAccess
from shipline.git.repository import (
    CommitOrder,
    GitRepository,
    Reserved,
    ShallowClone,
    TagTaken,
    branches_containing,
    commit_order,
    complete_history,
    default_branch,
    fetch_tags,
    read_repository,
    remote_default_branch,
    remote_tags,
    reserve_tag,
    resolve,
    shallow_clone,
    tags,
    web_address,
)
from shipline.git.run import Git, GitError, GitMissing, NoRepository, RemoteUnreachable
from shipline.git.source import GitSource, clean_directory, parse_git_source
from shipline.git.store import GitCommit, GitStore, RefNotFound
from shipline.git.worktree import checkout, commit_time
