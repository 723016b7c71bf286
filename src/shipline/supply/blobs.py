"""Signatures of files, in sigstore bundles or alone, as `cosign sign-blob` writes them."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Sequence

from shipline.oci import from_bytes, to_bytes
from shipline.supply.envelopes import BUNDLE, InvalidSignature, from_base64, parse_bundle
from shipline.supply.keys import PrivateKey, PublicKey
from shipline.supply.verification import SignatureRefused

BUNDLE_LIMIT = 1 << 20  # bytes
_HASHES = {"SHA2_256": "sha256", "SHA2_384": "sha384", "SHA2_512": "sha512"}


def sign_blob(content: bytes, key: PrivateKey) -> bytes:
    """The bundle with the signature of `content` (sigstore bundle v0.3, MessageSignature)."""
    digest = base64.b64encode(hashlib.sha256(content).digest()).decode()
    return to_bytes(
        {
            "mediaType": BUNDLE,
            "verificationMaterial": {"publicKey": {"hint": key.public.hint}},
            "messageSignature": {
                "messageDigest": {"algorithm": "SHA2_256", "digest": digest},
                "signature": sign_detached(content, key),
            },
        }
    )


def sign_detached(content: bytes, key: PrivateKey) -> str:
    """The signature of `content` alone, in base64."""
    return base64.b64encode(key.sign(content)).decode()


def verify_detached(
    name: str, content: bytes, signature: bytes, keys: Sequence[PublicKey]
) -> PublicKey:
    """As `verify_blob`, for a signature alone: in base64, or its bytes as openssl writes them."""
    try:
        raw = base64.b64decode(signature.strip(), validate=True)
    except ValueError:
        raw = signature
    return _signer(name, content, raw, keys, None)


def verify_blob(name: str, content: bytes, bundle: bytes, keys: Sequence[PublicKey]) -> PublicKey:
    """The one of `keys` that signed exactly `content`, which is named in messages. The digest in
    the bundle only explains why none did. A bundle may also be one of cosign before 3.0. Raises
    ContentError for another document, SignatureRefused.
    """
    stated, signature = None, from_bytes(bundle).get("base64Signature")
    if signature is None:
        signed = parse_bundle(bundle)[0].get("messageSignature")
        if not isinstance(signed, dict):
            raise InvalidSignature("the bundle has no signature of a file")
        stated, signature = signed.get("messageDigest"), signed.get("signature")
    return _signer(name, content, from_base64(signature), keys, stated)


def _signer(
    name: str, content: bytes, raw: bytes, keys: Sequence[PublicKey], stated: object
) -> PublicKey:
    for key in keys:
        if key.verify(raw, content):
            return key
    if _differs(stated, content):
        raise SignatureRefused(
            f"{name} is not the file that was signed",
            hint="download it again; a file that differs was altered, or is of another release",
        )
    raise SignatureRefused(
        f"{name} was not signed with {' or '.join(key.name for key in keys)}",
        hint="verify with the public key of its signer"
        + ("" if isinstance(stated, dict) else "; or the file is not the one that was signed"),
    )


def _differs(stated: object, content: bytes) -> bool:
    """Whether `stated`, a HashOutput of a bundle, is a digest, and one of another file."""
    if not isinstance(stated, dict):
        return False
    algorithm, digest = stated.get("algorithm"), stated.get("digest")
    if algorithm not in _HASHES or not isinstance(digest, str) or not digest:
        return False
    return from_base64(digest) != hashlib.new(_HASHES[algorithm], content).digest()
