"""Deployments as commits of a GitOps repository: made, pushed against others, and read back.

The state of an environment is the history of its repository: what a commit deploys stands in the
trailers of its message (git-interpret-trailers). No database repeats it.
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Self

from shipline.deliver.gitops.updates import Update
from shipline.errors import ConfigError, ShiplineError
from shipline.git import Commit, CommitOrder, GitError, RemoteBranch
from shipline.oci import Reference
from shipline.tasks import sleep
from shipline.values import replace

_TRIES = 10
_FIRST_BACKOFF_S, _MAX_BACKOFF_S = 0.2, 10.0
_TRAILER = re.compile(r"Shipline-([A-Za-z-]+): (.*)\Z")


class Superseded(ShiplineError):
    """The environment has a newer version already."""

    code = "deploy-superseded"
    title = "superseded"
    exit_code = 9


@dataclass(frozen=True, slots=True)
class Deployment:
    """Images for an environment, and where they come from. `app` names what is deployed, `commit`
    is that of the source; `gates` has verdicts by gate. `id` is the commit in the GitOps
    repository and `time` its time, once there is one.
    """

    environment: str
    app: str
    images: tuple[Reference, ...]
    commit: str = ""
    previous: tuple[Reference, ...] = ()
    gates: Mapping[str, str] = field(default_factory=dict)
    run: str = ""
    trace: str = ""
    id: str = ""
    time: int = 0

    @property
    def version(self) -> str:
        """The tags of the images, else the beginning of the digests."""
        names = (
            image.tag or (image.digest.hex[:12] if image.digest else "") for image in self.images
        )
        return ", ".join(dict.fromkeys(names))

    @property
    def key_lines(self) -> tuple[str, ...]:
        """The lines that all deployments of the app to the environment have."""
        return (f"Shipline-App: {self.app}", f"Shipline-Environment: {self.environment}")

    @property
    def message(self) -> str:
        """The message of the commit."""
        trailers = [
            *self.key_lines,
            *(f"Shipline-Image: {image}" for image in self.images),
            *(f"Shipline-Previous: {image}" for image in self.previous),
            *([f"Shipline-Commit: {self.commit}"] if self.commit else []),
            *(f"Shipline-Gate: {name}={verdict}" for name, verdict in sorted(self.gates.items())),
            *([f"Shipline-Run: {self.run}"] if self.run else []),
            *([f"Shipline-Trace: {self.trace}"] if self.trace else []),
        ]
        subject = f"deploy {self.app} {self.version} to {self.environment}"
        return "\n".join([subject, "", *trailers, ""])

    @classmethod
    def of(cls, commit: Commit) -> Self | None:
        """What a commit deploys; None for one that deploys nothing."""
        values: dict[str, list[str]] = {}
        for line in commit.message.splitlines():
            if match := _TRAILER.match(line):
                values.setdefault(match[1], []).append(match[2])
        if not values.keys() >= {"App", "Environment", "Image"}:
            return None

        def last(name: str) -> str:
            return values.get(name, [""])[-1]

        return cls(
            environment=last("Environment"),
            app=last("App"),
            images=tuple(map(Reference.parse, values["Image"])),
            commit=last("Commit"),
            previous=tuple(map(Reference.parse, values.get("Previous", ()))),
            gates=dict(gate.partition("=")[::2] for gate in values.get("Gate", ())),
            run=last("Run"),
            trace=last("Trace"),
            id=commit.sha,
            time=commit.time,
        )


def deployments(
    branch: RemoteBranch, tip: str, lines: Sequence[str], *, limit: int | None = None
) -> list[Deployment]:
    """The deployments up to a commit whose messages have all of the lines, newest first."""
    commits = branch.log(tip, lines, limit=limit)
    return [found for commit in commits if (found := Deployment.of(commit))]


@dataclass(frozen=True, slots=True)
class Deployed:
    """The result: the commit, empty if the images were there already, and the changed files with
    their contents before and after. `address` is that of the pull request that proposes it.
    """

    deployment: Deployment
    files: Mapping[str, tuple[bytes, bytes]]
    tip: str
    address: str = ""

    @property
    def commit(self) -> str:
        return self.deployment.id


def prepare(
    branch: RemoteBranch,
    updates: Sequence[Update],
    images: Mapping[str, Reference],
    deployment: Deployment,
    *,
    older: CommitOrder | None,
    sign: bool = False,
) -> Deployed:
    """The commit for the present tip of the branch, not pushed. `images` are by target; `older`
    orders commits of the source, None to allow older ones.

    Raises ConfigError for an update without an image, UnsuitableFile where one cannot be set,
    Superseded if a newer commit is deployed.
    """
    tip = branch.fetch()
    before = next(iter(deployments(branch, tip, deployment.key_lines, limit=1)), None)
    if before and older:
        _require_newer(before, deployment, older)
    files = branch.files(tip)
    contents = {path: partial(branch.read, file) for path, file in files.items()}
    changes: dict[str, bytes] = {}
    for update in updates:
        if update.target not in images:
            raise ConfigError(
                f"{update.kind}: there is no image of the target {update.target!r}:"
                f" {', '.join(images)}",
                hint="with `targets` each update names its `target`, whose image is deployed",
            )
        tree = {**contents, **{path: partial(bytes, content) for path, content in changes.items()}}
        changes |= update.apply(tree, images[update.target])
    if not changes:
        return Deployed(deployment, {}, tip)
    made = replace(deployment, previous=before.images if before else ())
    commit = branch.commit(tip, files, changes, made.message, sign=sign)
    shown = {path: (contents[path](), content) for path, content in changes.items()}
    return Deployed(replace(made, id=commit), shown, tip)


def deploy(
    branch: RemoteBranch,
    updates: Sequence[Update],
    images: Mapping[str, Reference],
    deployment: Deployment,
    *,
    older: CommitOrder | None,
    sign: bool = False,
    on_race: Callable[[int], object] = lambda attempt: None,
) -> Deployed:
    """Set the images, commit and push. Where others push first, the images are set again in the
    new tip, after a moment: nothing of theirs is merged or lost. See `prepare` for errors; raises
    PushRefused, and GitError if others are always faster.
    """
    for attempt in range(1, _TRIES + 1):
        done = prepare(branch, updates, images, deployment, older=older, sign=sign)
        if not done.commit or branch.push(done.commit):
            return done
        on_race(attempt)
        sleep(min(_MAX_BACKOFF_S, _FIRST_BACKOFF_S * 2 ** (attempt - 1)) * random.uniform(0.5, 1.5))
    raise GitError(
        f"{branch.shown}: others pushed first, {_TRIES} times",
        hint="deploy again once fewer push there",
        retriable=True,
    )


def _require_newer(before: Deployment, deployment: Deployment, older: CommitOrder) -> None:
    """Raises Superseded if a descendant of the source commit is deployed."""
    ours, theirs = deployment.commit, before.commit
    if ours and theirs and ours != theirs and older(ours, theirs):
        raise Superseded(
            f"{before.environment} has {before.app} {before.version} already, of the newer commit"
            f" {theirs[:12]}",
            hint="deploy an older version on purpose with --allow-older",
        )
