"""Retention: which tags have had their time, decided first and removed after."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from typing import Any

from shipline.errors import Cancelled
from shipline.oci import Digest
from shipline.server.admission.protocol import Admission
from shipline.server.admission.section import AdmissionSection, RetentionRule, any_of
from shipline.server.http import ANYONE
from shipline.server.journal import NodeEvent, Tell
from shipline.server.manifests import Manifests, Tagged
from shipline.server.problems import Problem
from shipline.server.storage import Storage
from shipline.tasks import sleep
from shipline.trust import statement_subject

_log = logging.getLogger(__name__)
RETENTION = "retention"  # who does what nobody has asked for


@dataclass(frozen=True, slots=True)
class RetentionDecision:
    """What happens to one tag, and why; `kept` also where a rule of the door forbids to remove."""

    repository: str
    tag: str
    digest: Digest
    kept: bool
    reason: str

    def to_json(self) -> dict[str, Any]:
        return {**asdict(self), "digest": str(self.digest)}


def decide(
    rules: Sequence[RetentionRule], repository: str, tags: Iterable[Tagged], now: float
) -> list[RetentionDecision]:
    """One decision for each tag that some rule is about; tags that hold statements about an image
    have no time of their own. A tag is kept where any rule about it keeps it.
    """
    known = [one for one in tags if statement_subject(one.tag) is None]
    found: dict[str, RetentionDecision] = {}
    for rule in rules:
        if not any_of(rule.repositories, repository):
            continue
        ours = [one for one in known if any_of(rule.tags, one.tag)]
        newest = sorted(ours, key=lambda one: (-one.at, one.tag))
        for rank, one in enumerate(newest):
            reason = _kept(rule, one, rank, now)
            before = found.get(one.tag)
            if before is None or not before.kept:
                why = reason or _gone(rule)
                found[one.tag] = RetentionDecision(
                    repository, one.tag, one.digest, bool(reason), why
                )
    return [found[tag] for tag in sorted(found)]


def retain(
    storage: Storage,
    manifests: Manifests,
    rules: Sequence[RetentionRule],
    *,
    door: Admission,
    dry_run: bool = False,
    actor: str = RETENTION,
    tell: Tell = lambda event: None,
) -> list[RetentionDecision]:
    """Remove the tags that no rule keeps, in every repository; manifests stay for the collector.
    `tell` gets an event for each tag that went, and one for the whole.

    A tag that was pushed again meanwhile is left, and so is one that `door` does not let go.
    """
    done: list[RetentionDecision] = []
    after = ""
    while names := storage.repositories(after, 1000):
        for name in names:
            for decision in decide(rules, name, manifests.every_tag(name), storage.clock()):
                done.append(_carry_out(manifests, decision, door, dry_run))
                if not dry_run and not done[-1].kept:
                    tell(_event(done[-1], actor))
        after = names[-1]
    if not dry_run:
        removed = sum(not one.kept for one in done)
        message = f"retention: {removed} tags removed, {len(done) - removed} kept"
        tell(NodeEvent("collect", actor=actor, message=message))
    return done


def _event(gone: RetentionDecision, actor: str) -> NodeEvent:
    digest, tags = str(gone.digest), (gone.tag,)
    return NodeEvent(
        "untag", gone.repository, digest=digest, tags=tags, actor=actor, message=gone.reason
    )


def retain_forever(
    storage: Storage,
    manifests: Manifests,
    section: AdmissionSection,
    *,
    door: Admission,
    tell: Tell = lambda event: None,
) -> None:
    """Run retention again and again until the scope is cancelled."""
    with suppress(Cancelled):
        while True:
            sleep(section.retention_every.seconds)
            try:
                done = retain(storage, manifests, section.retention, door=door, tell=tell)
            except OSError:
                _log.exception("retention failed; it is tried again in %s", section.retention_every)
                continue
            removed = sum(not one.kept for one in done)
            _log.info("retention removed %d tags and kept %d", removed, len(done) - removed)


def _carry_out(
    manifests: Manifests, decision: RetentionDecision, door: Admission, dry_run: bool
) -> RetentionDecision:
    if decision.kept:
        return decision
    name, tag = decision.repository, decision.tag

    def check() -> None:
        now = manifests.get(name, tag)
        if now is None or now.digest != decision.digest:
            raise Problem(409, "DENIED", "it was pushed again meanwhile")
        door.delete(ANYONE, name, tag)

    try:
        if dry_run:
            check()
        else:
            manifests.untag(name, tag, check=check)
    except Problem as problem:
        return replace(decision, kept=True, reason=problem.message)
    return decision


def _kept(rule: RetentionRule, one: Tagged, rank: int, now: float) -> str:
    """Why the rule keeps the tag, empty where it does not."""
    if any_of(rule.keep, one.tag):
        return "its name is always kept"
    if rule.latest is not None and rank < rule.latest:
        return f"one of the last {rule.latest}"
    if rule.within is not None and now - one.at <= rule.within.seconds:
        return f"pushed within {rule.within}"
    return ""


def _gone(rule: RetentionRule) -> str:
    conditions = []
    if rule.latest is not None:
        conditions.append(f"not one of the last {rule.latest}")
    if rule.within is not None:
        conditions.append(f"not pushed within {rule.within}")
    return " and ".join(conditions)
