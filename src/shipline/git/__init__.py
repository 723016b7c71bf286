"""The git program in one place: history, refs and remotes of clones, trees of repositories."""

from __future__ import annotations

from typing import TYPE_CHECKING

from shipline.lazy import load_when_named

if TYPE_CHECKING:
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
else:
    __getattr__ = load_when_named(
        __name__,
        branches="SIGNING BranchRewritten CommittedFile PushRefused RemoteBranch remote_branch",
        changes="ChangedLines WorkTree changed_lines read_work_tree",
        history="Commit abbreviate author_of is_ancestor log merge_base merged parents read_commit",
        isolated="IsolatedGit SshAccess",
        repository="CommitOrder GitRepository Reserved ShallowClone TagTaken branches_containing "
        "commit_order complete_history default_branch fetch_tags read_repository "
        "remote_default_branch remote_tags reserve_tag resolve shallow_clone tags "
        "web_address",
        run="Git GitError GitMissing NoRepository RemoteUnreachable",
        source="GitSource clean_directory parse_git_source",
        store="GitCommit GitStore RefNotFound",
        worktree="checkout commit_time",
    )
