"""Whether images may be promoted to an environment: a function of its section, of what git and the
registry say, and of the time.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from fnmatch import fnmatchcase
from typing import Any

from shipline.deliver.environments import Approvals, EnvironmentSection
from shipline.deliver.promotion.state import SKEW_S, Digests, EnvironmentState
from shipline.deliver.windows import closed, next_opening
from shipline.errors import GateRefused, Waiting
from shipline.globs import Glob
from shipline.units import Duration, shown_time

_ADDRESS = re.compile(r"[^\s@<>]+@[^\s@<>]+")


class PromotionRefused(GateRefused):
    """The policy of the environment refuses the images; `verdicts` are the reasons."""

    code = "promotion-refused"


@dataclass(frozen=True, slots=True)
class Blocker:
    """Why images may not be promoted. What `waits` comes by time, at `until` if that is known, or
    by what people do.
    """

    rule: str
    reason: str
    waits: bool = False
    until: datetime | None = None
    hint: str = ""


@dataclass(frozen=True, slots=True)
class JudgedGate:
    """What a gate said of an image: `outcome` as in gates.Outcome, judged at `at`, in seconds since
    1970; `blocks` says whether it stopped a release, `environment` for which one it was judged,
    empty for all. `checks` are those of the summary (gates.summary), `signer` is the name of the
    key that attested it, empty for a run of this machine.
    """

    gate: str
    outcome: str
    blocks: bool
    reason: str
    at: float
    environment: str = ""
    checks: tuple[Mapping[str, Any], ...] = field(default=(), compare=False)
    signer: str = ""


@dataclass(frozen=True, slots=True)
class Candidate:
    """Images to be promoted: `author` is the address of the author of their source commit, empty if
    it is not known. `gates` has the newest verdict of each gate, by the digest of the image.
    """

    digests: Digests
    version: str
    author: str = ""
    gates: Mapping[str, Mapping[str, JudgedGate]] = field(default_factory=dict)

    @property
    def word(self) -> str:
        """The name of the images in the arguments of commands."""
        return self.version.partition(",")[0]


@dataclass(frozen=True, slots=True)
class PromotionPolicy:
    """The rules of an environment: its section, and the environments in which each gate blocks, all
    if it does not exist. `automatic` promotions are not made by a person.
    """

    name: str
    section: EnvironmentSection
    blocks_in: Mapping[str, Sequence[Glob]] = field(default_factory=dict)
    automatic: bool = False


def blockers(
    policy: PromotionPolicy,
    states: Mapping[str, EnvironmentState],
    candidate: Candidate,
    now: datetime,
) -> tuple[Blocker, ...]:
    """Why a candidate may not be promoted now; empty if it may. `states` has the environment and
    the one before it.
    """
    return (
        *_clocks(policy, states, now),
        *stops(policy, states, candidate),
        *_before(policy, states, candidate, now),
        *_gates(policy, candidate, now),
        *_approvals(policy, states[policy.name], candidate),
        *_calendar(policy, now),
        *_by_hand(policy),
    )


def possible_at(
    section: EnvironmentSection, blocked: Sequence[Blocker], now: datetime
) -> datetime | None:
    """When nothing but people stands in the way; None if that does not come by time alone."""
    if any(not one.waits for one in blocked):
        return None
    times = [one.until for one in blocked if one.until]
    return next_opening(section.windows, section.freezes, max([now, *times]))


def require(
    policy: PromotionPolicy, version: str, blocked: Sequence[Blocker], now: datetime
) -> None:
    """Raises PromotionRefused or Waiting, with all reasons, if there are blockers."""
    if not blocked:
        return
    refusing = [one for one in blocked if not one.waits]
    lines = tuple(f"{one.rule}: {one.reason}" for one in (refusing or blocked))
    hint = next((one.hint for one in (refusing or blocked) if one.hint), "")
    if refusing:
        raise PromotionRefused(
            f"{version} may not be promoted to {policy.name}", verdicts=lines, hint=hint
        )
    at = possible_at(policy.section, blocked, now)
    people = any(one.waits and one.until is None for one in blocked)
    when = f": not before {shown_time(at)}" if at and at > now else ""
    waiting = Waiting(
        f"{version} may not be promoted to {policy.name} yet{when}",
        code="promotion-waits",
        hint=hint or ("" if people else "run the same command then"),
        retriable=True,
    )
    for line in lines:
        waiting.add_note(line)
    raise waiting


def shown_span(seconds: float) -> str:
    """A time span of whole seconds."""
    return str(Duration(max(1, round(seconds)) * 1000))


def address(person: str) -> str:
    """The email address in `Name <address>`, in lower case."""
    return person.rpartition("<")[2].rstrip(">").strip().lower()


def mailbox(person: str) -> str:
    """The address without what mail servers ignore of it: `n+tag@host` is read by `n@host`."""
    name, _, host = address(person).rpartition("@")
    return f"{name.partition('+')[0]}@{host}"


def may_approve(rule: Approvals, person: str, author: str) -> str:
    """Why a person may not approve images of this author; empty if they may."""
    email = address(person)
    if not _ADDRESS.fullmatch(email):
        return f"{email!r} is not one email address"
    if rule.by and not any(fnmatchcase(email, pattern.lower()) for pattern in rule.by):
        return f"{email} is not one of {', '.join(rule.by)}"
    if not rule.allow_author and mailbox(person) == mailbox(author):
        return f"{email} wrote the commit"
    return ""


def _clocks(
    policy: PromotionPolicy, states: Mapping[str, EnvironmentState], now: datetime
) -> Iterator[Blocker]:
    names = (policy.name, policy.section.after)
    for state in (states[name] for name in names if name in states):
        newest = state.commits[0] if state.commits else None
        if newest and newest.time > now.timestamp() + SKEW_S:
            at = datetime.fromtimestamp(newest.time, UTC)
            yield Blocker(
                "clocks",
                f"the newest commit about {state.name}, {newest.id[:12]} by {newest.by}, is of"
                f" {shown_time(at)}, which is in the future here",
                hint="correct the clock that is wrong; a new commit about it counts again",
            )


def stops(
    policy: PromotionPolicy, states: Mapping[str, EnvironmentState], candidate: Candidate
) -> Iterator[Blocker]:
    """The stop of the environment, and holds of a candidate there and in the one before it."""
    name = policy.name
    if stop := states[name].stopped:
        yield Blocker(
            "stop",
            f"promotions to {name} are stopped {stop.attribution}",
            hint=f"`shipline env resume {name}` resumes them",
        )
    for place in dict.fromkeys((name, policy.section.after)):
        if place in states and (hold := states[place].held(candidate.digests)):
            yield Blocker(
                "hold",
                f"it is held in {place} {hold.attribution}",
                hint=f"`shipline release --env {place}` releases it",
            )


def _before(
    policy: PromotionPolicy,
    states: Mapping[str, EnvironmentState],
    candidate: Candidate,
    now: datetime,
) -> Iterator[Blocker]:
    after = policy.section.after
    if not after:
        return
    state, digests = states[after], candidate.digests
    if not any(one.digests == digests for one in state.deployments):
        yield Blocker("after", f"it was never deployed to {after}", hint=_promote(after))
        return
    if state.edited and state.current and state.current.digests == digests:
        yield Blocker(
            "after",
            f"{after} was changed by hand: {state.edited}",
            hint=f"`shipline deploy --env {after} {candidate.word}` sets it again",
        )
        return
    if state.verified(digests) is None:
        failed = state.verification(digests)
        yield Blocker(
            "after",
            f"its verification in {after} says {failed.verdict}"
            if failed
            else f"it is not verified in {after} yet",
            waits=failed is None,
            hint=f"`shipline check --env {after}` verifies it",
        )
        return
    if policy.section.soak is None:
        return
    there = state.verified_time(digests, now.timestamp())
    missing = policy.section.soak.seconds - there.seconds
    if missing <= 0:
        return
    lasted = f"{shown_span(there.seconds)} of {policy.section.soak} in {after}"
    if there.running:
        until = now + timedelta(seconds=missing)
        yield Blocker("soak", f"verified for {lasted}", waits=True, until=until)
    else:
        yield Blocker(
            "soak", f"it was replaced after {lasted}", hint=f"deploy it to {after} once more"
        )


def _gates(policy: PromotionPolicy, candidate: Candidate, now: datetime) -> Iterator[Blocker]:
    required = policy.section.gates.required
    for digest in sorted(map(str, candidate.digests)):
        judged = candidate.gates.get(digest, {})
        shown = "" if len(candidate.digests) == 1 else f" ({digest[:19]})"
        for name in dict.fromkeys((*required, *sorted(judged))):
            found = judged.get(name)
            if found is None:
                reason = "no verdict on this digest"
            else:
                reason = _objection(policy, found, now, required=name in required)
            if reason:
                hint = "`shipline ship` judges it, and attests its verdicts with `sign`"
                if found is None and name not in policy.blocks_in:
                    hint = f"shipline.yaml has no gate {name}: others must attest its verdicts"
                yield Blocker(f"gate {name}{shown}", reason, hint=hint)


def _objection(policy: PromotionPolicy, found: JudgedGate, now: datetime, *, required: bool) -> str:
    """Why the verdict of a gate stops a promotion; empty if it does not."""
    age = now.timestamp() - found.at
    oldest = policy.section.gates.max_age
    if required and age < -SKEW_S:
        return "the time of its verdict is in the future"
    if required and oldest and age > oldest.seconds:
        return f"its verdict is {shown_span(age)} old, more than {oldest}"
    where = policy.blocks_in.get(found.gate, ())
    if where and not any(pattern.matches(policy.name) for pattern in where):
        return ""
    if found.blocks:
        return f"{found.outcome}: {found.reason}"
    if found.outcome == "waived" and found.environment not in ("", policy.name):
        return f"waived in {found.environment} alone: {found.reason}"
    return ""


def _approvals(
    policy: PromotionPolicy, state: EnvironmentState, candidate: Candidate
) -> Iterator[Blocker]:
    rule = policy.section.approvals
    if rule is None:
        return
    if not rule.allow_author and not candidate.author:
        yield Blocker(
            "approvals",
            "the author of its source commit is not known, and may not be among them",
            hint="run it in a clone that has the commit",
        )
        return
    people = approvers(rule, state, candidate)
    if len(people) < rule.required:
        given = f", by {', '.join(people)}" if people else ""
        others = [one for one in state.unproven if one.digests == candidate.digests]
        unproven = f"; not signed by their own keys: {len(others)}" if others else ""
        yield Blocker(
            "approvals",
            f"{len(people)} of {rule.required}{given}{unproven}",
            waits=True,
            hint=f"`shipline approve --env {policy.name} {candidate.word}` approves it",
        )


def approvers(rule: Approvals, state: EnvironmentState, candidate: Candidate) -> tuple[str, ...]:
    """The different people whose approvals of a candidate count, by address."""
    approvals = state.approvals(candidate.digests)
    people = [one.by for one in approvals if not may_approve(rule, one.by, candidate.author)]
    return tuple({mailbox(one): address(one) for one in people}.values())


def _calendar(policy: PromotionPolicy, now: datetime) -> Iterator[Blocker]:
    section = policy.section
    if found := closed(section.windows, section.freezes, now):
        opens = next_opening(section.windows, section.freezes, now)
        yield Blocker(*found, waits=True, until=opens)


def _by_hand(policy: PromotionPolicy) -> Iterator[Blocker]:
    if policy.automatic and policy.section.promotion == "manual":
        yield Blocker("manual", "a person promotes to it", waits=True, hint=_promote(policy.name))


def _promote(name: str) -> str:
    return f"`shipline promote --env {name}` does it"
