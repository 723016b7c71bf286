"""Which images are trusted: rules about signatures, and verdicts on images."""

from shipline.trust.containers import read_containers_policy
from shipline.trust.exempt import Statements, is_statement, statement_subject
from shipline.trust.policy import Judge, Parents, TrustRefused
from shipline.trust.rules import (
    NO_TRUST,
    PredicateRule,
    Rule,
    Trust,
    TrustRule,
    TrustSection,
    load_trust,
    trusted_keys,
)
from shipline.trust.verdict import Findings, Verdict, VerdictCache, judge

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
