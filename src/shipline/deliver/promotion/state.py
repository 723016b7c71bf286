"""The state of an app in an environment, as the commits of its GitOps repository tell it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from shipline.deliver.gitops import Action, Deployment, deployed, held, stopped
from shipline.oci import Digest

SKEW_S = 300
"""How far clocks may differ, in seconds."""

Digests = frozenset[Digest]
"""The digests of the images of a deployment, which are promoted together."""


def recorded_times(commits: Sequence[Deployment], now: float) -> Mapping[str, float]:
    """When the commits of one history were made, by id. None is before those that it follows, so
    that a clock that is behind gains no time; those from the future have no time.
    """
    times: dict[str, float] = {}
    latest = 0.0
    for one in reversed(commits):
        if one.time <= now + SKEW_S:
            latest = max(latest, one.time)
            times[one.id] = min(latest, now)
    return times


@dataclass(frozen=True, slots=True)
class VerifiedTime:
    """How long images were verified in an environment, in seconds, and whether they are there
    still.
    """

    seconds: float
    running: bool


@dataclass(frozen=True, slots=True)
class EnvironmentState:
    """What was recorded of an app in an environment, newest first. With `checked`, deployments are
    verified by the health or checks of the environment, otherwise by being there. `times` are those
    of `recorded_times`. `unproven` are approvals that do not count, since it is not proven who made
    them; `commits` has none of them. `edited` says why the files do not have what was deployed
    last, empty if they do.
    """

    name: str
    commits: tuple[Deployment, ...]
    times: Mapping[str, float]
    checked: bool = False
    unproven: tuple[Deployment, ...] = ()
    edited: str = ""

    @property
    def current(self) -> Deployment | None:
        """What is deployed."""
        return deployed(self.commits, self.name)

    @property
    def stopped(self) -> Deployment | None:
        """The commit that stops all promotions, unless they were resumed."""
        return stopped(self.commits)

    def held(self, digests: Digests) -> Deployment | None:
        """The commit that holds one of these digests, unless it was released."""
        return held(self.commits, digests)

    @property
    def held_digests(self) -> Digests:
        """All digests for which `held` finds a commit."""
        last: dict[Digest, Action] = {}
        for one in self.commits:
            if one.action in (Action.HOLD, Action.RELEASE):
                last = {**dict.fromkeys(one.digests, one.action), **last}
        return frozenset(digest for digest, action in last.items() if action is Action.HOLD)

    @property
    def holds(self) -> tuple[Deployment, ...]:
        """The commits of all holds, newest first."""
        return tuple(
            one
            for one in self.commits
            if one.action is Action.HOLD and self.held(one.digests) is one
        )

    def verification(self, digests: Digests) -> Deployment | None:
        """The newest record of a verification of these images."""
        return next(self._about(Action.VERIFY, digests), None)

    def verified(self, digests: Digests) -> Deployment | None:
        """The commit that says that these images are verified, if they are."""
        if self.checked:
            last = self.verification(digests)
            return last if last and last.verdict == "pass" else None
        return next((one for one in self.deployments if one.digests == digests), None)

    @property
    def deployments(self) -> Iterator[Deployment]:
        """All deployments, newest first."""
        return (one for one in self.commits if one.action.deploys)

    def approvals(self, digests: Digests) -> Iterator[Deployment]:
        """The approvals of exactly these images, newest first; those before a hold are void."""
        for one in self.commits:
            if one.action is Action.HOLD and one.digests & digests:
                return
            if one.action is Action.APPROVE and one.digests == digests:
                yield one

    def verified_time(self, digests: Digests, now: float) -> VerifiedTime:
        """How long these images were verified and deployed; a verification that fails starts again
        from 0.
        """
        current, since, total = Digests(), None, 0.0
        for one in reversed(self.commits):
            at = self.times.get(one.id, now)
            if one.action.deploys and one.digests != current:
                total += max(0.0, at - since) if since is not None else 0.0
                current = one.digests
                since = at if current == digests and not self.checked else None
            elif self.checked and one.action is Action.VERIFY and one.digests == digests:
                if one.verdict != "pass":
                    since, total = None, 0.0
                elif current == digests and since is None:
                    since = at
        if since is not None:
            total += max(0.0, now - since)
        return VerifiedTime(total, since is not None)

    def _about(self, action: Action, digests: Digests) -> Iterator[Deployment]:
        return (one for one in self.commits if one.action is action and one.digests == digests)
