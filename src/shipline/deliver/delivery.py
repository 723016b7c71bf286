"""The way of a project's images to its environments: they are resolved and trusted, then set by
digest in the GitOps repository, with a push or a pull request.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from shipline.deliver.canary.weights import ending
from shipline.deliver.environments import Environments, EnvironmentSection, named_environment
from shipline.deliver.gitops import (
    Deployed,
    Deployment,
    GitOpsSection,
    OnRace,
    PlannedChange,
    deploy,
    prepare,
    record,
)
from shipline.deliver.gitops.pull_request import Forge, propose
from shipline.errors import ConfigError
from shipline.gates.context import REVISION, image_facts
from shipline.git import CommitOrder, Git, RemoteBranch, author_of, commit_order, remote_branch
from shipline.oci import Digest, Reference
from shipline.propagation import traceparent
from shipline.trust import TrustPolicy
from shipline.values import replace

if TYPE_CHECKING:
    from shipline.gates import GatesSection
    from shipline.registry.http import HttpClient
    from shipline.supply import Attachable


@dataclass(frozen=True, slots=True, kw_only=True)
class Delivery:
    """What deployments of a project have in common. `git` is the clone of its source, `root` the
    directory that paths in its configuration are relative to, `home` the state directory; `image`
    gives deployments their name, by default the first that is deployed. `repositories` opens the
    repository of an image at its own registry; `http` calls the APIs of pull requests. With
    `fetch` a shallow clone may be completed. `targets` are the repositories of all images by
    target, `summaries` the summaries of gates (gates.SUMMARY_TYPE) that runs of this machine have
    of a digest.
    """

    git: Git
    root: Path
    home: Path
    environ: Mapping[str, str] = field(repr=False)
    repositories: Callable[[Reference], Attachable]
    http: HttpClient
    trust: TrustPolicy | None = None
    image: Reference | None = None
    fetch: bool = True
    environments: Environments = field(default_factory=dict)
    targets: Mapping[str, Reference] = field(default_factory=dict)
    gates: GatesSection | None = None
    summaries: Callable[[Digest], Iterable[Mapping[str, Any]]] = lambda digest: ()
    clock: Callable[[], float] = time.time

    def environment(self, name: str) -> EnvironmentSection:
        """The section of an environment. Raises ConfigError if there are none, UsageError."""
        return named_environment(self.environments, name)

    @property
    def app(self) -> str:
        """The name of what is deployed. Raises ConfigError if shipline.yaml names no image."""
        place = self.image or next(iter(self.targets.values()), None)
        if place is None:
            raise ConfigError(
                "shipline.yaml names no image", code="config-no-image", hint="add `image`"
            )
        return place.repository.rpartition("/")[2]

    def by_target(self, images: Sequence[Reference]) -> dict[str, Reference]:
        """Images by target, by their repositories; the only one is that of the only target."""
        if len(images) == 1 and len(self.targets) <= 1:
            return {next(iter(self.targets), ""): images[0]}
        names = {place.name: target for target, place in self.targets.items()}
        return {names.get(image.name, image.name): image for image in images}

    def trusted(self, images: Mapping[str, Reference]) -> TrustedImages:
        """The images, by target, as the registry has them. Raises NotFound, and what the trust
        policy demands.
        """
        found, commits = dict[str, Reference](), set[str]()
        for target, image in images.items():
            repository = self.repositories(image)
            descriptor = repository.resolve(str(image.digest or image.or_latest.tag))
            found[target] = image.at(descriptor.digest)
            if self.trust is not None:
                self.trust.require(repository, image, descriptor)
            facts = image_facts(repository, descriptor).platforms
            commits |= {part.labels.get(REVISION, "") for part in facts}
        return TrustedImages(found, commits.pop() if len(commits) == 1 else "")

    def deployment(self, environment: str, trusted: TrustedImages) -> Deployment:
        """The deployment of these images, with the trace of this process."""
        images = tuple(trusted.images.values())
        return Deployment(
            environment=environment,
            app=self.app,
            images=images,
            commit=trusted.commit,
            author=author_of(self.git, trusted.commit) if trusted.commit else "",
            trace=traceparent(),
        )

    def change(
        self,
        gitops: GitOpsSection,
        app: str,
        decide: Callable[[RemoteBranch, Sequence[Deployment]], PlannedChange],
        *,
        dry_run: bool = False,
        on_race: OnRace = lambda attempt: None,
    ) -> Deployed:
        """Decide, set the images, and push, or propose the change; with `dry_run` neither. Records
        of a proposed change are pushed before it. A canary in the environment ends with the
        change. Raises what `decide`, `prepare` and `deploy` raise, and what the API of pull
        requests answers.
        """

        def decided(commits: Sequence[Deployment]) -> PlannedChange:
            planned = decide(branch, commits)
            section = self.environments.get(planned.deployment.environment)
            return ending(section.canary if section else None, planned)

        with self.branch(gitops) as branch:
            parts = (branch, gitops.updates, app, decided)
            if not dry_run and not gitops.pull_request:
                return deploy(*parts, sign=gitops.sign, on_race=on_race)
            done = prepare(*parts, sign=gitops.sign)
            if dry_run or not done.commit:
                return done
            for made in done.records:
                record(branch, app, partial(_the_same, made), proposed=True, sign=gitops.sign)
            forge = Forge.of(self.http, branch.url, self.environ, api=gitops.api)
            return replace(done, address=propose(branch, forge, done)[1])

    def branch(self, gitops: GitOpsSection) -> AbstractContextManager[RemoteBranch]:
        """The branch that describes an environment, for this process alone."""
        return remote_branch(self.home / "gitops", self.environ, self._url(gitops), gitops.branch)

    def same_branch(self, one: GitOpsSection, other: GitOpsSection) -> bool:
        """Whether two environments are described on the same branch."""
        return (self._url(one), one.branch) == (self._url(other), other.branch)

    def _url(self, gitops: GitOpsSection) -> str:
        return str(self.root / gitops.repository) if gitops.is_path else gitops.repository

    @property
    def older(self) -> CommitOrder:
        """The order of the commits of the source."""
        return commit_order(self.git, "", fetch=self.fetch)


@dataclass(frozen=True, slots=True)
class TrustedImages:
    """Images by target, with digests, and the commit of their source, empty if they do not name
    one and the same.
    """

    images: Mapping[str, Reference]
    commit: str


def _the_same(made: Deployment, commits: Sequence[Deployment]) -> Deployment:
    return made
