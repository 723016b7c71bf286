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
    PromotionRequest,
    approve,
    blocked,
    check_approval,
    hold,
    previous_deployments,
    promote,
    read_history,
    read_states,
    release,
    rollback,
    set_stopped,
    source_author,
)
from shipline.deliver.promotion.state import SKEW_S, EnvironmentState, recorded_times
