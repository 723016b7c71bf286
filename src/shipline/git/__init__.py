"""The commit graph, refs and remotes of a repository, read through the git program."""

from shipline.git.failures import GitError, GitMissing, NoRepository, Unreachable
from shipline.git.run import Done, Git

__all__ = ["Done", "Git", "GitError", "GitMissing", "NoRepository", "Unreachable"]
