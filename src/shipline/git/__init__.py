"""The commit graph, refs and remotes of a repository, read through the git program."""

from shipline.git.changes import ChangedLines, changed_lines
from shipline.git.history import (
    Commit,
    abbreviate,
    is_ancestor,
    log,
    merge_base,
    merged,
    parents,
    read_commit,
)
from shipline.git.repository import (
    Repository,
    ShallowClone,
    branches_containing,
    complete_history,
    default_branch,
    fetch_tags,
    read_repository,
    remote_tags,
    resolve,
    shallow_clone,
    tags,
    web_address,
)
from shipline.git.reserve import Reserved, TagTaken, reserve_tag
from shipline.git.run import Git, GitError, GitMissing, GitResult, NoRepository, Unreachable

__all__ = [
    "ChangedLines",
    "Commit",
    "Git",
    "GitError",
    "GitMissing",
    "GitResult",
    "NoRepository",
    "Repository",
    "Reserved",
    "ShallowClone",
    "TagTaken",
    "Unreachable",
    "abbreviate",
    "branches_containing",
    "changed_lines",
    "complete_history",
    "default_branch",
    "fetch_tags",
    "is_ancestor",
    "log",
    "merge_base",
    "merged",
    "parents",
    "read_commit",
    "read_repository",
    "remote_tags",
    "reserve_tag",
    "resolve",
    "shallow_clone",
    "tags",
    "web_address",
]
