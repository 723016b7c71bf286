"""Which images are trusted: rules about signatures, and verdicts on images."""

from shipline.policy.trust.cache import VerdictCache
from shipline.policy.trust.containers import read_containers_policy
from shipline.policy.trust.door import Judge, Parents, TrustRefused
from shipline.policy.trust.exempt import Statements, is_statement, statement_subject
from shipline.policy.trust.rules import NO_TRUST, Rule, Trust, load_trust, trusted_keys
from shipline.policy.trust.section import PredicateRule, TrustRule, TrustSection
from shipline.policy.trust.verdict import Findings, Verdict, judge

__all__ = [
    "NO_TRUST",
    "Findings",
    "Judge",
    "Parents",
    "PredicateRule",
    "Rule",
    "Statements",
    "Trust",
    "TrustRefused",
    "TrustRule",
    "TrustSection",
    "Verdict",
    "VerdictCache",
    "is_statement",
    "judge",
    "load_trust",
    "read_containers_policy",
    "statement_subject",
    "trusted_keys",
]
