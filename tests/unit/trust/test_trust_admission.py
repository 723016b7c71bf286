"""Verdicts on images by name, for children of signed indexes, and cached ones."""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from attached import (
    AMD,
    NAME,
    Repository,
    add_image,
    add_index,
    attach,
    payload_for,
    refer,
    signed_layer,
)
from shipline.content import MemoryStore, VerifiedReader, copy_graph
from shipline.errors import RegistryError
from shipline.metadata import SqliteRecords, walk
from shipline.oci import Descriptor, ImageConfig, Index, Manifest, media
from shipline.supply import (
    BUNDLE,
    COSIGN_SIGN,
    IN_TOTO,
    SIMPLE_SIGNING,
    Bundle,
    Envelope,
    Form,
    Identity,
    ImagePattern,
    Statement,
    attest,
    generate_key,
    pae,
    predicate_type,
    sign,
    statement_about,
)
from shipline.trust import (
    NO_TRUST,
    ResolvedPolicy,
    TrustPolicy,
    TrustRefused,
    TrustRule,
    TrustSection,
    VerdictCache,
    is_statement,
    load_trust,
    statement_subject,
)
from shipline.units import Duration
from shipline.values import replace

KEY, OTHER = generate_key("ours"), generate_key("theirs")
NOW = 1_700_000_000.0


def trust(**changes: object) -> ResolvedPolicy:
    rule = {"images": (ImagePattern("registry.example/team/*"),), **changes}
    pem = KEY.public.pem.decode()
    section = TrustSection(rules=(TrustRule(**rule),), keys={"ours": pem})  # type: ignore[arg-type]
    return load_trust(section, Path())


def clock() -> float:
    return NOW


class Counted(Repository):
    """Counts what is asked about signatures."""

    asked = 0

    def resolve(self, reference: str) -> Descriptor:
        self.asked += 1
        return super().resolve(reference)


@pytest.fixture
def store() -> Counted:
    return Counted()


def test_an_unsigned_image_is_refused_and_a_signed_one_is_not(store: Counted) -> None:
    target, judge = add_image(store), TrustPolicy(trust(), clock=clock)
    with pytest.raises(TrustRefused) as caught:
        judge.require(store, NAME, target)
    assert "registry.example/team/*" in caught.value.message
    assert caught.value.exit_code == 9
    sign(store, target, NAME, [OTHER], clock=clock)
    assert not judge.verdict(store, NAME, target).accepted
    sign(store, target, NAME, [KEY], clock=clock)
    assert judge.require(store, NAME, target).keys == (KEY.public.id,)


def test_without_a_policy_everything_is_accepted(store: Counted) -> None:
    assert TrustPolicy(NO_TRUST).verdict(store, NAME, add_image(store)).accepted
    assert store.asked == 0


def test_what_no_rule_is_about_is_refused_unless_said_otherwise(store: Counted) -> None:
    other = NAME.parse("registry.example/other/app:v1")
    found = TrustPolicy(trust()).verdict(store, other, add_image(store))
    assert not found.accepted and "trust.default" in found.hint


def test_a_child_of_a_signed_index_is_accepted(store: Counted) -> None:
    index = add_index(store)
    sign(store, index.descriptor, NAME, [KEY], recursive=False, clock=clock)
    for child in index.manifests[:2]:
        judge = TrustPolicy(trust(), clock=clock)
        assert not judge.verdict(store, NAME, child).accepted
        found = judge.verdict(store, NAME, child, lambda target: [index.descriptor])
        assert found.accepted


@pytest.mark.parametrize(
    ("forms", "recursive", "accepted"),
    [((Form.TAG,), True, True), ((Form.TAG,), False, False), ((Form.BUNDLE,), True, False)],
)
def test_a_policy_of_podman_asks_for_the_signature_of_what_is_run(
    forms: tuple[Form, ...], recursive: bool, accepted: bool, store: Counted
) -> None:
    index, judge = add_index(store), TrustPolicy(replace(trust(), as_podman=True), clock=clock)
    sign(store, index.descriptor, NAME, [KEY], recursive=recursive, forms=forms, clock=clock)
    found = judge.verdict(store, NAME, index.descriptor)
    assert found.accepted is accepted
    assert accepted or found.reason.startswith("linux/amd64 (sha256:")


def test_one_platform_that_is_not_signed_is_refused_where_podman_may_run_it(store: Counted) -> None:
    index, judge = add_index(store), TrustPolicy(replace(trust(), as_podman=True), clock=clock)
    sign(store, index.manifests[0], NAME, [KEY], clock=clock)
    assert judge.verdict(store, NAME, index.manifests[0]).accepted
    assert "linux/arm64" in judge.verdict(store, NAME, index.descriptor).reason


def test_a_signature_without_a_name_counts_where_none_is_demanded(store: Counted) -> None:
    target = add_image(store)
    statement = Statement.about(target, "", COSIGN_SIGN, {}).to_bytes()
    signed = Envelope(statement, (KEY.sign(pae(IN_TOTO, statement)),))
    refer(store, target, Bundle(signed).to_bytes(), BUNDLE)
    found = TrustPolicy(trust(), clock=clock).verdict(store, NAME, target)
    assert found.accepted and "without an image name (by ours)" in found.reason
    demanded = trust(identity=Identity.parse("repository"))
    refused = TrustPolicy(demanded, clock=clock).verdict(store, NAME, target)
    assert not refused.accepted and "signed without a name" in refused.hint


def test_an_index_that_does_not_list_the_image_does_not_help_it(store: Counted) -> None:
    index, stranger = add_index(store), add_image(store, env="EVIL=1")
    sign(store, index.descriptor, NAME, [KEY], clock=clock)
    judge = TrustPolicy(trust(), clock=clock)
    assert not judge.verdict(store, NAME, stranger, lambda target: [index.descriptor]).accepted


def test_an_unsigned_index_does_not_help_its_images(store: Counted) -> None:
    index = add_index(store)
    judge = TrustPolicy(trust(), clock=clock)
    found = judge.verdict(store, NAME, index.manifests[0], lambda target: [index.descriptor])
    assert not found.accepted


def test_a_list_of_statements_does_not_help_what_it_lists(store: Counted) -> None:
    stranger = add_image(store, env="EVIL=1")
    entry = Descriptor(
        stranger.media_type, stranger.digest, stranger.size, artifact_type="text/spdx"
    )
    fake = Index.make([entry])
    store.push(fake.descriptor, MemoryStore(fake.raw))
    judge = TrustPolicy(trust(), clock=clock)
    assert judge.verdict(store, NAME, fake.descriptor).accepted
    assert not judge.verdict(store, NAME, stranger, lambda target: [fake.descriptor]).accepted


def test_an_index_that_lists_itself_ends(store: Counted) -> None:
    target = add_image(store)
    judge = TrustPolicy(trust(), clock=clock)
    assert not judge.verdict(store, NAME, target, lambda one: [one, target]).accepted


def test_an_index_in_a_signed_index_counts(store: Counted) -> None:
    inner = add_index(store)
    outer = Index.make([inner.descriptor])
    store.push(outer.descriptor, MemoryStore(outer.raw))
    sign(store, outer.descriptor, NAME, [KEY], recursive=False, clock=clock)
    above = {
        inner.manifests[0].digest: [inner.descriptor],
        inner.descriptor.digest: [outer.descriptor],
    }
    judge = TrustPolicy(trust(), clock=clock)
    found = judge.verdict(store, NAME, inner.manifests[0], lambda one: above.get(one.digest, []))
    assert found.accepted and "listed by" in found.reason


def test_attestations_are_required_by_the_same_keys(store: Counted) -> None:
    target, kind = add_image(store), predicate_type("vuln")
    judge = TrustPolicy(trust(predicates=("vuln",)), clock=clock)
    sign(store, target, NAME, [KEY], clock=clock)
    attest(store, target, statement_about(target, NAME, kind, {}), [OTHER])
    found = judge.verdict(store, NAME, target)
    assert not found.accepted and "vuln" in found.reason and "shipline attest" in found.hint
    attest(store, target, statement_about(target, NAME, kind, {}), [KEY])
    assert judge.verdict(store, NAME, target).accepted


def test_an_accepted_verdict_is_not_asked_for_again(store: Counted) -> None:
    target, judge = add_image(store), TrustPolicy(trust(), clock=clock)
    sign(store, target, NAME, [KEY], clock=clock)
    first = judge.verdict(store, NAME, target)
    before = store.asked
    assert judge.verdict(store, NAME, target) == first
    assert store.asked == before
    copied = NAME.parse("registry.example/team/copy:v1")
    assert not judge.verdict(store, copied, target).accepted


def test_a_refusal_is_asked_for_again(store: Counted) -> None:
    target, judge = add_image(store), TrustPolicy(trust(), clock=clock)
    assert not judge.verdict(store, NAME, target).accepted
    sign(store, target, NAME, [KEY], clock=clock)
    assert judge.verdict(store, NAME, target).accepted


def test_a_kept_verdict_ends_with_the_age_of_the_signature(store: Counted) -> None:
    target, time = add_image(store), [NOW]
    judge = TrustPolicy(trust(max_age=Duration.parse("1h")), clock=lambda: time[0])
    sign(store, target, NAME, [KEY], clock=clock)
    assert judge.verdict(store, NAME, target).accepted
    time[0] += 3601
    assert not judge.verdict(store, NAME, target).accepted


def test_what_was_removed_is_forgotten_with_the_children(store: Counted) -> None:
    index = add_index(store)
    sign(store, index.descriptor, NAME, [KEY], recursive=False, clock=clock)
    judge, child = TrustPolicy(trust(), clock=clock), index.manifests[0]
    assert judge.verdict(store, NAME, child, lambda one: [index.descriptor]).accepted
    store.tags.clear()
    for one in store.referrers(index.descriptor):
        store.delete(str(one.digest))
    assert judge.verdict(store, NAME, child).accepted, "kept"
    judge.forget(index.descriptor.digest)
    assert not judge.verdict(store, NAME, child, lambda one: [index.descriptor]).accepted


def test_a_verdict_on_what_is_removed_meanwhile_is_not_kept() -> None:
    class Racing(Repository):
        """A statement goes once it was read."""

        @contextmanager
        def fetch(self, target: Descriptor) -> Iterator[VerifiedReader]:
            with super().fetch(target) as reader:
                yield reader
            if target.media_type not in media.NAMED:
                self.tags.clear()
                for one in self.referrers(image):
                    self.delete(str(one.digest))
                judge.forget(image.digest)

    store, judge = Racing(), TrustPolicy(trust(), clock=clock)
    image = add_image(store)
    sign(store, image, NAME, [KEY], clock=clock)
    assert judge.verdict(store, NAME, image).accepted, "it was there"
    assert not judge.verdict(store, NAME, image).accepted


def test_a_registry_that_fails_is_an_error_and_no_verdict() -> None:
    class Down(Repository):
        def referrers(self, target: Descriptor, artifact_type: str = "") -> tuple[Descriptor, ...]:
            raise RegistryError("down", host="registry.example")

    down = Down()
    with pytest.raises(RegistryError):
        TrustPolicy(trust()).verdict(down, NAME, add_image(down))


@pytest.fixture
def records(tmp_path: Path) -> Iterator[SqliteRecords]:
    found = SqliteRecords(tmp_path / "verdicts.db")
    yield found
    found.close()


def test_verdicts_outlive_the_process_under_their_policy(
    store: Counted, records: SqliteRecords
) -> None:
    target = add_image(store)
    sign(store, target, NAME, [KEY], clock=clock)
    first = TrustPolicy(trust(), VerdictCache(records), clock=clock).verdict(store, NAME, target)
    before = store.asked
    again = TrustPolicy(trust(), VerdictCache(records), clock=clock)
    assert again.verdict(store, NAME, target) == first
    assert store.asked == before
    stricter = TrustPolicy(trust(predicates=("vuln",)), VerdictCache(records), clock=clock)
    assert not stricter.verdict(store, NAME, target).accepted
    again.forget(target.digest)
    assert list(walk(records, ("trust",))) == []


def test_the_cache_is_bounded(store: Counted, records: SqliteRecords) -> None:
    judge = TrustPolicy(trust(), VerdictCache(records, capacity=4), clock=clock)
    for number in range(14):
        target = add_image(store, env=f"N={number}")
        sign(store, target, NAME, [KEY], clock=clock)
        assert judge.verdict(store, NAME, target).accepted
    assert len(list(walk(records, ("trust",)))) <= 8


def test_signatures_and_attestations_need_none_themselves(store: Counted) -> None:
    target, judge = add_image(store), TrustPolicy(trust(), clock=clock)
    sign(store, target, NAME, [OTHER], clock=clock)
    attest(store, target, statement_about(target, NAME, predicate_type("spdx"), {}), [OTHER])
    places = [*store.tags.values(), *store.referrers(target)]
    assert len(places) == 4
    for place in places:
        assert judge.verdict(store, NAME, place).accepted
    assert not judge.verdict(store, NAME, target).accepted


def test_an_image_is_not_let_through_for_looking_like_a_signature(store: Counted) -> None:
    target = add_image(store)
    document = signed_layer(store, payload_for(target), KEY)
    program = Descriptor.of(b"tar", media.OCI_LAYER)
    store.push(program, MemoryStore(b"tar"))
    mixed = attach(store, target, [document, program])
    assert not TrustPolicy(trust(), clock=clock).verdict(store, NAME, mixed).accepted


def old_tar(name: str, script: str) -> bytes:
    """An archive as Version 7 wrote it, without a NUL: text, which podman and docker unpack."""
    stem = f"{name}" + "#" * (100 - len(name))
    head = f"{stem}0000755 0000000 0000000 {len(script):011o} 00000000000 "
    rest = "0" + " " * 355
    total = sum(f"{head}        {rest}".encode())
    body = script + "\n" * (-len(script) % 512)
    return f"{head}{total:07o} {rest}{body}".encode()


def in_json(name: str, script: str) -> bytes:
    """The same, whose bytes are a document too."""
    first = '{"critical":{},"optional":"' + "x" * 73
    head = f"{first}0000644 0000000 0000000 00000000000 00000000000 "
    rest = "0" + " " * 355
    total = sum(f"{head}        {rest}".encode())
    second = old_tar(name, script).decode().replace("\n", " ")
    return f'{head}{total:07o} {rest}{second}"}}'.encode()


def packed(
    store: Repository,
    kind: str,
    content: bytes,
    config: bytes = b"{}",
    config_type: str = media.OCI_CONFIG,
) -> Descriptor:
    """A manifest of one layer, which says of itself what it wants."""
    made = Manifest.make(Descriptor.of(config, config_type), [Descriptor.of(content, kind)])
    copy_graph(MemoryStore(config, content, made.raw), store, made.descriptor)
    return made.descriptor


TAR = old_tar("usr/local/bin/ls", "#!/bin/sh\necho mine\n")
RUNNABLE = ImageConfig(AMD).set(Cmd=["ls"]).to_bytes()
SIMPLE = b'{"critical":{},"optional":null}'


def test_the_archives_of_these_tests_are_unpacked() -> None:
    for content in (TAR, in_json("usr/local/bin/ls", "echo mine")):
        with tarfile.open(fileobj=io.BytesIO(content)) as archive:
            assert "/usr/local/bin/ls" in archive.getnames()[-1]
    json.loads(in_json("usr/local/bin/ls", "echo mine"))


@pytest.mark.parametrize(
    ("kind", "content"),
    [
        ("application/spdx+json", b"\x1f\x8b\x08layer"),
        ("application/spdx+json", b"bin/sh\0"),
        ("application/spdx+json", b'{"spdxVersion": "\0"}'),
        ("application/spdx+json", b'{"spdxVersion": "\xe2\x82'),
        ("application/spdx+json", b'{"spdxVersion": "SPDX-2.3"} #!/bin/sh'),
        ("application/spdx+json", b'{"other": "SPDX-2.3"}'),
        ("application/spdx+json", b'["spdxVersion"]'),
        ("application/spdx+json", '{"spdxVersion": 1}'.encode("utf-16")),
        ("text/spdx", TAR),
        ("text/spdx", b"SPDXVersion: SPDX-2.3\n"),
        (media.OCI_EMPTY, TAR),
        (media.OCI_EMPTY, SIMPLE),
        (SIMPLE_SIGNING, TAR),
        (SIMPLE_SIGNING, in_json("usr/local/bin/ls", "echo mine")),
        ("application/cose", TAR),
        ("application/cose", b"\x1f\x8b\x08layer"),
        ("application/cose", b"\xd2" + TAR[1:]),
        ("application/octet-stream", SIMPLE),
    ],
)
@pytest.mark.parametrize("config_type", [media.OCI_CONFIG, media.OCI_EMPTY])
def test_a_layer_is_no_document_for_its_type_alone(
    store: Counted, kind: str, content: bytes, config_type: str
) -> None:
    """podman unpacks such layers: nothing but the configuration makes an image for it."""
    target = packed(store, kind, content, config_type=config_type)
    if content[:1] == b"\xd2":  # its sum is made right again
        wrong = int(content[148:155], 8)
        right = f"{wrong - TAR[0] + 0xD2:07o} ".encode()
        target = packed(store, kind, content[:148] + right + content[156:])
    assert not TrustPolicy(trust(), clock=clock).verdict(store, NAME, target).accepted


@pytest.mark.parametrize(
    "config",
    [
        RUNNABLE,
        b"[]",
        b"",
        b'{"os": "linux", "architecture": "amd64"}',
        b'{"os": "", "config": {"Entrypoint": ["sh"]}}',
        b'{"os": "", "rootfs": {"type": "layers", "diff_ids": ["sha256:0"]}}',
        b'{"os": "", "container_config": {"Cmd": ["sh"]}}',
    ],
)
def test_documents_beside_a_configuration_that_runs_are_an_image(
    store: Counted, config: bytes
) -> None:
    target = packed(store, SIMPLE_SIGNING, SIMPLE, config)
    assert not TrustPolicy(trust(), clock=clock).verdict(store, NAME, target).accepted


@pytest.mark.parametrize(
    ("kind", "content"),
    [
        (SIMPLE_SIGNING, SIMPLE),
        ("application/spdx+json", b' {"spdxVersion": "SPDX-2.3", "packages": [{}]}\n'),
        ("application/vnd.cyclonedx+json", b'{"bomFormat": "CycloneDX", "specVersion": "1.6"}'),
        ("application/vnd.in-toto+json", b'{"_type": "", "subject": [], "predicateType": ""}'),
        ("application/sarif+json", b'{"version": "2.1.0", "runs": []}'),
        ("application/jose+json", b'{"payload": "", "protected": "", "signature": ""}'),
        (media.OCI_EMPTY, b"{}"),
    ],
)
def test_documents_that_are_known_are_statements(store: Counted, kind: str, content: bytes) -> None:
    digest = str(Descriptor.of(content, kind).digest)
    beside = {"os": "unknown", "architecture": "unknown", "config": {}}
    beside["rootfs"] = {"type": "layers", "diff_ids": [digest]}
    for config in (b"{}", json.dumps(beside).encode()):
        target = packed(store, kind, content, config)
        assert TrustPolicy(trust(), clock=clock).verdict(store, NAME, target).accepted


def test_a_binary_signature_beside_an_empty_configuration_is_a_statement(store: Counted) -> None:
    config = Descriptor.of(b"{}", media.OCI_EMPTY)
    signature = Manifest.make(config, [Descriptor.of(b"\xd2\0", "application/cose")])
    copy_graph(MemoryStore(b"{}", b"\xd2\0", signature.raw), store, signature.descriptor)
    assert TrustPolicy(trust(), clock=clock).verdict(store, NAME, signature.descriptor).accepted


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"{}",
        b"[]",
        Manifest.make(Descriptor.of(b"{}", media.OCI_EMPTY), []).raw,
        Index.make([]).raw,
    ],
)
def test_what_is_no_statement_is_none(raw: bytes) -> None:
    assert not is_statement(MemoryStore(raw), Descriptor.of(raw, ""))


@pytest.mark.parametrize("suffix", ["", ".sig", ".att", ".sbom"])
def test_the_subject_of_a_tag_is_read(suffix: str) -> None:
    found = statement_subject(f"sha256-{'a' * 64}{suffix}")
    assert str(found) == f"sha256:{'a' * 64}"


@pytest.mark.parametrize(
    "tag", ["v1", "sha256-abc.sig", f"sha256-{'a' * 64}.exe", "sha512-" + "a" * 64]
)
def test_other_tags_have_no_subject(tag: str) -> None:
    assert statement_subject(tag) is None
