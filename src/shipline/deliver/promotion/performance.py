"""DORA's four measures of delivery, from the history of environments.

A deployment or promotion of other images is a change. It failed if the next one is a rollback, or
if a verification of it failed; it is restored by its own later verification, or by the next change
or rollback that did not fail. The lead time of a commit is that until the first deployment which
contains it. https://dora.dev/guides/dora-metrics-four-keys/
"""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from shipline.deliver.gitops import Action, Deployment
from shipline.deliver.promotion.state import EnvironmentState
from shipline.git import Git
from shipline.telemetry.metrics import (
    CHANGED_BY_HAND,
    DEPLOYMENTS,
    ENVIRONMENT,
    FAILED_DEPLOYMENTS,
    LEAD_TIME,
    PROMOTION,
    RESTORE_TIME,
    STOPPED,
    MetricValues,
)

_DAY_S = 86400.0
States = Mapping[str, EnvironmentState]


@dataclass(slots=True)
class DeployedChange:
    """Images that came to an environment `at` a time. If they failed, `failed` is when that was
    seen, which is `at` for a rollback without a failed verification, and `restored` when the
    environment was good again. `lead_times_s` are those of its commits, None if the clone does not
    have them. Times in seconds since 1970.
    """

    deployment: Deployment
    at: float
    failed: float | None = None
    restored: float | None = None
    lead_times_s: tuple[float, ...] | None = ()

    @property
    def restore_time_s(self) -> float | None:
        if self.failed is None or self.restored is None:
            return None
        return max(0.0, self.restored - self.failed)

    def fail(self, at: float) -> None:
        self.failed = at if self.failed is None else self.failed
        self.restored = None

    @property
    def is_rollback(self) -> bool:
        return self.deployment.action is Action.ROLLBACK


def changes(state: EnvironmentState, git: Git) -> list[DeployedChange]:
    """All changes and rollbacks of an environment, oldest first."""
    found: list[DeployedChange] = []
    for one in reversed(state.commits):
        current = found[-1] if found else None
        at = state.times.get(one.id, float(one.time))
        if one.action.deploys:
            if current is None or current.deployment.digests != one.digests:
                if current is not None and one.action is Action.ROLLBACK:
                    current.fail(current.at)
                found.append(DeployedChange(one, at))
        elif one.action is Action.VERIFY and current and one.digests == current.deployment.digests:
            if one.verdict != "pass":
                current.fail(at)
            elif current.failed is not None and current.restored is None:
                current.restored = at
    restored: float | None = None
    for change in reversed(found):
        if change.failed is None:
            restored = change.at
        elif change.restored is None:
            change.restored = restored
    _add_lead_times(found, git)
    return found


def _add_lead_times(found: Sequence[DeployedChange], git: Git) -> None:
    commits = _commits(git, {one.deployment.commit for one in found})
    deployed: set[str] = set()
    for change in found:
        tip = change.deployment.commit
        if tip not in commits:
            change.lead_times_s = None
            continue
        is_first = not deployed
        new = [*_until(commits, tip, deployed)]
        counted = () if change.is_rollback else (tip,) if is_first else new
        times = (change.at - commits[commit][0] for commit in counted)
        change.lead_times_s = tuple(max(0.0, time) for time in times)


def _commits(git: Git, tips: Iterable[str]) -> dict[str, tuple[int, Sequence[str]]]:
    """Time and parents of the commits that these contain, as far as the clone has them."""
    names = "".join(f"{tip}\n" for tip in sorted(filter(None, tips)))
    if not names:
        return {}
    arguments = ("--ignore-missing", "--timestamp", "--parents", "--stdin")
    done = git.run("rev-list", *arguments, stdin=names.encode())
    lines = (line.split() for line in done.output.decode().splitlines())
    return {commit: (int(time), parents) for time, commit, *parents in lines}


def _until(
    commits: Mapping[str, tuple[int, Sequence[str]]], tip: str, seen: set[str]
) -> Iterator[str]:
    """The commits that `tip` contains and `seen` does not; they are added to it."""
    waiting = [tip]
    while waiting:
        commit = waiting.pop()
        if commit not in seen and commit in commits:
            seen.add(commit)
            yield commit
            waiting += commits[commit][1]


@dataclass(frozen=True, slots=True)
class Performance:
    """The four measures of one environment, from `since` until `until`. `rollbacks` are no changes;
    `broken` failed and are not restored yet; of `unknown` changes the commits are not in the clone.
    """

    environment: str
    since: float
    until: float
    changes: int
    rollbacks: int
    failed: int
    broken: int
    unknown: int
    lead_times_s: tuple[float, ...]
    restore_times_s: tuple[float, ...]

    @property
    def per_day(self) -> float:
        return self.changes / ((self.until - self.since) / _DAY_S)

    @property
    def failure_ratio(self) -> float | None:
        return self.failed / self.changes if self.changes else None

    def to_json(self) -> dict[str, Any]:
        return {
            "environment": self.environment,
            "since": round(self.since),
            "until": round(self.until),
            "deployments": self.changes,
            "deployments_per_day": round(self.per_day, 4),
            "rollbacks": self.rollbacks,
            "lead_time_s": _quantiles(self.lead_times_s),
            "change_failure_ratio": self.failure_ratio,
            "failed": self.failed,
            "not_restored": self.broken,
            "restore_time_s": _quantiles(self.restore_times_s),
            "without_commits": self.unknown,
        }


def _quantiles(values: Sequence[float]) -> dict[str, float] | None:
    if not values:
        return None
    return {"p50": p50(values), "p95": p95(values), "count": len(values)}


def p50(values: Sequence[float]) -> float:
    return statistics.median(values)


def p95(values: Sequence[float]) -> float:
    """The least value that 95 % of all do not exceed."""
    return sorted(values)[-(-95 * len(values) // 100) - 1]


def measure(name: str, found: Sequence[DeployedChange], since: float, until: float) -> Performance:
    """The measures of an environment from its changes."""
    recent = [one for one in found if since <= one.at <= until]
    real = [one for one in recent if not one.is_rollback]
    failed = [one for one in real if one.failed is not None]
    ends = [time for one in failed if (time := one.restore_time_s) is not None]
    return Performance(
        name,
        since,
        until,
        changes=len(real),
        rollbacks=len(recent) - len(real),
        failed=len(failed),
        broken=len(failed) - len(ends),
        unknown=sum(one.lead_times_s is None for one in real),
        lead_times_s=tuple(time for one in real for time in one.lead_times_s or ()),
        restore_times_s=tuple(ends),
    )


def delivery_metrics(
    app: str, states: States, found: Mapping[str, Sequence[DeployedChange]]
) -> MetricValues:
    """The metrics of the environments, by the whole of their history."""
    values = MetricValues()
    for name, several in found.items():
        state, own = states[name], (app, name)
        values.set(CHANGED_BY_HAND, *own, to=bool(state.edited))
        values.set(STOPPED, *own, to=bool(state.stopped))
        values.set(FAILED_DEPLOYMENTS, *own, to=0)
        for action in (Action.DEPLOY, Action.PROMOTE, Action.ROLLBACK):
            values.set(DEPLOYMENTS, *own, action.value, to=0)
        for one in several:
            values.add(DEPLOYMENTS, *own, one.deployment.action.value)
            values.add(FAILED_DEPLOYMENTS, *own, by=one.failed is not None and not one.is_rollback)
            for lead_s in one.lead_times_s or ():
                values.observe(LEAD_TIME, *own, value=lead_s)
            restore_s = None if one.is_rollback else one.restore_time_s
            if restore_s is not None:
                values.observe(RESTORE_TIME, *own, value=restore_s)
            before = _arrival(found.get(one.deployment.source, ()), one)
            if before is not None:
                values.observe(PROMOTION, *own, value=one.at - before)
        if several:
            last = several[-1].deployment
            for image in last.images:
                digest = str(image.digest or "")
                values.set(ENVIRONMENT, *own, last.version, digest, to=several[-1].at)
    return values


def _arrival(before: Iterable[DeployedChange], change: DeployedChange) -> float | None:
    """When the environment before had the images first."""
    digests = change.deployment.digests
    times = (one.at for one in before if one.deployment.digests == digests)
    return next((at for at in times if at <= change.at), None)
