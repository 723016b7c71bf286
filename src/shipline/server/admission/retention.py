"""Retention: decide which tags have expired, then remove them."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from shipline.oci import Digest
from shipline.server.admission.protocol import Admission
from shipline.server.admission.section import RetentionRule, matches_any
from shipline.server.events import NodeEvent, Publish
from shipline.server.http import ANYONE
from shipline.server.manifests import Manifests, TaggedDigest
from shipline.server.problems import Problem
from shipline.server.storage import Storage
from shipline.trust import statement_subject
from shipline.values import replace

_log = logging.getLogger(__name__)
RETENTION = "retention"  # the actor of automatic runs


@dataclass(frozen=True, slots=True)
class RetentionDecision:
    """What happens to one tag, and why; `kept` also if admission refuses the deletion."""

    repository: str
    tag: str
    digest: Digest
    kept: bool
    reason: str

    def to_json(self) -> dict[str, Any]:
        return {**asdict(self), "digest": str(self.digest)}


def decide(
    rules: Sequence[RetentionRule], repository: str, tags: Iterable[TaggedDigest], now: float
) -> list[RetentionDecision]:
    """One decision per tag that a rule applies to. A tag is kept if any rule keeps it. Tags that
    hold statements about an image are skipped.
    """
    known = [tagged for tagged in tags if statement_subject(tagged.tag) is None]
    decisions: dict[str, RetentionDecision] = {}
    for rule in rules:
        if not matches_any(rule.repositories, repository):
            continue
        matching = [tagged for tagged in known if matches_any(rule.tags, tagged.tag)]
        newest = sorted(matching, key=lambda tagged: (-tagged.at, tagged.tag))
        for rank, tagged in enumerate(newest):
            reason = _keep_reason(rule, tagged, rank, now)
            before = decisions.get(tagged.tag)
            if before is None or not before.kept:
                why = reason or _expiry_reason(rule)
                decisions[tagged.tag] = RetentionDecision(
                    repository, tagged.tag, tagged.digest, bool(reason), why
                )
    return [decisions[tag] for tag in sorted(decisions)]


def retain(
    storage: Storage,
    manifests: Manifests,
    rules: Sequence[RetentionRule],
    *,
    admission: Admission,
    dry_run: bool = False,
    actor: str = RETENTION,
    publish: Publish = lambda event: None,
) -> list[RetentionDecision]:
    """Remove the expired tags of every repository; manifests are left to garbage collection.
    `publish` gets an event for each removed tag, and one for the run.

    A tag is kept if it was pushed again meanwhile, or if `admission` refuses.
    """
    decisions: list[RetentionDecision] = []
    after = ""
    while names := storage.repositories(after, 1000):
        for name in names:
            for decision in decide(rules, name, manifests.every_tag(name), storage.clock()):
                decisions.append(_apply(manifests, decision, admission, dry_run))
                if not dry_run and not decisions[-1].kept:
                    publish(_event(decisions[-1], actor))
        after = names[-1]
    if not dry_run:
        removed = sum(not decision.kept for decision in decisions)
        message = f"retention: {removed} tags removed, {len(decisions) - removed} kept"
        publish(NodeEvent("collect", actor=actor, message=message))
    return decisions


def _event(gone: RetentionDecision, actor: str) -> NodeEvent:
    digest, tags = str(gone.digest), (gone.tag,)
    return NodeEvent(
        "untag", gone.repository, digest=digest, tags=tags, actor=actor, message=gone.reason
    )


def retain_logged(
    storage: Storage,
    manifests: Manifests,
    rules: Sequence[RetentionRule],
    admission: Admission,
    publish: Publish,
) -> None:
    """`retain`, but log the result, and also a failure of the disk."""
    try:
        decisions = retain(storage, manifests, rules, admission=admission, publish=publish)
    except OSError:
        _log.exception("retention failed; it is tried again")
        return
    removed = sum(not decision.kept for decision in decisions)
    _log.info("retention removed %d tags and kept %d", removed, len(decisions) - removed)


def _apply(
    manifests: Manifests, decision: RetentionDecision, admission: Admission, dry_run: bool
) -> RetentionDecision:
    if decision.kept:
        return decision
    name, tag = decision.repository, decision.tag

    def check() -> None:
        now = manifests.get(name, tag)
        if now is None or now.digest != decision.digest:
            raise Problem(409, "DENIED", "pushed again meanwhile")
        admission.delete(ANYONE, name, tag)

    try:
        if dry_run:
            check()
        else:
            manifests.untag(name, tag, check=check)
    except Problem as problem:
        return replace(decision, kept=True, reason=problem.message)
    return decision


def _keep_reason(rule: RetentionRule, tagged: TaggedDigest, rank: int, now: float) -> str:
    """Why the rule keeps the tag, empty if it does not."""
    if matches_any(rule.keep, tagged.tag):
        return "always kept by name"
    if rule.latest is not None and rank < rule.latest:
        return f"one of the last {rule.latest}"
    if rule.within is not None and now - tagged.at <= rule.within.seconds:
        return f"pushed within {rule.within}"
    return ""


def _expiry_reason(rule: RetentionRule) -> str:
    conditions = []
    if rule.latest is not None:
        conditions.append(f"not one of the last {rule.latest}")
    if rule.within is not None:
        conditions.append(f"not pushed within {rule.within}")
    return " and ".join(conditions)
