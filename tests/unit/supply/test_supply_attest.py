"""Attesting: statements are attached once, in both forms, and only those of trusted keys count."""

from __future__ import annotations

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from attached import NAME, Repository, add_image, attach, refer
from shipline.content import MemoryStore
from shipline.errors import ContentError, UsageError
from shipline.oci import Descriptor
from shipline.supply import (
    BUNDLE,
    COSIGN_SIGN,
    ENVELOPE,
    STATEMENT_LIMIT,
    Bundle,
    Envelope,
    Form,
    SignatureRefused,
    Statement,
    attest,
    examine,
    examine_attestations,
    generate_key,
    pae,
    predicate_type,
    short_name,
    statement_about,
    verify_attestations,
)

KEY, OTHER = generate_key("ours"), generate_key("theirs")
VULN = predicate_type("vuln")
SPDX = predicate_type("spdx")


def clock() -> float:
    return 1_700_000_000.0


def envelope(statement: bytes, payload_type: str = "application/vnd.in-toto+json") -> Envelope:
    return Envelope(statement, (KEY.sign(pae(payload_type, statement)),), payload_type)


def test_a_statement_is_attached_in_both_forms_and_verified() -> None:
    store = Repository()
    target = add_image(store)
    predicate = {"metadata": {"scanFinishedOn": "2026-11-24T00:00:00Z"}, "scanner": {}}
    attest(store, target, statement_about(target, NAME, VULN, predicate), [KEY], clock=clock)
    found = verify_attestations(store, target, NAME, [OTHER.public, KEY.public], VULN)
    assert {one.form for one in found.proven} == {Form.TAG, Form.BUNDLE}
    for one in found.proven:
        assert one.key == KEY.public
        assert one.statement.predicate == predicate
        assert one.made_at == 1_795_478_400


def test_attaching_again_adds_nothing() -> None:
    store = Repository()
    target = add_image(store)
    statement = statement_about(target, NAME, VULN, {"a": 1})
    attest(store, target, statement, [KEY], clock=clock)
    before = dict(store.blobs), dict(store.tags)
    assert attest(store, target, statement, [KEY], clock=clock).attached == ()
    assert (store.blobs, store.tags) == before


def test_another_statement_stands_beside_or_instead() -> None:
    store = Repository()
    target = add_image(store)
    for number in (1, 2):
        attest(store, target, statement_about(target, NAME, VULN, {"n": number}), [KEY])
    attest(store, target, statement_about(target, NAME, SPDX, {"n": 0}), [KEY])
    attest(store, target, statement_about(target, NAME, VULN, {"n": 9}), [OTHER])
    attest(store, target, statement_about(target, NAME, VULN, {"n": 3}), [KEY], replace=True)
    both = [KEY.public, OTHER.public]
    found = examine_attestations(store, target, both, VULN).proven
    assert sorted(
        (one.key.name, one.form, json.dumps(one.statement.predicate)) for one in found
    ) == [
        ("ours", "bundle", '{"n": 3}'),
        ("ours", "tag", '{"n": 3}'),
        ("theirs", "bundle", '{"n": 9}'),
        ("theirs", "tag", '{"n": 9}'),
    ]
    assert len(examine_attestations(store, target, both, SPDX).proven) == 2


def test_a_statement_about_another_image_is_not_attached() -> None:
    store = Repository()
    target, other = add_image(store), add_image(store, env="B=2")
    with pytest.raises(UsageError, match="not about"):
        attest(store, target, statement_about(other, NAME, VULN, {}), [KEY])


def test_what_could_not_be_verified_is_not_attached() -> None:
    store = Repository()
    target = add_image(store)
    most = STATEMENT_LIMIT - len(statement_about(target, NAME, VULN, {"a": ""}).to_bytes())
    attest(store, target, statement_about(target, NAME, VULN, {"a": "x" * most}), [KEY])
    assert len(examine_attestations(store, target, [KEY.public], VULN).proven) == 2
    with pytest.raises(UsageError, match="more than"):
        attest(store, target, statement_about(target, NAME, VULN, {"a": "x" * most + "x"}), [KEY])


def test_a_statement_about_another_image_is_not_believed() -> None:
    store = Repository()
    target, other = add_image(store), add_image(store, env="B=2")
    content = statement_about(other, NAME, VULN, {}).to_bytes()
    refer(store, target, Bundle(envelope(content)).to_bytes(), BUNDLE)
    with pytest.raises(SignatureRefused) as caught:
        verify_attestations(store, target, NAME, [KEY.public], VULN)
    assert "another digest" in caught.value.verdicts[0]


def test_another_type_is_not_what_was_asked_for() -> None:
    store = Repository()
    target = add_image(store)
    attest(store, target, statement_about(target, NAME, SPDX, {}), [KEY])
    with pytest.raises(SignatureRefused, match="vuln"):
        verify_attestations(store, target, NAME, [KEY.public], VULN)


def test_an_attestation_is_no_signature_and_no_signature_an_attestation() -> None:
    store = Repository()
    target = add_image(store)
    attest(store, target, statement_about(target, NAME, SPDX, {}), [KEY])
    assert examine(store, target, NAME, [KEY.public]).signatures == ()
    sign_like = statement_about(target, NAME, COSIGN_SIGN, {}).to_bytes()
    refer(store, target, Bundle(envelope(sign_like)).to_bytes(), BUNDLE)
    assert len(examine(store, target, NAME, [KEY.public]).signatures) == 1
    assert len(examine_attestations(store, target, [KEY.public], SPDX).proven) == 2


def test_the_payload_type_is_checked_though_it_is_signed() -> None:
    store = Repository()
    target = add_image(store)
    content = statement_about(target, NAME, VULN, {}).to_bytes()
    refer(store, target, Bundle(envelope(content, "text/plain")).to_bytes(), BUNDLE)
    found = examine_attestations(store, target, [KEY.public], VULN)
    assert not found.proven and "text/plain" in found.rejected[0].reason


def test_an_envelope_under_the_tag_that_says_nothing_of_its_type_is_read() -> None:
    store = Repository()
    target = add_image(store)
    content = envelope(statement_about(target, NAME, VULN, {}).to_bytes()).to_bytes()
    layer = Descriptor.of(content, ENVELOPE)
    store.push(layer, MemoryStore(content))
    attach(store, target, [layer], suffix="att")
    assert len(examine_attestations(store, target, [KEY.public], VULN).proven) == 1


def test_a_text_predicate_is_wrapped_as_cosign_does() -> None:
    store = Repository()
    target = add_image(store)
    found = statement_about(target, NAME, predicate_type("custom"), "hello")
    assert found.predicate == {"Data": "hello"}


@pytest.mark.parametrize(
    "document",
    [
        {},
        {"_type": "https://in-toto.io/Statement/v9", "subject": [{"digest": {}}]},
        {"_type": ["x"], "subject": [{"digest": {}}], "predicateType": "t"},
        {"_type": "https://in-toto.io/Statement/v1", "subject": [], "predicateType": "t"},
        {"_type": "https://in-toto.io/Statement/v1", "subject": "x", "predicateType": "t"},
        {"_type": "https://in-toto.io/Statement/v1", "subject": [7], "predicateType": "t"},
        {"_type": "https://in-toto.io/Statement/v1", "subject": [{"digest": {}}]},
        {
            "_type": "https://in-toto.io/Statement/v1",
            "subject": [{"digest": {"sha256": 7}}],
            "predicateType": "t",
        },
        {
            "_type": "https://in-toto.io/Statement/v1",
            "subject": [{"digest": {}}],
            "predicateType": "t",
            "predicate": 7,
        },
        {
            "_type": "https://in-toto.io/Statement/v1",
            "subject": [{"digest": {}}] * 1025,
            "predicateType": "t",
        },
    ],
)
def test_what_is_no_statement_is_refused(document: object) -> None:
    with pytest.raises(ContentError):
        Statement.parse(json.dumps(document).encode())


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.text(alphabet='aé\n"\\'),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text("ab"), inner, max_size=3),
    max_leaves=8,
)


@settings(max_examples=50)
@given(st.dictionaries(st.text("abc"), _JSON, max_size=3), st.text("ab/:", min_size=1))
def test_a_statement_is_read_as_it_was_written(predicate: dict[str, object], name: str) -> None:
    target = Descriptor.of(b"x", "application/octet-stream")
    statement = Statement.about(target, name, "https://example/type", predicate)
    assert Statement.parse(statement.to_bytes()).to_bytes() == statement.to_bytes()
    assert Statement.parse(statement.to_bytes()).predicate == predicate


@pytest.mark.parametrize(
    ("name", "uri"),
    [
        ("slsaprovenance", "https://slsa.dev/provenance/v0.2"),
        ("slsaprovenance1", "https://slsa.dev/provenance/v1"),
        ("spdx", "https://spdx.dev/Document"),
        ("cyclonedx", "https://cyclonedx.org/bom"),
        ("openvex", "https://openvex.dev/ns"),
        ("https://own.example/t/v1", "https://own.example/t/v1"),
    ],
)
def test_types_have_cosigns_names(name: str, uri: str) -> None:
    assert predicate_type(name) == uri
    assert predicate_type(short_name(uri)) == uri


def test_an_unknown_type_is_told_with_those_that_are_known() -> None:
    with pytest.raises(UsageError) as caught:
        predicate_type("sbom")
    assert "cyclonedx" in caught.value.hint
