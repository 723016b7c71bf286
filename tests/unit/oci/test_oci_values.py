"""Values of the OCI specifications: what is read is what was written, and nothing else is read."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shipline.errors import ContentError, ShiplineError
from shipline.oci import (
    Descriptor,
    Digest,
    Hasher,
    ImageConfig,
    Index,
    InvalidDigest,
    InvalidReference,
    Manifest,
    Platform,
    Reference,
    best_match,
    media,
    parse_manifest,
)
from shipline.values import replace

CONFIG = Descriptor.of(b"{}", media.OCI_CONFIG)
LAYER = Descriptor.of(b"layer", media.OCI_LAYER_GZIP)


@given(st.binary(), st.sampled_from(["sha256", "sha512"]))
def test_digest_reads_what_it_writes(content: bytes, algorithm: str) -> None:
    digest = Digest.of(content, algorithm)
    assert Digest.parse(str(digest)) == digest


@pytest.mark.parametrize(
    "text",
    [
        "",
        "sha256",
        "sha256:",
        "sha256:abc",
        "sha256:" + "A" * 64,
        "sha256:" + "g" * 64,
        "md5:" + "0" * 32,
        "sha256:../../etc/passwd",
        "sha256:" + "0" * 63 + "\n",
        "sha512:" + "0" * 64,
    ],
)
def test_anything_else_is_no_digest(text: str) -> None:
    with pytest.raises(InvalidDigest):
        Digest.parse(text)


@given(st.lists(st.binary()))
def test_hasher_sees_what_passes(chunks: list[bytes]) -> None:
    hasher = Hasher()
    passed = b"".join(hasher.through(chunks))
    assert (hasher.digest, hasher.size) == (Digest.of(passed), len(passed))


@pytest.mark.parametrize(
    ("text", "full"),
    [
        ("busybox", "docker.io/library/busybox"),
        ("busybox:1.37", "docker.io/library/busybox:1.37"),
        ("docker.io/busybox", "docker.io/library/busybox"),
        ("index.docker.io/team/app", "docker.io/team/app"),
        ("team/app:v1", "docker.io/team/app:v1"),
        ("localhost/app", "localhost/app"),
        ("127.0.0.1:5000/a/b:c", "127.0.0.1:5000/a/b:c"),
        ("[::1]:5000/a", "[::1]:5000/a"),
        ("ghcr.io/a/b__c--d:T", "ghcr.io/a/b__c--d:T"),
        ("a--b.c/d", "a--b.c/d"),
        (f"docker.io/{'1a3f' * 16}", f"docker.io/library/{'1a3f' * 16}"),
    ],
)
def test_references_mean_what_docker_means(text: str, full: str) -> None:
    assert str(Reference.parse(text)) == full


def test_reference_keeps_tag_and_digest() -> None:
    text = f"ghcr.io/a/b:v1@{CONFIG.digest}"
    assert str(Reference.parse(text)) == text


@pytest.mark.parametrize(
    "text",
    [
        "",
        "UPPER",
        "a//b",
        "a/../b",
        "a:",
        "a:b c",
        "a:" + "x" * 129,
        "-a",
        "a/",
        "host:5000/",
        "a:.x",
        "1a3f" * 16,
        f"{'1a3f' * 16}:1.0",
        "a..b/c",
        "a-.b/c",
        "a.-b/c",
        "a.b-/c",
    ],
)
def test_other_text_is_no_reference(text: str) -> None:
    with pytest.raises(InvalidReference):
        Reference.parse(text)


def test_a_name_that_is_none_is_shown_as_it_was_written() -> None:
    with pytest.raises(InvalidReference) as caught:
        Reference.parse("App:1")
    assert caught.value.message.startswith("not a repository name: 'App' in 'App:1'")


@pytest.mark.parametrize(
    ("text", "normal"),
    [
        ("linux/arm64", "linux/arm64"),
        ("linux/aarch64", "linux/arm64"),
        ("linux/arm64/v8", "linux/arm64"),
        ("linux/x86_64", "linux/amd64"),
        ("amd64", "linux/amd64"),
        ("linux/arm", "linux/arm/v7"),
        ("linux/arm/6", "linux/arm/v6"),
        ("LINUX/AMD64", "linux/amd64"),
        ("macos/arm64", "darwin/arm64"),
    ],
)
def test_platforms_are_normalised(text: str, normal: str) -> None:
    assert str(Platform.parse(text)) == normal


def test_a_system_alone_has_the_architecture_of_this_machine() -> None:
    local = Platform.local()
    assert Platform.parse("linux") == local
    assert Platform.parse("Windows") == Platform("windows", local.architecture, local.variant)


@pytest.mark.parametrize(
    "text",
    ["", "lin", "linux/", "/amd64", "a/b/c/d", "linux/a md", "linux/../x", "../amd64", "linux/-"],
)
def test_other_text_is_no_platform(text: str) -> None:
    with pytest.raises(ShiplineError):
        Platform.parse(text)


def test_index_selects_the_best_platform() -> None:
    platforms = [Platform("linux", "arm", "v6"), Platform("linux", "arm", "v7")]
    index = Index.make([Descriptor("m", CONFIG.digest, 1, one) for one in platforms])
    for wanted, found in [("linux/arm/v8", "v7"), ("linux/arm/v7", "v7"), ("linux/arm/v6", "v6")]:
        entry = index.select(Platform.parse(wanted))
        assert entry is not None and entry.platform is not None
        assert entry.platform.variant == found
    assert index.select(Platform.parse("linux/arm/v5")) is None


@pytest.mark.parametrize(
    ("text", "version", "features"),
    [
        ("windows(10.0.17763)/amd64", "10.0.17763", ()),
        ("windows(10.0.17763+win32k+a)/amd64", "10.0.17763", ("a", "win32k")),
        ("Linux(+a%2Bb)/arm64", "", ("a+b",)),
        ("windows(10.0.20348.1006)", "10.0.20348.1006", ()),
    ],
)
def test_a_system_may_have_a_version_and_features(
    text: str, version: str, features: tuple[str, ...]
) -> None:
    found = Platform.parse(text)
    assert (found.os_version, found.os_features) == (version, features)
    assert "(" not in str(found)
    assert Platform.parse(found.full) == found


@pytest.mark.parametrize(
    ("host", "fits"),
    [
        ("10.0.17763.1", ("10.0.17763.9", "")),
        ("10.0.20348", ("10.0.20348.1006", "")),
        ("10.0.26100.1", ("10.0.20348.1006", "10.0.26100.4", "")),
        ("6.3.9600", ("",)),
    ],
)
def test_an_image_of_windows_runs_on_its_build_and_on_later_ones_since_2022(
    host: str, fits: tuple[str, ...]
) -> None:
    offered = ("10.0.17763.9", "10.0.20348.1006", "10.0.26100.4", "")
    wanted = Platform("windows", "amd64", os_version=host)
    found = (best_match(wanted, [replace(wanted, os_version=one)]) for one in offered)
    assert {one.os_version for one in found if one} == set(fits)


def test_manifest_reads_what_it_writes() -> None:
    made = Manifest.make(CONFIG, [LAYER], annotations={"a": "b"}, subject=CONFIG)
    read = parse_manifest(made.raw, made.media_type)
    assert read == made
    assert read.raw == made.raw


def test_index_reads_what_it_writes() -> None:
    made = Index.make([Manifest.make(CONFIG, [LAYER]).descriptor], annotations={"a": "b"})
    assert parse_manifest(made.raw) == made


@pytest.mark.parametrize(
    "document",
    [
        b"[]",
        b"{}",
        b"not json",
        b'{"schemaVersion":1,"fsLayers":[]}',
        b'{"manifests":[],"layers":[],"config":{}}',
        b'{"manifests":[],"manifests":[]}',
        b'{"manifests":{}}',
        b'{"manifests":[{"mediaType":"x","digest":"sha256:../x","size":1}]}',
        b'{"manifests":[{"mediaType":"x","size":1}]}',
        b'{"config":{"mediaType":"x","digest":"' + str(CONFIG.digest).encode() + b'","size":-1},'
        b'"layers":[]}',
        b"[" * 100_000,
    ],
)
def test_bad_documents_are_refused(document: bytes) -> None:
    with pytest.raises(ContentError):
        parse_manifest(document)


def test_media_type_must_agree_with_the_registry() -> None:
    with pytest.raises(ContentError):
        parse_manifest(Index.make([]).raw, media.OCI_MANIFEST)


def test_config_keeps_what_it_does_not_know() -> None:
    document = {
        "architecture": "amd64",
        "os": "linux",
        "config": {"Env": ["A=b"], "Unknown": 1},
        "rootfs": {"type": "layers", "diff_ids": [str(LAYER.digest)]},
        "moby.buildkit.cache.v0": "x",
    }
    config = ImageConfig.parse(json.dumps(document).encode())
    assert json.loads(config.to_bytes()) == document
    assert config.env == {"A": "b"}


def test_config_values_are_set_and_taken_away() -> None:
    config = ImageConfig(Platform("linux", "amd64")).set(User="me", Cmd=["sh"])
    assert dict(config.set(User="").run) == {"Cmd": ["sh"]}
