"""What attackers refer to an image with is never a signature (bad input 27)."""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest

from attached import NAME, Repository, add_image, attach, payload_for, refer, signed_layer
from shipline.errors import ContentError
from shipline.oci import Descriptor, Reference
from shipline.supply import (
    BUNDLE,
    Bundle,
    Envelope,
    EvidenceLimits,
    Identity,
    RejectReason,
    SignatureRefused,
    examine,
    generate_key,
    pae,
    statement_about,
    verify,
)
from shipline.values import replace

KEY = generate_key("ours")


def statement(target: Descriptor, name: Reference = NAME, kind: str = "") -> bytes:
    uri = kind or "https://sigstore.dev/cosign/sign/v1"
    return statement_about(target, name, uri, {}).to_bytes()


def envelope(content: bytes, kind: str = "application/vnd.in-toto+json") -> Envelope:
    return Envelope(content, (KEY.sign(pae(kind, content)),), kind)


def bundle(**changes: object) -> Callable[[Descriptor], bytes]:
    """A bundle whose statement or outside was changed."""

    def make(target: Descriptor) -> bytes:
        inner = {**json.loads(statement(target)), **changes}
        return Bundle(envelope(json.dumps(inner).encode())).to_bytes()

    return make


def simple_payload_in_an_envelope(target: Descriptor) -> bytes:
    return Bundle(envelope(json.dumps(payload_for(target)).encode())).to_bytes()


def unsigned_type(target: Descriptor) -> bytes:
    signed = envelope(statement(target), "application/x")
    return Bundle(replace(signed, payload_type="application/vnd.in-toto+json")).to_bytes()


def of_another_name(target: Descriptor) -> bytes:
    evil = Reference.parse("evil.example/team/app")
    return Bundle(envelope(statement(target, evil))).to_bytes()


BUNDLES: dict[str, tuple[Callable[[Descriptor], bytes], str]] = {
    "no JSON": (lambda target: b"{", "not JSON"),
    "another document": (lambda target: b"{}", "not a sigstore bundle"),
    "another type": (bundle(predicateType="https://example/t"), "of type"),
    "another version": (bundle(_type="https://in-toto.io/Statement/v2"), "not an in-toto"),
    "no subject": (bundle(subject=[]), "subjects"),
    "another subject": (
        bundle(subject=[{"name": str(NAME), "digest": {"sha256": "0" * 64}}]),
        "another digest",
    ),
    "a simple payload": (simple_payload_in_an_envelope, "not an in-toto"),
    "a type that was not signed": (unsigned_type, "any of the given keys"),
    "another name": (of_another_name, "not for registry.example/team/app"),
}


@pytest.mark.parametrize("case", BUNDLES)
def test_27_a_bundle_is_refused(case: str) -> None:
    make, reason = BUNDLES[case]
    store = Repository()
    target = add_image(store)
    refer(store, target, make(target), BUNDLE)
    with pytest.raises(SignatureRefused) as caught:
        verify(store, target, NAME, [KEY.public])
    assert reason in caught.value.verdicts[0], caught.value.verdicts


def test_a_bundle_without_a_name_counts_only_where_names_do_not() -> None:
    store = Repository()
    target = add_image(store)
    nameless = bundle(subject=[{"digest": {"sha256": target.digest.hex}}])
    refer(store, target, nameless(target), BUNDLE)
    assert not examine(store, target, NAME, [KEY.public]).signatures
    for rule in ("any", "optional"):
        found = examine(store, target, NAME, [KEY.public], identity=Identity.parse(rule))
        assert found.signatures[0].identity == ""
    for rule in ("repository", "exact", "tagged", "path", "registry.example/*"):
        (said,) = examine(store, target, NAME, [KEY.public], identity=Identity.parse(rule)).rejected
        assert "has no image name" in said.reason and said.why is RejectReason.NO_NAME


def test_a_referrer_that_refers_to_another_image_proves_nothing() -> None:
    class Lying(Repository):
        def referrers(self, target: Descriptor, artifact_type: str = "") -> tuple[Descriptor, ...]:
            return super().referrers(other, artifact_type)

    store = Lying()
    target, other = add_image(store), add_image(store, env="B=2")
    refer(store, other, Bundle(envelope(statement(target))).to_bytes(), BUNDLE)
    found = examine(store, target, NAME, [KEY.public])
    assert not found.signatures and "another image" in found.rejected[0].reason


def test_a_list_that_cannot_be_read_does_not_hide_the_other() -> None:
    class NoTag(Repository):
        def resolve(self, reference: str) -> Descriptor:
            raise ContentError("the manifest is not JSON")

    class NoList(Repository):
        def referrers(self, target: Descriptor, artifact_type: str = "") -> tuple[Descriptor, ...]:
            raise ContentError("the list is not JSON")

    for store in (NoTag(), NoList()):
        target = add_image(store)
        attach(store, target, [signed_layer(store, payload_for(target), KEY)])
        refer(store, target, Bundle(envelope(statement(target))).to_bytes(), BUNDLE)
        found = examine(store, target, NAME, [KEY.public])
        assert len(found.signatures) == 1 and "not JSON" in found.rejected[0].reason


def test_27_of_too_many_referrers_the_first_are_read() -> None:
    store = Repository()
    target = add_image(store)
    for number in range(5):
        content = Bundle(envelope(statement(target)), hint=str(number)).to_bytes()
        refer(store, target, content, BUNDLE)
    found = examine(store, target, NAME, [KEY.public], limits=EvidenceLimits(statements=4))
    assert found.signatures and "more than the 4" in found.rejected[-1].reason


def test_too_many_bytes_are_not_read() -> None:
    store = Repository()
    target = add_image(store)
    parts = [
        signed_layer(store, payload_for(target, optional={"n": "x" * 900, "i": n}), KEY)
        for n in range(5)
    ]
    attach(store, target, parts)
    found = examine(store, target, NAME, [KEY.public], limits=EvidenceLimits(total=3000))
    assert len(found.signatures) == 2 and "too much" in found.rejected[0].reason


@pytest.mark.parametrize("count", [0, 257])
def test_a_bundle_still_counts_beside_a_tag_that_cannot_be_read(count: int) -> None:
    store = Repository()
    target = add_image(store)
    attach(store, target, [signed_layer(store, payload_for(target), KEY)] * count)
    refer(store, target, Bundle(envelope(statement(target))).to_bytes(), BUNDLE)
    found = verify(store, target, NAME, [KEY.public])
    assert len(found.signatures) == len(found.rejected) == 1
