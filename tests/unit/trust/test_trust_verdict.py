"""Judging: k distinct keys, fresh enough, with the attestations that the rule asks for."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shipline.oci import Descriptor, Digest
from shipline.supply import (
    Attestations,
    Envelope,
    Form,
    ImagePattern,
    PublicKey,
    Rejected,
    Signature,
    Statement,
    Verification,
    VerifiedAttestation,
)
from shipline.trust import Proofs, ResolvedRule, TrustRule, TrustVerdict, judge
from shipline.units import Duration

TARGET = Descriptor.of(b"image", "application/vnd.oci.image.manifest.v1+json")
PLACE = Digest.of(b"place")
KEYS = tuple(PublicKey(f"key {n}", bytes([n])) for n in range(4))
NOW = 1_000_000.0
VULN = "https://cosign.sigstore.dev/attestation/vuln/v1"


def rule(threshold: int = 1, max_age: str = "", vuln: float | None = -1) -> ResolvedRule:
    age = Duration.parse(max_age) if max_age else None
    said = TrustRule((ImagePattern("**"),), threshold=threshold, max_age=age)
    return ResolvedRule(said, KEYS, {} if vuln == -1 else {VULN: vuln})


def signature(key: int, signed_at: float | None = None, form: Form = Form.TAG) -> Signature:
    return Signature(KEYS[key], form, "r.example/a", {}, signed_at, PLACE)


def findings(*signatures: Signature, made_at: tuple[float | None, ...] = ()) -> Proofs:
    statement = Statement((), VULN, {})
    proven = tuple(
        VerifiedAttestation(KEYS[0], Form.TAG, statement, Envelope(b"", ()), one, PLACE, PLACE)
        for one in made_at
    )
    verification = Verification(TARGET, signatures, ())
    return Proofs(verification, {VULN: Attestations(TARGET, VULN, proven, ())})


def test_a_signature_is_enough_for_the_simplest_rule() -> None:
    found = judge(rule(), findings(signature(0)), NOW)
    assert found == TrustVerdict(True, "require **", "signed by key 0", (KEYS[0].id,))


@given(st.lists(st.integers(0, 3)), st.integers(1, 4))
def test_distinct_keys_are_counted(keys: list[int], threshold: int) -> None:
    found = judge(rule(threshold), findings(*map(signature, keys)), NOW)
    assert found.accepted is (len(set(keys)) >= threshold)


@given(
    st.lists(st.tuples(st.integers(0, 3), st.floats(0, 2e6)), max_size=8),
    st.integers(1, 4),
    st.floats(0, 2e6),
)
def test_an_accepted_verdict_holds_until_it_says(
    signed: list[tuple[int, float]], threshold: int, later: float
) -> None:
    evidence = findings(*(signature(key, time) for key, time in signed))
    found = judge(rule(threshold, "2d"), evidence, NOW)
    if found.accepted:
        assert found.until is not None
        again = judge(rule(threshold, "2d"), evidence, NOW + later)
        if NOW + later < found.until:
            assert again.accepted
        elif NOW + later > found.until:
            assert not again.accepted or any(time > NOW for _, time in signed)


@pytest.mark.parametrize(
    ("signed_at", "reason"),
    [(None, "has no time"), (NOW - 86401, "24.0 hours old"), (NOW + 301, "in the future")],
)
def test_a_signature_out_of_its_time_does_not_count(signed_at: float | None, reason: str) -> None:
    found = judge(rule(max_age="1d"), findings(signature(0, signed_at)), NOW)
    assert not found.accepted and reason in found.details[0]
    assert "sign --again" in found.hint


def test_a_clock_may_be_a_little_ahead() -> None:
    assert judge(rule(max_age="1d"), findings(signature(0, NOW + 299)), NOW).accepted


def test_the_newest_signature_of_a_key_counts() -> None:
    found = judge(rule(max_age="1d"), findings(signature(0, NOW - 99999), signature(0, NOW)), NOW)
    assert found.accepted and found.until == NOW + 86400


def test_an_attestation_that_is_required_must_be_there() -> None:
    assert not judge(rule(vuln=None), findings(signature(0)), NOW).accepted
    assert not judge(rule(vuln=None), Proofs(findings(signature(0)).signatures), NOW).accepted
    assert judge(rule(vuln=None), findings(signature(0), made_at=(None,)), NOW).accepted


def test_an_attestation_must_be_young_enough() -> None:
    week = 7 * 86400.0
    old = judge(rule(vuln=week), findings(signature(0), made_at=(NOW - week - 1,)), NOW)
    assert not old.accepted and "7.0 days old" in old.reason
    new = judge(rule(vuln=week), findings(signature(0), made_at=(0.0, NOW - 60)), NOW)
    assert new.accepted and new.until == NOW - 60 + week


def test_an_attestation_is_no_signature() -> None:
    assert not judge(rule(vuln=None), findings(made_at=(NOW,)), NOW).accepted


def test_a_refusal_says_why_and_how_to_satisfy_it() -> None:
    rejected = Rejected(PLACE, Form.TAG, "it was not made by any of the given keys")
    found = judge(rule(), Proofs(Verification(TARGET, (), (rejected,))), NOW)
    assert found.reason == "0 of 1 required keys signed it"
    assert "any of the given keys" in found.details[0]
    assert "shipline sign" in found.hint and "1 of the keys key 0, key 1" in found.hint
