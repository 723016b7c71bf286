"""What is deployed where, what comes next, and what that waits for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from shipline.deliver.canary.state import position
from shipline.deliver.delivery import Delivery
from shipline.deliver.environments import in_order
from shipline.deliver.gitops import Deployment, HandEdit
from shipline.deliver.promotion.policy import Blocker, possible_at, shown_span
from shipline.deliver.promotion.promoting import States, blocked
from shipline.deliver.promotion.state import EnvironmentState


@dataclass(frozen=True, slots=True)
class BoardRow:
    """An environment: what it has, and the `candidate` of the environment before it, if that is
    another, with what blocks it; `possible` is when nothing but people does.
    """

    state: EnvironmentState
    verified: bool
    since: float
    candidate: Deployment | None = None
    blockers: tuple[Blocker, ...] = ()
    possible: datetime | None = None

    @property
    def canary(self) -> Deployment | None:
        """The commit with the present weight of a canary, if there is one."""
        there = position(self.state.commits, self.state.name)
        return there.last if there else None

    @property
    def verification(self) -> str:
        """`verified`, or what its last verification says."""
        current = self.state.current
        if current is None:
            return ""
        if self.state.edited:
            return "changed by hand"
        if self.verified:
            return "verified" if self.state.checked else "deployed"
        last = self.state.verification(current.digests)
        return last.verdict if last else "not verified"

    def to_json(self) -> dict[str, Any]:
        current, stopped = self.state.current, self.state.stopped
        return {
            "environment": self.state.name,
            "deployed": deployment_json(current) if current else None,
            "verified": self.verified,
            "verified_for_s": round(self.since),
            "changed_by_hand": self.state.edited,
            "candidate": deployment_json(self.candidate) if self.candidate else None,
            "blockers": [
                {
                    "rule": one.rule,
                    "reason": one.reason,
                    "waits": one.waits,
                    "until": one.until.isoformat() if one.until else None,
                }
                for one in self.blockers
            ],
            "possible_at": self.possible.isoformat() if self.possible else None,
            "canary": deployment_json(self.canary) if self.canary else None,
            "holds": [deployment_json(one) for one in self.state.holds],
            "stopped": deployment_json(stopped) if stopped else None,
        }


def row(delivery: Delivery, states: States, name: str, *, judged: bool = False) -> BoardRow:
    """The row of an environment. With `judged`, trust and gates are asked of the registry, too."""
    state, section = states[name], delivery.environment(name)
    now = datetime.fromtimestamp(delivery.clock(), UTC)
    current = state.current
    digests = current.digests if current else frozenset()
    verified = bool(current) and not state.edited and state.verified(digests) is not None
    since = state.verified_time(digests, now.timestamp()).seconds if current else 0.0
    before = states[section.after].current if section.after else None
    if before is None or before.digests == digests:
        return BoardRow(state, verified, since)
    found = blocked(delivery, states, name, before, judged=judged)
    return BoardRow(state, verified, since, before, found, possible_at(section, found, now))


def board_rows(delivery: Delivery, states: States) -> list[BoardRow]:
    """The rows of all environments, each after those before it."""
    return [row(delivery, states, name) for name in in_order(delivery.environments)]


def deployment_json(one: Deployment | HandEdit) -> dict[str, Any]:
    """A commit about an environment as JSON, without what it does not say."""
    if isinstance(one, HandEdit):
        return {
            "commit": one.id,
            "action": "edit",
            "environment": one.environment,
            "app": one.app,
            "present": [*one.present],
            "time": _iso(one.time),
            "by": one.by,
            "reason": one.reason,
        }
    value: dict[str, Any] = {
        "commit": one.id,
        "action": one.action.value,
        "environment": one.environment,
        "app": one.app,
        "version": one.version,
        "images": [str(image) for image in one.images],
        "previous": [str(image) for image in one.previous],
        "time": _iso(one.time),
        "by": one.by,
        "from": one.source,
        "source": one.commit,
        "author": one.author,
        "approved_by": [*one.approved_by],
        "bypassed": [*one.bypassed],
        "gates": dict(one.gates),
        "verdict": one.verdict,
        "weight": one.weight,
        "step": one.step,
        "reason": one.reason,
        "run": one.run,
    }
    return {key: content for key, content in value.items() if content not in ("", [], {}, None)}


def why(shown: BoardRow) -> str:
    """Why an environment has what it has, and not what comes next, as text."""
    state, current = shown.state, shown.state.current
    lines = [f"{state.name} has {_deployed(current)}" if current else f"{state.name} has nothing"]
    if current:
        lines += [f"  {line}" for line in _facts(current, shown)]
    if state.edited:
        lines.append(f"it was changed by hand: {state.edited}")
    if going := shown.canary:
        lines.append(f"{going.version} has {going.weight} % of the traffic, step {going.step}")
    if stop := state.stopped:
        lines.append(f"promotions are stopped by {stop.by}{_because(stop)}")
    lines += [f"{one.version} is held by {one.by}{_because(one)}" for one in state.holds]
    if shown.candidate is None:
        return "\n".join(lines)
    version, source = shown.candidate.version, shown.candidate.environment
    if not shown.blockers:
        lines.append(f"{version} of {source} may be promoted now")
        return "\n".join(lines)
    waits = all(one.waits for one in shown.blockers)
    lines.append(f"{version} of {source} {'waits' if waits else 'is refused'}:")
    for one in shown.blockers:
        until = f", until {_time(one.until)}" if one.until else ""
        hint = f" ({one.hint})" if one.hint else ""
        lines.append(f"  {one.rule}: {one.reason}{until}{hint}")
    if shown.possible and any(one.until for one in shown.blockers):
        lines.append(f"  not before {_time(shown.possible)}")
    return "\n".join(lines)


def blame(state: EnvironmentState) -> list[tuple[str, Deployment]]:
    """For each image of an environment the commit that brought its digest there."""
    found = []
    current = state.current
    for image in current.images if current else ():
        origin = current
        for one in state.deployments:
            if image.digest not in one.digests:
                break
            origin = one
        assert origin is not None
        found.append((str(image), origin))
    return found


def history_rows(commits: Sequence[Deployment | HandEdit]) -> list[tuple[str, ...]]:
    """Commits about an environment, for a table."""
    return [
        (
            committed_at(one),
            one.id[:12],
            one.subject,
            one.by.partition(" <")[0],
            ": ".join(filter(None, (_bypassed(one), one.reason))),
        )
        for one in commits
    ]


def _bypassed(one: Deployment | HandEdit) -> str:
    rules = () if isinstance(one, HandEdit) else one.bypassed
    return f"bypassed {', '.join(rules)}" if rules else ""


def _deployed(one: Deployment) -> str:
    source = f" from {one.source}" if one.source else ""
    verb = {"deploy": "deployed", "promote": "promoted", "rollback": "rolled back to"}[one.action]
    return f"{one.version}, {verb}{source} by {one.by}, {committed_at(one)}"


def _facts(one: Deployment, shown: BoardRow) -> list[str]:
    state = f"{shown.verification} for {shown_span(shown.since)}" if shown.verified else ""
    facts = {
        "commit": one.id[:12],
        "images": ", ".join(map(str, one.images)),
        "source": " by ".join(filter(None, (one.commit[:12], one.author))),
        "approved by": ", ".join(one.approved_by),
        "bypassed": ", ".join(one.bypassed),
        "gates": "; ".join(f"{name} {verdict}" for name, verdict in sorted(one.gates.items())),
        "run": one.run,
        "state": state or shown.verification,
        "because": one.reason,
    }
    return [f"{name}: {value}" for name, value in facts.items() if value]


def _because(one: Deployment) -> str:
    return f", {committed_at(one)}" + (f": {one.reason}" if one.reason else "")


def committed_at(one: Deployment | HandEdit) -> str:
    """When its commit was made, to the minute, for people."""
    return _time(datetime.fromtimestamp(one.time, UTC))


def _time(moment: datetime) -> str:
    return moment.astimezone(UTC).strftime("%Y-%m-%d %H:%M UTC")


def _iso(seconds: int) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat() if seconds else ""
