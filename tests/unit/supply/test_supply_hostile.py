"""What attackers attach is never a signature (bad inputs 27 and 28), and never hides a true one.

Each case is signed by the trusted key itself unless its name says otherwise: the verifier does not
lean on the signer for anything but the signature.
"""

from __future__ import annotations

import base64
import json
import time
from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from attached import (
    NAME,
    SIGNATURE,
    Repository,
    add_image,
    add_index,
    attach,
    payload_for,
    refer,
    signed_layer,
)
from shipline.content import MemoryStore
from shipline.errors import RegistryError
from shipline.oci import Descriptor, Manifest, media
from shipline.supply import (
    BUNDLE,
    COSIGN_ARTIFACT,
    ENVELOPE,
    SIMPLE_SIGNING,
    SignatureRefused,
    examine,
    generate_key,
    sign,
    verify,
)
from shipline.values import replace

KEY, OTHER = generate_key("ours"), generate_key("theirs")
Hostile = Callable[[Repository, Descriptor], Descriptor]
"""Attaches one thing to an image; its layer."""


def wrong(**changes: object) -> Hostile:
    return lambda store, target: signed_layer(store, payload_for(target, **changes), KEY)


def raw(change: Callable[[str], str]) -> Hostile:
    def make(store: Repository, target: Descriptor) -> Descriptor:
        content = change(json.dumps(payload_for(target))).encode()
        return signed_layer(store, content, KEY)

    return make


def shaped(change: Callable[[dict[str, dict[str, object]]], object]) -> Hostile:
    def make(store: Repository, target: Descriptor) -> Descriptor:
        document = payload_for(target)
        change(document)
        return signed_layer(store, document, KEY)

    return make


def for_another_digest(store: Repository, target: Descriptor) -> Descriptor:
    return signed_layer(store, payload_for(add_image(store, env="B=2")), KEY)


def by_another_key(store: Repository, target: Descriptor) -> Descriptor:
    return signed_layer(store, payload_for(target), OTHER)


def over_other_bytes(store: Repository, target: Descriptor) -> Descriptor:
    layer = signed_layer(store, payload_for(target), KEY)
    other = signed_layer(store, payload_for(target, optional={"a": "b"}), KEY)
    return replace(other, annotations=layer.annotations)


def of_type(media_type: str) -> Hostile:
    return lambda store, target: signed_layer(
        store, payload_for(target), KEY, media_type=media_type
    )


def with_signature(text: str) -> Hostile:
    return lambda store, target: signed_layer(store, payload_for(target), KEY, signature=text)


def without_annotation(store: Repository, target: Descriptor) -> Descriptor:
    return replace(signed_layer(store, payload_for(target), KEY), annotations={})


def with_a_certificate_only(store: Repository, target: Descriptor) -> Descriptor:
    layer = without_annotation(store, target)
    return replace(layer, annotations={"dev.sigstore.cosign/certificate": "PEM"})


def that_is_not_there(store: Repository, target: Descriptor) -> Descriptor:
    layer = signed_layer(store, payload_for(target), KEY)
    del store.blobs[layer.digest]
    return layer


def that_was_altered(store: Repository, target: Descriptor) -> Descriptor:
    layer = signed_layer(store, payload_for(target), KEY)
    store.blobs[layer.digest] = store.blobs[layer.digest].replace(b"team", b"meat")
    return layer


def of_a_lying_size(store: Repository, target: Descriptor) -> Descriptor:
    layer = signed_layer(store, payload_for(target), KEY)
    return replace(layer, size=layer.size + 1)


CASES: dict[str, tuple[Hostile, str]] = {
    "for another digest": (for_another_digest, "payload is about"),
    "by another key": (by_another_key, "any of the given keys"),
    "over other bytes": (over_other_bytes, "any of the given keys"),
    "of another name": (wrong(identity="evil.example/team/app:v1"), "not for"),
    "of another repository": (wrong(identity="registry.example/team/other"), "not for"),
    "of a name that begins alike": (wrong(identity="registry.example/team/app2"), "not for"),
    "of no name": (wrong(identity=""), "has no image name"),
    "of a name that is none": (wrong(identity="::"), "not for"),
    "of a name that is a number": (wrong(identity=7), "instead of a text"),
    "without a type": (shaped(lambda p: p["critical"].pop("type")), "exactly the fields"),
    "of another type": (wrong(type="atomic container signature"), "critical.type"),
    "of a type that is a list": (wrong(type=["x"]), "critical.type"),
    "of a digest that is none": (wrong(digest="sha256:0"), "not a digest"),
    "of a digest in capitals": (wrong(digest="SHA256:" + "A" * 64), "not a digest"),
    "without optional": (shaped(lambda p: p.pop("optional")), "exactly the fields"),
    "with optional that is text": (wrong(optional="x"), "optional"),
    "without critical": (shaped(lambda p: p.pop("critical")), "exactly the fields"),
    "with more than is known": (shaped(lambda p: p.update(more={})), "exactly the fields"),
    "with more that is critical": (
        shaped(lambda p: p["critical"].update(expires="now")),
        "exactly the fields",
    ),
    "that is not JSON": (raw(lambda text: text[:-1]), "not JSON"),
    "that is two documents": (raw(lambda text: text * 2), "not JSON"),
    "that is a list": (raw(lambda text: f"[{text}]"), "not a JSON object"),
    "with a key twice": (
        raw(lambda text: text.replace('"type":', '"type": "x", "type":')),
        "repeated",
    ),
    "that is nested without end": (raw(lambda text: "[" * 60_000), "not JSON"),
    "with a number without end": (raw(lambda text: "9" * 60_000), "not JSON"),
    "that is huge": (raw(lambda text: text + " " * (1 << 20)), "more than"),
    "of the media type of a layer": (of_type(media.OCI_LAYER_GZIP), "media type"),
    "of the media type of an envelope": (of_type(ENVELOPE), "media type"),
    "of the media type of a bundle": (of_type(BUNDLE), "media type"),
    "with an empty signature": (with_signature(""), "lacks the annotation"),
    "with a signature that is not base64": (with_signature("?"), "base64"),
    "with a signature that is not ASCII": (with_signature("é"), "base64"),
    "with a signature that is zeros": (
        with_signature(base64.b64encode(bytes(8)).decode()),
        "any of the given keys",
    ),
    "without a signature": (without_annotation, "lacks the annotation"),
    "with a certificate only": (with_a_certificate_only, "lacks the annotation"),
    "that does not exist": (that_is_not_there, "not in memory"),
    "that was altered": (that_was_altered, "expected sha256"),
    "of a lying size": (of_a_lying_size, "bytes instead of"),
}


@pytest.mark.parametrize("case", CASES)
def test_27_a_signature_is_refused(case: str) -> None:
    make, reason = CASES[case]
    store = Repository()
    target = add_image(store)
    attach(store, target, [make(store, target)])
    with pytest.raises(SignatureRefused) as caught:
        verify(store, target, NAME, [KEY.public])
    (line,) = caught.value.verdicts
    assert reason in line, line
    assert caught.value.exit_code == 9


@pytest.mark.parametrize("case", CASES)
def test_it_does_not_hide_a_true_one(case: str) -> None:
    store = Repository()
    target = add_image(store)
    good = signed_layer(store, payload_for(target, optional={"good": "yes"}), KEY)
    attach(store, target, [CASES[case][0](store, target), good])
    (found,) = verify(store, target, NAME, [KEY.public]).signatures
    assert found.annotations == {"good": "yes"}


def test_nothing_at_all_is_no_signature() -> None:
    store = Repository()
    target = add_image(store)
    with pytest.raises(SignatureRefused) as caught:
        verify(store, target, NAME, [KEY.public])
    assert "no signature is attached" in caught.value.verdicts[0]
    assert str(target.digest) in caught.value.hint


def test_one_signature_of_two_is_not_called_none() -> None:
    store = Repository()
    target = add_image(store)
    attach(store, target, [signed_layer(store, payload_for(target), KEY)])
    with pytest.raises(SignatureRefused, match="1 of 2 keys") as caught:
        verify(store, target, NAME, [KEY.public], threshold=2)
    assert caught.value.verdicts == ("no other signature is attached to it",)


def test_equal_reasons_are_told_once() -> None:
    store = Repository()
    target = add_image(store)
    made = [payload_for(target, optional={"n": n}) for n in range(9)]
    attach(store, target, [signed_layer(store, one, OTHER) for one in made])
    with pytest.raises(SignatureRefused) as caught:
        verify(store, target, NAME, [KEY.public])
    assert caught.value.verdicts == ("9 times: it was not made by any of the given keys",)


def test_without_keys_nothing_is_verified() -> None:
    store = Repository()
    target = add_image(store)
    sign(store, target, NAME, [KEY])
    with pytest.raises(SignatureRefused):
        verify(store, target, NAME, [], threshold=0)


def test_one_key_twice_is_one_key() -> None:
    store = Repository()
    target = add_image(store)
    sign(store, target, NAME, [KEY])
    sign(store, target, NAME, [KEY], again=True, clock=lambda: time.time() + 60)
    renamed = replace(KEY.public, name="another name")
    with pytest.raises(SignatureRefused, match="1 of 2 keys"):
        verify(store, target, NAME, [KEY.public, renamed], threshold=2)


def empty(store: Repository, target: Descriptor) -> None:
    attach(store, target, [])


def an_index(store: Repository, target: Descriptor) -> None:
    index = add_index(store)
    store.tag(index.descriptor, MemoryStore(index.raw), f"sha256-{target.digest.hex}.sig")


def not_json(store: Repository, target: Descriptor) -> None:
    content = b"\x00" * 100
    found = Descriptor.of(content, media.OCI_MANIFEST)
    store.tag(found, MemoryStore(content), f"sha256-{target.digest.hex}.sig")


def a_huge_manifest(store: Repository, target: Descriptor) -> None:
    content = b" " * (5 << 20)
    found = Descriptor.of(content, media.OCI_MANIFEST)
    store.tag(found, MemoryStore(content), f"sha256-{target.digest.hex}.sig")


def too_many(count: int) -> Callable[[Repository, Descriptor], None]:
    def make(store: Repository, target: Descriptor) -> None:
        good = signed_layer(store, payload_for(target), KEY).plain
        tiny = {"mediaType": "a", "digest": str(good.digest), "size": 1}
        manifest = {
            "schemaVersion": 2,
            "mediaType": media.OCI_MANIFEST,
            "config": {"mediaType": media.OCI_EMPTY, "digest": str(good.digest), "size": 2},
            "layers": [{**good.to_json(), "annotations": {SIGNATURE: "AA=="}}, *[tiny] * count],
        }
        content = json.dumps(manifest, separators=(",", ":")).encode()
        found = Descriptor.of(content, media.OCI_MANIFEST)
        store.tag(found, MemoryStore(content), f"sha256-{target.digest.hex}.sig")

    return make


PLACES: dict[str, tuple[Callable[[Repository, Descriptor], None], str]] = {
    "an empty list": (empty, "empty"),
    "an index": (an_index, "index"),
    "no JSON": (not_json, "not JSON"),
    "a huge manifest": (a_huge_manifest, "more than"),
    "257 signatures": (too_many(256), "more than 256"),
    "100,000 signatures": (too_many(100_000), "more than"),
}


@pytest.mark.parametrize("case", PLACES)
def test_a_place_that_cannot_be_read_proves_nothing_and_costs_little(case: str) -> None:
    make, reason = PLACES[case]
    store = Repository()
    target = add_image(store)
    make(store, target)
    start = time.thread_time()
    with pytest.raises(SignatureRefused) as caught:
        verify(store, target, NAME, [KEY.public])
    assert time.thread_time() - start < 2
    assert reason in caught.value.verdicts[0], caught.value.verdicts


def test_cosigns_first_form_of_referrer_counts() -> None:
    store = Repository()
    target = add_image(store)
    layer = signed_layer(store, payload_for(target), KEY)
    manifest = Manifest.make(Descriptor.of(b"{}", COSIGN_ARTIFACT), [layer], subject=target)
    source = MemoryStore(b"{}", manifest.raw)
    store.push(manifest.config, source)
    store.push(manifest.descriptor, source)
    (found,) = verify(store, target, NAME, [KEY.public]).signatures
    assert found.form == "referrer" and layer.media_type == SIMPLE_SIGNING


def test_a_registry_that_does_not_answer_is_no_verdict() -> None:
    class Down(Repository):
        def resolve(self, reference: str) -> Descriptor:
            raise RegistryError("registry.example: no answer", host="registry.example")

    store = Down()
    with pytest.raises(RegistryError):
        verify(store, add_image(store), NAME, [KEY.public])


def test_28_the_digest_is_verified_and_not_what_a_tag_has_become() -> None:
    store = Repository()
    old, new = add_image(store), add_image(store, env="B=2")
    store.tag(old, store, "v1")
    sign(store, store.resolve("v1"), NAME, [KEY])
    store.tag(new, store, "v1")
    verify(store, old, NAME, [KEY.public])
    with pytest.raises(SignatureRefused):
        verify(store, store.resolve("v1"), NAME, [KEY.public])


@settings(max_examples=2 * settings().max_examples)
@given(st.binary(max_size=200), st.binary(max_size=80))
def test_random_bytes_are_never_a_signature(payload: bytes, signature: bytes) -> None:
    store = Repository()
    target = add_image(store)
    text = base64.b64encode(signature).decode()
    attach(store, target, [signed_layer(store, payload, KEY, signature=text)])
    refer(store, target, payload or b"x", BUNDLE)
    assert not examine(store, target, NAME, [KEY.public]).signatures
