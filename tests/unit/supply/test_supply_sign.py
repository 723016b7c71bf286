"""Signing: both forms, once, with nothing of others lost; what is signed can be verified."""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from attached import AMD, NAME, Repository, add_image, add_index, payload_for, signed_layer
from attached import attach as attach_raw
from shipline.content import Fetcher, MemoryStore, contention, fetch_all
from shipline.errors import ContentError, UsageError
from shipline.images import Meter, NarrowedSource
from shipline.oci import Descriptor, Manifest, Reference, media, parse_manifest
from shipline.supply import (
    Form,
    Identity,
    SignatureRefused,
    copy_with_evidence,
    examine,
    generate_key,
    sign,
    signable,
    verify,
)

KEY, OTHER = generate_key("ours"), generate_key("theirs")


def clock() -> float:
    return 1_700_000_000.5


def tag_of(target: Descriptor) -> str:
    return f"sha256-{target.digest.hex}.sig"


def layers(store: Repository, target: Descriptor) -> tuple[Descriptor, ...]:
    """The signatures under the tag of `target`."""
    found = store.tags[tag_of(target)]
    manifest = parse_manifest(fetch_all(store, found, 1 << 20))
    assert isinstance(manifest, Manifest)
    return manifest.layers


def test_what_was_signed_can_be_verified_in_both_forms() -> None:
    store = Repository()
    target = add_image(store)
    sign(store, target, NAME, [KEY], annotations={"env": "prod"}, clock=clock)
    found = verify(store, target, NAME, [OTHER.public, KEY.public])
    assert {one.form for one in found.signatures} == {Form.TAG, Form.BUNDLE}
    assert found.keys == (KEY.public,)
    for one in found.signatures:
        assert one.identity == "registry.example/team/app:v1"
        assert one.annotations["env"] == "prod"
        assert one.signed_at == 1_700_000_000


def test_the_payload_is_what_podman_and_cosign_read() -> None:
    store = Repository()
    target = add_image(store)
    sign(store, target, NAME, [KEY], forms=[Form.TAG], clock=clock)
    (layer,) = layers(store, target)
    payload = json.loads(fetch_all(store, layer, 4096))
    assert set(payload) == {"critical", "optional"}
    assert isinstance(payload["optional"].pop("creator"), str)
    assert payload["optional"] == {"timestamp": 1_700_000_000}
    assert payload["critical"] == payload_for(target)["critical"]
    assert layer.media_type == "application/vnd.dev.cosign.simplesigning.v1+json"


def test_signing_again_adds_nothing() -> None:
    store = Repository()
    target = add_image(store)
    sign(store, target, NAME, [KEY], clock=clock)
    before = dict(store.blobs), dict(store.tags)
    (again,) = sign(store, target, NAME, [KEY, KEY], clock=lambda: clock() + 1000)
    assert again.attached == ()
    assert (store.blobs, store.tags) == before


def test_an_interrupted_signing_is_completed() -> None:
    store = Repository()
    target = add_image(store)
    sign(store, target, NAME, [KEY], forms=[Form.TAG], clock=clock)
    (done,) = sign(store, target, NAME, [KEY], clock=clock)
    assert len(done.attached) == 1
    assert len(layers(store, target)) == 1


@pytest.mark.parametrize(
    ("name", "annotations", "again"),
    [
        ("registry.example/team/app:v2", {}, False),
        (str(NAME), {"a": "b"}, False),
        (str(NAME), {}, True),
    ],
)
def test_another_claim_is_another_signature(
    name: str, annotations: dict[str, str], again: bool
) -> None:
    store = Repository()
    target = add_image(store)
    sign(store, target, NAME, [KEY], clock=clock)
    reference = Reference.parse(name)
    sign(
        store,
        target,
        reference,
        [KEY],
        annotations=annotations,
        again=again,
        clock=lambda: clock() + 9,
    )
    assert len(layers(store, target)) == 2


def test_signatures_of_others_stay() -> None:
    store = Repository()
    target = add_image(store)
    foreign = signed_layer(store, payload_for(target), OTHER)
    attach_raw(store, target, [foreign], annotations={"note": "kept"})
    sign(store, target, NAME, [KEY], clock=clock)
    assert layers(store, target)[0] == foreign
    assert len(layers(store, target)) == 2
    manifest = parse_manifest(fetch_all(store, store.tags[tag_of(target)], 1 << 20))
    assert manifest.annotations == {"note": "kept"}
    found = verify(store, target, NAME, [KEY.public, OTHER.public], threshold=2)
    assert set(found.keys) == {KEY.public, OTHER.public}


def test_several_keys_sign_at_once() -> None:
    store = Repository()
    target = add_image(store)
    sign(store, target, NAME, [KEY, OTHER], clock=clock)
    assert len(layers(store, target)) == 2
    verify(store, target, NAME, [KEY.public, OTHER.public], threshold=2)


def test_an_index_is_signed_after_its_images_and_without_its_attestations() -> None:
    store = Repository()
    index = add_index(store)
    done = sign(store, index.descriptor, NAME, [KEY], clock=clock)
    images = [one.digest for one in index.manifests if one.platform and one.platform.os == "linux"]
    assert [one.target.digest for one in done] == [*images, index.descriptor.digest]
    for one in done:
        verify(store, one.target, NAME, [KEY.public])


def test_an_index_can_be_signed_alone() -> None:
    store = Repository()
    index = add_index(store)
    done = sign(store, index.descriptor, NAME, [KEY], recursive=False, clock=clock)
    assert [one.target.digest for one in done] == [index.descriptor.digest]
    with pytest.raises(SignatureRefused):
        verify(store, index.manifests[0], NAME, [KEY.public])


def test_an_index_that_lists_one_image_twice_has_it_signed_once() -> None:
    store = Repository()
    index = add_index(store)
    assert len(list(signable(store, index.descriptor))) == 3


def test_a_sha512_image_gets_a_bundle_since_its_tag_would_be_too_long() -> None:
    store = Repository()
    found = store.blobs[add_image(store).digest]
    target = Descriptor.of(found, media.OCI_MANIFEST, "sha512")
    store.blobs[target.digest] = found
    (done,) = sign(store, target, NAME, [KEY], clock=clock)
    assert len(done.attached) == 1
    assert verify(store, target, NAME, [KEY.public]).signatures[0].form is Form.BUNDLE


class Contended(Repository):
    """Another signer overwrites the tag right after we wrote it, `times` times."""

    def __init__(self, times: int) -> None:
        super().__init__()
        self.times = times

    def tag(self, target: Descriptor, source: Fetcher, tag: str) -> None:
        super().tag(target, source, tag)
        if self.times > 0 and tag.endswith(".sig"):
            self.times -= 1
            foreign = signed_layer(self, payload_for(self.image, optional={"n": self.times}), OTHER)
            kept = Manifest.make(Descriptor.of(b"{}", media.OCI_CONFIG), [foreign])
            super().tag(kept.descriptor, MemoryStore(kept.raw), tag)

    image: Descriptor


def test_what_another_signer_overwrote_is_written_again() -> None:
    store = Contended(2)
    store.image = add_image(store)
    sign(store, store.image, NAME, [KEY], forms=[Form.TAG], clock=clock)
    verify(store, store.image, NAME, [KEY.public, OTHER.public], threshold=2)


class LateContended(Contended):
    """Another signer, who read the tag before we wrote it, writes when we are at the bundle."""

    def tag(self, target: Descriptor, source: Fetcher, tag: str) -> None:
        Repository.tag(self, target, source, tag)

    def push(
        self, target: Descriptor, source: Fetcher, advance: Callable[[int], None] | None = None
    ) -> None:
        super().push(target, source, advance)
        if self.times > 0 and b"sigstore.bundle" in self.blobs[target.digest]:
            Contended.tag(self, self.tags[tag_of(self.image)], self, tag_of(self.image))


def test_what_was_overwritten_later_is_written_again() -> None:
    store = LateContended(1)
    store.image = add_image(store)
    (done,) = sign(store, store.image, NAME, [KEY], clock=clock)
    assert len(done.attached) == 3
    verify(store, store.image, NAME, [KEY.public, OTHER.public], threshold=2)
    assert len(layers(store, store.image)) == 2


class EarlyContended(Repository):
    """Another signer writes the tag after we have read it, before we write it."""

    image: Descriptor
    others = 0

    def push(
        self, target: Descriptor, source: Fetcher, advance: Callable[[int], None] | None = None
    ) -> None:
        super().push(target, source, advance)
        if self.others > 0 and b"rootfs" in self.blobs[target.digest]:
            self.others -= 1
            payload = payload_for(self.image, optional={"n": self.others})
            kept = layers(self, self.image) if tag_of(self.image) in self.tags else []
            attach_raw(self, self.image, [*kept, signed_layer(self, payload, OTHER)])


def test_what_another_signer_wrote_meanwhile_is_kept() -> None:
    store = EarlyContended()
    store.image = add_image(store)
    store.others = 2
    sign(store, store.image, NAME, [KEY], forms=[Form.TAG], clock=clock)
    assert len(layers(store, store.image)) == 3
    verify(store, store.image, NAME, [KEY.public, OTHER.public], threshold=2)


def test_a_writer_who_read_the_tag_before_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    store = Repository()
    image = add_image(store)

    def other(_: float) -> None:
        monkeypatch.setattr(contention, "sleep", lambda _: None)
        attach_raw(store, image, [signed_layer(store, payload_for(image), OTHER)])

    monkeypatch.setattr(contention, "sleep", other)
    sign(store, image, NAME, [KEY], forms=[Form.TAG], clock=clock)
    verify(store, image, NAME, [KEY.public, OTHER.public], threshold=2)


def test_endless_contention_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(contention, "_PAUSE_S", (0.0, 0.01))
    store = Contended(100)
    store.image = add_image(store)
    with pytest.raises(ContentError, match="keep changing"):
        sign(store, store.image, NAME, [KEY], forms=[Form.TAG], clock=clock)


def test_a_tag_that_holds_something_else_is_not_overwritten() -> None:
    store = Repository()
    target, index = add_image(store), add_index(store)
    store.tag(index.descriptor, MemoryStore(index.raw), tag_of(target))
    with pytest.raises(ContentError, match="not a manifest with signatures"):
        sign(store, target, NAME, [KEY], clock=clock)
    assert store.tags[tag_of(target)].digest == index.descriptor.digest


def test_a_signature_that_would_make_the_others_worthless_is_not_added() -> None:
    store = Repository()
    target = add_image(store)
    attach_raw(store, target, [signed_layer(store, payload_for(target), OTHER)] * 256)
    before = store.tags[tag_of(target)]
    with pytest.raises(ContentError, match="257 statements"):
        sign(store, target, NAME, [KEY], forms=[Form.TAG], clock=clock)
    assert store.tags[tag_of(target)] == before


@pytest.mark.parametrize("name", ["creator", "timestamp"])
def test_annotations_that_are_ours_are_refused(name: str) -> None:
    store = Repository()
    with pytest.raises(UsageError, match=name):
        sign(store, add_image(store), NAME, [KEY], annotations={name: "x"})


def test_without_a_key_nothing_is_signed() -> None:
    store = Repository()
    with pytest.raises(UsageError, match="no key"):
        sign(store, add_image(store), NAME, [])


@settings(max_examples=25, deadline=None)
@given(st.dictionaries(st.text(), st.text(), max_size=4))
def test_any_annotation_comes_back(annotations: dict[str, str]) -> None:
    annotations = {k: v for k, v in annotations.items() if k not in ("creator", "timestamp")}
    if any("\ud800" <= char <= "\udfff" for pair in annotations.items() for char in "".join(pair)):
        return
    store = Repository()
    target = add_image(store, AMD)
    sign(store, target, NAME, [KEY], annotations=annotations, clock=clock)
    found = verify(store, target, NAME, [KEY.public], annotations=annotations)
    assert len(found.signatures) == 2


@pytest.mark.parametrize(
    ("rule", "asked", "accepted"),
    [
        ("repository", "registry.example/team/app", True),
        ("repository", "registry.example/team/app:v9", True),
        ("repository", "mirror.example/team/app:v1", False),
        ("repository", "registry.example/team/other:v1", False),
        ("exact", "registry.example/team/app:v1", True),
        ("exact", "registry.example/team/app:v9", False),
        ("exact", "registry.example/team/app", True),
        ("tagged", "registry.example/team/app:v1", True),
        ("tagged", "registry.example/team/app", False),
        ("optional", "registry.example/team/app:v9", True),
        ("optional", "mirror.example/team/app:v1", False),
        ("path", "mirror.example/team/app:v9", True),
        ("path", "mirror.example/other/app:v1", False),
        ("any", "mirror.example/else:v3", True),
        ("registry.example/team/*", "mirror.example/copy:v1", True),
        ("registry.example/*", "mirror.example/copy:v1", False),
    ],
)
def test_the_identity_must_be_that_of_the_rule(rule: str, asked: str, accepted: bool) -> None:
    store = Repository()
    target = add_image(store)
    sign(store, target, NAME, [KEY], clock=clock)
    name, identity = Reference.parse(asked), Identity.parse(rule)
    found = examine(store, target, name, [KEY.public], identity=identity)
    assert bool(found.signatures) is accepted
    assert accepted or "not for" in found.rejected[0].reason


def test_a_copy_keeps_the_signatures_of_its_destination() -> None:
    """As of a mirror whose owner signs what was mirrored."""
    source, mirror = Repository(), Repository()
    read = NarrowedSource(source, Meter(), ())
    target = add_image(source)
    sign(source, target, NAME, [KEY], forms=[Form.TAG], clock=clock)
    copy_with_evidence(read, mirror, target)
    assert mirror.tags[tag_of(target)] == source.tags[tag_of(target)]
    sign(mirror, target, NAME, [OTHER], forms=[Form.TAG], clock=clock)
    both = mirror.tags[tag_of(target)]
    copy_with_evidence(read, mirror, target)
    assert mirror.tags[tag_of(target)] == both
    sign(source, target, NAME, [third := generate_key("third")], forms=[Form.TAG], clock=clock)
    copy_with_evidence(read, mirror, target)
    for key in (KEY, OTHER, third):
        assert verify(mirror, target, NAME, [key.public]).keys == (key.public,)
    assert len(layers(mirror, target)) == 3
