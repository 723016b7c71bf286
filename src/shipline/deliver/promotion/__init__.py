"""Promotion: which images may come to an environment, and the commits that say so."""

from shipline.deliver.promotion.policy import (
    Blocker,
    Candidate,
    JudgedGate,
    PromotionPolicy,
    PromotionRefused,
    blockers,
    possible_at,
)
from shipline.deliver.promotion.promoting import (
    approve,
    blocked,
    check_approval,
    hold,
    policy_of,
    previous_deployments,
    promote,
    read_states,
    release,
    rollback,
    set_stopped,
    source_author,
)
from shipline.deliver.promotion.state import (
    SKEW_S,
    EnvironmentState,
    VerifiedTime,
    recorded_times,
)

__all__ = [
    "SKEW_S",
    "Blocker",
    "Candidate",
    "EnvironmentState",
    "JudgedGate",
    "PromotionPolicy",
    "PromotionRefused",
    "VerifiedTime",
    "approve",
    "blocked",
    "blockers",
    "check_approval",
    "hold",
    "policy_of",
    "possible_at",
    "previous_deployments",
    "promote",
    "read_states",
    "recorded_times",
    "release",
    "rollback",
    "set_stopped",
    "source_author",
]
