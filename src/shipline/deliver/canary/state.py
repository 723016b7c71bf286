"""Where a canary is, as the history of its environment says."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from shipline.deliver.gitops import RECORDS, Action, Deployment, history
from shipline.errors import UsageError
from shipline.git import RemoteBranch
from shipline.values import replace


@dataclass(frozen=True, slots=True)
class Position:
    """Where the history says that a canary is: its last commit, and the index of the step."""

    last: Deployment
    step: int

    @property
    def is_frozen(self) -> bool:
        return bool(self.last.reason)


def position(commits: Sequence[Deployment], environment: str) -> Position | None:
    """Where the canary of an environment is; None if there is none. `commits` is newest first."""
    last = newest(commits, environment)
    if last is None or last.action is not Action.WEIGHT or not last.weight:
        return None
    number = last.step.partition("/")[0]
    return Position(last, int(number) - 1 if number.isdecimal() else 0)


def newest(commits: Sequence[Deployment], environment: str) -> Deployment | None:
    """The last commit that deployed something to the environment, or gave it a weight there."""
    return next(
        (
            one
            for one in commits
            if one.environment == environment
            and (one.action.deploys or one.action is Action.WEIGHT)
        ),
        None,
    )


def in_progress(branch: RemoteBranch, app: str, environment: str) -> Deployment:
    """The deployment of the canary that is there. Raises UsageError if there is none."""
    here = position(history(branch, branch.fetch(RECORDS), app, environment), environment)
    if here is None:
        raise UsageError(
            f"{environment} has no canary of {app} to be resumed", code="canary-missing"
        )
    return replace(
        here.last,
        action=Action.PROMOTE if here.last.source else Action.DEPLOY,
        previous=(),
        weight=None,
        **dict.fromkeys(("step", "verdict", "reason", "run", "id", "by"), ""),
        time=0,
    )
