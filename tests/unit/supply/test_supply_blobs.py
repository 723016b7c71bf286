"""Signatures of files: what was signed is verified, and nothing else."""

from __future__ import annotations

import base64
import hashlib
import json
from pathlib import Path

import pytest

from commands import run_shipline
from shipline.errors import ContentError
from shipline.supply import (
    IN_TOTO,
    Bundle,
    Envelope,
    SignatureRefused,
    generate_key,
    pae,
    sign_blob,
    sign_detached,
    verify_blob,
    verify_detached,
)

KEY, OTHER = generate_key("ours.pub"), generate_key("other.pub")
CONTENT = b"a release\n"


def test_only_the_signed_bytes_are_verified_by_their_key() -> None:
    bundle = sign_blob(CONTENT, KEY)
    assert verify_blob("a", CONTENT, bundle, [OTHER.public, KEY.public]) == KEY.public
    with pytest.raises(SignatureRefused, match=r"a was not signed with other.pub"):
        verify_blob("a", CONTENT, bundle, [OTHER.public])
    with pytest.raises(SignatureRefused, match="a is not the file that was signed"):
        verify_blob("a", CONTENT[:-1], bundle, [KEY.public])


def test_a_digest_in_the_bundle_proves_nothing() -> None:
    """A bundle that names the digest of another file has a signature of the first one only."""
    bundle = json.loads(sign_blob(CONTENT, KEY))
    bundle["messageSignature"]["messageDigest"] = json.loads(sign_blob(b"b", KEY))[
        "messageSignature"
    ]["messageDigest"]
    with pytest.raises(SignatureRefused):
        verify_blob("b", b"b", json.dumps(bundle).encode(), [KEY.public])


@pytest.mark.parametrize(
    "change",
    [
        {"mediaType": "application/json"},
        {"messageSignature": None},
        {"messageSignature": {"signature": "?"}},
        {"verificationMaterial": {"certificate": {}}},
    ],
)
def test_another_document_is_an_error(change: dict[str, object]) -> None:
    bundle = json.loads(sign_blob(CONTENT, KEY)) | change
    with pytest.raises(ContentError):
        verify_blob("a", CONTENT, json.dumps(bundle).encode(), [KEY.public])


def test_an_attestation_is_no_signature_of_its_payload() -> None:
    envelope = Envelope(CONTENT, (KEY.sign(pae(IN_TOTO, CONTENT)),))
    with pytest.raises(ContentError, match="no signature of a file"):
        verify_blob("a", CONTENT, Bundle(envelope).to_bytes(), [KEY.public])


def test_a_bundle_of_cosign_2_has_the_signature_alone() -> None:
    old = {"base64Signature": base64.b64encode(KEY.sign(CONTENT)).decode()}
    bundle = json.dumps(old).encode()
    assert verify_blob("a", CONTENT, bundle, [KEY.public]) == KEY.public
    for content, key in ((b"b", KEY), (CONTENT, OTHER)):
        with pytest.raises(SignatureRefused):
            verify_blob("a", content, bundle, [key.public])
    with pytest.raises(ContentError):
        verify_blob("a", CONTENT, b'{"base64Signature": 1}', [KEY.public])


def test_a_signature_alone_is_base64_or_bytes() -> None:
    text = sign_detached(CONTENT, KEY).encode()
    for signature in (text, text + b"\n", base64.b64decode(text)):
        keys = [OTHER.public, KEY.public]
        assert verify_detached("a", CONTENT, signature, keys) == KEY.public
        for content, key in ((b"b", KEY), (CONTENT, OTHER)):
            with pytest.raises(SignatureRefused, match="a was not signed with") as raised:
                verify_detached("a", content, signature, [key.public])
            assert "not the one that was signed" in raised.value.hint
    for signature in (b"", b"nonsense"):
        with pytest.raises(SignatureRefused):
            verify_detached("a", CONTENT, signature, [KEY.public])


def test_a_signature_alone_is_that_of_one_file(tmp_path: Path) -> None:
    for flags in (("--signature", "s"), ("--signature", "s", "--bundle", "b")):
        done = run_shipline("verify-blob", "--key", "k", *flags, "one", "two", cwd=tmp_path)
        assert done.returncode == 2 and "--signature" in done.stderr
    done = run_shipline("sign-blob", "--key", "k", "--output-signature", "s", "a", "b")
    assert done.returncode == 2 and "--output-signature" in done.stderr


@pytest.mark.parametrize("flag", ["--output-signature", "--bundle"])
@pytest.mark.parametrize("output", ["key", "file", "link"])
def test_a_signature_replaces_neither_the_key_nor_the_file(
    tmp_path: Path, flag: str, output: str
) -> None:
    for name in ("key", "file"):
        (tmp_path / name).write_text(name)
    (tmp_path / "link").symlink_to("key")
    done = run_shipline("sign-blob", "--key", "key", flag, output, "file", cwd=tmp_path)
    assert done.returncode == 2 and f"{output} is an input" in done.stderr
    assert (tmp_path / "key").read_text() == "key"


@pytest.mark.parametrize(("algorithm", "name"), [("SHA2_384", "sha384"), ("SHA2_512", "sha512")])
def test_with_another_key_the_file_is_not_said_to_differ(algorithm: str, name: str) -> None:
    bundle = json.loads(sign_blob(CONTENT, KEY))
    digest = base64.b64encode(hashlib.new(name, CONTENT).digest()).decode()
    bundle["messageSignature"]["messageDigest"] = {"algorithm": algorithm, "digest": digest}
    raw = json.dumps(bundle).encode()
    with pytest.raises(SignatureRefused, match=r"not signed with other.pub"):
        verify_blob("a", CONTENT, raw, [OTHER.public])
    with pytest.raises(SignatureRefused, match="not the file that was signed"):
        verify_blob("a", b"b", raw, [KEY.public])


@pytest.mark.parametrize("name", [".", "..", "/", ""])
@pytest.mark.parametrize("command", ["sign-blob", "verify-blob"])
def test_a_directory_is_no_file_to_sign(tmp_path: Path, command: str, name: str) -> None:
    done = run_shipline(command, "--key", "k", name, cwd=tmp_path)
    assert done.returncode == 2 and "is a directory" in done.stderr


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("/dev/stdin", "/dev/stdin has no place for a bundle"),
        ("-", "- is not a file"),
        ("a.sigstore.json", "a.sigstore.json is a bundle"),
    ],
)
def test_what_has_no_bundle_beside_it_is_refused(tmp_path: Path, name: str, reason: str) -> None:
    done = run_shipline("sign-blob", "--key", "k", name, cwd=tmp_path)
    assert done.returncode == 2 and reason in done.stderr


def test_files_are_signed_beside_them_and_the_first_bad_one_is_named(tmp_path: Path) -> None:
    def shipline(*words: str) -> tuple[int, str]:
        done = run_shipline(*words, cwd=tmp_path, environ={"COSIGN_PASSWORD": "x"})
        return done.returncode, done.stdout + done.stderr

    assert shipline("key", "generate", "-o", "k")[0] == 0
    for name in ("one", "two"):
        (tmp_path / name).write_text(name)
    signed = shipline("sign-blob", "--key", "k.key", "one", "two")
    assert signed == (0, "one.sigstore.json\ntwo.sigstore.json\n")
    verify = ("verify-blob", "--key", "k.pub", "one", "two")
    assert shipline(*verify) == (0, "one: signed by k.pub\ntwo: signed by k.pub\n")
    (tmp_path / "two").write_text("three")
    status, shown = shipline(*verify)
    assert status == 9 and "two is not the file that was signed" in shown
    status, shown = shipline("verify-blob", "--key", "k.pub", "--bundle", "b", "one", "two")
    assert status == 2 and "--bundle" in shown
    status, shown = shipline("verify-blob", "--key", "k.pub", "--bundle", "none", "one")
    assert status == 3 and "cannot read none: No such file" in shown
    assert "--bundle" in shown
    (tmp_path / "cut").write_text((tmp_path / "one.sigstore.json").read_text()[:50])
    status, shown = shipline("verify-blob", "--key", "k.pub", "--bundle", "cut", "one")
    assert status == 8 and "cut: not JSON" in shown
