"""Which images are trusted: rules about signatures, and verdicts on images."""

from shipline.trust.containers import read_containers_policy
from shipline.trust.exempt import StatementCheck, is_statement, statement_subject
from shipline.trust.policy import TrustPolicy, TrustRefused
from shipline.trust.rules import (
    NO_TRUST,
    PredicateRule,
    ResolvedPolicy,
    ResolvedRule,
    TrustRule,
    TrustSection,
    load_trust,
    trusted_keys,
)
from shipline.trust.verdict import Proofs, TrustVerdict, VerdictCache, judge
