"""The section `gitops` of an environment: where it is described in git."""

from __future__ import annotations

from dataclasses import dataclass, field

from shipline.deliver.gitops.updates import Update
from shipline.errors import ConfigError
from shipline.values import doc


@dataclass(frozen=True, slots=True)
class GitOpsSection:
    """The files of a GitOps repository in which the images of an environment are set."""

    repository: str = field(
        metadata=doc("The URL of the repository, or its path, relative to this file.")
    )
    updates: tuple[Update, ...] = field(metadata=doc("Where the image stands; all are set."))
    branch: str = field(default="", metadata=doc("The branch; by default the default branch."))
    pull_request: bool = field(
        default=False,
        metadata=doc("Propose the change on GitHub or GitLab instead of pushing to the branch."),
    )
    api: str = field(
        default="",
        metadata=doc("The URL of the API for pull requests, where the host does not tell."),
    )
    sign: bool = field(default=False, metadata=doc("Sign the commit, as git is configured."))

    def __post_init__(self) -> None:
        if not self.updates:
            raise ConfigError("updates: at least one place must be named")
        if self.repository.startswith("-"):
            raise ConfigError("repository: not a URL or a path")

    @property
    def is_path(self) -> bool:
        """Whether the repository is a path, as git reads it: no URL, and no host before a colon."""
        return "://" not in self.repository and ":" not in self.repository.partition("/")[0]
